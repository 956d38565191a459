"""Losses and gradients of all candidates of an escape, at once or one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unstuck.optim._trials import Closure, RandomState, Trials
from unstuck.population import PopulationLoss
from unstuck.population._flat import Flat


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

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses [K] and the gradients [K, P] of points [K, P]."""


class Caller:
    """A closure that is put in later: what is known of a model outlives the closures of steps."""

    def __init__(self) -> None:
        self.closure: Closure = lambda: None

    def __call__(self) -> Any:
        """Call the closure that is in."""
        return self.closure()


class Together:
    """All candidates at once, by :class:`unstuck.population.PopulationLoss`.

    One call of the closure evaluates all of them, so that they see one batch, whatever it draws.
    """

    def __init__(self, module: nn.Module, params: Sequence[Tensor], memory: int | None) -> None:
        self._module, self._params, self._memory = module, params, memory
        self._caller = Caller()
        self._made: dict[int, PopulationLoss] = {}

    def fits(self, params: Sequence[Tensor]) -> bool:
        """Whether these are the parameters that it was made for."""
        mine = self._params
        return len(params) == len(mine) and all(p is q for p, q in zip(params, mine, strict=True))

    def _population(self, count: int) -> PopulationLoss:
        if count not in self._made:
            chunk = count if self._memory is None else None
            self._made[count] = PopulationLoss(
                self._module, self._caller, params=self._params, memory=self._memory, chunk=chunk
            )
        return self._made[count]

    def __enter__(self) -> Together:
        self._random = RandomState(self._params)
        return self

    def __exit__(self, *error: Any) -> None:
        self._random.restore()

    def use(self, closure: Closure) -> None:
        """Evaluate this closure from now on."""
        self._caller.closure = closure

    def losses(self, points: Tensor) -> Tensor:
        """Return the losses [K] of points [K, P]."""
        found = self._population(len(points)).losses(points)
        self._move_on()
        return found

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses [K] and the gradients [K, P] of points [K, P]."""
        found = self._population(len(points)).value_and_gradient(points)
        self._move_on()
        return found

    def _move_on(self) -> None:
        """Let the next call draw another batch, where the closure draws by torch's generators."""
        for device in {p.device for p in self._params} | {torch.device("cpu")}:
            torch.rand((), device=device)


class OneByOne:
    """One candidate after another, with its values in the parameters themselves.

    Every evaluation draws the same random numbers, so that a batch that the closure draws by
    torch's generators is the same for all candidates.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._flat = Flat(params)
        self._trials = Trials(params, lambda: None, RandomState(params))

    def __enter__(self) -> OneByOne:
        self._trials.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._trials.write(self._trials.start)
        self._trials.__exit__(*error)

    def use(self, closure: Closure) -> None:
        """Evaluate this closure from now on."""
        self._trials.use(closure)

    def _each(self, points: Tensor, evaluate: Callable[[int], Tensor]) -> Tensor:
        self._trials.draw_from(RandomState(self._trials.params))
        losses = []
        for i, point in enumerate(points):
            self._trials.write(self._flat.split(point))
            losses.append(evaluate(i).to(points.device, points.dtype))
        return torch.stack(losses)

    def losses(self, points: Tensor) -> Tensor:
        """Return the losses [K] of points [K, P]."""
        return self._each(points, lambda _: self._trials.loss())

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses [K] and the gradients [K, P] of points [K, P]."""
        gradients = torch.empty_like(points)

        def evaluate(i: int) -> Tensor:
            loss, grads = self._trials.gradient()
            pairs = zip(self._trials.params, grads, strict=True)
            full = [torch.zeros_like(p) if g is None else g for p, g in pairs]
            gradients[i] = self._flat.gather(full)
            return loss

        return self._each(points, evaluate), gradients
