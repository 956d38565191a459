"""Training loops: one optimizer on one problem, or several side by side."""

from unstuck.training.history import At, History, Scores
from unstuck.training.loop import evaluate, fit, steps
from unstuck.training.optimizers import OPTIMIZERS, Entrant, Entry, entrant, entrants
from unstuck.training.racing import SCHEDULES, Progress, race
from unstuck.training.result import RaceResult, Row, Run, Stat

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "At",
    "Entrant",
    "Entry",
    "History",
    "Progress",
    "RaceResult",
    "Row",
    "Run",
    "Scores",
    "Stat",
    "entrant",
    "entrants",
    "evaluate",
    "fit",
    "race",
    "steps",
]
