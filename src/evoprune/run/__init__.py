"""Runs: settings, schedule, the main loop, journal and snapshots, results."""

from evoprune.run.finish import finish, side, write_outputs
from evoprune.run.folder import Folder
from evoprune.run.result import Result
from evoprune.run.runner import Listener, Runner, floor_of
from evoprune.run.settings import Settings, make_settings, parse_duration
from evoprune.run.task import Task

__all__ = [
    "Folder", "Listener", "Result", "Runner", "Settings", "Task",
    "finish", "floor_of", "make_settings", "parse_duration", "side", "write_outputs",
]  # fmt: skip
