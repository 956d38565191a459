"""L-BFGS of one point, a value at a time: it can be paused, compared with others, and dropped."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator

from torch import Tensor

Points = Generator[Tensor, tuple[float, Tensor], None]  # asks for points, is told loss and gradient

DECREASE, CURVATURE = 1e-4, 0.9  # of the Wolfe conditions
LEAST = 1e-30  # squares below it have lost their digits
TRIES = 20  # points of one line search
LEVEL = 3  # iterations that gain nothing, and the descent is over


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
        self._points = self._run()
        self._next = next(self._points)

    def ask(self) -> Tensor:
        """Return the point [P] whose value is wanted next."""
        return self._next

    def tell(self, loss: float, gradient: Tensor) -> None:
        """Take loss and gradient [P] of that point."""
        if loss < self.low:
            self.low, self.lowest = loss, self._next
        self.lows.append(self.low)
        try:
            self._next = self._points.send((loss, gradient))
        except StopIteration:
            self.over = True

    def _run(self) -> Points:
        self.f, gradient = yield self.x
        if not math.isfinite(self.f):
            return
        self.losses.append(self.f)
        pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=self._memory)
        level = 0
        while level < LEVEL:
            direction, slope = _direction(gradient, pairs)
            if not (slope < 0 and math.isfinite(slope)):
                if not pairs:
                    return
                pairs.clear()
                continue
            first = 1.0 if pairs else min(1.0, 1.0 / float(gradient.abs().sum()))
            t, f, after = yield from self._line(direction, slope, gradient, first)
            if t == 0:
                if not pairs:
                    return
                pairs.clear()  # steepest descent, before it gives up
                continue
            move, change = t * direction, after - gradient
            product = float(move @ change)
            lengths = float(move.norm()) * float(change.norm())
            if product > max(LEAST, 1e-12 * lengths) and float(change @ change) > LEAST:
                pairs.append((move, change, product))
            level = 0 if f < self.f else level + 1
            self.x, self.f, gradient = self.x + move, f, after
            self.losses.append(f)

    def _line(
        self, direction: Tensor, slope: float, gradient: Tensor, t: float
    ) -> Generator[Tensor, tuple[float, Tensor], tuple[float, float, Tensor]]:
        """Look along the direction; return how far, loss and gradient there, or 0 and here."""
        low, f_low, slope_low, g_low = 0.0, self.f, slope, gradient
        high = math.inf
        for _ in range(TRIES):
            f, g = yield self.x + t * direction
            here = float(g @ direction) if math.isfinite(f) else math.nan
            width = t - low
            if not math.isfinite(here):
                high, t = t, low + 0.1 * width
            elif f > self.f + DECREASE * t * slope or (low > 0 and f >= f_low):
                bend = 2 * (f - f_low - slope_low * width)
                bottom = -slope_low * width * width / bend if bend > 0 else 0.5 * width
                high, t = t, low + min(max(bottom, 0.1 * width), 0.5 * width)
            elif here < CURVATURE * slope:
                ahead = width * here / (slope_low - here) if here > slope_low else math.inf
                low, f_low, slope_low, g_low = t, f, here, g
                t = 0.5 * (t + high) if high < math.inf else t + min(max(ahead, width), 9 * t)
            else:
                return t, f, g
            if high - low <= 1e-9 * high:
                break
        return low, f_low, g_low


def _direction(
    gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]
) -> tuple[Tensor, float]:
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
