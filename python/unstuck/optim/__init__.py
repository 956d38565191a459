"""Fused optimizers with the ``torch.optim`` API."""

from unstuck.optim.blend import DynamicBlend
from unstuck.optim.gate import Gate

__all__ = ["DynamicBlend", "Gate"]
