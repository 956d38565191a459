"""Losses of a model at other parameters, measured so that nothing but the losses is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from unstuck.population._closure import (
    Closure,
    NoBackward,
    RandomState,
    Untouched,
    as_loss,
    copies,
    needs_graph,
    write,
)

__all__ = ["Closure", "RandomState", "Trials", "as_loss", "copies"]


class Trials:
    """Evaluate a closure at parameters that come and go.

    Every evaluation sees the same random numbers (dropout masks) and the same buffers (running
    statistics). At the end gradients, buffers and generators are as they were; when the closure
    raises, so are the parameters.

    Parameters
    ----------
    params : sequence of Tensor
        What differs from one trial to the next.
    closure : callable
        Returns the loss. Where it calls ``loss.backward()``, that does nothing here.
    random : RandomState
        The state from which every evaluation draws.
    """

    def __init__(self, params: Sequence[Tensor], closure: Closure, random: RandomState) -> None:
        self.params = params
        self.start = copies(params)
        self.count = 0
        self.value: Any = None  # what the closure returned last
        self._closure = closure
        self._untouched = Untouched(params, random=random)
        self._calls_backward = True  # until it is seen not to
        self._graph = False  # whether it differentiates itself

    def __enter__(self) -> Trials:
        self._untouched.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._untouched.__exit__(kind, error, where)
        if kind is not None:
            self.write(self.start)

    def write(self, values: Sequence[Tensor]) -> None:
        """Write values into the parameters."""
        write(self.params, values)

    def use(self, closure: Closure) -> None:
        """Evaluate another closure from now on."""
        self._closure, self._calls_backward = closure, True

    def draw_from(self, random: RandomState) -> None:
        """Let the evaluations from now on draw from another state of the generators."""
        self._untouched.random = random

    def gradient(self) -> tuple[Tensor, list[Tensor | None]]:
        """Evaluate loss and gradients at the parameters as they are; the loss in float64."""
        self._untouched.begin()
        for p in self.params:
            p.grad = None
        with torch.enable_grad():
            self.value = self._closure()
            loss = as_loss(self.value)
            own = all(p.grad is None for p in self.params)
            if own and isinstance(self.value, Tensor) and self.value.requires_grad:
                self.value.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in self.params]
        for p in self.params:
            p.grad = None
        self._untouched.buffers.restore()
        self.count += 1
        return loss, grads

    def loss(self) -> Tensor:
        """Evaluate the closure at the parameters as they are: a number in float64."""
        self._untouched.begin()
        try:
            self.value = self._evaluate()
        except RuntimeError as error:
            if self._graph or not needs_graph(error):
                raise
            self._graph = True
            return self.loss()
        self._untouched.buffers.restore()
        self.count += 1
        return as_loss(self.value)

    def _evaluate(self) -> Any:
        with torch.set_grad_enabled(self._graph):
            if not self._calls_backward:
                return self._closure()
            with NoBackward() as mode:
                value = self._closure()
            self._calls_backward = mode.skipped
            return value
