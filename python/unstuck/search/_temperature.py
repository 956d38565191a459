"""Weights of trials from their losses: a softmax, and how sharp it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HALVINGS = 60


def weigh(losses: Tensor, beta: float | None, share: float) -> Tensor:
    r"""Return the softmax weights :math:`a_i \propto \exp(-\beta L_i)`.

    Without `beta` it is the one for which the effective number of trials
    :math:`1 / \sum_i a_i^2` is `share` of those with a finite loss (at least 1), which neither
    the scale nor the offset of the losses changes.

    Parameters
    ----------
    losses : Tensor
        Losses ``[N]`` in float64. NaN and infinite ones weigh zero; all zero when all are.
    beta : float, optional
        Inverse temperature, in units of 1 / loss.
    share : float
        In (0, 1]; not used with `beta`.
    """
    good = torch.isfinite(losses)
    count = int(good.sum())
    if count == 0:
        return torch.zeros_like(losses)
    most = torch.finfo(losses.dtype).max
    gap = torch.where(good, (losses - losses[good].min()).clamp(max=most), math.inf)
    if beta is None:
        beta = _beta_for(gap[good], max(1.0, share * count))
    weights = torch.where(good, torch.exp(-beta * torch.where(good, gap, 0.0)), 0.0)
    return weights / weights.sum()


def _beta_for(gap: Tensor, wanted: float) -> float:
    """Find by bisection the beta at which so many trials are effective; 0 where all are equal."""
    widest = float(gap.max())
    if widest == 0 or not math.isfinite(widest):
        return 0.0
    scaled = gap.cpu() / widest
    low, high = 0.0, 1.0
    while high < 1e15 and _effective(scaled, high) > wanted:
        low, high = high, 4 * high
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _effective(scaled, middle) > wanted:
            low = middle
        else:
            high = middle
    return high / widest


def _effective(gap: Tensor, beta: float) -> float:
    weights = torch.exp(-beta * gap)
    return float(weights.sum() ** 2 / (weights * weights).sum())
