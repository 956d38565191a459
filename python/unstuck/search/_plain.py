"""Attention search with a fixed temperature and fixed spreads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import candidates
from unstuck.ops.attention import Report
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.reference_attention import weights

Limits = tuple[Tensor | None, Tensor | None, str]
"""Low [D], high [D] and what happens outside: ``"clip"`` or ``"reflect"``."""


def not_finite(losses: Tensor, before: int) -> int:
    """Return how many iterations in a row had no finite loss."""
    return 0 if bool(torch.isfinite(losses).any()) else before + 1


class PlainRule:
    """Trials w + sigma_i eps_i, softmax(-beta L), a damped step to their weighted mean."""

    def __init__(
        self,
        x0: Tensor,
        sigma: float | Tensor,
        popsize: int,
        limits: Limits,
        seed: int,
        beta: float,
        eta: float,
    ) -> None:
        self.mean = x0.clone()
        self.popsize = popsize
        self._sigma = sigma
        self._limits = limits
        self._seed = seed
        self._beta, self._eta = beta, eta
        self._bad = 0  # iterations in a row without one finite loss

    def place(self, iteration: int) -> tuple[Region, Draw]:
        """Return where and with which noise the candidates of `iteration` are drawn."""
        low, high, bound = self._limits
        draw = Draw(self._seed, iteration, antithetic=False)
        return Region(self.mean, self._sigma, None, low, high, bound), draw

    def candidates(self, iteration: int) -> Tensor:
        """Return the candidates [N, D] of `iteration`."""
        return candidates.sample(*self.place(iteration), 0, self.popsize)

    def update(self, losses: Tensor, x: Tensor) -> None:
        """Move the mean: w <- w + eta sum a_i (w_i - w)."""
        a, _ = weights(losses, self._beta)
        self._bad = not_finite(losses, self._bad)
        self.mean = self.mean + self._eta * (a.to(x) @ (x - self.mean))

    def fused(self, objective: Any, iteration: int, best: float) -> Report:
        """Draw, evaluate and move without storing a candidate."""
        region, draw = self.place(iteration)
        losses, moments, ess = candidates.softmax_pass(
            objective, region, draw, self.popsize, self._beta
        )
        finite = torch.isfinite(losses)
        lowest, index = torch.where(finite, losses.double(), math.inf).min(0)
        x = candidates.sample(region, draw, int(index), 1)[0] if float(lowest) < best else None
        self._bad = not_finite(losses, self._bad)
        self.mean = self.mean + self._eta * moments.shift
        return Report(1, losses, ess, int(finite.sum()), min(best, float(lowest)), x)

    def stop(self) -> dict[str, Any]:
        """Return the reasons to stop."""
        return {"nonfinite": self._bad} if self._bad else {}

    def state(self) -> dict[str, Any]:
        """Return what changes: the mean."""
        return {"mean": self.mean.clone(), "bad": self._bad}

    def load(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state` returned."""
        self.mean = state["mean"].to(self.mean).clone()
        self._bad = int(state["bad"])


def two_groups(popsize: int, sigma0: float, spread: tuple[float, float], like: Tensor) -> Tensor:
    """Return the sigmas [N] of the two groups: the first half exploits, the second explores."""
    sigma = torch.full((popsize,), sigma0 * spread[1], dtype=like.dtype, device=like.device)
    sigma[: popsize // 2] = sigma0 * spread[0]
    return sigma
