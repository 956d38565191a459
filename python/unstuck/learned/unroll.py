"""A stretch of training, as meta-training sees it: students of one task, and where they stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unstuck.learned.baselines import Baselines, Beside
from unstuck.learned.objective import Objective
from unstuck.learned.rule import State, UpdateRule
from unstuck.learned.students import Students, advance, begin_state
from unstuck.learned.task import Batch, Family, generator, seed_of
from unstuck.learned.together import step_students_

__all__ = ["Plan", "Unroll"]


@dataclass(frozen=True)
class Plan:
    """What an estimator of meta-gradients unrolls.

    Parameters
    ----------
    unrolls : int
        Tasks that are trained side by side, each to its own horizon.
    students : int
        Students of each, started from different parameters.
    truncation : int
        Steps between two meta-gradients.
    horizon : tuple of int
        Lowest and highest number of steps that a student is trained for, log-uniform.
    told : float
        Share of unrolls that tell the rule their horizon, from 0 to 1.
    objective : Objective
        What the rule is judged by.
    multiplier : tuple of float
        Lowest and highest number that the rule's steps are multiplied by, log-uniform, one an
        unroll: what users call `lr`.

    Raises
    ------
    ValueError
        When a value is out of its range.
    """

    unrolls: int = 8
    students: int = 8
    truncation: int = 20
    horizon: tuple[int, int] = (50, 500)
    told: float = 0.5
    objective: Objective = field(default_factory=Objective)
    multiplier: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("unrolls", "students", "truncation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 1 <= self.horizon[0] <= self.horizon[1]:
            raise ValueError(
                f"horizon must be two numbers of steps, the lower first, not {self.horizon}"
            )
        if not 0 < self.multiplier[0] <= self.multiplier[1] < math.inf:
            raise ValueError(
                f"multiplier must be two positive numbers, the lower first, not {self.multiplier}"
            )
        if not 0 <= self.told <= 1:
            raise ValueError(f"told must be from 0 to 1, not {self.told}")


class Unroll:
    """Students of a sampled task, from their first step to their last.

    Parameters
    ----------
    rule : UpdateRule
        The class of rule that trains them; its parameters come with every call.
    family : Family
        Where the task is drawn from.
    plan : Plan
        Number of students, horizons, objective.
    key : int
        Seed of everything that is drawn: task, horizon, initial parameters, batches.
    pairs : bool
        Whether students 2k and 2k + 1 begin at the same parameters.
    baselines : Baselines, optional
        Those of an earlier unroll of the same plan and key, which need not train again.

    Attributes
    ----------
    step : int
        Steps made.
    horizon : int
        Steps until it is done.
    points : Tensor
        The students' parameters [K, P].
    baselines : Baselines or None
        Who the students are compared with, where the objective says so.
    """

    def __init__(
        self,
        rule: UpdateRule,
        family: Family,
        plan: Plan,
        key: int,
        *,
        pairs: bool,
        baselines: Baselines | None = None,
    ) -> None:
        self._rule, self._objective, self.key = rule, plan.objective, key
        self._truncation = plan.truncation
        draw = generator("horizon", key)
        fraction, told, length = torch.rand(3, generator=draw).tolist()
        self.horizon = round(_between(plan.horizon, fraction))
        self._lr = _between(plan.multiplier, length)
        self._num_steps = self.horizon if told < plan.told else None
        self.task = family.sample(seed_of("task", key))
        self.students = Students(self.task)
        count = plan.students
        self.points = self.students.begin(
            [seed_of("student", key, i // 2 if pairs else i) for i in range(count)]
        )
        self.state = begin_state(rule, self.students, self.points)
        self.step = 0
        firsts = (self._training(0), self._validation(0))
        self._start = [self.students.losses(self.points, batch) for batch in firsts]
        self.baselines = baselines
        if baselines is None and plan.objective.baselines is not None:
            batches = self._training, self._validation
            self.baselines = Baselines(
                self.task, seed_of("student", key, 0), self.horizon, *batches
            )

    @property
    def done(self) -> bool:
        """Whether the horizon is reached."""
        return self.step >= self.horizon

    def importance(self, begin: int, end: int) -> float:
        """Return what steps from `begin` to before `end` weigh in the objective of the unroll.

        Their mean weight, and less where they are fewer than a truncation.
        """
        weights = (self._objective.weight(step, self.horizon) for step in range(begin, end))
        return math.fsum(weights) / self._truncation

    def run(self, thetas: Tensor, steps: int) -> Tensor:
        """Train for some steps, not beyond the horizon, and return what they cost.

        Parameters
        ----------
        thetas : Tensor
            The rule's parameters, those of each student [K, M].
        steps : int
            How many.

        Returns
        -------
        Tensor
            The mean of the objective over the steps, [K].
        """
        last = min(self.step + steps, self.horizon)
        score, self.points, self.state = self.stretch(
            thetas, self.points, self.state, (self.step, last), self.step, last
        )
        self.step = last
        return score

    def stretch(
        self,
        theta: Tensor,
        points: Tensor,
        state: State,
        span: tuple[int, int],
        begin: int,
        end: int,
        *,
        second_order: bool = False,
    ) -> tuple[Tensor, Tensor, State]:
        """Train from some points and states on, and change nothing of this unroll.

        Parameters
        ----------
        theta : Tensor
            The rule's parameters: those of each student [K, M], or [M], those of all. Only of the
            latter autograd knows what they lead to; the former take the fused step.
        points, state
            Where the students stand.
        span : tuple of int
            First step of the truncation, and the one after its last.
        begin, end : int
            The same of the part of it that is to be done.
        second_order : bool
            Whether autograd also sees how gradients depend on the parameters they are taken at.

        Returns
        -------
        tuple
            What the part adds to the mean of the objective over the truncation, [K]; points and
            state after it. Differentiable with respect to `theta` [M], `points` and `state`.
        """
        students, weight, share = self.students, self._objective.weight, self._objective.validation
        total = sum(weight(step, self.horizon) for step in range(*span))
        beside = None if self.baselines is None else self.baselines.over(*span)
        score = torch.zeros(len(points))
        own = theta.ndim == 2
        if own:
            points, state = points.clone(), {k: [x.clone() for x in v] for k, v in state.items()}
        for step in range(begin, end):
            batch = self._training(step)
            if second_order:
                losses, gradients = students.differentiable(points, batch)
            else:
                losses, gradients = students.value_and_gradient(points, batch)
                losses = _along(losses, gradients, points)
            part = (1 - share) * weight(step, self.horizon) / total
            score = score + part * self._score(losses, beside, step - span[0])
            if own:
                step_students_(
                    *(self._rule, theta, points, gradients, state, students.shapes),
                    lr=self._lr,
                    num_steps=self._num_steps,
                )
            else:
                points, state = advance(
                    *(self._rule, theta, students, points, gradients, state),
                    lr=self._lr,
                    num_steps=self._num_steps,
                )
        if share and end == span[1]:
            batch = self._validation(end)
            if points.requires_grad:
                losses = _along(*students.value_and_gradient(points, batch), points)
            else:
                losses = students.losses(points, batch)
            score = score + share * self._score(losses, beside)
        return score, points, state

    def _score(self, losses: Tensor, beside: Beside | None, step: int | None = None) -> Tensor:
        """Return the scores of training losses of a step of the truncation, or of validation."""
        judge, start, floor = self._objective, self._start[step is None], self.task.floor
        if beside is None:
            return judge.score(losses, start, floor)
        if step is None:
            return judge.compared(losses, start, floor, beside.validation, 0.0)
        return judge.compared(losses, start, floor, beside.training[step], judge.margin)

    def _training(self, step: int) -> Batch:
        return self.task.batch(seed_of("batch", self.key, step))

    def _validation(self, step: int) -> Batch:
        return self.task.validation(seed_of("validation", self.key, step))

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs beside :attr:`key` and :attr:`step`."""
        out = {"points": self.points, "start.0": self._start[0], "start.1": self._start[1]}
        for name, value in self.state.items():
            out.update({f"state.{name}.{i}": x for i, x in enumerate(value)})
        return out

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint of an unroll with the same key.

        Raises
        ------
        ValueError
            When a tensor is missing, or has another shape.
        """
        for name, now in self.tensors().items():
            found = tensors.get(name)
            if found is None or found.shape != now.shape or found.dtype != now.dtype:
                what = "missing" if found is None else f"{found.dtype} of shape {[*found.shape]}"
                raise ValueError(
                    f"the checkpoint does not fit this rule and these tasks: {name} is {what}, not "
                    f"{now.dtype} of shape {[*now.shape]}; go on with the options it was made with"
                )
        self.step, self.points = step, tensors["points"]
        self._start = [tensors["start.0"], tensors["start.1"]]
        self.state = {
            name: [tensors[f"state.{name}.{i}"] for i in range(len(value))]
            for name, value in self.state.items()
        }


def _between(ends: tuple[float, float], fraction: float) -> float:
    """Return a number between two, the logarithms being cut at a fraction."""
    low, high = (math.log(end) for end in ends)
    return math.exp(low + (high - low) * fraction)


def _along(losses: Tensor, gradients: Tensor, points: Tensor) -> Tensor:
    """Return losses [K] whose derivative with respect to points [K, P] is known."""
    if not points.requires_grad:
        return losses
    return losses + (gradients * (points - points.detach())).sum(-1)
