"""Steps of optimizers that also call backward for a closure that does not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from unstuck.optim._light import LightOptimizer, hooked
from unstuck.optim._trials import Closure


class ClosureOptimizer(LightOptimizer):
    """An optimizer whose step needs no closure, and may be given one."""

    @abstractmethod
    def _step(self) -> None:
        """Make one step of everything that has a gradient."""

    def _hear(self, loss: Any) -> None:
        """Take note of what a closure has returned, before the step."""

    @hooked
    def step(self, closure: Closure | None = None) -> Any:
        """Make one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model and returns the loss. It may call backward itself. When it leaves
            every parameter without a gradient, backward is called here, and the gradients are
            cleared again after the step.

        Returns
        -------
        The closure's loss, or None.

        Raises
        ------
        RuntimeError
            When a gradient is sparse.
        ValueError
            When a gradient does not fit its parameter, or parameters share memory.
        """
        if closure is None:
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                self._step()
            return None
        with evaluated(self, closure) as loss:
            self._hear(loss)
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                self._step()
        return loss


@contextmanager
def evaluated(optimizer: Optimizer, closure: Closure, *, own: bool = False) -> Iterator[Any]:
    """Evaluate a closure, and backward where it calls none; gradients made here end with this.

    One that is left would be taken for the closure's own at the next step. `own` says that those
    which are there already were made for this closure.
    """
    try:
        with torch.enable_grad():
            loss = closure()
            if not own and needs_backward(optimizer, loss):
                own = True
                loss.backward()
        yield loss
    finally:
        if own:
            optimizer.zero_grad()


def needs_backward(optimizer: Optimizer, loss: Any) -> bool:
    """Whether a closure that has returned `loss` has left backward to the optimizer."""
    return (
        isinstance(loss, Tensor)
        and loss.requires_grad
        and all(p.grad is None for group in optimizer.param_groups for p in group["params"])
    )
