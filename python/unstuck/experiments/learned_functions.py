"""Three phases of meta-training on functions of two numbers, judged beside Adam and SGD."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from unstuck import problems
from unstuck.experiments.cells import CellRecord, Tell
from unstuck.experiments.learned_meta import Budget, InUnits, meta_train
from unstuck.learned import LSTM, MLP, Transformer, UpdateRule
from unstuck.learned.functions import Functions, Landscape, Quadratic, Quadratics
from unstuck.learned.students import MetaParameters, Students, begin_state
from unstuck.learned.task import Batch, Family, Mixture, Scaled, Task, generator, seed_of
from unstuck.learned.together import step_students_
from unstuck.problems import lookup

RULES: dict[str, Callable[[], UpdateRule]] = {
    "mlp": MLP,
    "lstm": functools.partial(LSTM, "rich"),
    "transformer": Transformer,
}
BASELINES: dict[str, Callable[..., Optimizer]] = {
    "adam": Adam,
    "sgd": SGD,
    "sgd-momentum": functools.partial(SGD, momentum=0.9),
}
RATES = tuple(float(f"{10 ** (k / 4):.3g}") for k in range(-16, 5))
UNIT = 100.0  # of a parameter, for the rules: an untrained one is Adam of rate 0.1
NEAR = 1e-2  # above the minimum: counts as found
GROUPS = 4  # quadratics, and places of the moved minimum
SHIFT = 2.56  # by which a minimum is moved at most, each way
PATHS = 3  # starts of which the way is kept


@dataclass(frozen=True)
class Moved:
    """A landscape whose minimum lies elsewhere, and its starts with it.

    Parameters
    ----------
    kind : str
        Its name.
    seed : int
        Decides where.

    Examples
    --------
    >>> task, moved = Landscape("rastrigin"), Moved("rastrigin", seed=3)
    >>> a, b = task.loss(task.initial(0), ()), moved.loss(moved.initial(0), ())
    >>> bool((task.initial(0)[0] != moved.initial(0)[0]).all()), bool((a - b).abs() < 1e-3)
    (True, True)
    """

    kind: str
    seed: int

    @property
    def name(self) -> str:
        """What it is."""
        return f"{self.kind} of 2 numbers, moved"

    @property
    def floor(self) -> float:
        """The lowest value there is."""
        return Landscape(self.kind).floor

    def _shift(self) -> Tensor:
        return SHIFT * (2 * torch.rand(2, generator=generator("shift", self.seed)) - 1)

    def initial(self, seed: int) -> list[Tensor]:
        """Return a start as far from the minimum as that of the landscape."""
        return [Landscape(self.kind).initial(seed)[0] + self._shift()]

    def batch(self, seed: int) -> Batch:
        """Return an empty tuple: there is no data."""
        return ()

    def validation(self, seed: int) -> Batch:
        """Return an empty tuple: there is no data."""
        return ()

    def loss(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the value at a point."""
        return Landscape(self.kind).loss([params[0] - self._shift()], batch)


@dataclass(frozen=True)
class MovedRastrigin:
    """Rastrigin's function, moved to a place that depends on the seed.

    Examples
    --------
    >>> MovedRastrigin().sample(seed=0).name
    'rastrigin of 2 numbers, moved'
    """

    name: str = "rastrigin-moved"

    def sample(self, seed: int) -> Task:
        """Return one."""
        return Moved("rastrigin", seed)


RASTRIGIN = Functions("rastrigin", ("rastrigin",))
BOTH = Mixture("rastrigin and rosenbrock", (RASTRIGIN, Functions("rosenbrock", ("rosenbrock",))))
PHASES: dict[str, tuple[Family, bool]] = {  # what it learns from, and whether as the generalist
    "generalist": (Quadratics(), False),
    "specialist": (RASTRIGIN, True),
    "multi-task": (BOTH, False),
    "specialist-moved": (MovedRastrigin(), True),
}
JUDGED: dict[str, Callable[[int], Task]] = {
    "rastrigin": lambda group: Landscape("rastrigin"),
    "rastrigin-moved": lambda group: Moved("rastrigin", seed_of("judged", group)),
    "rosenbrock": lambda group: Landscape("rosenbrock"),
    "quadratic": lambda group: Quadratic(seed_of("judged", group)),
}


@dataclass(frozen=True)
class FunctionsPlan:
    """What to run.

    Parameters
    ----------
    rules : tuple of str
        Of ``RULES``.
    meta_seeds : int
        Meta-trainings of each phase of each rule.
    starts : int
        From which everything is judged, a multiple of 4.
    steps : int
        Of every run.
    budget : Budget
        Of the meta-training of a phase; of fine-tuning, too.

    Raises
    ------
    ValueError
        For an unknown rule, a count below 1 or another number of starts.

    Examples
    --------
    >>> FunctionsPlan(("lstm",)).starts
    256
    """

    rules: tuple[str, ...] = tuple(RULES)
    meta_seeds: int = 3
    starts: int = 256
    steps: int = 100
    budget: Budget = field(
        default_factory=lambda: Budget(
            "evolution",
            meta_steps=100,
            unrolls=1,
            students=64,
            truncation=100,
            horizon=100,
            lr=0.03,
            scale="log",
            late=3.0,
        )
    )

    def __post_init__(self) -> None:
        for name in self.rules:
            lookup(RULES, name, "rule")
        if min(self.meta_seeds, self.starts, self.steps) < 1 or self.starts % GROUPS:
            raise ValueError(
                f"meta_seeds={self.meta_seeds}, starts={self.starts}, steps={self.steps}: each at "
                f"least 1, and starts a multiple of {GROUPS}"
            )

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common."""
        return {"starts": self.starts, "steps": self.steps, "budget": asdict(self.budget)}


def rastrigin(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values [n] of Rastrigin's function at points [n, 2], for pictures.

    Examples
    --------
    >>> rastrigin(np.array([[0.0, 0.0], [1.0, 1.0]])).round(6).tolist()
    [0.0, 2.0]
    """
    problem = problems.get("rastrigin", 2, dtype=torch.float64)
    values: NDArray[np.float64] = problem.value_and_gradient(torch.from_numpy(points))[0].numpy()
    return values


def run_functions(
    plan: FunctionsPlan, path: Path | None = None, tell: Tell = lambda line: None
) -> CellRecord:
    """Meta-train and judge what the file still lacks.

    Parameters
    ----------
    plan : FunctionsPlan
        What to run.
    path : Path, optional
        JSON file that is written after every cell; what it holds is not run again.
    tell : callable, optional
        Called with a line on each cell.

    Returns
    -------
    CellRecord
        ``baselines``, and a cell a rule and meta-seed.

    Raises
    ------
    ValueError
        When the file belongs to another study.

    Examples
    --------
    >>> budget = Budget("evolution", 1, students=2, truncation=2, horizon=2)
    >>> plan = FunctionsPlan(("mlp",), meta_seeds=1, starts=8, steps=2, budget=budget)
    >>> sorted(run_functions(plan).cells)
    ['baselines', 'mlp/0']
    """
    record = CellRecord.open(path, "learned-functions", plan.fixed)
    found = record.cell("baselines", functools.partial(_baselines, plan))
    for name, cell in found.items():
        tell(f"{name}: {_line(cell)}")
    for rule in plan.rules:
        for seed in range(plan.meta_seeds):
            found = record.cell(f"{rule}/{seed}", functools.partial(_phases, plan, rule, seed))
            for phase, cell in found.items():
                tell(f"{rule}, meta-seed {seed}, {phase}: {_line(cell)}")
    return record


def _line(cell: dict[str, Any]) -> str:
    found = cell["judged"]["rastrigin"]
    return f"rastrigin, median {found['median']:.4g}, at the minimum {found['found']:.1%}"


@functools.lru_cache(maxsize=32)
def _students(task: Task) -> Students:
    return Students(task)


def _points(task: Task, first: int, count: int) -> tuple[Students, Tensor]:
    """Return students of a task at starts of given numbers."""
    students = _students(task)  # type: ignore[arg-type]  # tasks here are frozen
    return students, students.begin([seed_of("start", first + k) for k in range(count)])


def _values(
    kind: str, first: int, starts: int, run: Callable[[Task, int, int], Tensor]
) -> dict[str, Any]:
    """Return figures of the values that a method ends at, above the minimum."""
    groups = 1 if JUDGED[kind](0) == JUDGED[kind](1) else GROUPS
    each = starts // groups
    last = [
        run(JUDGED[kind](k), first + k * each, each) - JUDGED[kind](k).floor for k in range(groups)
    ]
    values = torch.cat(last).double()
    good = values[values.isfinite()]
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    lower, median, upper = torch.quantile(good, quarters).tolist() if len(good) else [math.inf] * 3
    figures = {
        "mean": float(good.mean()),
        "lower": lower,
        "median": median,
        "upper": upper,
        "found": float((good < NEAR).sum()) / len(values),
    }
    kept = {k: float(f"{x:.5g}") if math.isfinite(x) else None for k, x in figures.items()}
    return {**kept, "diverged": len(values) - len(good)}


def _by_optimizer(
    name: str, rate: float, steps: int, ways: list[Tensor] | None = None
) -> Callable[[Task, int, int], Tensor]:
    def run(task: Task, first: int, count: int) -> Tensor:
        students, points = _points(task, first, count)
        points.requires_grad_()
        optimizer = BASELINES[name]([points], lr=rate)
        for _ in range(steps):
            if ways is not None:
                ways.append(points.detach().clone())
            points.grad = students.value_and_gradient(points, ())[1]
            optimizer.step()
        if ways is not None:
            ways.append(points.detach().clone())
        return students.losses(points.detach(), ())

    return run


def _by_rule(
    rule: UpdateRule, steps: int, ways: list[Tensor] | None = None
) -> Callable[[Task, int, int], Tensor]:
    def run(task: Task, first: int, count: int) -> Tensor:
        students, points = _points(Scaled(task, (UNIT,)), first, count)
        thetas = MetaParameters(rule).read().repeat(count, 1)
        state = begin_state(rule, students, points)
        for _ in range(steps):
            if ways is not None:
                ways.append(UNIT * points)
            gradients = students.value_and_gradient(points, ())[1]
            step_students_(rule, thetas, points, gradients, state, students.shapes)
        if ways is not None:
            ways.append(UNIT * points)
        return students.losses(points, ())

    return run


def _ways(run: Callable[[list[Tensor]], Callable[[Task, int, int], Tensor]]) -> list[Any]:
    """Return the ways from the first starts on Rastrigin's function, [starts, steps + 1, 2]."""
    ways: list[Tensor] = []
    run(ways)(Landscape("rastrigin"), 0, PATHS)
    paths: list[Any] = torch.stack(ways, 1).tolist()
    return [[[round(x, 3) for x in point] for point in path] for path in paths]


def _baselines(plan: FunctionsPlan) -> dict[str, Any]:
    """Tune every rate on other starts, and judge it on those that are reported."""
    out: dict[str, Any] = {}
    for name in BASELINES:
        rates, judged = {}, {}
        for kind in JUDGED:

            def score(rate: float, name: str = name, kind: str = kind) -> float:
                run = _by_optimizer(name, rate, plan.steps)
                found = _values(kind, plan.starts, plan.starts, run)
                bad = found["diverged"] or found["mean"] is None
                return math.inf if bad else float(found["mean"])

            rates[kind] = min(RATES, key=score)
            run = _by_optimizer(name, rates[kind], plan.steps)
            judged[kind] = _values(kind, 0, plan.starts, run)
        make = functools.partial(_by_optimizer, name, rates["rastrigin"], plan.steps)
        out[name] = {"rates": rates, "judged": judged, "ways": _ways(make)}
    return out


def _phases(plan: FunctionsPlan, name: str, seed: int) -> dict[str, Any]:
    """Meta-train a rule in every phase, and judge it after each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = RULES[name]()
    out: dict[str, Any] = {}
    generalist = untrained
    for phase, (family, further) in PHASES.items():
        rule = copy.deepcopy(generalist if further else untrained)
        cost = meta_train(rule, InUnits(family, UNIT), plan.budget, seed_of(seed, phase))
        if phase == "generalist":
            generalist = rule
        run = _by_rule(rule, plan.steps)
        judged = {kind: _values(kind, 0, plan.starts, run) for kind in JUDGED}
        out[phase] = {"meta": cost, "judged": judged}
        if seed == 0:
            out[phase]["ways"] = _ways(functools.partial(_by_rule, rule, plan.steps))
    return out
