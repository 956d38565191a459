"""Losses of many parameter vectors of one model at once, for any ``torch.nn.Module``."""

from unstuck.population.loss import PopulationLoss

__all__ = ["PopulationLoss"]
