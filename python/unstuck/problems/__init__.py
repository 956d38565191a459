"""Problems to optimise: functions with known minima, small real data sets, models for them.

Examples
--------
>>> from unstuck import problems
>>> problems.get("rastrigin", dim=1000).minimum
0.0
"""

from unstuck.problems._registry import lookup
from unstuck.problems.catalog import get, names
from unstuck.problems.data import DATA, Source, Split, Splits, load_data
from unstuck.problems.models import MODELS, make_model
from unstuck.problems.objectives import classification_data, regression_data
from unstuck.problems.problem import Problem
from unstuck.problems.traps import TRAPS, Trap, TrapRun, load_trap

__all__ = [
    "DATA",
    "MODELS",
    "TRAPS",
    "Problem",
    "Source",
    "Split",
    "Splits",
    "Trap",
    "TrapRun",
    "classification_data",
    "get",
    "load_data",
    "load_trap",
    "lookup",
    "make_model",
    "names",
    "regression_data",
]
