"""A search along every coordinate by itself, where the objective is a sum over coordinates."""

from __future__ import annotations

import numpy as np

from unstuck.search._space import Array, Space

_GRID = 101
_KEEP = (8, 4, 2, 2, 2, 2, 2, 2, 2)  # valleys a coordinate that are refined, round by round
_FIELDS = ("i", "left", "middle", "right", "f_left", "f_middle", "f_right")


class Separable:
    r"""Test whether f is additively separable, then minimise along all coordinates at once.

    Test: for points x, y and a set S of coordinates, a separable f has
    :math:`f(x_S, y_{S'}) + f(y_S, x_{S'}) = f(x) + f(y)`; two random halves S, five evaluations.
    Then a grid of 101 points on every coordinate, at a random offset, and safeguarded parabolic
    interpolation (Brent 1973) in its deepest valleys. The idea of a line search for separable
    functions beside an evolution strategy is that of HCMA (Loshchilov, Schoenauer and Sebag 2013).
    `why` says that it is over, `x` where it ended.
    """

    def __init__(self, space: Space, x: Array, f: float, number: int) -> None:
        self.space = space
        self.x, self.f = x.copy(), f
        self.why = ""
        self.round = -2
        draw = [space.uniforms(number + k) for k in range(4)]
        self.offset = draw[3][: x.size]
        low, high = space.region()
        self.other = space.clip(low + (high - low) * draw[0][: x.size])
        halves = [u[: x.size].argsort().argsort() < max(1, x.size // 2) for u in draw[1:3]]
        mixed = [np.where(half, a, b) for half in halves for a, b in self._ways()]
        self.points = np.stack([self.other, *mixed])
        self.values = np.zeros((0, 0))
        self.i = np.zeros(0, dtype=np.int64)  # the coordinate of a valley, and its three points
        self.left = self.middle = self.right = np.zeros(0)
        self.f_left = self.f_middle = self.f_right = np.zeros(0)

    def _ways(self) -> list[tuple[Array, Array]]:
        return [(self.x, self.other), (self.other, self.x)]

    def ask(self) -> Array:
        """Return the points of this round [n, D]."""
        return self.points

    def tell(self, losses: Array, points: Array) -> None:
        """Take the losses [n] of these points [n, D]."""
        self.points = points
        if not np.isfinite(losses).all():
            self.why = "nonfinite"
        elif self.round == -2:
            self._test(losses)
        elif self.round == -1:
            self._valleys(losses)
        else:
            self._narrow(losses)
        if self.why:
            return
        self.round += 1
        if self.round >= 0:
            self._place()

    def _test(self, losses: Array) -> None:
        expected = self.f + losses[0]
        sums = losses[1::2] + losses[2::2]
        size = np.abs(losses).sum() + abs(self.f)
        if self.x.size < 2 or np.abs(sums - expected).max() > 1e7 * self.space.eps * size:
            self.why = "not separable"
            return
        low, high = self.space.region()
        share = np.zeros((self.x.size, _GRID))  # both ends, and points at a random offset
        share[:, 1:-1] = (np.arange(_GRID - 2) + self.offset[:, None]) / (_GRID - 2)
        share[:, -1] = 1.0
        self.middle = (low[:, None] + (high - low)[:, None] * share).ravel()
        self.i = np.repeat(np.arange(self.x.size), _GRID)
        self._moved(self.middle)

    def _moved(self, value: Array) -> None:
        """Ask for x with coordinate i at `value`, for every entry."""
        points = np.repeat(self.x[None], value.size, 0)
        points[np.arange(value.size), self.i] = value
        self.points = self.space.clip(points)

    def _valleys(self, losses: Array) -> None:
        """Find the local minima of every coordinate's grid."""
        dim = self.x.size
        grid = self.middle.reshape(dim, _GRID)
        values = losses.reshape(dim, _GRID)
        self.values = values.min(1)
        self.other = grid[np.arange(dim), values.argmin(1)]
        inner = values[:, 1:-1]
        i, j = np.nonzero((inner <= values[:, :-2]) & (inner <= values[:, 2:]))
        self.i = i
        self.left, self.middle, self.right = grid[i, j], grid[i, j + 1], grid[i, j + 2]
        self.f_left, self.f_middle, self.f_right = values[i, j], values[i, j + 1], values[i, j + 2]

    def _narrow(self, losses: Array) -> None:
        """Shrink the brackets by the new points."""
        t = self.points[np.arange(self.i.size), self.i]
        before, better = t < self.middle, losses < self.f_middle
        old = [getattr(self, name) for name in _FIELDS[1:]]
        left, middle, right, f_left, f_middle, f_right = old
        up, down = better & ~before, better & before
        low, high = ~better & before, ~better & ~before
        self.left = np.where(up, middle, np.where(low, t, left))
        self.f_left = np.where(up, f_middle, np.where(low, losses, f_left))
        self.right = np.where(down, middle, np.where(high, t, right))
        self.f_right = np.where(down, f_middle, np.where(high, losses, f_right))
        self.middle = np.where(better, t, middle)
        self.f_middle = np.where(better, losses, f_middle)

    def _place(self) -> None:
        """Keep the deepest valleys and choose a new point in each."""
        if self.round == len(_KEEP) or not self.i.size:
            self._finish()
            return
        order = np.lexsort((self.f_middle, self.i))
        ranked = self.i[order]
        place = np.arange(ranked.size) - np.searchsorted(ranked, ranked)
        order = order[place < _KEEP[self.round]]
        for name in _FIELDS:
            setattr(self, name, getattr(self, name)[order])
        a, m, b = self.left, self.middle, self.right
        p = (m - a) * (self.f_middle - self.f_right)
        q = (m - b) * (self.f_middle - self.f_left)
        with np.errstate(all="ignore"):
            t = m - 0.5 * ((m - a) * p - (m - b) * q) / (p - q)
        golden = np.where(b - m > m - a, m + 0.381966 * (b - m), m - 0.381966 * (m - a))
        t = np.where(np.isfinite(t) & (t > a) & (t < b), t, golden)
        least = np.maximum(self.space.eps**0.5 * (1 + np.abs(m)), 1e-3 * (b - a))
        aside = np.where(b - m > m - a, m + least, m - least)
        self._moved(np.where(np.abs(t - m) < least, aside, t))

    def _finish(self) -> None:
        best, x = self.values, self.other
        for i, t, f in zip(self.i, self.middle, self.f_middle, strict=True):
            if f < best[i]:
                best[i], x[i] = f, t
        self.x = self.space.clip(x)
        self.why = "done"
