"""What the hybrids that look around by attention search have in common."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import LBFGS

from unstuck.search._base import Bounds
from unstuck.search._descent import Base, Descent, Differentiable, Record, fused
from unstuck.search.attention import AttentionSearch


class Cloud(NamedTuple):
    """An attention search, and what it was made with, to make it again."""

    search: AttentionSearch
    made: dict[str, Any]


class Escaping(Descent):
    """A point that a gradient optimizer moves, and that attention search moves elsewhere."""

    def __init__(
        self,
        x0: Any,
        sigma0: float,
        *,
        bounds: Bounds | None,
        seed: int,
        base: Base,
        lr: float | None,
        popsize: int | None,
        mode: str,
    ) -> None:
        super().__init__(x0, sigma0, bounds=bounds, seed=seed, base=base, lr=lr)
        self._options: dict[str, Any] = {"popsize": popsize, "mode": mode}
        if mode == "adaptive":
            self._options["restarts"] = False
        self._cloud: Cloud | None = None
        self._begin(self.center, self.sigma0, seed)  # refuses what is out of range

    def _look_around(
        self, problem: Differentiable, steps: int, *, forget: bool, widened: float = 1.0
    ) -> Record:
        """Make attention steps; go to the best point they have found if it beats this one.

        The adaptive search goes on where the last look around left it, since it takes longer than
        one to find the valleys of many coordinates; when it has converged, the next one begins at
        the point, with `widened` times sigma0. The other modes adapt nothing and always begin at
        the point.
        """
        counts = self._counts
        if self._cloud is None or self._options["mode"] != "adaptive":
            seed = (self._seed + counts["attempts"] * 0x9E3779B97F4A7C15) % 2**64
            self._cloud = self._begin(self.center, self.sigma0 * widened, seed)
        search = self._cloud.search
        before = float(problem(self.center[None]))
        self._note(self.center, before)
        counts["nfev"] += 1
        known = search.nfev
        try:
            for _ in range(steps):
                objective = fused(problem, search.popsize)
                search.step(problem if objective is None else objective)
                if search.stop():
                    self._cloud = None
                    break
        finally:  # an error or an interrupt of the problem does not lose what was found
            if search.best.f < self._best.f:
                self._note(*search.best)
        counts["nfev"] += search.nfev - known
        counts["attempts"] += 1
        better = search.best.f < before or (
            not math.isfinite(before) and math.isfinite(search.best.f)
        )
        if better:
            self._move(search.best.x)
            counts["escapes"] += 1
            if forget or isinstance(self._base, LBFGS):  # moments of another place
                self._base.state.clear()
        return Record("escape", before, self.nfev, self.ngev, None, better)

    def _begin(self, x0: Tensor, sigma: float, seed: int) -> Cloud:
        limits = None if self._low is None else (self._low, self._high)
        search = AttentionSearch(x0, sigma, bounds=limits, seed=seed, **self._options)
        return Cloud(search, {"x0": x0.clone(), "sigma": sigma, "seed": seed})

    def state_dict(self) -> dict[str, Any]:
        """Return everything a later run needs to go on bit for bit; ``history`` is not in it."""
        cloud = self._cloud
        inner = None if cloud is None else {**cloud.made, "state": cloud.search.state_dict()}
        return {**super().state_dict(), "cloud": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which one of the same class, start and options wrote.

        Raises
        ------
        ValueError
            When `state` is of another class or another number of coordinates.
        """
        super().load_state_dict(state)
        self._cloud, inner = None, state["cloud"]
        if inner is not None:
            self._cloud = self._begin(inner["x0"].to(self._w), inner["sigma"], inner["seed"])
            self._cloud.search.load_state_dict(inner["state"])
