"""Students of one network trained side by side: by torch's optimizers, and by a learned rule."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from unstuck.learned import Network, UpdateRule
from unstuck.learned.students import MetaParameters, Students, begin_state
from unstuck.learned.task import seed_of
from unstuck.learned.together import step_students_

PARTS = ("train", "validation", "test")
METHODS: dict[str, Callable[[Any], Optimizer]] = {
    "adam": functools.partial(Adam, fused=True),
    "adamw": functools.partial(AdamW, weight_decay=0.01, fused=True),
    "sgd": functools.partial(SGD, momentum=0.9, fused=True),
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}

Figures = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Job:
    """A baseline with its settings.

    Parameters
    ----------
    method : str
        One of ``METHODS``.
    schedule : str
        One of ``SCHEDULES``: what the rate is multiplied by over the run.
    power : int
        The rate in half decades.

    Examples
    --------
    >>> Job("adam", "cosine", -5).name
    'adam cosine 0.00316'
    """

    method: str
    schedule: str
    power: int

    @property
    def rate(self) -> float:
        """The rate that the run begins with."""
        return float(f"{10 ** (self.power / 2):.3g}")

    @property
    def name(self) -> str:
        """Method, schedule and rate."""
        return f"{self.method} {self.schedule} {self.rate:g}"


def train_baselines(
    task: Network,
    steps: int,
    seed: int,
    jobs: Sequence[Job],
    watch: Callable[[int, Tensor], None] | None = None,
) -> list[Figures]:
    """Train a student a job by torch's optimizers: one weight vector each, a parameter group each.

    All students of a seed begin at the same weights and see the same batches.

    Parameters
    ----------
    task : Network
        The network.
    steps : int
        Length of the run, over which schedules are stretched.
    seed : int
        Decides weights and batches.
    jobs : sequence of Job
        The students.
    watch : callable, optional
        Called with every step's number and the students' losses [K] on its batch.

    Returns
    -------
    list of dict
        Of every job, by part of the data, ``loss`` and ``accuracy`` over all its rows at the end;
        None where they are not finite.

    Examples
    --------
    >>> (found,) = train_baselines(Network("digits", (8,)), 5, 0, [Job("adam", "constant", -4)])
    >>> sorted(found), sorted(found["test"])
    (['test', 'train', 'validation'], ['accuracy', 'loss'])
    """
    students = Students(task)
    points = _begin(students, seed, len(jobs))
    rows = [nn.Parameter(row) for row in points.unbind(0)]
    optimizers: list[tuple[Optimizer, list[Job]]] = []
    for method, make in METHODS.items():
        mine = [(row, job) for row, job in zip(rows, jobs, strict=True) if job.method == method]
        if mine:
            settings = [{"params": [row], "lr": job.rate} for row, job in mine]
            optimizers.append((make(settings), [job for _, job in mine]))
    for step in range(steps):
        losses, gradients = students.value_and_gradient(points, _batch(task, seed, step))
        if watch is not None:
            watch(step, losses)
        for row, gradient in zip(rows, gradients.unbind(0), strict=True):
            row.grad = gradient
        for optimizer, mine_jobs in optimizers:
            for group, job in zip(optimizer.param_groups, mine_jobs, strict=True):
                group["lr"] = job.rate * SCHEDULES[job.schedule](step / steps)
            optimizer.step()
    return _figures(task, students, points)


def train_rule(
    task: Network,
    steps: int,
    seed: int,
    rule: UpdateRule,
    multipliers: Sequence[float],
    watch: Callable[[int, Tensor], None] | None = None,
) -> list[Figures]:
    """Train a student a multiplier by a learned rule that is told the number of steps.

    Weights and batches are those of :func:`train_baselines`, and so is what is returned.

    Parameters
    ----------
    task, steps, seed, watch
        As there.
    rule : UpdateRule
        The rule.
    multipliers : sequence of float
        What ``unstuck.optim.Learned`` calls `lr`.

    Examples
    --------
    >>> from unstuck.learned import MLP
    >>> adam = train_baselines(Network("digits", (8,)), 5, 0, [Job("adam", "constant", -6)])
    >>> rule = train_rule(Network("digits", (8,)), 5, 0, MLP(), [1.0])  # untrained, it is Adam
    >>> abs(adam[0]["test"]["loss"] - rule[0]["test"]["loss"]) < 1e-5
    True
    """
    students = Students(task)
    points = _begin(students, seed, len(multipliers))
    theta = MetaParameters(rule).read()[None]
    rows = [points[k : k + 1] for k in range(len(multipliers))]
    states = [begin_state(rule, students, row) for row in rows]
    for step in range(steps):
        losses, gradients = students.value_and_gradient(points, _batch(task, seed, step))
        if watch is not None:
            watch(step, losses)
        for k, (row, state, lr) in enumerate(zip(rows, states, multipliers, strict=True)):
            step_students_(
                *(rule, theta, row, gradients[k : k + 1], state, students.shapes),
                lr=lr,
                num_steps=steps,
            )
    return _figures(task, students, points)


def fingerprint(rule: UpdateRule) -> str:
    """Return eight digits that belong to a rule's class, configuration and weights.

    Examples
    --------
    >>> from unstuck.learned import MLP
    >>> len(fingerprint(MLP()))
    8
    """
    digest = hashlib.sha256(json.dumps([rule.name, rule.config()], sort_keys=True).encode())
    for name, value in sorted(rule.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def _begin(students: Students, seed: int, count: int) -> Tensor:
    """Return the initial weights of a seed, [count, P]."""
    return students.begin([seed_of("held out", "weights", seed)]).repeat(count, 1)


def _batch(task: Network, seed: int, step: int) -> tuple[Tensor, ...]:
    return task.batch(seed_of("held out", "batch", seed, step))


def _figures(task: Network, students: Students, points: Tensor) -> list[Figures]:
    """Return losses and accuracies over all rows of every part, a student after the other."""
    found: list[Figures] = []
    parts = {part: task.everything(part) for part in PARTS}
    params = students.split(points)
    for k in range(len(points)):
        found.append({})
        for part, (x, y) in parts.items():
            logits = task.logits([p[k] for p in params], x)
            loss, right = F.cross_entropy(logits, y), (logits.argmax(1) == y).float().mean()
            found[-1][part] = {"loss": _kept(loss), "accuracy": _kept(right)}
    return found


def _kept(value: Tensor) -> float | None:
    """Keep six digits; None stands for what is not finite, which JSON has no number for."""
    return float(f"{float(value):.6g}") if bool(value.isfinite()) else None
