"""What an LSTM rule must see of a gradient to train a network on MNIST."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unstuck.experiments.cells import CellRecord, Tell
from unstuck.experiments.learned_meta import Budget, One, block_means, meta_train
from unstuck.experiments.learned_training import Job, train_baselines
from unstuck.learned import LSTM, Network, UpdateRule
from unstuck.learned.lstm import FEATURES
from unstuck.learned.task import seed_of
from unstuck.optim import Learned
from unstuck.problems import lookup

POWERS = range(-7, -2)  # Adam's rates, in half decades
DEFAULT = -6  # torch's
MULTIPLIERS = (0.3, 1.0, 3.0)
TUNING_SEED = 10_000
POINTS = 20  # of a stored curve
STUDENT = Network("mnist", (128,))


@dataclass(frozen=True)
class MnistPlan:
    """What to run.

    Parameters
    ----------
    features : tuple of str
        Feature sets of :class:`unstuck.learned.LSTM`.
    meta_seeds : int
        Meta-trainings of each.
    seeds : int
        Fresh students that every meta-trained rule and Adam train.
    steps : int
        Steps of theirs.
    task : Network
        The student that rules are meta-trained and judged on.
    hidden : int
        Units of the LSTM.
    budget : Budget
        Of a meta-training.

    Raises
    ------
    ValueError
        For an unknown feature set or a count below 1.

    Examples
    --------
    >>> sum(p.numel() for p in MnistPlan().task.initial(0))
    101770
    """

    features: tuple[str, ...] = ("gradient", "log", "rich")
    meta_seeds: int = 3
    seeds: int = 3
    steps: int = 200
    task: Network = STUDENT
    hidden: int = 8
    budget: Budget = field(default_factory=lambda: Budget("sampled", meta_steps=100, unrolls=1))

    def __post_init__(self) -> None:
        for name in self.features:
            lookup(FEATURES, name, "feature set")
        if min(self.meta_seeds, self.seeds, self.steps) < 1:
            raise ValueError(
                f"meta_seeds={self.meta_seeds}, seeds={self.seeds}, steps={self.steps}: each at "
                "least 1"
            )

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common."""
        return {
            "seeds": self.seeds,
            "steps": self.steps,
            "task": self.task.name,
            "hidden": self.hidden,
            "budget": asdict(self.budget),
        }


def run_mnist(
    plan: MnistPlan, path: Path | None = None, tell: Tell = lambda line: None
) -> CellRecord:
    """Meta-train and judge what the file still lacks.

    Parameters
    ----------
    plan : MnistPlan
        What to run.
    path : Path, optional
        JSON file that is written after every cell; what it holds is not run again.
    tell : callable, optional
        Called with a line on each cell.

    Returns
    -------
    CellRecord
        ``adam``, and a cell a feature set and meta-seed.

    Raises
    ------
    ValueError
        When the file belongs to another study.

    Examples
    --------
    >>> digits, budget = Network("digits", (8,)), Budget(meta_steps=1, truncation=2, horizon=2)
    >>> plan = MnistPlan(("log",), 1, 1, steps=2, task=digits, budget=budget)
    >>> sorted(run_mnist(plan).cells)
    ['adam', 'log/0']
    """
    record = CellRecord.open(path, "learned-mnist", plan.fixed)
    found = record.cell("adam", functools.partial(_adam, plan))
    tell(f"adam, rate {found['rate']:g}: {_losses(found['tuned'])}")
    for seed in range(plan.meta_seeds):
        for features in plan.features:
            found = record.cell(
                f"{features}/{seed}", functools.partial(_features, plan, features, seed)
            )
            line = f"{features}, meta-seed {seed}, multiplier {found['lr']:g}"
            tell(f"{line}: {_losses(found['tuned'])}")
    return record


def _losses(runs: list[dict[str, Any]]) -> str:
    return ", ".join("not finite" if x["train"] is None else f"{x['train']:.4f}" for x in runs)


def _adam(plan: MnistPlan) -> dict[str, Any]:
    """Tune Adam's rate on other students, and train those that are reported."""
    jobs = [Job("adam", "constant", power) for power in POWERS]
    trials = [train_baselines(plan.task, plan.steps, TUNING_SEED + k, jobs) for k in range(2)]
    sums = [sum(_or_inf(trial[k]["train"]["loss"]) for trial in trials) for k in range(len(jobs))]
    best = jobs[sums.index(min(sums))]
    both = [Job("adam", "constant", DEFAULT), best]
    runs: list[list[dict[str, Any]]] = [[], []]
    for seed in range(plan.seeds):
        curves: list[list[float]] = [[], []]

        def watch(step: int, losses: torch.Tensor, curves: list[list[float]] = curves) -> None:
            for curve, loss in zip(curves, losses.tolist(), strict=True):
                curve.append(loss)

        found = train_baselines(plan.task, plan.steps, seed, both, watch)
        for mine, figures, curve in zip(runs, found, curves, strict=True):
            mine.append(
                {
                    "train": figures["train"]["loss"],
                    "validation": figures["validation"]["loss"],
                    "curve": block_means(curve, POINTS),
                }
            )
    return {"rate": best.rate, "default": runs[0], "tuned": runs[1]}


def _features(plan: MnistPlan, features: str, meta_seed: int) -> dict[str, Any]:
    """Meta-train an LSTM rule and let it train fresh students."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(meta_seed)
        rule = LSTM(features, plan.hidden)
    cost = meta_train(rule, One(plan.task), plan.budget, meta_seed)
    trials = {lr: _student(plan, rule, lr, TUNING_SEED) for lr in MULTIPLIERS}
    best = min(MULTIPLIERS, key=lambda lr: _or_inf(trials[lr]["train"]))
    runs = [_student(plan, rule, best, seed) for seed in range(plan.seeds)]
    tried = {f"{lr:g}": trials[lr]["train"] for lr in MULTIPLIERS}
    return {"meta": cost, "tried": tried, "lr": best, "tuned": runs}


def _student(plan: MnistPlan, rule: UpdateRule, lr: float, seed: int) -> dict[str, Any]:
    """Train a student; its weights and batches are those of the baselines."""
    task = plan.task
    params = [nn.Parameter(p) for p in task.initial(seed_of("held out", "weights", seed))]
    optimizer, curve = Learned(params, rule, lr=lr), []
    for step in range(plan.steps):
        optimizer.zero_grad()
        loss = task.loss(params, task.batch(seed_of("held out", "batch", seed, step)))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append(loss.item())
    out: dict[str, Any] = {}
    with torch.no_grad():
        for part in ("train", "validation"):
            value = float(task.loss(params, task.everything(part)))
            out[part] = float(f"{value:.5g}") if math.isfinite(value) else None
    curve = [x if math.isfinite(x) else 1e6 for x in curve]
    return {**out, "curve": block_means(curve, POINTS)}


def _or_inf(loss: float | None) -> float:
    return math.inf if loss is None else loss
