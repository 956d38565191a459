"""Losses and gradients of all candidates of an escape, at once or one after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unstuck.ops import descent
from unstuck.optim._trials import Closure, RandomState, Trials
from unstuck.population import PopulationLoss
from unstuck.population._flat import Flat
from unstuck.population.descent import descend

Moments = tuple[Tensor, Tensor]  # exp_avgs and exp_avg_sqs [K, P]
Segments = Sequence[descent.Segment]

KEPT = 64 << 20  # bytes of candidates and moments that are kept between escapes


class Population(Protocol):
    """What an escape asks of the model, between entering and leaving it."""

    def __enter__(self) -> Population:
        """Remember parameters, gradients, buffers and generators."""

    def __exit__(self, *error: Any) -> None:
        """Put them back."""

    def use(self, closure: Closure) -> None:
        """Evaluate this closure from now on."""

    def losses(self, points: Tensor) -> Tensor:
        """Return the losses [K] of points [K, P]."""

    def descend(self, points: Tensor, moments: Moments, number: int, segments: Segments) -> None:
        """Make step `number`, from 1, of Adam from points [K, P], in place."""

    def room(self, name: str, rows: int) -> Tensor:
        """Return memory [rows, P] of this name, with anything in it."""


class Together:
    """All candidates at once, by :class:`unstuck.population.PopulationLoss`.

    One call of the closure evaluates all of them, so that they see one batch, whatever it draws.
    """

    def __init__(self, module: nn.Module, params: Sequence[Tensor], memory: int | None) -> None:
        self._module, self._params, self._memory = module, params, memory
        self._flat = Flat(params)
        self._made: PopulationLoss | None = None
        self._closure: Closure = lambda: None
        self._room: dict[str, Tensor] = {}

    def fits(self, params: Sequence[Tensor]) -> bool:
        """Whether these are the parameters that it was made for."""
        mine = self._params
        return len(params) == len(mine) and all(p is q for p, q in zip(params, mine, strict=True))

    def _population(self) -> PopulationLoss:
        """Return what is known of the model, with the closure of now."""
        if self._made is None:
            whole = sys.maxsize if self._memory is None else None
            self._made = PopulationLoss(
                self._module, self._closure, params=self._params, memory=self._memory, chunk=whole
            )
        self._made.use(self._closure)
        return self._made

    def room(self, name: str, rows: int) -> Tensor:
        """Return memory [rows, P] of this name, with anything in it.

        It is kept from one escape to the next: fresh memory costs more than what is done with it.
        """
        if len(self._room.get(name, ())) != rows:
            self._room[name] = _empty(self._flat, rows)
        return self._room[name]

    def __enter__(self) -> Together:
        self._random = RandomState(self._params)
        return self

    def __exit__(self, *error: Any) -> None:
        self._random.restore()
        if sum(x.nbytes for x in self._room.values()) > KEPT:
            self._room = {}

    def use(self, closure: Closure) -> None:
        """Evaluate this closure from now on."""
        self._closure = closure

    def losses(self, points: Tensor) -> Tensor:
        """Return the losses [K] of points [K, P]."""
        found = self._population().losses(points)
        self._move_on()
        return found

    def descend(self, points: Tensor, moments: Moments, number: int, segments: Segments) -> None:
        """Make step `number`, from 1, of Adam from points [K, P], in place."""
        descend(self._population(), points, *moments, number, segments)
        self._move_on()

    def _move_on(self) -> None:
        """Let the next call draw another batch, where the closure draws by torch's generators."""
        for device in {p.device for p in self._params} | {torch.device("cpu")}:
            torch.rand((), device=device)


class OneByOne:
    """One candidate after another, with its values in the parameters themselves.

    The calls are numbered, and go back by :meth:`rewind`. A call draws the same random numbers
    every time, so that a batch that the closure draws by torch's generators is the same for all
    candidates.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._flat = Flat(params)
        self._trials = Trials(params, lambda: None, RandomState(params))
        self._random: list[RandomState] = []  # from which each call draws
        self._next = 0

    def __enter__(self) -> OneByOne:
        self._trials.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._trials.write(self._trials.start)
        self._trials.__exit__(*error)

    def use(self, closure: Closure) -> None:
        """Evaluate this closure from now on."""
        self._trials.use(closure)

    def rewind(self, call: int) -> None:
        """Go on with this call, one that has been made or the next one that has not."""
        self._next = call

    def _each(self, points: Tensor, evaluate: Callable[[int], Tensor]) -> Tensor:
        if self._next == len(self._random):
            self._random.append(RandomState(self._trials.params))
        self._trials.draw_from(self._random[self._next])
        self._next += 1
        losses = []
        for i, point in enumerate(points):
            self._trials.write(self._flat.split(point))
            losses.append(evaluate(i).to(points.device, points.dtype))
        return torch.stack(losses)

    def losses(self, points: Tensor) -> Tensor:
        """Return the losses [K] of points [K, P]."""
        return self._each(points, lambda _: self._trials.loss())

    def descend(self, points: Tensor, moments: Moments, number: int, segments: Segments) -> None:
        """Make step `number`, from 1, of Adam from points [K, P], in place."""
        gradients = torch.empty_like(points)

        def evaluate(i: int) -> Tensor:
            loss, grads = self._trials.gradient()
            pairs = zip(self._trials.params, grads, strict=True)
            full = [torch.zeros_like(p) if g is None else g for p, g in pairs]
            self._flat.stack([g[None] for g in full], gradients[i : i + 1])
            return loss

        self._each(points, evaluate)
        descent.step(points, gradients, *moments, number, segments)

    def room(self, name: str, rows: int) -> Tensor:
        """Return memory [rows, P], with anything in it."""
        return _empty(self._flat, rows)


def _empty(flat: Flat, rows: int) -> Tensor:
    return torch.empty(rows, flat.dim, dtype=flat.dtype, device=flat.device)
