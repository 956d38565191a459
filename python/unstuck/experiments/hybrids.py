"""The study of the hybrids: six optimizers on the trapped loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unstuck.experiments.cells import CellRecord, spread
from unstuck.training.problem_race import RACERS, ProblemRace, ProblemRun, race_on

POINTS = 40  # of a stored curve: what the table reads and a picture shows

EXPECTED = {  # what the source says of each
    "gd": "flat-lines high",
    "attention": "slow and steady",
    "reactive-escape": "a staircase, far below both",
    "alternating": "a staircase, far below both",
    "attention-restart": "a staircase, far below both",
    "lr-attention": "the most direct; extremely slow",
}


@dataclass(frozen=True)
class HybridsPlan:
    """What to run.

    Parameters
    ----------
    dims : tuple of int
        Dimensions of the trapped loss.
    seeds : int
        Starts, inside the innermost rings of traps; the same for all methods.
    budget : int
        Losses that a run may evaluate; one with its gradient counts once.

    Raises
    ------
    ValueError
        For a count below 1.

    Examples
    --------
    >>> HybridsPlan(dims=(3,)).seeds
    20
    """

    dims: tuple[int, ...] = (3, 11)
    seeds: int = 20
    budget: int = 10_000

    def __post_init__(self) -> None:
        if not self.dims or min(self.seeds, self.budget, *self.dims) < 1:
            raise ValueError(
                f"dims={self.dims}, seeds={self.seeds}, budget={self.budget}: each at least 1"
            )

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common."""
        return {"seeds": self.seeds, "budget": self.budget}

    @property
    def runs(self) -> int:
        """How many runs there are in all."""
        return len(self.dims) * self.seeds * len(RACERS)


def run_hybrids(
    plan: HybridsPlan,
    path: Path | None = None,
    progress: Callable[[ProblemRun, int, int], None] | None = None,
) -> CellRecord:
    """Race the six optimizers in every dimension that the file still lacks.

    Parameters
    ----------
    plan : HybridsPlan
        What to run.
    path : Path, optional
        JSON file that is written after every dimension; what it holds is not run again.
    progress : callable, optional
        Called with a run, its number within the dimension and how many there are.

    Returns
    -------
    CellRecord
        One race a dimension.

    Raises
    ------
    ValueError
        When the file belongs to another study.

    Examples
    --------
    >>> plan = HybridsPlan(dims=(3,), seeds=1, budget=500)
    >>> race = race_of(run_hybrids(plan), 3)
    >>> race.final("gd")[0] > race.final("lr-attention")[0]
    True
    """
    record = CellRecord.open(path, "hybrids", plan.fixed)

    def measure(dim: int) -> dict[str, Any]:
        result = race_on(
            "trapped", dim=dim, budget=plan.budget, seeds=plan.seeds, progress=progress
        )
        if result.interrupted:
            raise KeyboardInterrupt
        return _thinned(json.loads(result.to_json()))

    for dim in plan.dims:
        record.cell(str(dim), lambda dim=dim: measure(dim))  # type: ignore[misc]
    return record


def _thinned(race: dict[str, Any]) -> dict[str, Any]:
    """Keep `POINTS` points of every curve, evenly spaced, the last among them."""
    every = max(1, len(race["evaluations"]) // POINTS)
    race["evaluations"] = race["evaluations"][every - 1 :: every]
    for run in race["runs"]:
        run["best"] = run["best"][every - 1 :: every]
    return race


def race_of(record: CellRecord, dim: int) -> ProblemRace:
    """Return the race of one dimension.

    Parameters
    ----------
    record : CellRecord
        From :func:`run_hybrids`.
    dim : int
        One of its dimensions.

    Examples
    --------
    >>> race_of(run_hybrids(HybridsPlan(dims=(3,), seeds=1, budget=100)), 3).dim
    3
    """
    content = dict(record.cells[str(dim)])
    runs = [ProblemRun(**run) for run in content.pop("runs")]
    return ProblemRace(**content, runs=runs)


def hybrids_markdown(record: CellRecord, plan: HybridsPlan) -> str:
    """Write one table a dimension: expected beside measured.

    Parameters
    ----------
    record : CellRecord
        From :func:`run_hybrids`.
    plan : HybridsPlan
        Which of its dimensions to show.

    Examples
    --------
    >>> plan = HybridsPlan(dims=(3,), seeds=1, budget=100)
    >>> "flat-lines high" in hybrids_markdown(run_hybrids(plan), plan)
    True
    """
    lines = [
        "# Six optimizers on the trapped loss",
        "",
        f"`mean (X w - y)^2 + sin(5 norm(w)^2)`, 200 rows, {plan.budget} evaluations (a loss with "
        f"its gradient counts once), mean ± standard deviation over {plan.seeds} starts near zero, "
        "inside the innermost rings of traps. Gradient descent, alone and in hybrids 1 to 3, runs "
        "at the best of eleven rates for gradient descent alone.",
        "",
        record.origin,
    ]
    for dim in plan.dims:
        race = race_of(record, dim)
        minimum = race.minimum
        assert minimum is not None
        lines += [
            "",
            f"## {dim} dimensions, minimum {minimum:.5g}, rate {race.rate:.3g}",
            "",
            "| optimizer | expected | lowest loss | above the minimum | at a tenth of the "
            "evaluations | ms |",
            "|---|---|---|---|---|---|",
        ]
        for method in race.methods:
            early = [curve[len(curve) // 10 - 1] for curve in race.curves(method)]
            cells = [
                spread(race.final(method), 4),
                spread([loss - minimum for loss in race.final(method)]),
                spread(early),
                spread([1000 * seconds for seconds in race.seconds(method)]),
            ]
            lines.append(f"| {method} | {EXPECTED[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
