"""A run folder, told: figures, one self-contained page, and the summary that a command prints."""

from evoprune.report.page import write_report
from evoprune.report.summary import layer_table, summary_lines

__all__ = ["layer_table", "summary_lines", "write_report"]
