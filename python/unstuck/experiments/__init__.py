"""Reported results, run again and compared with what was reported: one study a file."""

from unstuck.experiments.blend import PROTOCOLS, REPORTED, Plan, Progress, run_study
from unstuck.experiments.blend_methods import METHODS, Method, Range
from unstuck.experiments.blend_record import BlendRecord
from unstuck.experiments.blend_report import Comparison, Summary, compare, markdown, summarize

__all__ = [
    "METHODS",
    "PROTOCOLS",
    "REPORTED",
    "BlendRecord",
    "Comparison",
    "Method",
    "Plan",
    "Progress",
    "Range",
    "Summary",
    "compare",
    "markdown",
    "run_study",
    "summarize",
]
