"""Many students of one task, trained side by side: their losses, gradients and steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unstuck.learned.rule import State, UpdateRule
from unstuck.learned.task import Batch, Scaled, Task
from unstuck.population import PopulationLoss

__all__ = ["MetaParameters", "Students", "advance", "begin_state"]


class Students:
    """Losses and gradients of K students of a task, their parameters as vectors [K, P].

    Parameters
    ----------
    task : Task
        The task. The units of a :class:`Scaled` one are taken off, so that the kernels for plain
        perceptrons serve it too.

    Attributes
    ----------
    shapes : list of torch.Size
        Of the parameters.
    dim : int
        P.

    Examples
    --------
    >>> from unstuck.learned.networks import Network
    >>> students = Students(task := Network("digits"))
    >>> points = students.begin([0, 1, 2])
    >>> losses, gradients = students.value_and_gradient(points, task.batch(0))
    >>> losses.shape, gradients.shape == points.shape
    (torch.Size([3]), True)
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        inner = task.task if isinstance(task, Scaled) else task
        self._params = nn.ParameterList(task.initial(0))
        self.shapes = [p.shape for p in self._params]
        self._sizes = [p.numel() for p in self._params]
        self.dim = sum(self._sizes)
        self._batch: Batch = ()
        params = list(self._params)
        self._population = PopulationLoss(self._params, lambda: inner.loss(params, self._batch))
        self._units: Tensor | None = None  # [P]
        if isinstance(task, Scaled):
            units = [torch.full((n,), a) for n, a in zip(self._sizes, task.scales, strict=True)]
            self._units = torch.cat(units)

    def begin(self, seeds: list[int]) -> Tensor:
        """Return initial parameters [K, P], one student a seed."""
        rows = [torch.cat([p.flatten() for p in self.task.initial(seed)]) for seed in seeds]
        return torch.stack(rows)

    def split(self, points: Tensor) -> list[Tensor]:
        """Return vectors [K, P] as tensors [K, *shape], views of them."""
        parts = torch.split(points, self._sizes, -1)
        return [x.reshape(len(x), *s) for x, s in zip(parts, self.shapes, strict=True)]

    def losses(self, points: Tensor, batch: Batch) -> Tensor:
        """Return the losses [K] on a batch."""
        self._batch = batch
        return self._population.losses(self._in_units(points))

    def value_and_gradient(self, points: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the losses [K] on a batch, and their gradients [K, P]."""
        self._batch = batch
        losses, gradients = self._population.value_and_gradient(self._in_units(points))
        return losses, gradients if self._units is None else gradients.mul_(self._units)

    def differentiable(self, points: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return losses [K] and gradients [K, P] of which autograd knows how they depend on points.

        By torch alone: the kernels for plain perceptrons have no second derivatives.
        """

        def loss(params: list[Tensor]) -> tuple[Tensor, Tensor]:
            value = self.task.loss(params, batch)
            return value, value

        many = torch.vmap(torch.func.grad(loss, has_aux=True))
        gradients, losses = many(self.split(points))
        return losses, torch.cat([g.flatten(1) for g in gradients], 1)

    def _in_units(self, points: Tensor) -> Tensor:
        return points.detach() if self._units is None else points.detach() * self._units


class MetaParameters:
    """Where a rule's parameters lie in one vector [M].

    Parameters
    ----------
    rule : UpdateRule
        The rule.

    Attributes
    ----------
    dim : int
        M.
    """

    def __init__(self, rule: UpdateRule) -> None:
        self._rule = rule
        self._shapes = {name: p.shape for name, p in rule.named_parameters()}
        self.dim = sum(shape.numel() for shape in self._shapes.values())

    def read(self) -> Tensor:
        """Return the rule's parameters as a vector [M], a copy."""
        return torch.cat([p.detach().flatten() for p in self._rule.parameters()])

    def write(self, theta: Tensor) -> None:
        """Write a vector [M] into the rule's parameters."""
        with torch.no_grad():
            for name, value in self.named(theta).items():
                self._rule.get_parameter(name).copy_(value)

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Return a vector [M] as tensors by name."""
        parts = torch.split(theta, [shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in named}


def begin_state(rule: UpdateRule, students: Students, points: Tensor) -> State:
    """Return a rule's state for students at points [K, P]: a leading K in every tensor."""
    state: State = torch.vmap(rule.init_state)(students.split(points))
    return state


def advance(
    rule: UpdateRule,
    theta: Tensor,
    students: Students,
    points: Tensor,
    gradients: Tensor,
    state: State,
    *,
    lr: float = 1.0,
    num_steps: int | None = None,
) -> tuple[Tensor, State]:
    """Let a rule make one step of K students, by its torch form, through which autograd runs.

    Parameters
    ----------
    rule : UpdateRule
        The rule; its own parameters are not read.
    theta : Tensor
        What stands in their place, [M].
    students : Students
        What they train.
    points, gradients : Tensor
        [K, P].
    state : dict of str to list of Tensor
        From :func:`begin_state`, or from the step before.
    lr : float
        Multiplies the rule's step.
    num_steps : int, optional
        How many steps there will be, where the rule is told.

    Returns
    -------
    tuple
        Points and state after the step.
    """
    named = MetaParameters(rule).named(theta)

    def one(p: list[Tensor], g: list[Tensor], s: State) -> Any:
        return functional_call(rule, named, (p, g, s), dict(lr=lr, num_steps=num_steps))

    split = students.split
    params, state = torch.vmap(one)(split(points), split(gradients), state)
    return torch.cat([p.flatten(1) for p in params], 1), state
