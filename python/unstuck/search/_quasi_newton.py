"""A local search on losses alone: BFGS with finite differences."""

from __future__ import annotations

import math

import numpy as np

from unstuck.search._space import Array, Space


class QuasiNewton:
    r"""BFGS (Nocedal and Wright 2006, algorithm 6.1) with gradients by differences, as ask/tell.

    A round asks either for the D points of a difference quotient or for one point of a line
    search (backtracking by parabolas; the first step after a reset, steepest descent, grows by 4).
    The difference :math:`h_i = 6 \sqrt{\epsilon |f| H_{ii}}` balances rounding against curvature,
    with H the inverse Hessian so far. Coordinates at a bound that the gradient pushes out of the
    box are left where they are. When no step goes down, the curvature is forgotten, then the
    differences become central; then `why` says that the run is over.
    """

    def __init__(self, space: Space, x: Array, step: float) -> None:
        self.space = space
        self.x = space.clip(x)
        self.f = math.inf
        self.step = step
        self.why = ""
        self.phase = "start"
        self.central = False
        self.h = math.sqrt(space.eps) * np.maximum(np.abs(self.x), step)
        self.inverse = np.zeros((0, 0))  # no curvature yet
        self.gradient = np.zeros(0)
        self.move = np.zeros(0)  # the last move and the gradient before it, to learn from
        self.before = np.zeros(0)
        self.direction = np.zeros_like(self.x)
        self.slope = self.t = 0.0
        self.fresh = True
        self.tries = self.small = 0
        self.best_f, self.best_x = math.inf, self.x

    def ask(self) -> Array:
        """Return the points of this round [n, D]."""
        if self.phase == "start":
            return self.x[None]
        if self.phase == "line":
            return self.space.clip(self.x + self.t * self.direction)[None]
        ahead = self.space.clip(self.x + self._differences())
        if not self.central:
            return ahead
        return np.concatenate([ahead, self.space.clip(self.x - self._differences())])

    def _differences(self) -> Array:
        steps = np.zeros((self.x.size, self.x.size))
        sign = np.where(self.x + self.h > self.space.high, -1.0, 1.0)
        steps.flat[:: self.x.size + 1] = self.h * sign
        return steps

    def tell(self, losses: Array, points: Array) -> None:
        """Take the losses [n] of these points [n, D]."""
        if self.phase == "start":
            self.f, self.phase = float(losses[0]), "gradient"
            if not math.isfinite(self.f):
                self.why = "nonfinite"
        elif self.phase == "gradient":
            self._learn(losses, points)
        else:
            self._line(float(losses[0]), points[0])

    def _learn(self, losses: Array, points: Array) -> None:
        dim = self.x.size
        ahead = points[:dim].diagonal()
        if self.central:
            behind = points[dim:].diagonal()
            width, rise = ahead - behind, losses[:dim] - losses[dim:]
        else:
            width, rise = ahead - self.x, losses - self.f
        with np.errstate(all="ignore"):
            gradient = rise / width
        if not np.isfinite(gradient).all():
            self.why = "nonfinite"
            return
        if self.move.size:
            self._curve(self.move, gradient - self.before)
        self.gradient = gradient
        self._aim()

    def _curve(self, move: Array, change: Array) -> None:
        """Update the inverse Hessian: the gradient changed by `change` over `move`."""
        product = float(move @ change)
        length = float(change @ change)
        if product <= 1e-10 * math.sqrt(float(move @ move) * length):
            return
        if not self.inverse.size:
            self.inverse = np.eye(move.size) * (product / length)
        left = np.eye(move.size) - move[:, None] * change / product
        self.inverse = left @ self.inverse @ left.T + move[:, None] * move / product

    def _aim(self) -> None:
        """Choose the direction of the next line search."""
        space, gradient = self.space, self.gradient
        pinned = (self.x <= space.low) & (gradient > 0) | (self.x >= space.high) & (gradient < 0)
        free = np.where(pinned, 0.0, gradient)
        norm = math.sqrt(float(free @ free))
        if norm == 0:
            self.why = "gradient"
            return
        self.fresh = not self.inverse.size
        if not self.fresh:
            self.direction = np.where(pinned, 0.0, -self.inverse @ free)
            self.slope = float(self.direction @ free)
        if self.fresh or not self.slope < 0:
            self.inverse = np.zeros((0, 0))
            self.fresh = True
            self.direction = free * (-0.3 * self.step / norm)
            self.slope = float(self.direction @ free)
        self.t, self.tries = 1.0, 0
        self.best_f = math.inf
        self.phase = "line"

    def _line(self, f: float, point: Array) -> None:
        t = self.t
        if not math.isfinite(f):
            f = math.inf
        if f <= self.f + 1e-4 * t * self.slope:
            if f < self.best_f:
                self.best_f, self.best_x = f, point
                if self.fresh and self.tries < 8:
                    self.t, self.tries = 4 * t, self.tries + 1
                    return
            self._accept()
        elif self.best_f < math.inf:
            self._accept()
        elif self.tries < 12:
            bend = 2 * (f - self.f - t * self.slope)
            lowest = -self.slope * t * t / bend if math.isfinite(bend) else 0.0
            self.t, self.tries = min(max(lowest, 0.1 * t), 0.5 * t), self.tries + 1
        elif not self.fresh:
            self.inverse = np.zeros((0, 0))
            self._aim()
        elif not self.central:
            self.central, self.phase = True, "gradient"
            self.h = 30 * self.h
            self.move = np.zeros(0)
        else:
            self.why = "line search"

    def _accept(self) -> None:
        gain = self.f - self.best_f
        tolerance = max(1e-12, 8 * self.space.eps) * abs(self.best_f)
        self.small = self.small + 1 if gain <= tolerance else 0
        self.move, self.before = self.best_x - self.x, self.gradient
        self.x, self.f = self.best_x, self.best_f
        self.phase = "gradient"
        slack = np.diagonal(self.inverse) if self.inverse.size else np.ones_like(self.x)
        noise = self.space.eps * max(abs(self.f), 1e-8)
        grain = 4 * self.space.eps * np.abs(self.x)  # below it, x + h is x
        least = np.maximum(1e-10 if self.space.eps < 1e-10 else 1e-5, grain)
        wanted = 6 * np.sqrt(noise * np.maximum(slack, 0))
        self.h = np.minimum(np.maximum(wanted, least), 1e-2 * self.step + grain)
        if self.small >= 3:
            self.why = "tolfun"
