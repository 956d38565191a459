"""The formulas of attention search for any dimension, in plain torch. PROVISIONAL."""

from __future__ import annotations

import torch
from torch import Tensor


def weights(losses: Tensor, beta: float) -> Tensor:
    """Return softmax(-beta L) [N]; NaN and infinite losses weigh zero, all zero if all are."""
    good = torch.isfinite(losses)
    if not bool(good.any()):
        return torch.zeros_like(losses)
    lowest = losses[good].min()
    spread = torch.where(good, losses - lowest, 0.0)
    a = torch.where(good, torch.exp(-beta * spread), 0.0)
    return a / a.sum()
