"""Runs: settings, schedule, the main loop, journal and snapshots, results."""

from evoprune.run.costing import costs_of
from evoprune.run.ending import finish, side, status_after_finetuning
from evoprune.run.folder import Folder
from evoprune.run.journal import Journal
from evoprune.run.later import finetune_later
from evoprune.run.result import Result, read_points
from evoprune.run.runner import Listener, Runner
from evoprune.run.settings import Settings, make_settings, parse_duration
from evoprune.run.task import Task

__all__ = [
    "Folder", "Journal", "Listener", "Result", "Runner", "Settings", "Task",
    "costs_of", "finetune_later", "finish", "make_settings", "parse_duration", "read_points", "side",
    "status_after_finetuning",
]  # fmt: skip
