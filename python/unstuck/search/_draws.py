"""Provisional sampler, until the fused candidates stand in ``unstuck.ops``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """Which noise: a pure function of these numbers."""

    seed: int
    iteration: int
    stream: int = 0
    antithetic: bool = True
    rounds: int = 10


class Region(NamedTuple):
    """Where candidates lie: bound(mean + sigma_i scale eps_i)."""

    mean: Tensor
    sigma: float | Tensor
    scale: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    bound: str = "clip"


def sample(region: Region, draw: Draw, first: int, count: int) -> Tensor:
    """Return the candidates [count, D]."""
    generator = torch.Generator().manual_seed((draw.seed * 1000003 + draw.iteration) % 2**63)
    total = first + count
    rows = (total + 1) // 2 if draw.antithetic else total
    eps = torch.randn(rows, region.mean.numel(), generator=generator)
    if draw.antithetic:
        eps = torch.stack([eps, -eps], 1).flatten(0, 1)
    eps = eps[first:total].to(region.mean)
    sigma = region.sigma
    if isinstance(sigma, Tensor):
        sigma = sigma[first:total, None]
    step = sigma * eps
    x = region.mean + (step if region.scale is None else step * region.scale)
    if region.low is None or region.high is None:
        return x
    if region.bound == "reflect":
        x = torch.where(x < region.low, 2 * region.low - x, x)
        x = torch.where(x > region.high, 2 * region.high - x, x)
    return torch.clamp(x, region.low, region.high)
