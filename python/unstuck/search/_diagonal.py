"""Provisional adaptive rule: temperature by effective sample size, cumulative step size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unstuck.ops.reference_attention import weights
from unstuck.search._draws import Draw, Region, sample


class DiagonalRule:
    """Softmax weights at a fixed effective sample size, antithetic pairs, path length control."""

    def __init__(
        self,
        x0: Tensor,
        sigma: float,
        popsize: int,
        limits: tuple[Tensor | None, Tensor | None, str],
        seed: int,
        ess: float,
    ) -> None:
        self.mean = x0.clone()
        self.popsize = popsize
        self._sigma = self._sigma0 = sigma
        self._limits, self._seed, self._ess = limits, seed, ess
        self._path = torch.zeros_like(x0)
        self._beta = 0.0
        self._bad = 0

    def place(self, iteration: int) -> tuple[Region, Draw]:
        """Return where and with which noise the candidates of `iteration` are drawn."""
        low, high, bound = self._limits
        return Region(self.mean, self._sigma, None, low, high, bound), Draw(self._seed, iteration)

    def candidates(self, iteration: int) -> Tensor:
        """Return the candidates [N, D] of `iteration`."""
        return sample(*self.place(iteration), 0, self.popsize)

    def update(self, losses: Tensor, x: Tensor) -> None:
        """Move the mean and adapt temperature and step size."""
        if not bool(torch.isfinite(losses).any()):
            self._bad += 1
            return
        self._bad = 0
        a = self._temper(losses)
        shift = a.to(x) @ (x - self.mean)
        effective = 1.0 / float(a.square().sum())
        dim = self.mean.numel()
        c = (effective + 2) / (dim + effective + 5)
        damp = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (dim + 1)) - 1) + c
        step = math.sqrt(c * (2 - c) * effective) / self._sigma
        self._path = (1 - c) * self._path + step * shift
        expected = math.sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim * dim))
        self._sigma *= math.exp(min(1.0, c / damp * (float(self._path.norm()) / expected - 1)))
        self.mean = self.mean + shift

    def _temper(self, losses: Tensor) -> Tensor:
        good = losses[torch.isfinite(losses)]
        spread = float(good.max() - good.min())
        low, high = -60.0, 60.0
        for _ in range(40):
            middle = (low + high) / 2
            self._beta = math.exp(middle) / max(spread, 1e-300)
            a = weights(losses, self._beta)
            if 1 / float(a.square().sum()) > self._ess * good.numel():
                low = middle
            else:
                high = middle
        return a

    def stop(self) -> dict[str, Any]:
        """Return the reasons to stop."""
        reasons: dict[str, Any] = {"nonfinite": self._bad} if self._bad else {}
        if self._sigma < 1e-12 * self._sigma0:
            reasons["tolx"] = self._sigma
        return reasons

    def state(self) -> dict[str, Any]:
        """Return what changes."""
        return {
            "mean": self.mean.clone(),
            "path": self._path.clone(),
            "sigma": self._sigma,
            "beta": self._beta,
            "bad": self._bad,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state` returned."""
        self.mean = state["mean"].to(self.mean).clone()
        self._path = state["path"].to(self.mean).clone()
        self._sigma, self._beta = float(state["sigma"]), float(state["beta"])
        self._bad = int(state["bad"])
