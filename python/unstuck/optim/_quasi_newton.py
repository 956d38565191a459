"""L-BFGS of one point, a value at a time: it can be paused, compared with others, and dropped."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

Pair = tuple[Tensor, Tensor, float]  # a move, the change of the gradient, their product

DECREASE, CURVATURE = 1e-4, 0.9  # of the Wolfe conditions
LEAST = 1e-30  # squares below it have lost their digits
TRIES = 20  # points of one line search
LEVEL = 1  # iterations that gain nothing, and the descent is over


class LBFGS:
    """Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.5) with a weak Wolfe search.

    A line search brackets (Lewis and Overton 2013), which losses with kinks need; it goes on by the
    secant of the slopes, at most tenfold, and back by parabolas.

    Parameters
    ----------
    x : torch.Tensor
        Where it starts ``[P]``.
    memory : int
        Pairs that are kept.

    Attributes
    ----------
    x, f : torch.Tensor, float
        Where it is, and the loss there; infinite before the first value.
    losses : list of float
        Loss after every iteration.
    low, lowest : float, torch.Tensor
        The lowest loss of all points that were tried, and that point.
    lows : list of float
        `low` after every value.
    over : bool
        Whether it has ended: no gradient, no finite loss at the start, or steps gain nothing.
    """

    def __init__(self, x: Tensor, memory: int = 20) -> None:
        self.x, self.f = x, math.inf
        self.losses: list[float] = []
        self.lows: list[float] = []
        self.low, self.lowest = math.inf, x
        self.over = False
        self._memory = memory
        self._pairs: list[Pair] = []
        self._level = 0
        self._line: Line | None = None  # None before the first value
        self._next = x

    def ask(self) -> Tensor:
        """Return the point [P] whose value is wanted next."""
        return self._next

    def tell(self, loss: float, gradient: Tensor) -> None:
        """Take loss and gradient [P] of that point."""
        if loss < self.low:
            self.low, self.lowest = loss, self._next
        self.lows.append(self.low)
        line = self._line
        if line is None:
            if not math.isfinite(loss):
                self.over = True
                return
            self._arrive(loss)
            self._leave(gradient)
        elif line.tell(loss, gradient):
            self._next = self.x + line.t * line.direction
        elif line.low == 0:  # nothing is better along it
            self._retry(line.gradient)
        else:
            self._move(line)

    def state(self) -> dict[str, Any]:
        """Return all of it as tensors, numbers and lists of them."""
        line = self._line and dict(vars(self._line))
        return {**vars(self), "losses": [*self.losses], "lows": [*self.lows], "_line": line}

    @classmethod
    def of(cls, state: dict[str, Any]) -> LBFGS:
        """Return the descent that had this state."""
        made = cls.__new__(cls)
        vars(made).update(state)
        made.losses, made.lows = [*made.losses], [*made.lows]
        if state["_line"] is not None:
            made._line = Line.__new__(Line)
            vars(made._line).update(state["_line"])
        return made

    def _arrive(self, loss: float) -> None:
        self.f = loss
        self.losses.append(loss)

    def _leave(self, gradient: Tensor) -> None:
        """Begin a line search, where the descent is not over."""
        if self._level >= LEVEL:
            self.over = True
            return
        direction, slope = _direction(gradient, self._pairs)
        if not (slope < 0 and math.isfinite(slope)):
            self._retry(gradient)
            return
        first = 1.0 if self._pairs else min(1.0, 1.0 / float(gradient.abs().sum()))
        self._line = Line(direction, slope, self.f, gradient, first)
        self._next = self.x + first * direction

    def _retry(self, gradient: Tensor) -> None:
        """Try steepest descent, before it gives up."""
        if not self._pairs:
            self.over = True
            return
        self._pairs = []
        self._leave(gradient)

    def _move(self, line: Line) -> None:
        move, change = line.low * line.direction, line.g_low - line.gradient
        product = float(move @ change)
        lengths = float(move.norm()) * float(change.norm())
        if product > max(LEAST, 1e-12 * lengths) and float(change @ change) > LEAST:
            self._pairs = [*self._pairs[1 - self._memory :], (move, change, product)]
        self._level = 0 if line.f_low < self.f else self._level + 1
        self.x = self.x + move
        self._arrive(line.f_low)
        self._leave(line.g_low)


class Line:
    """A search along a direction [P] from a point with loss `f`, slope and gradient.

    `low` is how far along the best place is, with loss, slope and gradient there.
    """

    def __init__(
        self, direction: Tensor, slope: float, f: float, gradient: Tensor, first: float
    ) -> None:
        self.direction, self.slope, self.f, self.gradient = direction, slope, f, gradient
        self.low, self.f_low, self.slope_low, self.g_low = 0.0, f, slope, gradient
        self.t, self.high = first, math.inf
        self.tries = 0

    def tell(self, f: float, gradient: Tensor) -> bool:
        """Take loss and gradient at `t`; return whether those of another are wanted."""
        t, width = self.t, self.t - self.low
        here = float(gradient @ self.direction) if math.isfinite(f) else math.nan
        if not math.isfinite(here):
            self.high, self.t = t, self.low + 0.1 * width
        elif f > self.f + DECREASE * t * self.slope or (self.low > 0 and f >= self.f_low):
            bend = 2 * (f - self.f_low - self.slope_low * width)
            bottom = -self.slope_low * width * width / bend if bend > 0 else 0.5 * width
            self.high, self.t = t, self.low + min(max(bottom, 0.1 * width), 0.5 * width)
        elif here < CURVATURE * self.slope:
            steeper = here > self.slope_low
            ahead = width * here / (self.slope_low - here) if steeper else math.inf
            self.low, self.f_low, self.slope_low, self.g_low = t, f, here, gradient
            far = t + min(max(ahead, width), 9 * t)
            self.t = 0.5 * (t + self.high) if self.high < math.inf else far
        else:
            self.low, self.f_low, self.g_low = t, f, gradient
            return False
        self.tries += 1
        return self.tries < TRIES and self.high - self.low > 1e-9 * self.high


def _direction(gradient: Tensor, pairs: list[Pair]) -> tuple[Tensor, float]:
    """Return minus the inverse Hessian of the pairs times the gradient, and the slope along it."""
    q = gradient.clone()
    shares = []
    for move, change, product in reversed(pairs):
        share = float(move @ q) / product
        q.sub_(change, alpha=share)
        shares.append(share)
    if pairs:
        _, change, product = pairs[-1]
        q.mul_(product / float(change @ change))
    for (move, change, product), share in zip(pairs, reversed(shares), strict=True):
        q.add_(move, alpha=share - float(change @ q) / product)
    q.neg_()
    return q, float(gradient @ q)
