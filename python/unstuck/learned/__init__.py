"""Learned update rules, and their meta-training."""

from unstuck.learned.estimators import ESTIMATORS, Backprop, Estimate, Estimator, Evolution
from unstuck.learned.families import FAMILIES
from unstuck.learned.feature_mlp import FeatureMLP
from unstuck.learned.functions import Functions, Landscape, Quadratic, Quadratics
from unstuck.learned.lstm import LSTM
from unstuck.learned.mlp import MLP
from unstuck.learned.networks import Network, Networks
from unstuck.learned.objective import Objective
from unstuck.learned.preconditioner import Preconditioner
from unstuck.learned.registry import DEFAULT, RULES, load, pretrained
from unstuck.learned.rule import State, TensorStep, UpdateRule
from unstuck.learned.task import Family, Mixture, Scaled, Task
from unstuck.learned.training import MetaTraining, Row
from unstuck.learned.transformer import Transformer
from unstuck.learned.unroll import Plan
from unstuck.learned.whitened_mlp import WhitenedMLP
from unstuck.learned.workers import Workers

__all__ = [
    "DEFAULT",
    "ESTIMATORS",
    "FAMILIES",
    "LSTM",
    "MLP",
    "RULES",
    "Backprop",
    "Estimate",
    "Estimator",
    "Evolution",
    "Family",
    "FeatureMLP",
    "Functions",
    "Landscape",
    "MetaTraining",
    "Mixture",
    "Network",
    "Networks",
    "Objective",
    "Plan",
    "Preconditioner",
    "Quadratic",
    "Quadratics",
    "Row",
    "Scaled",
    "State",
    "Task",
    "TensorStep",
    "Transformer",
    "UpdateRule",
    "WhitenedMLP",
    "Workers",
    "load",
    "pretrained",
]
