"""The adaptive method for few dimensions: who searches next."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstuck.search._covariance import Covariance
from unstuck.search._quasi_newton import QuasiNewton
from unstuck.search._separable import Separable
from unstuck.search._space import Array, Space, pack, unpack

_HEAD = 60  # the first local run alone, in evaluations a coordinate
_PATIENCE = 3  # rounds without a finite loss, until a local run is given up
_SHARE = {True: 2 / 3, False: 0.2}  # of the local runs: while they hold the best point, and else
_KINDS: dict[str, Any] = {"local": QuasiNewton, "separable": Separable, "wide": Covariance}


class PhasedRule:
    r"""Local runs, a search along coordinates, and covariance runs with restarts, by turns.

    1. A local run (:class:`QuasiNewton`) from the start, alone for 60 D evaluations at most.
    2. :class:`Separable`, once; five evaluations when the objective is not.
    3. :class:`Covariance` runs and local runs share the evaluations: the local runs get 2/3 while
       the present one holds the best point, else 1/5. The first covariance run starts from the
       first local run where that has not converged (with half of sigma0), all others from random
       points of the box. Covariance runs alternate as in BIPOP-CMA-ES (Hansen 2009) between a
       population that doubles and small ones with smaller steps, by evaluations used.
    """

    def __init__(
        self, space: Space, popsize: int, like: Tensor, local: bool, restarts: bool
    ) -> None:
        self._space, self._like = space, like
        self._local, self._restarts = local, restarts
        self.popsize = popsize
        self.bad = 0
        self.doubled = self.starts = self.runs = 0
        self.used = {"local": 0, "large": 0, "small": 0}
        self.lowest = math.inf  # of the covariance runs
        self.regime = "large"
        self.reason = ""  # why the last covariance run ended, where there is no other after it
        self.head = _HEAD * space.dim if local else 0  # until then the local run is alone
        self.tested = not local  # for separability
        self.phase: dict[str, Any] = {"local": None, "separable": None, "wide": None}
        if local:
            self.phase["local"] = QuasiNewton(space, space.x0, space.sigma0)
        self._points: Array | None = None  # of this iteration, once they were asked for

    @property
    def mean(self) -> Tensor:
        """The point [D] that the candidates lie around."""
        self._begin()
        now = self._turn()
        point = now.mean if isinstance(now, Covariance) else now.x
        return self.tensor(point)

    def tensor(self, x: Array) -> Tensor:
        """Return points as the objective gets them."""
        return torch.from_numpy(x).to(self._like)

    def _turn(self) -> Any:
        """Return the phase that asks next: a function of the state."""
        return self.phase[self._name()]

    def _name(self) -> str:
        if self.phase["separable"] is not None:
            return "separable"
        run = self.phase["local"]
        if run is None:
            return "wide"
        if self.used["local"] < self.head:
            return "local"
        wide = self.used["large"] + self.used["small"]
        share = _SHARE[run.f <= self.lowest]
        return "local" if self.used["local"] < share * (self.used["local"] + wide) else "wide"

    def _begin(self) -> None:
        """See to it that the phase whose turn it is exists."""
        if self._name() == "wide" and self.phase["wide"] is None:
            self.phase["wide"] = self._wide()

    def _wide(self) -> Covariance:
        """Start a covariance run."""
        space, sigma = self._space, self._space.sigma0
        self.runs += 1
        if self.runs == 1:
            self.regime = "large"
            run = self.phase["local"]
            if not self._local:
                return Covariance(space, space.x0, sigma, self.popsize)
            if self.head and isinstance(run, QuasiNewton):
                return Covariance(space, run.x, 0.5 * sigma, self.popsize)
        elif self.used["large"] <= self.used["small"]:
            self.regime = "large"
            self.doubled += 1
        else:
            self.regime = "small"
        size = self.popsize << self.doubled
        x = self._start()
        if self.regime == "small":
            chance = self._space.uniforms(self.starts)[space.dim :]
            ratio = max(1.0, 0.5 * size / self.popsize)
            size = int(self.popsize * ratio ** float(chance[0] ** 2))
            sigma *= 10 ** (-2 * float(chance[1]))
        return Covariance(space, x, sigma, size)

    def _start(self) -> Array:
        self.starts += 1
        return self._space.start(self.starts)

    def candidates(self, iteration: int) -> Tensor:
        """Return the candidates [N, D] of `iteration`; N is that of the phase."""
        return self.tensor(self.points(iteration).copy())

    def points(self, iteration: int) -> Array:
        """Return what :meth:`candidates` does, in float64; not to be written."""
        if self._points is None:
            self._begin()
            phase = self._turn()
            self._points = phase.ask(iteration) if isinstance(phase, Covariance) else phase.ask()
        return self._points

    def update(self, losses: Tensor, x: Tensor) -> None:
        """Move, from the losses [N] of the candidates x [N, D]."""
        self.tell(losses.cpu().numpy(), x.double().cpu().numpy().copy())  # x is the caller's

    def tell(self, values: Array, points: Array) -> None:
        """Do what :meth:`update` does."""
        self._points = None
        name = self._name()
        phase = self.phase[name]
        finite = np.isfinite(values)
        if not finite.all():
            values = np.where(finite, values, np.inf)
        if name != "separable":
            self.used[self.regime if name == "wide" else "local"] += values.size
        trial = name == "local" and phase.phase == "line"  # one point, that may well be bad
        self.bad = 0 if trial or finite.any() else self.bad + 1
        if name == "wide" and not self.bad:
            self.lowest = min(self.lowest, float(values.min()))
            phase.tell(values, points)
            self._after_wide(phase)
        elif name != "wide" and self.bad % _PATIENCE == 0:
            phase.tell(values, points)
            self._after_local(name, phase)

    def _after_wide(self, run: Covariance) -> None:
        spent = self.regime == "small" and self.used["small"] > self.used["large"]
        if not (run.why or spent):
            return
        if self._restarts:
            self.phase["wide"] = None
        else:
            self.reason = run.why

    def _after_local(self, name: str, run: Any) -> None:
        if name == "separable":
            if not run.why:
                return
            self.phase["separable"] = None
            if run.why == "done":  # polish, with the differences that a valley's bottom needs
                self.phase["local"] = QuasiNewton(self._space, run.x, 0.05 * self._space.sigma0)
                self.head = self.used["local"] + _HEAD * self._space.dim
            return
        over = bool(run.why) or self.used["local"] >= self.head
        if over and not self.tested and math.isfinite(run.f):
            self.tested = True
            number = 2**31 + self.starts  # far from the numbers of the restarts
            self.phase["separable"] = Separable(self._space, run.x, run.f, number)
        if run.why:
            self.head = 0
            self.phase["local"] = None
            if self._restarts:
                self.phase["local"] = QuasiNewton(self._space, self._start(), self._space.sigma0)

    def stop(self) -> dict[str, Any]:
        """Return the reasons to stop."""
        reasons: dict[str, Any] = {"nonfinite": self.bad} if self.bad else {}
        if self.reason:
            reasons[self.reason] = self.phase["wide"].sigma
        return reasons

    def state(self) -> dict[str, Any]:
        """Return what changes."""
        fields = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "phase"}
        fields = {k: dict(v) if isinstance(v, dict) else v for k, v in fields.items()}
        phases = {k: None if v is None else pack(v) for k, v in self.phase.items()}
        return {"fields": fields, "phases": phases}

    def load(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state` returned."""
        for name, value in state["fields"].items():
            setattr(self, name, dict(value) if isinstance(value, dict) else value)
        self._points = None
        self.phase = {
            name: None if packed is None else unpack(_KINDS[name], self._space, packed)
            for name, packed in state["phases"].items()
        }
