"""Learned update rules, and their meta-training."""

from unstuck.learned.mlp import MLP
from unstuck.learned.registry import RULES, load, pretrained
from unstuck.learned.rule import State, UpdateRule

__all__ = ["MLP", "RULES", "State", "UpdateRule", "load", "pretrained"]
