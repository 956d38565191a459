"""The study of attention search on landscapes: the reported table by dimension, run again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unstuck import problems
from unstuck.experiments.cells import CellRecord, spread
from unstuck.problems import Problem, lookup
from unstuck.search import AttentionSearch
from unstuck.training.problem_race import start_of

FUNCTIONS = ("sphere", "rastrigin", "ackley", "griewank")
DIMS = (2, 5, 10, 50, 100, 1000, 10000)
REPORTED: dict[str, dict[int, tuple[float, float]]] = {  # gradient descent, attention search
    "sphere": {
        2: (1.34e-17, 1.15e-3),
        5: (2.45e-17, 0.496),
        10: (6.2e-17, 3.94),
        50: (1.91e-16, 33.6),
        100: (4.22e-16, 81.0),
    },
    "rastrigin": {
        2: (24.9, 1.28),
        5: (49.7, 22.7),
        10: (126.0, 64.4),
        50: (378.0, 473.0),
        100: (868.0, 1010.0),
    },
    "ackley": {
        2: (10.1, 1.44),
        5: (9.35, 2.88),
        10: (10.2, 4.2),
        50: (9.38, 4.89),
        100: (10.4, 5.11),
    },
    "griewank": {
        2: (0.0326, 0.0165),
        5: (0.882, 0.211),
        10: (1.03, 0.465),
        50: (1.1, 0.827),
        100: (1.21, 0.777),
    },
}
RATES = tuple(10.0 ** (k / 2) for k in range(-8, 7))
SIGMAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2)  # in widths of the box, of the modes that keep it
SIGMA = 0.2  # of the mode that adapts it
METHODS = ("gd", "plain", "enhanced", "adaptive")
TUNING_SEED = 10_000
QUIET = 200  # gradient steps without any improvement after which descent is over


@dataclass(frozen=True)
class AttentionPlan:
    """What to run.

    Parameters
    ----------
    functions, methods : tuple of str
        Landscapes, and of ``METHODS``: gradient descent and the modes of attention search.
    dims : tuple of int
        Dimensions.
    seeds : int
        Starts, drawn uniformly in the box; the same for all methods.
    budget : int
        Losses that a run may evaluate; one with its gradient counts once.

    Raises
    ------
    ValueError
        For an unknown name or a count below 1.

    Examples
    --------
    >>> AttentionPlan(functions=("sphere",), dims=(2, 5)).cells
    8
    """

    functions: tuple[str, ...] = FUNCTIONS
    methods: tuple[str, ...] = METHODS
    dims: tuple[int, ...] = DIMS
    seeds: int = 20
    budget: int = 20_000

    def __post_init__(self) -> None:
        for name in self.functions:
            lookup(dict.fromkeys(FUNCTIONS), name, "function")
        for name in self.methods:
            lookup(dict.fromkeys(METHODS), name, "method")
        if min(self.seeds, self.budget, *self.dims) < 1 or not (self.functions and self.methods):
            raise ValueError(
                f"dims={self.dims}, seeds={self.seeds}, budget={self.budget}: each at least 1, and "
                "at least one function and one method"
            )

    @property
    def cells(self) -> int:
        """How many cells the table has."""
        return len(self.functions) * len(self.methods) * len(self.dims)

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common."""
        return {"seeds": self.seeds, "budget": self.budget}


Tell = Callable[[str, int, int], None]


def run_attention(
    plan: AttentionPlan, path: Path | None = None, progress: Tell | None = None
) -> CellRecord:
    """Run what the table still lacks.

    Parameters
    ----------
    plan : AttentionPlan
        What to run.
    path : Path, optional
        JSON file that is written after every cell; what it holds is not run again.
    progress : callable, optional
        Called with a line on each cell, its number and how many there are.

    Returns
    -------
    CellRecord
        All cells.

    Raises
    ------
    ValueError
        When the file belongs to another study.

    Examples
    --------
    >>> plan = AttentionPlan(("sphere",), ("gd", "adaptive"), dims=(2,), seeds=2, budget=400)
    >>> record = run_attention(plan)
    >>> max(record.cells["sphere/2/adaptive"]["losses"]) < 1e-3
    True
    """
    record = CellRecord.open(path, "attention", plan.fixed)
    number = 0
    for dim in plan.dims:
        for name in plan.functions:
            problem = problems.get(name, dim, dtype=torch.float64)
            for method in plan.methods:
                key = f"{name}/{dim}/{method}"
                found = record.cell(
                    key,
                    lambda p=problem, m=method: _cell(p, m, plan),  # type: ignore[misc]
                )
                number += 1
                if progress is not None:
                    seconds = sum(found["seconds"])
                    line = f"{key}: {spread(found['losses'])}, {seconds:.1f} s"
                    progress(line, number, plan.cells)
    return record


def _cell(problem: Problem, method: str, plan: AttentionPlan) -> dict[str, Any]:
    """Return final losses, seconds and evaluations of every seed, and what was tuned."""
    seeds = list(range(plan.seeds))
    if method == "gd":
        return _descent(problem, seeds, plan.budget)
    if method == "adaptive":
        sigma = SIGMA
    else:
        trial = plan.budget // 4
        tuning = [TUNING_SEED, TUNING_SEED + 1]
        scores = {s: _search(problem, method, s, tuning, trial)["losses"] for s in SIGMAS}
        sigma = min(SIGMAS, key=lambda s: sum(scores[s]))
    return {"sigma": sigma, **_search(problem, method, sigma, seeds, plan.budget)}


def _search(
    problem: Problem, mode: str, share: float, seeds: list[int], budget: int
) -> dict[str, Any]:
    found: dict[str, list[Any]] = {"losses": [], "seconds": [], "nfev": []}
    width = float((problem.bounds[1] - problem.bounds[0]).min())
    for seed in seeds:
        search = AttentionSearch(start_of(problem, seed), share * width, seed=seed, mode=mode)
        began = time.perf_counter()
        while search.nfev + search.popsize <= budget and not search.stop():
            search.step(problem.objective)
        found["seconds"].append(round(time.perf_counter() - began, 4))
        found["losses"].append(search.best.f)
        found["nfev"].append(search.nfev)
    return found


def _descent(problem: Problem, seeds: list[int], budget: int) -> dict[str, Any]:
    """Descend from all starts at once, at the rate that is best for two others."""
    tuning = [TUNING_SEED, TUNING_SEED + 1]
    scores = []
    for rate in RATES:
        losses, _ = _descend(problem, _starts(problem, tuning), rate, min(budget, 1000))
        scores.append(float(torch.nan_to_num(losses, math.inf).sum()))
    rate = RATES[scores.index(min(scores))]
    began = time.perf_counter()
    losses, steps = _descend(problem, _starts(problem, seeds), rate, budget)
    seconds = (time.perf_counter() - began) / len(seeds)
    return {
        "rate": rate,
        "losses": [value if math.isfinite(value) else None for value in losses.tolist()],
        "seconds": [round(seconds, 4)] * len(seeds),
        "nfev": [steps] * len(seeds),
    }


def _starts(problem: Problem, seeds: list[int]) -> Tensor:
    return torch.stack([start_of(problem, seed) for seed in seeds])


def _descend(problem: Problem, x: Tensor, rate: float, budget: int) -> tuple[Tensor, int]:
    """Return the lowest losses of gradient descent, and the steps until nothing falls any more."""
    lowest = torch.full((len(x),), math.inf, dtype=x.dtype)
    last = lowest.clone()
    for step in range(budget):
        losses, gradient = problem.value_and_gradient(x)
        lowest = torch.minimum(lowest, torch.nan_to_num(losses, nan=math.inf))
        x = x - rate * gradient
        if step % QUIET == QUIET - 1:
            if bool((lowest >= last - 1e-12 * last.abs()).all()):
                return lowest, step + 1
            last = lowest.clone()
    return lowest, budget


def attention_markdown(record: CellRecord, plan: AttentionPlan) -> str:
    """Write the table: reported beside measured, mean and standard deviation over seeds.

    Parameters
    ----------
    record : CellRecord
        From :func:`run_attention`.
    plan : AttentionPlan
        Which of its cells to show.

    Examples
    --------
    >>> plan = AttentionPlan(("sphere",), ("gd",), dims=(2,), seeds=2, budget=100)
    >>> "1.34e-17" in attention_markdown(run_attention(plan), plan)
    True
    """
    lines = [
        "# Attention search and gradient descent, by dimension",
        "",
        f"Lowest loss within {plan.budget} evaluations (a loss with its gradient counts once), "
        f"mean ± standard deviation over {plan.seeds} starts drawn uniformly in the box, float64. "
        f"Gradient descent (gd) runs at the best of {len(RATES)} rates, plain and enhanced "
        f"attention search at the best of {len(SIGMAS)} sigmas, both found on two other starts; "
        "adaptive attention search is not tuned. In brackets the seconds of one run.",
        "",
        record.origin,
        "",
    ]
    for name in plan.functions:
        lines += [
            f"## {name}",
            "",
            "| D | reported gd | reported attention | " + " | ".join(plan.methods) + " |",
            "|---|---|---|" + "---|" * len(plan.methods),
        ]
        for dim in plan.dims:
            told = REPORTED[name].get(dim)
            cells = [str(dim), *(f"{x:.3g}" for x in told)] if told else [str(dim), "", ""]
            for method in plan.methods:
                found = record.cells.get(f"{name}/{dim}/{method}")
                if found is None:
                    cells.append("not run")
                    continue
                seconds = sum(found["seconds"]) / len(found["seconds"])
                cells.append(f"{spread(found['losses'])} ({seconds:.2g})")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, *_verdicts(record, plan)]) + "\n"


def _verdicts(record: CellRecord, plan: AttentionPlan) -> list[str]:
    """Say how many reported figures the adaptive mode beats on average."""
    if "adaptive" not in plan.methods:
        return []
    beaten: dict[str, list[bool]] = {"attention": [], "gradient descent": []}
    for name in plan.functions:
        for dim in plan.dims:
            if dim not in REPORTED[name]:
                continue
            losses = record.cells[f"{name}/{dim}/adaptive"]["losses"]
            mean = sum(losses) / len(losses)
            gd, attention = REPORTED[name][dim]
            beaten["attention"].append(mean < attention)
            if name != "sphere":
                beaten["gradient descent"].append(mean < gd)
    return [
        f"- Reported {kind} figures that the mean of adaptive attention search is below: "
        f"{sum(won)} of {len(won)}" + (" (sphere left out)." if kind != "attention" else ".")
        for kind, won in beaten.items()
        if won
    ]
