"""Problems to optimise: small real data sets, cleanly split, and the models trained on them."""

from unstuck.problems._registry import lookup
from unstuck.problems.data import DATA, Source, Split, Splits, load_data
from unstuck.problems.models import MODELS, make_model

__all__ = [
    "DATA",
    "MODELS",
    "Source",
    "Split",
    "Splits",
    "load_data",
    "lookup",
    "make_model",
]
