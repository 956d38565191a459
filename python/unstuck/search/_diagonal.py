"""The adaptive rule for many dimensions: one standard deviation a coordinate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unstuck.ops import candidates
from unstuck.ops import reference_attention as rule
from unstuck.ops.candidates import Draw, Moments, Region
from unstuck.search._plain import Limits, Record, not_finite


class DiagonalRule:
    """The formulas of ``unstuck.ops.reference_attention``, on candidates or fused."""

    def __init__(
        self, x0: Tensor, sigma: float, popsize: int, limits: Limits, seed: int, share: float
    ) -> None:
        zeros, ones = torch.zeros_like(x0), torch.ones_like(x0)
        self._state = rule.State(x0.clone(), zeros, ones, sigma)
        self.popsize = popsize
        self._sigma0 = sigma
        self._limits, self._seed, self._share = limits, seed, share
        self._bad = self._flat = 0  # iterations in a row without a finite or a differing loss

    @property
    def mean(self) -> Tensor:
        """The point [D] that the candidates lie around."""
        return self._state.mean

    def place(self, iteration: int) -> tuple[Region, Draw]:
        """Return where and with which noise the candidates of `iteration` are drawn."""
        state = self._state
        region = Region(state.mean, state.sigma, state.scale, *self._limits)
        return region, Draw(self._seed, iteration)

    def candidates(self, iteration: int) -> Tensor:
        """Return the candidates [N, D] of `iteration`."""
        return candidates.sample(*self.place(iteration), 0, self.popsize)

    def update(self, losses: Tensor, x: Tensor) -> None:
        """Move, from the losses [N] of the candidates x [N, D]."""
        a, ess, beta = rule.temper(losses, self._state.beta, self._share)
        shift = x - self._state.mean
        weights = a.to(x)
        self._move(losses, Moments(weights @ shift, weights @ shift.square()), ess, beta)

    def fused(self, objective: Any, iteration: int, record: Record) -> None:
        """Draw, evaluate, record and move without storing a candidate."""
        region, draw = self.place(iteration)
        if self._state.beta:
            losses, moments, ess = candidates.softmax_pass(
                objective, region, draw, self.popsize, self._state.beta
            )
            a, wanted, beta = rule.temper(losses.double(), self._state.beta, self._share)
            again = abs(wanted - ess) > 1e-3 * wanted  # the temperature had to be mended at once
        else:
            losses = candidates.losses(objective, region, draw, self.popsize)
            a, wanted, beta = rule.temper(losses.double(), 0.0, self._share)
            again = True
        if again:
            moments = candidates.combine(region, draw, a.to(region.mean))
        record(losses, lambda i: candidates.sample(region, draw, i, 1)[0])
        self._move(losses, moments, wanted, beta)

    def _move(self, losses: Tensor, moments: Moments, ess: float, beta: float) -> None:
        self._bad = not_finite(losses, self._bad)
        self._flat = self._flat + 1 if not ess and not self._bad else 0
        if ess:
            rule.adapt(self._state, moments.shift, moments.square, ess, beta)

    def stop(self) -> dict[str, Any]:
        """Return the reasons to stop."""
        reasons: dict[str, Any] = {}
        if self._bad:
            reasons["nonfinite"] = self._bad
        if self._flat >= 10:
            reasons["flat"] = self._flat
        sigma = self._state.sigma
        if sigma < 1e-12 * self._sigma0:
            reasons["tolx"] = sigma
        return reasons

    def state(self) -> dict[str, Any]:
        """Return what changes."""
        s = self._state
        return {
            "mean": s.mean.clone(),
            "path": s.path.clone(),
            "scale": s.scale.clone(),
            "sigma": s.sigma,
            "beta": s.beta,
            "bad": self._bad,
            "flat": self._flat,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state` returned."""
        like = self._state.mean
        mean, path, scale = (state[k].to(like).clone() for k in ("mean", "path", "scale"))
        self._state = rule.State(mean, path, scale, float(state["sigma"]), float(state["beta"]))
        self._bad, self._flat = int(state["bad"]), int(state["flat"])
