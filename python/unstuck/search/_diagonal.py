"""The adaptive rule for many dimensions: one standard deviation a coordinate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import attention, candidates
from unstuck.ops import reference_attention as rule
from unstuck.ops.attention import Report
from unstuck.ops.candidates import Draw, Region
from unstuck.search._plain import Limits
from unstuck.search._space import Space


class DiagonalRule:
    """The formulas of ``unstuck.ops.reference_attention``, on candidates or fused.

    A run that has converged (its sigma below 1e-9 of the first, 1e-5 in float32, or ten iterations
    of equal losses) starts again at a random point with twice the candidates, as IPOP-CMA-ES does
    (Auger and Hansen 2005); without `restarts` that is a reason to stop.
    """

    def __init__(
        self,
        x0: Tensor,
        sigma: float,
        popsize: int,
        limits: Limits,
        space: Callable[[], Space],
        seed: int,
        share: float,
        restarts: bool,
    ) -> None:
        zeros, ones = torch.zeros_like(x0), torch.ones_like(x0)
        self._state = rule.State(x0.clone(), zeros, ones, sigma)
        self.popsize = self._popsize0 = popsize
        self.restarts = 0
        self._sigma0 = sigma
        self._limits, self._share, self._restart = limits, share, restarts
        self._space, self._seed = space, seed  # the space is large, and restarts alone need it
        self._bad = self._flat = 0  # iterations in a row without a finite or a differing loss

    @property
    def mean(self) -> Tensor:
        """The point [D] that the candidates lie around."""
        return self._state.mean

    def candidates(self, iteration: int) -> Tensor:
        """Return the candidates [N, D] of `iteration`."""
        state = self._state
        region = Region(state.mean, state.sigma, state.scale, *self._limits)
        return candidates.sample(region, Draw(self._seed, iteration), 0, self.popsize)

    def update(self, losses: Tensor, x: Tensor) -> None:
        """Move, from the losses [N] of the candidates x [N, D]."""
        a, ess, beta = rule.temper(losses, self._state.beta, self._share)
        if ess:
            shift, weights = x - self._state.mean, a.to(x)
            rule.adapt(self._state, weights @ shift, weights @ shift.square(), ess, beta)
        self._after(int(torch.isfinite(losses).sum()), ess)

    def fused(self, objective: Any, iteration: int, best: float) -> Report:
        """Draw, evaluate and move without storing a candidate."""
        low, high, bound = self._limits
        draw = Draw(self._seed, iteration)
        report = attention.run(
            objective,
            self._state,
            draw,
            self.popsize,
            low=low,
            high=high,
            bound=bound,
            share=self._share,
            best=best,
        )
        self._after(report.finite, report.ess)
        return report

    def _after(self, finite: int, ess: float) -> None:
        """Keep the mean in the box, count what is bad, start again where a run has converged."""
        low, high, _ = self._limits
        if low is not None and high is not None:  # the step is longer than to what was seen
            torch.clamp(self._state.mean, low, high, out=self._state.mean)
        self._bad = 0 if finite else self._bad + 1
        self._flat = self._flat + 1 if finite and not ess else 0
        if self._restart and self._converged():
            self.restarts += 1
            self.popsize = min(self._popsize0 << self.restarts, max(self._popsize0, 1 << 16))
            x = torch.from_numpy(self._space().start(self.restarts)).to(self._state.mean)
            self._state = rule.State(x, torch.zeros_like(x), torch.ones_like(x), self._sigma0)
            self._flat = 0

    def _converged(self) -> dict[str, Any]:
        reasons: dict[str, Any] = {}
        if self._flat >= 10:
            reasons["flat"] = self._flat
        least = 1e-9 if self._state.mean.dtype == torch.float64 else 1e-5
        if self._state.sigma < least * self._sigma0:
            reasons["tolx"] = self._state.sigma
        return reasons

    def stop(self) -> dict[str, Any]:
        """Return the reasons to stop."""
        reasons = {} if self._restart else self._converged()
        if self._bad:
            reasons["nonfinite"] = self._bad
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
            "popsize": self.popsize,
            "restarts": self.restarts,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state` returned."""
        like = self._state.mean
        mean, path, scale = (state[k].to(like).clone() for k in ("mean", "path", "scale"))
        self._state = rule.State(mean, path, scale, float(state["sigma"]), float(state["beta"]))
        self._bad, self._flat = int(state["bad"]), int(state["flat"])
        self.popsize, self.restarts = int(state["popsize"]), int(state["restarts"])
