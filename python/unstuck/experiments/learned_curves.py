"""Learning curves of a learned rule and of the best baselines, on a few held-out tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unstuck.experiments.cells import CellRecord, Tell
from unstuck.experiments.learned_compare import Comparison, Key, average
from unstuck.experiments.learned_heldout import (
    TASKS,
    HeldOutPlan,
    baseline_cells,
    clock_key,
    comparisons,
)
from unstuck.experiments.learned_timing import LEARNED, THREADS
from unstuck.experiments.learned_training import (
    METHODS,
    Figures,
    fingerprint,
    train_baselines,
    train_rule,
)
from unstuck.learned import UpdateRule

SHOWN = ("digits 512", "mnist1d 5 x 64", "mnist 128")
POINTS = 60  # of a curve; each is the mean over the steps that belong to it, and over seeds


def run_curves(
    record: CellRecord,
    plan: HeldOutPlan,
    rule: UpdateRule,
    progress: Tell = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Train once more what the curves are of, as far as the record lacks it.

    Parameters
    ----------
    record : CellRecord
        From :func:`unstuck.experiments.learned_heldout.run_heldout`; curves are added to it.
    plan : HeldOutPlan
        Its tasks; those of ``SHOWN`` among them are drawn.
    rule : UpdateRule
        The rule, at its multiplier of the lowest training loss.
    progress : callable, optional
        Called with a line before something is run.

    Returns
    -------
    dict
        By task: ``steps``, ``curves`` by the name of the setting (the best of each method by
        training loss, and the rule), and, where steps were timed, ``seconds`` of each one's step.

    Examples
    --------
    >>> from unstuck.experiments.learned_heldout import run_heldout
    >>> from unstuck.learned import MLP
    >>> plan, rule = HeldOutPlan(("digits 512",), seeds=1, clock=False, most=2), MLP()
    >>> found = run_curves(run_heldout(plan, rule), plan, rule)
    >>> len(found["digits 512"]["curves"])
    4
    """
    return {
        one.task: _task(record, plan, rule, one, progress)
        for one in comparisons(record, plan, rule)
        if one.task in SHOWN
    }


def _task(
    record: CellRecord,
    plan: HeldOutPlan,
    rule: UpdateRule,
    one: Comparison,
    progress: Tell,
) -> dict[str, Any]:
    """Return what :func:`run_curves` does of one task."""
    steps, task = plan.steps(one.task), TASKS[one.task].task
    key, mark, lr = Key(one.task, steps), fingerprint(rule), float(one.rule.name.removeprefix("x "))
    jobs = []
    for method in METHODS:
        cells = baseline_cells(record, one.task, steps, method)
        jobs.append(min(cells, key=lambda job: average(cells[job]["train"]["loss"])))
    names = {job.name: f"curve/{key.baseline(job)}" for job in jobs}
    lacking = [job for job in jobs if names[job.name] not in record.cells]
    own = f"{LEARNED} {one.rule.name}"
    names[own] = f"curve/{key.rule(mark, lr)}"
    if lacking:
        progress(f"{one.task}: curves of {', '.join(job.name for job in lacking)}")
        curves = _curves(
            steps,
            plan.seeds,
            lambda seed, watch: train_baselines(task, steps, seed, lacking, watch),
        )
        for job, curve in zip(lacking, curves, strict=True):
            record.cells[names[job.name]] = curve
        record.save()
    if names[own] not in record.cells:
        progress(f"{one.task}: curve of rule {mark}")
        (record.cells[names[own]],) = _curves(
            steps, plan.seeds, lambda seed, watch: train_rule(task, steps, seed, rule, [lr], watch)
        )
        record.save()
    found = {"steps": steps, "curves": {name: record.cells[cell] for name, cell in names.items()}}
    if plan.clock:
        clock = record.cells[clock_key(one.task, rule)][str(THREADS[-1])]
        found["seconds"] = {name: clock[name.partition(" ")[0]] for name in names}
    return found


def _curves(
    steps: int,
    seeds: int,
    train: Callable[[int, Callable[[int, Tensor], None]], Sequence[Figures]],
) -> list[list[float]]:
    """Return of every student the mean losses on the batches of each stretch of the run."""
    points = min(POINTS, steps)
    sums: list[Tensor] = [torch.zeros(())] * points
    counts = [0] * points

    def watch(step: int, losses: Tensor) -> None:
        place = step * points // steps
        sums[place] = sums[place] + losses.detach()
        counts[place] += 1

    for seed in range(seeds):
        train(seed, watch)
    means = torch.stack([total / count for total, count in zip(sums, counts, strict=True)], 1)
    return [[float(f"{value:.4g}") for value in row] for row in means.tolist()]
