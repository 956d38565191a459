"""A race on a function: gradient descent, attention search and their hybrids, equal evaluations."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from unstuck import problems
from unstuck.problems import Problem, lookup
from unstuck.search import AttentionSearch, hybrids
from unstuck.search.hybrids import Descent, GradientDescent

__all__ = ["RACERS", "ProblemRace", "ProblemRun", "Racer", "best_rate", "race_on", "start_of"]

RATES = tuple(10.0**k for k in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 1, 2))
TUNING_SEED = 10_000
SHARE = 0.2  # first standard deviation of candidates, in widths of the narrowest bound
POINTS = 200  # of a curve
NEAR = 0.2  # standard deviation of the starts on the trapped loss: inside the innermost rings


class Search(Protocol):
    """What a racer steps."""

    @property
    def nfev(self) -> int:
        """Losses evaluated so far."""

    @property
    def best(self) -> Any:
        """The best point and its loss."""

    def step(self, problem: Any) -> Any:
        """Make one iteration."""


@dataclass(frozen=True)
class Racer:
    """A method that the race knows.

    Attributes
    ----------
    make : callable
        ``make(x0, sigma0, lr, seed)`` returns the search at its start.
    about : str
        One line: what it is.
    """

    make: Callable[[Tensor, float, float, int], Search]
    about: str


class _Attention:
    """Attention search, whose steps take the description of a problem."""

    def __init__(self, search: AttentionSearch) -> None:
        self._search = search

    @property
    def nfev(self) -> int:
        return self._search.nfev

    @property
    def best(self) -> Any:
        return self._search.best

    def step(self, problem: Any) -> None:
        self._search.step(problem.objective)


def _descent(kind: Callable[..., Descent]) -> Callable[[Tensor, float, float, int], Search]:
    return lambda x0, sigma0, lr, seed: kind(x0, sigma0, seed=seed, base="gd", lr=lr)


RACERS: dict[str, Racer] = {
    "gd": Racer(_descent(GradientDescent), "gradient descent"),
    "attention": Racer(
        lambda x0, sigma0, lr, seed: _Attention(AttentionSearch(x0, sigma0, seed=seed)),
        "attention search, without gradients",
    ),
    "reactive-escape": Racer(
        _descent(hybrids.ReactiveEscape), "gradient descent, attention search after two plateaus"
    ),
    "alternating": Racer(
        _descent(hybrids.Alternating), "gradient descent and attention search in a fixed cycle"
    ),
    "attention-restart": Racer(
        _descent(hybrids.AttentionRestart), "descent to a minimum, a new start by attention search"
    ),
    "lr-attention": Racer(
        lambda x0, sigma0, lr, seed: hybrids.LearningRateAttention(x0, sigma0, seed=seed),
        "gradient steps at a softmax-weighted mean of 16 rates",
    ),
}


@dataclass(frozen=True)
class ProblemRun:
    """One method run once.

    Attributes
    ----------
    method, seed : str, int
        Whose run, from which start.
    best : list of float
        Lowest loss so far at each of the race's points.
    seconds : float
        Time that it took.
    """

    method: str
    seed: int
    best: list[float]
    seconds: float


@dataclass(frozen=True)
class ProblemRace:
    """What was raced, and every run that finished.

    Attributes
    ----------
    problem, dim, minimum : str, int, float or None
        The function, its dimension and its lowest value where it is known.
    budget : int
        Losses a run may evaluate; one with its gradient counts once.
    rate : float
        Learning rate of gradient descent, alone and in the hybrids.
    evaluations : list of int
        Where the curves are read.
    methods, seeds : list
        What was to be run.
    runs : list of ProblemRun
        The runs that finished.
    interrupted : bool
        Stopped by Ctrl-C before all were done.
    """

    problem: str
    dim: int
    minimum: float | None
    budget: int
    rate: float
    evaluations: list[int]
    methods: list[str]
    seeds: list[int]
    runs: list[ProblemRun] = field(default_factory=list)
    interrupted: bool = False

    def curves(self, method: str) -> list[list[float]]:
        """Return the curves of one method, one a seed."""
        return [run.best for run in self.runs if run.method == method]

    def final(self, method: str) -> list[float]:
        """Return the lowest loss of every run of one method."""
        return [run.best[-1] for run in self.runs if run.method == method]

    def seconds(self, method: str) -> list[float]:
        """Return the seconds of every run of one method."""
        return [run.seconds for run in self.runs if run.method == method]

    def to_json(self) -> str:
        """Write everything as JSON, losses to 9 digits; one that is not finite becomes ``null``."""
        content = asdict(self)
        for run in content["runs"]:
            run["best"] = [float(f"{x:.9g}") if math.isfinite(x) else None for x in run["best"]]
            run["seconds"] = round(run["seconds"], 4)
        return json.dumps(content, indent=1, allow_nan=False)


def start_of(problem: Problem, seed: int) -> Tensor:
    """Return the start ``[D]`` that all methods have in common: uniform in the box.

    On the trapped loss it is normal around zero, inside the rings of traps.
    """
    generator = torch.Generator().manual_seed(seed)
    if problem.name == "trapped":
        x = NEAR * torch.randn(problem.dim, generator=generator, dtype=torch.float64)
        return x.to(problem.device, problem.dtype)
    low, high = problem.bounds
    drawn = torch.rand(problem.dim, generator=generator, dtype=torch.float64)
    return torch.lerp(low, high, drawn.to(low))


def sigma_of(problem: Problem) -> float:
    """Return the first standard deviation of candidates."""
    return SHARE * float((problem.bounds[1] - problem.bounds[0]).min())


def best_rate(problem: Problem, budget: int, rates: Sequence[float] = RATES) -> float:
    """Return the learning rate with which gradient descent gets lowest, on starts of its own.

    Parameters
    ----------
    problem : Problem
        The function.
    budget : int
        Gradient steps of each of the two trials a rate.
    rates : sequence of float
        The rates that are tried.

    Examples
    --------
    >>> best_rate(problems.get("sphere", dim=2), 50, rates=(1e-3, 1e-1, 10.0))
    0.1
    """
    found = {}
    for rate in rates:
        ends = []
        for seed in (TUNING_SEED, TUNING_SEED + 1):
            search = GradientDescent(start_of(problem, seed), 1.0, base="gd", lr=rate)
            while search.nfev < budget and not search.stop():
                search.step(problem)
            last = search.history[-1].loss
            ends.append(last if math.isfinite(last) else math.inf)
        found[rate] = sum(ends)
    return min(found, key=lambda rate: found[rate])


def race_on(
    name: str,
    methods: Sequence[str] = tuple(RACERS),
    *,
    dim: int | None = None,
    budget: int = 5000,
    seeds: int | Sequence[int] = 5,
    rate: float | None = None,
    progress: Callable[[ProblemRun, int, int], None] | None = None,
) -> ProblemRace:
    """Run several methods on one function, with the same starts and the same evaluations.

    Parameters
    ----------
    name : str
        A name that :func:`unstuck.problems.get` knows.
    methods : sequence of str
        Names in ``RACERS``.
    dim : int, optional
        Dimension, where the problem leaves it open.
    budget : int
        Losses a run may evaluate; a loss with its gradient counts once.
    seeds : int or sequence of int
        How many starts, or which.
    rate : float, optional
        Learning rate of gradient descent, alone and within the hybrids; by default the best of
        eleven for gradient descent alone, found on two other starts.
    progress : callable, optional
        Called with a run that has finished, its number and how many there will be.

    Returns
    -------
    ProblemRace
        All runs. After Ctrl-C those that had finished, with ``interrupted`` set.

    Raises
    ------
    ValueError
        For an unknown name or a count below 1.

    Examples
    --------
    >>> result = race_on("trapped", ("gd", "reactive-escape"), budget=1500, seeds=1)
    >>> result.final("reactive-escape")[0] < result.final("gd")[0] - 1
    True
    """
    problem = problems.get(name, dim, dtype=torch.float64)
    entered = {method: lookup(RACERS, method, "method") for method in methods}
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if budget < 1 or not numbers or not entered:
        raise ValueError(f"budget={budget}, seeds={seeds}: each must be 1 or more")
    rate = best_rate(problem, min(budget, 500)) if rate is None else rate
    points = [max(1, round(budget * (k + 1) / POINTS)) for k in range(POINTS)]
    result = ProblemRace(
        name, problem.dim, problem.minimum, budget, rate, points, list(entered), numbers
    )
    try:
        for seed in numbers:
            x0 = start_of(problem, seed)
            for method, racer in entered.items():
                search = racer.make(x0, sigma_of(problem), rate, seed)
                result.runs.append(_run(method, seed, search, problem, result))
                if progress is not None:
                    progress(result.runs[-1], len(result.runs), len(numbers) * len(entered))
    except KeyboardInterrupt:
        return dataclasses.replace(result, interrupted=True)
    return result


def _run(method: str, seed: int, search: Search, problem: Problem, plan: ProblemRace) -> ProblemRun:
    """Step a search until its evaluations are spent, and read its best loss at the points.

    A step that ends beyond a point counts for the next one: no method is read ahead of its
    evaluations.
    """
    best, lowest, at = [], float(problem(start_of(problem, seed))), 0
    began = time.perf_counter()
    while at < len(plan.evaluations):
        search.step(problem)
        while at < len(plan.evaluations) and plan.evaluations[at] < search.nfev:
            best.append(lowest)
            at += 1
        lowest = min(lowest, float(search.best.f))
    return ProblemRun(method, seed, best, time.perf_counter() - began)
