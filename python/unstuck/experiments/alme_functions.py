"""Functions by ALME and by torch's optimizers, at equal evaluations."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS

from unstuck import problems
from unstuck.experiments.alme_settings import (
    TUNING_SEED,
    AlmePlan,
    configuration,
    grid,
    make_optimizer,
)
from unstuck.experiments.alme_training import escapes_of, significant
from unstuck.optim import ALME

POINTS = 20  # of a stored curve
LINE_SEARCH = "lbfgs"  # beside those of alme.json: one descent by torch, strong Wolfe
WORST = 1e12  # what a loss that is not finite counts as


class Counted:
    """The closure of a run on a function: counts, and keeps the lowest value so far.

    The function is moved by up to a quarter of its box, so that its minimum is not at zero, where
    weight decay pulls and where candidates in proportion to the weights would not move.
    """

    def __init__(self, function: str, seed: int) -> None:
        name, _, dim = function.partition("/")
        self._problem = problems.get(name, int(dim), dtype=torch.float64)
        low, high = self._problem.bounds
        generator = torch.Generator().manual_seed(seed)
        start, shift = torch.rand(2, int(dim), generator=generator, dtype=torch.float64)
        self.point = nn.Parameter(low + start * (high - low))
        self._shift = (shift - 0.5) / 2 * (high - low)
        self.best: list[float] = []

    def __call__(self) -> Tensor:
        """Evaluate the function, and its gradient unless only the value is wanted."""
        self.point.grad = None
        loss = self._problem(self.point - self._shift)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        value = loss.item() if math.isfinite(loss.item()) else WORST
        self.best.append(min(value, self.best[-1]) if self.best else value)
        return loss.detach()


def run_function(
    function: str, optimizer: str, tuned: Mapping[str, float], seed: int, budget: int
) -> dict[str, Any]:
    """Minimise a function from a start that depends on the seed alone.

    Parameters
    ----------
    function : str
        Name and dimension.
    optimizer : str
        One of ``alme.json``, or ``"lbfgs"``.
    tuned : mapping
        Its tuned settings.
    seed : int
        Of the start, uniform in the usual box, and of ALME's candidates.
    budget : int
        Losses that may be evaluated.

    Returns
    -------
    dict
        ``best``, the lowest value at evenly spaced evaluations, the ``seconds``, and escapes.

    Examples
    --------
    >>> run_function("sphere/2", "lbfgs", {}, 0, 50)["best"][-1] < 1e-12
    True
    """
    counted = Counted(function, seed)
    begun = time.process_time()
    made = None
    if optimizer == LINE_SEARCH:
        descent = LBFGS(
            [counted.point], max_iter=budget, max_eval=budget, line_search_fn="strong_wolfe"
        )
        descent.step(counted)  # type: ignore[no-untyped-call]
    else:
        made = make_optimizer(optimizer, [counted.point], tuned, seed=seed)
        while len(counted.best) < budget:
            made.step(counted)  # type: ignore[arg-type]
    seconds = time.process_time() - begun
    best = counted.best[:budget]
    best += [best[-1]] * (budget - len(best))  # converged
    every = max(1, budget // POINTS)
    return {
        "best": [significant(x) for x in best[every - 1 :: every]],
        "seconds": significant(seconds),
        **(escapes_of(made) if isinstance(made, ALME) else {}),
    }


def measure_function(plan: AlmePlan, function: str) -> dict[str, Any]:
    """Tune the baselines on other starts, then run everything on those that are reported.

    Parameters
    ----------
    plan : AlmePlan
        Starts and budget.
    function : str
        Name and dimension, such as ``"ackley/10"``.

    Returns
    -------
    dict
        ``tuned``, the settings of every optimizer, and ``runs``, a list by optimizer.

    Examples
    --------
    >>> import dataclasses
    >>> plan = dataclasses.replace(AlmePlan.of("small"), starts=1, budget=50)
    >>> sorted(measure_function(plan, "rastrigin/2"))
    ['runs', 'tuned']
    """
    entries = configuration()["optimizers"]
    tuned: dict[str, dict[str, float]] = {}
    for name, entry in entries.items():
        if "tuned" not in entry:
            score = functools.partial(_score, plan, function, name)
            tuned[name] = min(grid("functions", name), key=score)
    for name, entry in entries.items():
        if "tuned" in entry:  # the rate alone: decay would be another function
            tuned[name] = {"lr": tuned[entry["tuned"]]["lr"]}
    tuned[LINE_SEARCH] = {}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in tuned}
    for seed in range(plan.starts):
        for name in tuned:
            runs[name].append(run_function(function, name, tuned[name], seed, plan.budget))
    return {"tuned": tuned, "runs": runs}


def _score(plan: AlmePlan, function: str, name: str, settings: dict[str, float]) -> float:
    """Mean logarithm of the lowest value; all functions of the study are 0 at their minimum."""
    seeds = range(TUNING_SEED, TUNING_SEED + 2 * plan.tuning_seeds)
    ends = [run_function(function, name, settings, seed, plan.budget)["best"][-1] for seed in seeds]
    return statistics.fmean(math.log(max(end, 1e-12)) for end in ends)
