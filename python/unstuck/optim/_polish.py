"""Search by descents of a loss that does not change: which to go on with, and where to begin anew.

For a full-batch training loss. One value at a time, so that a training loop goes on with it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unstuck.optim._quasi_newton import LBFGS

Scale = tuple[float, float]  # a mean and a deviation

WINDOW, PROGRESS = 6, 0.05  # a descent stands still when 6 iterations gain less than 5%: see _size
LEAST = 20  # values of a descent before it is compared with the best one
AGE = 8
EARLY = 3  # descents from fresh points, before there is a best one to be replaced in part
WINS = 2  # so often a kind of start that came below the best is tried more
RECENT = 9  # descents that tell what a gain counts beside
FLOOR = 0.1  # of what those fell by, that counts at least
SHARE, MOST = 0.5, 4.0  # values of the best descent for one of another: at first, at most
KINDS = ("fresh", "fresh", "units", "entries", "all")
NOISE = (0.1, 0.6)  # of the deviation of the first values: how far all entries move at once
NEIGHBOUR = 4  # see first_scales
SPREAD = 4.0  # fresh values are at most so much wider or narrower than the first ones
REPLACED = (0.05, 0.5)  # shares of a point that a mixture replaces


class Polish:
    r"""Descents by L-BFGS, each dropped when it promises nothing; the best one is what counts.

    A descent stands still when an iteration window gains less than 5% of the median difference
    between the last descents and the best one, or of the loss, where that is less and never was
    below zero. It promises nothing when, at the rate of its last quarter, it would need more values
    than it has had to come below the best loss so far, :math:`f - f^* > n\,\Delta f`. Then another
    begins, from

    - a fresh point: every tensor normal, with the mean and the deviation that it began with, times
      one factor from [1/4, 4]: what the initialisation does, without knowing it;
    - the best point with some of its units (rows of tensors) fresh, or some of its entries, a share
      from 5% to 50%;
    - the best point with all entries moved, by a share from 0.1 to 0.6 of those deviations;

    fresh points at first, then twice as often as the others, and what came below the best before
    up to thrice as often as that.

    The best descent goes on meanwhile, with one value for every two of others, with twice as many
    (at most four for one) after every time that it gained, half as many when it did not: a slow one
    is not lost.

    Parameters
    ----------
    start : torch.Tensor
        Where it starts ``[P]``.
    shapes : sequence of torch.Size
        The tensors that the point consists of, in order.
    seed : int
        Of what is drawn.
    first : sequence of (float, float), optional
        Mean and deviation of every tensor's initialisation; by default those that it seems to be
        drawn with at the start (:func:`first_scales`).

    Attributes
    ----------
    best : torch.Tensor
        The point ``[P]`` with the lowest loss.
    loss : float
        Its loss; infinite before the first value.
    evaluations : int
        Values that were told.
    descents, escapes : int
        Descents that were begun, and how many of them came below the best before.

    Raises
    ------
    ValueError
        When the shapes do not make up the point.

    Examples
    --------
    >>> import torch
    >>> search = Polish(torch.tensor([2.0, 1.0]), [torch.Size([2])], seed=0)
    >>> while search.evaluations < 60:
    ...     x = search.ask().requires_grad_()
    ...     loss = (x.square() - 1).square().sum()
    ...     search.tell(loss.item(), *torch.autograd.grad(loss, x))
    >>> search.loss < 1e-6
    True
    """

    def __init__(
        self,
        start: Tensor,
        shapes: Sequence[torch.Size],
        *,
        seed: int = 0,
        first: Sequence[Scale] | None = None,
    ) -> None:
        sizes = [shape.numel() for shape in shapes]
        if start.ndim != 1 or sum(sizes) != start.numel():
            raise ValueError(
                f"the shapes have {sum(sizes)} numbers, but the point is of shape "
                f"{tuple(start.shape)}: give the shape of every tensor in it"
            )
        self.best, self.loss = start, math.inf
        self.evaluations = self.descents = self.escapes = 0
        self._shapes, self._sizes = tuple(map(tuple, shapes)), sizes
        self._generator = torch.Generator().manual_seed(seed)
        self._first = tuple(first_scales(start, sizes) if first is None else first)
        self._start = start
        self._had_gradient = torch.zeros_like(start, dtype=torch.bool)
        self._kind = ""  # of the last start
        self._won: list[str] = []  # kinds of those that came below the best
        self._falls: list[float] = []  # of the last descents
        self._gaps: list[float] = []  # between them and the best one of their time
        self._below_zero = False
        self._share, self._left = SHARE, math.inf  # values that the leader has left
        self._other: LBFGS | None = None
        self._leader = self._begin(start)

    def ask(self) -> Tensor:
        """Return the point [P] whose loss and gradient are wanted next."""
        return (self._other or self._leader).ask()

    def tell(self, loss: float, gradient: Tensor) -> None:
        """Take the loss and the gradient [P] of that point."""
        self.evaluations += 1
        leader, other = self._leader, self._other
        descent = other or leader
        point = descent.ask()
        self._had_gradient = self._had_gradient | (gradient != 0)
        if other is not None and not other.lows and self._goes_back(point):
            return
        self._below_zero |= loss < 0
        if loss < self.loss:
            self.best, self.loss = point, loss
        descent.tell(loss, gradient)
        if other is None:
            self._left -= 1
            self._after_leader(leader)
        elif self._stands_still(other) or _promises_nothing(other, leader.low):
            self._after_other(leader, other)

    def state(self) -> dict[str, Any]:
        """Return all of it as tensors, numbers and lists of them: what is made of it goes on."""
        other = self._other and self._other.state()
        own = {"_leader": self._leader.state(), "_other": other}
        return {**vars(self), **own, "_generator": self._generator.get_state()}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Polish:
        """Return the search that had this state."""
        made = cls.__new__(cls)
        vars(made).update(state)
        made._leader = LBFGS.of(state["_leader"])
        made._other = state["_other"] and LBFGS.of(state["_other"])
        made._generator = torch.Generator()
        made._generator.set_state(state["_generator"].cpu())
        return made

    # ------------------------------------------------------------ which descent goes on
    def _after_other(self, leader: LBFGS, other: LBFGS) -> None:
        """Let it lead where it came below the leader; else the leader has its share."""
        if math.isfinite(gap := abs(other.low - leader.low)):
            self._gaps = [*self._gaps[1 - RECENT :], gap]
            self._falls = [*self._falls[1 - RECENT :], other.losses[0] - other.low]
        if other.low < leader.low or not math.isfinite(leader.low):
            self._leader, self._share, self._left = other, SHARE, 0
            self.escapes += 1
            self._won = [*self._won, self._kind]
            self._other = self._begin(self._candidate(other.lowest))
            return
        self._other, self._left = None, int(self._share * len(other.lows))
        self._after_leader(leader)

    def _after_leader(self, leader: LBFGS) -> None:
        """Go on while the leader has values left; then as long as it does not stand still."""
        if self._left > 0 and not leader.over:
            if math.isfinite(self._left) or not self._stands_still(leader):
                return
        elif math.isfinite(self._left):
            small = self._stands_still(leader, PROGRESS / 10)
            self._share = self._share / 2 if small else min(2 * self._share, MOST)
            self._left = math.inf
            if not self._stands_still(leader):
                return
        self._other = self._begin(self._candidate(leader.lowest))

    def _stands_still(self, descent: LBFGS, progress: float = PROGRESS) -> bool:
        losses = descent.losses
        window = max(WINDOW, len(losses) // AGE)
        if descent.over or len(losses) <= window:
            return descent.over
        return losses[-1 - window] - losses[-1] <= progress * self._size(losses[-1])

    def _size(self, loss: float) -> float:
        """Return what a gain counts beside: what tells descents apart, and a loss that ends at 0.

        An offset of the loss changes neither, as soon as there was a second descent.
        """
        if not self._gaps:
            return abs(loss)
        least = FLOOR * min(abs(loss), statistics.median(self._falls))
        size = max(least, statistics.median(self._gaps))
        return size if self._below_zero else min(size, loss)

    def _goes_back(self, point: Tensor) -> bool:
        """Put fresh values back that the loss does not depend on; whether there were any.

        What never had a gradient, there and before, is a masked weight or the row of a word that
        never comes: it keeps its value. A dead unit has one where it is alive, and may move.
        """
        idle = ~self._had_gradient & (point != self._start)
        if not bool(idle.any()):
            return False
        self._other = LBFGS(torch.where(idle, self._start, point))
        return True

    def _begin(self, x: Tensor) -> LBFGS:
        self.descents += 1
        return LBFGS(x)

    # ------------------------------------------------------------ where another begins
    def _candidate(self, best: Tensor) -> Tensor:
        kind = self._kind = self._draw_kind() if self.descents > EARLY else KINDS[0]
        factor = SPREAD ** (2 * self._uniform() - 1)
        noise = torch.randn(best.shape, generator=self._generator)
        pairs = zip(self._first, torch.split(noise, self._sizes), strict=True)
        parts = [(torch.full_like(x, mean), deviation * x) for (mean, deviation), x in pairs]
        mean, away = (torch.cat(column).to(best) for column in zip(*parts, strict=True))
        fresh: Tensor = mean + factor * away
        if kind == "fresh" or not math.isfinite(self.loss):
            return fresh
        if kind == "all":
            low, high = NOISE
            moved: Tensor = best + low * (high / low) ** self._uniform() * away
            return moved
        low, high = REPLACED
        share = low * (high / low) ** self._uniform()
        return torch.where(self._mask(kind, share).to(best.device), fresh, best)

    def _draw_kind(self) -> str:
        """Draw a kind of start: more often what has come below the best, at most thrice."""
        weights = torch.tensor([1.0 + min(self._won.count(kind), WINS) for kind in KINDS])
        return KINDS[int(torch.multinomial(weights, 1, generator=self._generator))]

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self._generator))

    def _mask(self, kind: str, share: float) -> Tensor:
        """Draw which entries are replaced: of themselves, or by rows of their tensors."""
        if kind == "entries":
            return torch.rand(sum(self._sizes), generator=self._generator) < share
        parts = []
        for shape, size in zip(self._shapes, self._sizes, strict=True):
            rows = shape[0] if shape else 1
            drawn = torch.rand(rows, generator=self._generator) < share
            parts.append(drawn.repeat_interleave(size // max(rows, 1)))
        return torch.cat(parts)


def _promises_nothing(descent: LBFGS, best: float) -> bool:
    lows, n = descent.lows, len(descent.lows)
    if n < LEAST or descent.low <= best:
        return False
    window = max(LEAST // 2, n // 4)
    rate = (lows[-1 - window] - lows[-1]) / window
    return descent.low - best > n * rate


def first_scales(start: Tensor, sizes: Sequence[int]) -> list[Scale]:
    """Return the mean and the deviation that every tensor seems to have been drawn with.

    A deviation of few numbers is uncertain: it is averaged with that of the tensor before, as if
    `NEIGHBOUR` numbers of that were in it (the bias of a layer is drawn like its weight).
    """
    scales = []
    before = 0.0
    for values in torch.split(start.double(), list(sizes)):
        count = values.numel()
        mean = float(values.mean()) if count > 1 else 0.0
        deviation = float(values.std()) if count > 1 else float(values.abs().sum())
        if deviation <= 1e-6 * abs(mean):  # all alike, such as the ones of a norm: kept
            deviation = 0.0
        elif abs(mean) < 3 * deviation / math.sqrt(count):
            mean, square = 0.0, float(values.square().mean())
            known = NEIGHBOUR if before else 0
            deviation = math.sqrt((count * square + known * before**2) / (count + known))
        before = deviation or before
        scales.append((mean, deviation))
    return scales
