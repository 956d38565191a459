"""The study of training problems that trap: how often is each method out at equal evaluations."""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer

from unstuck.experiments.cells import CellRecord
from unstuck.optim import ALME
from unstuck.problems import TRAPS, TrapRun, load_trap, lookup

TUNING_SEED = 10_000  # the first seed that rates are chosen on; reported are seeds from 0
RATES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
HIGHER = (1.0, 3.0)  # tried as well where the highest of those is the best
BUDGETS = {"convection": 3000}  # gradient evaluations a run, where not the plan's


class SpentError(Exception):
    """The run is over: out of evaluations, or below the target."""


class Trial:
    """The closure of a run that counts: every call is one gradient evaluation.

    Parameters
    ----------
    run : TrapRun
        The problem at its start.
    budget : int
        Calls that are allowed.
    """

    def __init__(self, run: TrapRun, budget: int) -> None:
        self.run, self.budget = run, budget
        self.used, self.best = 0, math.inf
        self.reached: int | None = None

    def __call__(self) -> Tensor:
        """Evaluate loss and gradients, or raise :class:`SpentError`."""
        if self.used >= self.budget:
            raise SpentError
        self.run.module.zero_grad()
        loss = self.run.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        self.used += 1
        self.best = min(self.best, loss.item())
        if self.best < self.run.target:
            self.reached = self.used
            raise SpentError
        return loss.detach()


Solve = Callable[[Trial, int, float], None]


def _descend(make: Callable[..., Optimizer], trial: Trial, seed: int, rate: float) -> None:
    optimizer = make(trial.run.module.parameters(), lr=rate)
    while True:
        optimizer.step(trial)  # type: ignore[arg-type]


def _lbfgs(trial: Trial, seed: int, rate: float) -> None:
    """One descent to convergence by torch's tolerances, or until a step overflows."""
    optimizer = LBFGS(
        trial.run.module.parameters(),
        lr=rate,
        max_iter=trial.budget,
        max_eval=trial.budget,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    try:
        optimizer.step(trial)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise


def _lbfgs_restarts(trial: Trial, seed: int, rate: float) -> None:
    module = trial.run.module
    for restart in range(1, trial.budget):
        _lbfgs(trial, seed, rate)
        module.load_state_dict(trial.run.fresh(1_000_003 * (seed + 1) + restart).state_dict())


def _basin_hopping(trial: Trial, seed: int, rate: float) -> None:
    """Wales and Doye 1997, with steps as in SciPy: uniform, half a unit."""
    parameters = list(trial.run.module.parameters())
    generator = torch.Generator().manual_seed(seed)
    here, loss, temperature = [p.detach().clone() for p in parameters], math.inf, 0.0
    for _ in range(trial.budget):
        with torch.no_grad():
            start = float(trial.run.loss())  # only to compare: the next evaluation is this one
        temperature = temperature or 0.1 * start
        _lbfgs(trial, seed, rate)
        with torch.no_grad():
            end = float(trial.run.loss())
            climb = (end - loss) / temperature if math.isfinite(loss) else 0.0
            if climb <= 0 or float(torch.rand((), generator=generator)) < math.exp(-climb):
                here, loss = [p.detach().clone() for p in parameters], end
            for p, kept in zip(parameters, here, strict=True):
                p.copy_(kept + torch.rand(p.shape, generator=generator) - 0.5)


def _alme(trial: Trial, seed: int, rate: float) -> None:
    optimizer = ALME(trial.run.module.parameters(), lr=rate)
    while True:
        optimizer.step(trial)


METHODS: dict[str, tuple[Solve, tuple[float, ...], str]] = {
    "sgd-momentum": (
        functools.partial(_descend, functools.partial(SGD, momentum=0.9)),
        RATES,
        "momentum 0.9",
    ),
    "adam": (functools.partial(_descend, Adam), RATES, "torch's"),
    "adamw": (functools.partial(_descend, AdamW), RATES, "torch's, weight decay 0.01"),
    "lbfgs": (_lbfgs, (1.0,), "torch's, strong Wolfe, history 10, once"),
    "lbfgs-restarts": (_lbfgs_restarts, (1.0,), "the same, from fresh weights when converged"),
    "basin-hopping": (_basin_hopping, (1.0,), "the same, from perturbed weights, Metropolis"),
    "alme": (_alme, (1e-3,), "`unstuck.optim.ALME` as it is, rate 0.001"),
}


@dataclass(frozen=True)
class TrapsPlan:
    """What to run.

    Parameters
    ----------
    problems, methods : tuple of str
        Which of ``TRAPS`` and of ``METHODS``.
    seeds : int
        Runs a problem and method: data and first weights of seeds 0 on.
    tuning_seeds : int
        Other seeds, on which a method with a rate tries all rates.
    budget : int
        Gradient evaluations a run; ``BUDGETS`` has exceptions.

    Raises
    ------
    ValueError
        For an unknown name or a count below 1.

    Examples
    --------
    >>> TrapsPlan(("xor",)).seeds
    20
    """

    problems: tuple[str, ...] = tuple(TRAPS)
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 20
    tuning_seeds: int = 3
    budget: int = 1500

    def __post_init__(self) -> None:
        for name in self.problems:
            lookup(TRAPS, name, "trap")
        for name in self.methods:
            lookup(METHODS, name, "method")
        if min(self.seeds, self.tuning_seeds, self.budget) < 1:
            raise ValueError(
                f"seeds={self.seeds}, tuning_seeds={self.tuning_seeds}, budget={self.budget}: "
                "each at least 1"
            )

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common."""
        return {
            "seeds": self.seeds,
            "tuning_seeds": self.tuning_seeds,
            "budget": self.budget,
            "budgets": BUDGETS,
        }

    def evaluations(self, problem: str) -> int:
        """Return how many gradients a run on a problem may evaluate."""
        return BUDGETS.get(problem, self.budget)


def run_traps(
    plan: TrapsPlan,
    path: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    again: bool = False,
) -> CellRecord:
    """Run every method on every problem, as far as the file lacks it.

    Parameters
    ----------
    plan : TrapsPlan
        What to run.
    path : Path, optional
        JSON file that is written after every cell, a method on a problem; what it holds is not run
        again.
    progress : callable, optional
        Called with a line about a cell, its number and how many there are.
    again : bool
        Run what the file holds, too, and replace it.

    Returns
    -------
    CellRecord
        A cell has the rate, the commit that it was run with, and of every seed the evaluations to
        the target (None where it was not reached), the lowest loss and the seconds.

    Raises
    ------
    ValueError
        When the file belongs to another study.

    Examples
    --------
    >>> plan = TrapsPlan(("xor",), ("lbfgs-restarts",), seeds=2)
    >>> record = run_traps(plan)
    >>> all(record.cells["xor/lbfgs-restarts"]["evaluations"])
    True
    """
    record = CellRecord.open(path, "alme-traps", plan.fixed)
    total = len(plan.problems) * len(plan.methods)
    for number, problem in enumerate(plan.problems):
        for place, method in enumerate(plan.methods):
            name = f"{problem}/{method}"
            if again or name not in record.cells:
                record.cells[name] = {
                    **_measure(plan, problem, method),
                    "commit": record.commit,
                }
                record.save()
            cell = record.cells[name]
            if progress is not None:
                line = f"{problem}, {method}: {outcome(cell)}"
                progress(line, number * len(plan.methods) + place + 1, total)
    return record


def _measure(plan: TrapsPlan, problem: str, method: str) -> dict[str, Any]:
    rates = METHODS[method][1]
    tuning = range(TUNING_SEED, TUNING_SEED + plan.tuning_seeds)
    rate, best = rates[0], (math.inf, math.inf)
    for tried in (*rates, *HIGHER) if len(rates) > 1 else ():
        if tried in HIGHER and rate < rates[-1]:
            break
        order = _order(_runs(plan, problem, method, tried, tuning))
        if order < best:
            rate, best = tried, order
    return {"rate": rate, **_runs(plan, problem, method, rate, range(plan.seeds))}


def _runs(plan: TrapsPlan, problem: str, method: str, rate: float, seeds: range) -> dict[str, Any]:
    runs: dict[str, Any] = {"evaluations": [], "losses": [], "seconds": []}
    for seed in seeds:
        trial = Trial(load_trap(problem, seed), plan.evaluations(problem))
        begun = time.perf_counter()
        with contextlib.suppress(SpentError):
            METHODS[method][0](trial, seed, rate)
        runs["evaluations"].append(trial.reached)
        runs["losses"].append(trial.best)
        runs["seconds"].append(time.perf_counter() - begun)
    return runs


def _order(runs: dict[str, Any]) -> tuple[float, float]:
    """More successes are better, then a lower loss, in the geometric mean while it is positive."""
    losses = [math.log(max(loss, 1e-30)) + min(loss, 0.0) for loss in runs["losses"]]
    return -sum(n is not None for n in runs["evaluations"]), statistics.fmean(losses)


def outcome(cell: dict[str, Any]) -> str:
    """Successes, and median with quartiles of the evaluations where failures count as endless.

    Where there is no success, the median of the lowest losses.
    """
    evaluations: list[int | None] = cell["evaluations"]
    reached = sum(n is not None for n in evaluations)
    ordered = sorted(math.inf if n is None else n for n in evaluations)
    low, middle, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))

    def number(n: float) -> str:
        return "-" if math.isinf(n) else f"{n:.0f}"

    if not reached:
        return f"0 of {len(ordered)}: loss {statistics.median(cell['losses']):.2g}"
    return f"{reached} of {len(ordered)}: {number(middle)} ({number(low)} to {number(high)})"
