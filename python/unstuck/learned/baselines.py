"""SGD and Adam at several rates beside the students of a task: what a learned rule has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unstuck.learned.students import Students
from unstuck.learned.task import Batch, Scaled, Task

__all__ = ["Baselines", "Beside"]

SGD_RATES = (0.1, 0.3, 1.0)  # with momentum 0.9
ADAM_RATES = (0.01, 0.03)


class Beside(NamedTuple):
    """What the best baseline had over some steps.

    Attributes
    ----------
    training : Tensor
        Its losses on the batches of these steps, before each step, [n].
    validation : Tensor
        Its loss on a validation batch after them, a number.
    """

    training: Tensor
    validation: Tensor


class Baselines:
    """SGD with momentum and Adam, each at several rates on half a cosine, on one task.

    They begin at the same parameters and see the batches that students see. A task in other units
    is trained in its own.

    Parameters
    ----------
    task : Task
        The task.
    seed : int
        Of their initial parameters.
    horizon : int
        Steps until rates are 0.
    training, validation : callable
        Batches, functions of the step.

    Examples
    --------
    >>> from unstuck.learned.networks import Network
    >>> task = Network("digits")
    >>> baselines = Baselines(task, 0, 100, task.batch, task.validation)
    >>> beside = baselines.over(0, 50)
    >>> bool(beside.training[-1] < 0.3 * beside.training[0])
    True
    """

    def __init__(
        self,
        task: Task,
        seed: int,
        horizon: int,
        training: Callable[[int], Batch],
        validation: Callable[[int], Batch],
    ) -> None:
        self._students = Students(task.task if isinstance(task, Scaled) else task)
        self._training, self._validation = training, validation
        self._seed, self._horizon = seed, horizon
        self._found: dict[tuple[int, int], Beside] = {}
        self._begin()

    def _begin(self) -> None:
        self._points = self._students.begin([self._seed]).repeat(
            len(SGD_RATES) + len(ADAM_RATES), 1
        )
        self._rows = list(self._points.unbind())
        sgd, adam = self._rows[: len(SGD_RATES)], self._rows[len(SGD_RATES) :]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD([{"params": [p]} for p in sgd], lr=0.0, momentum=0.9, fused=True),
            torch.optim.Adam([{"params": [p]} for p in adam], lr=0.0, fused=True),
        ]
        self._step = 0

    def over(self, begin: int, end: int) -> Beside:
        """Return the losses over steps `begin` to before `end` of whichever is best there.

        The best has the lowest mean training loss over these steps. Steps before are made where
        they have not been yet, so that the answer is a function of the arguments; it is kept.
        """
        if (begin, end) not in self._found:
            if begin < self._step:
                self._begin()
            self._run(begin)
            training = self._run(end)  # [n, baselines]
            found = self._students.losses(self._points, self._validation(end))
            best = int(training.mean(0).nan_to_num(math.inf).argmin())
            self._found[begin, end] = Beside(training[:, best], found[best])
        return self._found[begin, end]

    def _run(self, end: int) -> Tensor:
        """Train up to a step, and return the losses on the way, a row a step."""
        out = []
        for step in range(self._step, end):
            losses, gradients = self._students.value_and_gradient(
                self._points, self._training(step)
            )
            out.append(losses)
            for row, gradient in zip(self._rows, gradients, strict=True):
                row.grad = gradient
            share = (1 + math.cos(math.pi * step / self._horizon)) / 2
            for optimizer, rates in zip(self._optimizers, (SGD_RATES, ADAM_RATES), strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * share
                optimizer.step()
        self._step = end
        return torch.stack(out) if out else torch.empty(0, len(self._rows))
