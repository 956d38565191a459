"""Tasks that meta-training never saw: a learned rule against torch's optimizers, tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unstuck.experiments.cells import CellRecord, Tell
from unstuck.experiments.learned_compare import Comparison, Key, average
from unstuck.experiments.learned_timing import LEARNED, THREADS, seconds_per_step
from unstuck.experiments.learned_training import (
    METHODS,
    PARTS,
    SCHEDULES,
    Figures,
    Job,
    fingerprint,
    train_baselines,
    train_rule,
)
from unstuck.learned import Network, UpdateRule
from unstuck.problems import lookup

MULTIPLIERS = (0.1, 0.3, 1.0)
POWERS = {"adam": range(-8, -1), "adamw": range(-8, -1), "sgd": range(-6, 1)}  # half decades
BEYOND = 4  # half decades that a grid is at most extended by, at either end
ROUND = 20  # equal times are rounded up to this part of the steps, in favour of the baselines


@dataclass(frozen=True)
class HeldOut:
    """A task, the family it stands for, and the length of its runs.

    Attributes
    ----------
    family : str
        What meta-training has not seen of it. All tasks of a family count together.
    task : Network
        The network.
    steps : int
        Length of the run.
    """

    family: str
    task: Network
    steps: int


UNCOUNTED = "convolutions"  # a family that is shown, and not counted
HELD_OUT = {
    "digits 512": HeldOut("width", Network("digits", (512,)), 300),
    "mnist1d 256": HeldOut("width", Network("mnist1d", (256,)), 600),
    "mnist1d 5 x 64": HeldOut("depth", Network("mnist1d", (64,) * 5), 600),
    "digits 5 x 48 tanh": HeldOut("depth", Network("digits", (48,) * 5, "tanh"), 300),
    "mnist1d 64-64 silu": HeldOut("activation", Network("mnist1d", (64, 64), "silu"), 600),
    "digits 64 sigmoid": HeldOut("activation", Network("digits", (64,), "sigmoid"), 300),
    "mnist 128": HeldOut("data", Network("mnist", (128,)), 500),
    "mnist 64-64 tanh": HeldOut("data", Network("mnist", (64, 64), "tanh"), 500),
    "mnist1d 64, 3 x": HeldOut("horizon", Network("mnist1d", (64,)), 1800),
    "mnist1d 64, 10 x": HeldOut("horizon", Network("mnist1d", (64,)), 6000),
    "digits conv": HeldOut(UNCOUNTED, Network("digits", (32,), channels=(8, 16)), 300),
    "mnist1d conv": HeldOut(UNCOUNTED, Network("mnist1d", (32,), channels=(8, 16)), 300),
}
CONFIRMATION = {  # for one rule that was chosen by its results on the tasks above
    "mnist1d 320 tanh": HeldOut("width", Network("mnist1d", (320,), "tanh"), 600),
    "digits 4 x 32": HeldOut("depth", Network("digits", (32,) * 4), 300),
    "digits 48-48 silu": HeldOut("activation", Network("digits", (48, 48), "silu"), 300),
    "mnist 96 gelu": HeldOut("data", Network("mnist", (96,), "gelu"), 500),
    "mnist1d 32-32 tanh, 4 x": HeldOut("horizon", Network("mnist1d", (32, 32), "tanh"), 2400),
}
TASKS = {**HELD_OUT, **CONFIRMATION}


@dataclass(frozen=True)
class HeldOutPlan:
    """What to run.

    Parameters
    ----------
    tasks : tuple of str
        Which of ``HELD_OUT`` and ``CONFIRMATION``.
    seeds : int
        Runs of each setting: weights and batches of seeds 0 on.
    clock : bool
        Time the steps, and give the baselines the steps that fit into the rule's time, too.
    most : int, optional
        Steps that a run has at most; for trying the study out.
    rounds : int
        How often steps are timed.

    Raises
    ------
    ValueError
        For an unknown name or a count below 1.

    Examples
    --------
    >>> HeldOutPlan(("digits 512",)).steps("digits 512")
    300
    """

    tasks: tuple[str, ...] = tuple(HELD_OUT)
    seeds: int = 5
    clock: bool = True
    most: int | None = None
    rounds: int = 15

    def __post_init__(self) -> None:
        for name in self.tasks:
            lookup(TASKS, name, "task")
        if min(self.seeds, self.rounds, 1 if self.most is None else self.most) < 1:
            raise ValueError(
                f"seeds={self.seeds}, rounds={self.rounds}, most={self.most}: each at least 1"
            )

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common."""
        return {"seeds": self.seeds, "most": self.most}

    def steps(self, name: str) -> int:
        """Return the length of a task's runs."""
        steps = TASKS[name].steps
        return steps if self.most is None else min(steps, self.most)


def run_heldout(
    plan: HeldOutPlan,
    rule: UpdateRule,
    path: Path | None = None,
    progress: Tell = lambda line: None,
) -> CellRecord:
    """Run baselines and rule on every task, as far as the file lacks it.

    Parameters
    ----------
    plan : HeldOutPlan
        What to run.
    rule : UpdateRule
        The learned rule.
    path : Path, optional
        JSON file that is written after every method; what it holds is not run again. Cells of
        baselines do not depend on the rule, and those of the rule are named by its fingerprint, so
        that one file serves many rules.
    progress : callable, optional
        Called with a line before something is run.

    Returns
    -------
    CellRecord
        Of every task, length and setting, losses and accuracies of all seeds.

    Raises
    ------
    ValueError
        When the file belongs to another study.

    Examples
    --------
    >>> from unstuck.learned import MLP
    >>> plan = HeldOutPlan(("digits 64 sigmoid",), seeds=1, clock=False, most=2)
    >>> record = run_heldout(plan, MLP())
    >>> record.cells["digits 64 sigmoid/2/adam cosine 0.01"]["test"]["loss"][0] < 3
    True
    """
    record = CellRecord.open(path, "learned-heldout", plan.fixed)
    study = _Study(plan, rule, record, progress)
    for name in plan.tasks if plan.clock else ():
        study.clock(name)
    for name in plan.tasks:
        study.baselines(name)
        study.rule(name)
        if plan.clock:
            study.equal_time(name)
    return record


def comparisons(
    record: CellRecord, plan: HeldOutPlan, rule: UpdateRule, *, clock: bool = False
) -> list[Comparison]:
    """Compare a rule with the best baselines of every task.

    Parameters
    ----------
    record : CellRecord
        From :func:`run_heldout`.
    plan : HeldOutPlan
        Its tasks.
    rule : UpdateRule
        The rule.
    clock : bool
        Give the baselines the steps that fit into the rule's time, instead of as many as it has.
    """
    found = []
    for name in plan.tasks:
        steps, family = plan.steps(name), TASKS[name].family
        key, mark = Key(name, steps), fingerprint(rule)
        own = {f"x {lr:g}": record.cells[key.rule(mark, lr)] for lr in MULTIPLIERS}
        others: dict[str, Any] = {}
        for method in METHODS:
            length = steps
            if clock:
                seconds = record.cells[clock_key(name, rule)][str(THREADS[-1])]
                length = equal_time_steps(seconds, method, steps)
            for job, cell in baseline_cells(record, name, length, method).items():
                others[f"{job.name}, {length} steps" if clock else job.name] = cell
        found.append(Comparison.of(name, family, own, others))
    return found


def baseline_cells(record: CellRecord, name: str, steps: int, method: str) -> dict[Job, Any]:
    """Return the cells that a record has of a method on a task, by its settings."""
    key, grid = Key(name, steps), POWERS[method]
    jobs = [
        Job(method, schedule, power)
        for schedule in SCHEDULES
        for power in range(grid[0] - BEYOND - 1, grid[-1] + BEYOND + 2)
    ]
    named = {job: record.cells.get(key.baseline(job)) for job in jobs}
    return {job: cell for job, cell in named.items() if cell is not None}


def equal_time_steps(seconds: dict[str, float], method: str, steps: int) -> int:
    """Return how many steps a method makes in the time of a rule's `steps`, rounded up.

    Examples
    --------
    >>> equal_time_steps({"adam": 1e-3, "learned": 1.32e-3}, "adam", 100)
    135
    """
    ratio = seconds[LEARNED] / seconds[method]
    return math.ceil(math.ceil(round(ROUND * ratio, 6)) * steps / ROUND)


def clock_key(name: str, rule: UpdateRule) -> str:
    """Return the name of the cell that has a task's seconds per step: weights are of no account."""
    return f"{name}/seconds/{rule.name} {rule.config()}"


class _Study:
    """One pass over a plan, skipping what the record holds."""

    def __init__(
        self, plan: HeldOutPlan, rule: UpdateRule, record: CellRecord, progress: Tell
    ) -> None:
        self._plan, self._rule, self._record, self._tell = plan, rule, record, progress

    def baselines(self, name: str) -> None:
        """Run the grids of all methods, extended while the best rate lies at an end."""
        steps = self._plan.steps(name)
        for method in METHODS:
            grid = POWERS[method]
            jobs = [Job(method, schedule, power) for schedule in SCHEDULES for power in grid]
            while jobs:
                self._train(name, steps, jobs)
                jobs = [job for schedule in SCHEDULES for job in self._open(name, method, schedule)]

    def rule(self, name: str) -> None:
        """Run the rule with all its multipliers."""
        steps, mark = self._plan.steps(name), fingerprint(self._rule)
        keys = [Key(name, steps).rule(mark, lr) for lr in MULTIPLIERS]
        if all(key in self._record.cells for key in keys):
            return
        self._tell(f"{name}: rule {mark}, {steps} steps")
        task = TASKS[name].task
        runs = [
            train_rule(task, steps, seed, self._rule, MULTIPLIERS)
            for seed in range(self._plan.seeds)
        ]
        self._keep(keys, runs)

    def clock(self, name: str) -> dict[str, dict[str, float]]:
        """Time the steps of a task."""
        held, steps = TASKS[name], self._plan.steps(name)
        key = clock_key(name, self._rule)
        if key not in self._record.cells:
            self._tell(f"{name}: timing")
        seconds: dict[str, dict[str, float]] = self._record.cell(
            key, lambda: seconds_per_step(held.task, self._rule, steps, self._plan.rounds)
        )
        return seconds

    def equal_time(self, name: str) -> None:
        """Run each method as long as the rule, at its best rates and those beside them."""
        steps, seconds = self._plan.steps(name), self.clock(name)[str(THREADS[-1])]
        for method in METHODS:
            jobs = []
            for schedule in SCHEDULES:
                powers = self._powers(name, method, schedule)
                best = {min(powers, key=lambda p: powers[p][part]) for part in PARTS[:2]}
                near = sorted({power + move for power in best for move in (-1, 0, 1)})
                jobs += [Job(method, schedule, power) for power in near]
            self._train(name, equal_time_steps(seconds, method, steps), jobs)

    def _train(self, name: str, steps: int, jobs: Sequence[Job]) -> None:
        """Run those jobs that the record lacks."""
        key = Key(name, steps)
        jobs = [job for job in jobs if key.baseline(job) not in self._record.cells]
        if not jobs:
            return
        self._tell(f"{name}: {', '.join(job.name for job in jobs)}; {steps} steps")
        task = TASKS[name].task
        runs = [train_baselines(task, steps, seed, jobs) for seed in range(self._plan.seeds)]
        self._keep([key.baseline(job) for job in jobs], runs)

    def _keep(self, keys: Sequence[str], runs: Sequence[Sequence[Figures]]) -> None:
        """Write runs [seed][key] into the record, by key, part and figure, a list over seeds."""
        for number, key in enumerate(keys):
            self._record.cells[key] = {
                part: {what: [run[number][part][what] for run in runs] for what in measured}
                for part, measured in runs[0][number].items()
            }
        self._record.save()

    def _powers(self, name: str, method: str, schedule: str) -> dict[int, dict[str, float]]:
        """Return the mean losses of every rate that has been run, by part."""
        cells = baseline_cells(self._record, name, self._plan.steps(name), method)
        return {
            job.power: {part: average(cell[part]["loss"]) for part in PARTS}
            for job, cell in cells.items()
            if job.schedule == schedule
        }

    def _open(self, name: str, method: str, schedule: str) -> list[Job]:
        """Return the rates beyond the end that is the best by training or validation loss."""
        powers, grid = self._powers(name, method, schedule), POWERS[method]
        low, high = min(powers), max(powers)
        best = {min(powers, key=lambda power: powers[power][part]) for part in PARTS[:2]}
        beyond = [low - 1] if low in best and low > grid[0] - BEYOND else []
        beyond += [high + 1] if high in best and high < grid[-1] + BEYOND else []
        return [Job(method, schedule, power) for power in beyond]
