"""Short meta-trainings, as the studies of learned rules make many of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from unstuck.experiments.learned_sampled import SampledBackprop
from unstuck.learned import MetaTraining, UpdateRule
from unstuck.learned.estimators import Backprop, Estimator, Evolution
from unstuck.learned.objective import Objective
from unstuck.learned.task import Family, Scaled, Task
from unstuck.learned.unroll import Plan
from unstuck.problems import lookup

LOGGED = 20  # points of a stored meta-training curve
KINDS = {
    Backprop.name: "truncated back-propagation",
    SampledBackprop.name: "truncated back-propagation (at 4096 coordinates drawn anew each time)",
    Evolution.name: "evolution strategies",
}


@dataclass(frozen=True)
class One:
    """A family of one task.

    Parameters
    ----------
    task : Task
        The task.

    Examples
    --------
    >>> from unstuck.learned.functions import Landscape
    >>> One(Landscape("sphere")).sample(seed=5).name
    'sphere of 2 numbers'
    """

    task: Task

    @property
    def name(self) -> str:
        """That of the task."""
        return self.task.name

    def sample(self, seed: int) -> Task:
        """Return the task."""
        return self.task


@dataclass(frozen=True)
class InUnits:
    """A family whose tasks of one tensor all have the same other unit.

    Parameters
    ----------
    family : Family
        The family.
    unit : float
        What a parameter of 1 stands for.

    Examples
    --------
    >>> from unstuck.learned import FAMILIES
    >>> InUnits(FAMILIES["rastrigin"], 10.0).sample(seed=0).scales
    (10.0,)
    """

    family: Family
    unit: float

    @property
    def name(self) -> str:
        """That of the family."""
        return self.family.name

    def sample(self, seed: int) -> Task:
        """Return a task of the family, in the unit."""
        return Scaled(self.family.sample(seed), (self.unit,))


@dataclass(frozen=True)
class Budget:
    """How a rule is meta-trained.

    Parameters
    ----------
    estimator : str
        One of ``KINDS``.
    meta_steps : int
        Steps of Adam on the rule's parameters, at a rate that falls to zero as a cosine.
    unrolls, students, truncation : int
        As of :class:`unstuck.learned.Plan`.
    horizon : int
        Steps that a student is trained for; the rule is not told.
    lr : float
        Rate of the meta-steps at first.
    scale, late
        Of the objective: ``"linear"`` sums losses, ``"log"`` their logarithms; how much more late
        steps count.
    sigma : float
        Of evolution strategies.

    Raises
    ------
    ValueError
        For an unknown estimator or a count below 1.

    Examples
    --------
    >>> Budget(meta_steps=3).truncation
    20
    """

    estimator: str = "backprop"
    meta_steps: int = 100
    unrolls: int = 2
    students: int = 1
    truncation: int = 20
    horizon: int = 200
    lr: float = 0.01
    scale: str = "linear"
    late: float = 0.0
    sigma: float = 0.1

    def __post_init__(self) -> None:
        lookup(KINDS, self.estimator, "estimator")
        if self.meta_steps < 1:
            raise ValueError(f"meta_steps must be at least 1, not {self.meta_steps}")

    def words(self) -> str:
        """Say it in a few words."""
        return (
            f"{self.meta_steps} meta-steps by {KINDS[self.estimator]} through {self.truncation} "
            f"steps of {self.unrolls} x {self.students} students, horizon {self.horizon}"
        )


def meta_train(rule: UpdateRule, family: Family, budget: Budget, seed: int) -> dict[str, Any]:
    """Meta-train a rule in place from where it stands, and return what that took.

    Parameters
    ----------
    rule : UpdateRule
        The rule; its parameters are overwritten.
    family : Family
        What it is trained on.
    budget : Budget
        How.
    seed : int
        Of everything that is drawn.

    Returns
    -------
    dict
        ``seconds`` of the CPU, ``student_steps``, and the objective's ``curve``, block means.

    Examples
    --------
    >>> from unstuck.learned import FAMILIES, MLP
    >>> budget = Budget(meta_steps=2, truncation=2, horizon=4)
    >>> meta_train(MLP(), FAMILIES["quadratics"], budget, 0)["student_steps"]
    8
    """
    plan = Plan(
        unrolls=budget.unrolls,
        students=budget.students,
        truncation=budget.truncation,
        horizon=(budget.horizon, budget.horizon),
        told=0.0,
        objective=Objective(budget.scale, budget.late),
    )
    estimator: Estimator
    if budget.estimator == Evolution.name:
        estimator = Evolution(rule, family, plan, seed, sigma=budget.sigma)
    elif budget.estimator == SampledBackprop.name:
        estimator = SampledBackprop(rule, family, plan, seed)
    else:
        estimator = Backprop(rule, family, plan, seed)
    training = MetaTraining(
        estimator, budget.meta_steps, lr=budget.lr, judge_every=budget.meta_steps, judges=1
    )
    began = time.process_time()
    training.run()
    scores = [row.score for row in training.rows]
    return {
        "seconds": round(time.process_time() - began, 2),
        "student_steps": training.rows[-1].student_steps,
        "curve": block_means(scores, LOGGED),
    }


def block_means(values: list[float], blocks: int) -> list[float]:
    """Return the means of a curve's blocks of equal length; of each value, where they are fewer.

    Examples
    --------
    >>> block_means([1.0, 3.0, 5.0, 7.0], 2)
    [2.0, 6.0]
    """
    length = max(1, len(values) // blocks)
    starts = range(0, len(values) - length + 1, length)
    return [float(f"{sum(values[k : k + length]) / length:.4g}") for k in starts]
