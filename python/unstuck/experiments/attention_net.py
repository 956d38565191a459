"""Attention search on a small net, and on a learning rate: reported times, measured again."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from unstuck.experiments.cells import CellRecord, spread
from unstuck.ops import objectives, trials
from unstuck.ops.objectives import LinearRegression, TwoLayerNet
from unstuck.problems.objectives import classification_data, regression_data
from unstuck.search import AttentionSearch

TARGETS = (0.52, 0.1)  # the loss that the source runs to, and a harder one
SAMPLES, FEATURES, HIDDEN = 20, 2, 10
ROWS = 200  # of validation
RATES = (0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
SIGMA = 0.5
WARM_UP_SEED = 10_000
REPORTED_NET = {  # ms an iteration, iterations to the target, seconds to it, train, validation
    "gd": (0.755, 96, 0.07, 0.5199, 0.5326),
    "attention": (5.427, 40, 0.22, 0.5180, 0.5411),
}
REPORTED_RATE = {  # best rate, loss, seconds
    "grid": (0.0607, 0.0114, 0.0411),
    "random": (0.0528, 0.0113, 0.0372),
    "attention": (0.1169, 0.0114, 0.0210),
}
TRIALS = 50  # rates that each search may try
LOWEST, HIGHEST = 1e-3, 1.0  # rates


Runs: TypeAlias = "dict[str, Callable[[int], dict[str, Any]]]"  # by the name of the method


@dataclass(frozen=True)
class NetPlan:
    """How many seeds to run, and how far.

    Parameters
    ----------
    seeds : int
        Data sets and starts.
    most : int
        Iterations after which a run that has not reached its target ends.
    repeats : int
        How often every run is timed; its time is the median.

    Raises
    ------
    ValueError
        For a count below 1.

    Examples
    --------
    >>> NetPlan(seeds=3).seeds
    3
    """

    seeds: int = 20
    most: int = 3000
    repeats: int = 5

    def __post_init__(self) -> None:
        if min(self.seeds, self.most, self.repeats) < 1:
            raise ValueError(
                f"seeds={self.seeds}, most={self.most}, repeats={self.repeats}: at least 1"
            )

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common."""
        return {"seeds": self.seeds, "most": self.most, "repeats": self.repeats}


def run_net(
    plan: NetPlan, path: Path | None = None, progress: Callable[[str], None] | None = None
) -> CellRecord:
    """Run both studies: the net to its target loss, and the search for a learning rate.

    The methods take turns: every seed is run by one after the other, and that `repeats` times.

    Parameters
    ----------
    plan : NetPlan
        How many seeds.
    path : Path, optional
        JSON file that is written after every part; what it holds is not run again.
    progress : callable, optional
        Called with a line on each method.

    Returns
    -------
    CellRecord
        Times and losses of every method and seed.

    Raises
    ------
    ValueError
        When the file belongs to another study.

    Examples
    --------
    >>> record = run_net(NetPlan(seeds=1, most=30, repeats=1))
    >>> record.cells["net/0.52"]["attention"][0]["train"] <= 0.52
    True
    """
    record = CellRecord.open(path, "attention-net", plan.fixed)

    def best_rate(goal: float) -> float:
        def steps(lr: float) -> int:
            runs = (_bare(seed, lr, goal, plan.most) for seed in range(plan.seeds))
            return sum(run["iterations"] for run in runs)

        return min(RATES, key=steps)

    rates = {
        goal: record.cell(f"net/{goal}/rate", functools.partial(best_rate, goal))
        for goal in TARGETS
    }
    for goal in TARGETS:
        descent: dict[str, Any] = {"lr": rates[goal], "goal": goal, "most": plan.most}
        runs: Runs = {
            "gd": functools.partial(_module, **descent),
            "gd-bare": functools.partial(_bare, **descent),
            "gd-analytic": functools.partial(_analytic, **descent),
            "attention": functools.partial(_attention, mode="adaptive", goal=goal, most=plan.most),
            "plain": functools.partial(_attention, mode="plain", goal=goal, most=plan.most),
        }
        _part(record, f"net/{goal}", runs, plan, progress)
    searches: Runs = {name: functools.partial(_rate_search, method=name) for name in REPORTED_RATE}
    _part(record, "rate", searches, plan, progress)
    return record


def _part(
    record: CellRecord,
    cell: str,
    runs: Runs,
    plan: NetPlan,
    progress: Callable[[str], None] | None,
) -> None:
    found = record.cell(cell, functools.partial(_in_turn, runs, plan))
    for name, outcomes in found.items():
        if progress is not None:
            progress(f"{cell}/{name}: {_middle([1000 * one['seconds'] for one in outcomes])} ms")


def _in_turn(runs: Runs, plan: NetPlan) -> dict[str, list[dict[str, Any]]]:
    """Run every seed by every method, again and again; the time of a run is the median."""
    for run in runs.values():
        run(WARM_UP_SEED)  # what is built once is not timed
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for seed in range(plan.seeds):
        times: dict[str, list[float]] = {name: [] for name in runs}
        outcomes = {}
        for _ in range(plan.repeats):
            for name, run in runs.items():
                outcomes[name] = run(seed)
                times[name].append(outcomes[name]["seconds"])
        for name, outcome in outcomes.items():
            found[name].append({**outcome, "seconds": statistics.median(times[name])})
    return found


def _net(seed: int) -> tuple[TwoLayerNet, TwoLayerNet, Tensor]:
    """Return the loss on the training and on the validation rows, and the start of torch."""
    x, y = classification_data(SAMPLES + ROWS, FEATURES + 1, seed)
    x = x[:, :FEATURES].contiguous()
    train = TwoLayerNet(x[:SAMPLES].contiguous(), y[:SAMPLES].contiguous(), HIDDEN)
    validation = TwoLayerNet(x[SAMPLES:].contiguous(), y[SAMPLES:].contiguous(), HIDDEN)
    return train, validation, nn.utils.parameters_to_vector(_model(seed).parameters()).detach()


def _model(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def _outcome(
    began: float, iterations: int, train: float, goal: float, validation: TwoLayerNet, w: Tensor
) -> dict[str, Any]:
    seconds = time.perf_counter() - began
    return {
        "iterations": iterations,
        "seconds": seconds,
        "train": train,
        "validation": float(objectives.value(validation, w)),
        "reached": train <= goal,
    }


def _module(seed: int, lr: float, goal: float, most: int) -> dict[str, Any]:
    """Descend by autograd, as one trains a module of torch."""
    train, validation, _ = _net(seed)
    model, x, y = _model(seed), train.X, train.y
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    criterion = nn.BCEWithLogitsLoss()
    began = time.perf_counter()
    for step in range(1, most + 1):  # noqa: B007 it is read afterwards
        optimizer.zero_grad()
        loss = criterion(model(x).squeeze(1), y)
        if (value := loss.item()) <= goal:
            break
        loss.backward()
        optimizer.step()
    w = nn.utils.parameters_to_vector(model.parameters()).detach()
    return _outcome(began, step, value, goal, validation, w)


def _bare(seed: int, lr: float, goal: float, most: int) -> dict[str, Any]:
    """Descend by autograd, without the calls that a module and an optimizer make."""
    train, validation, _ = _net(seed)
    parameters: list[Tensor] = list(_model(seed).parameters())
    x, y = train.X, train.y
    w1, b1, w2, b2 = parameters
    began = time.perf_counter()
    for step in range(1, most + 1):  # noqa: B007 it is read afterwards
        active = torch.addmm(b1, x, w1.T).relu()
        z = torch.addmm(b2, active, w2.T).squeeze(1)
        loss = functional.binary_cross_entropy_with_logits(z, y)
        if (value := loss.item()) <= goal:
            break
        slopes = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, slopes, alpha=-lr)
    w = nn.utils.parameters_to_vector(parameters).detach()
    return _outcome(began, step, value, goal, validation, w)


def _analytic(seed: int, lr: float, goal: float, most: int) -> dict[str, Any]:
    """Descend by the gradient of this package."""
    train, validation, w = _net(seed)
    began = time.perf_counter()
    for step in range(1, most + 1):  # noqa: B007 it is read afterwards
        loss, gradient = objectives.value_and_gradient(train, w)
        if (value := float(loss)) <= goal:
            break
        w = w - lr * gradient
    return _outcome(began, step, value, goal, validation, w)


def _attention(seed: int, mode: str, goal: float, most: int) -> dict[str, Any]:
    train, validation, w = _net(seed)
    began = time.perf_counter()
    search = AttentionSearch(w, SIGMA, seed=seed, mode=mode)
    for step in range(1, most + 1):  # noqa: B007 it is read afterwards
        search.step(train)
        if search.best.f <= goal:
            break
    return _outcome(began, step, search.best.f, goal, validation, search.best.x)


def _rate_search(seed: int, method: str) -> dict[str, Any]:
    """Find the rate whose one step from zero gives the lowest loss on validation rows.

    Inputs are three times as wide as normal ones, so that the best rate is a small one.
    """
    x, y = regression_data(200, 5, seed)
    x[:, :-1] *= 3
    train, validation = LinearRegression(x[:100], y[:100]), LinearRegression(x[100:], y[100:])
    began = time.perf_counter()
    w = torch.zeros(train.dim)
    gradient = objectives.value_and_gradient(train, w)[1]

    def score(logs: Tensor) -> Tensor:
        return trials.losses(validation, w, gradient, logs.reshape(-1).exp())

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if method == "attention":
        start = torch.tensor([(low + high) / 2])
        search = AttentionSearch(start, (high - low) / 4, bounds=(low, high), seed=seed, popsize=10)
        while search.nfev + search.popsize <= TRIALS:
            search.tell(score(search.ask()))
        rate, loss = float(search.best.x.exp()), search.best.f
    else:
        generator = torch.Generator().manual_seed(seed)
        share = (
            torch.linspace(0, 1, TRIALS)
            if method == "grid"
            else torch.rand(TRIALS, generator=generator)
        )
        logs = low + (high - low) * share
        losses = score(logs)
        at = int(losses.argmin())
        rate, loss = float(logs[at].exp()), float(losses[at])
    return {"rate": rate, "loss": loss, "seconds": time.perf_counter() - began}


def _middle(values: list[float]) -> str:
    """Write median and quartiles."""
    if len(values) < 2:
        return f"{values[0]:.3g}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3g} [{low:.2g}, {high:.2g}]"


def net_markdown(record: CellRecord) -> str:
    """Write both tables: reported beside measured, mean and standard deviation over seeds.

    Parameters
    ----------
    record : CellRecord
        From :func:`run_net`.

    Examples
    --------
    >>> "5.427" in net_markdown(run_net(NetPlan(seeds=1, most=30, repeats=1)))
    True
    """
    cells, seeds = record.cells, record.fixed["seeds"]
    lines = [
        "# A two-layer net to a target loss, and the search for a learning rate",
        "",
        f"{seeds} seeds, float32. Counts and times: median [quartiles] over the seeds, and the "
        f"mean; losses: mean ± standard deviation. The methods took turns, "
        f"{record.fixed['repeats']} times with every seed, whose time is the median of them.",
        "",
        record.origin,
        "",
        "## The net",
        "",
        f"{FEATURES}-{HIDDEN}-1, ReLU, sigmoid, binary cross-entropy, {SAMPLES} training rows, "
        f"{ROWS} validation rows, torch's initial weights. gd is autograd and `torch.optim.SGD` "
        f"at the rate that needs the fewest iterations on these very seeds, of {len(RATES)} from "
        f"{RATES[0]:g} to {RATES[-1]:g}; gd-bare is the same without module and optimizer; "
        "gd-analytic has this package's gradient; attention is `AttentionSearch` as it is, plain "
        "its mode of the source. A run ends at its first loss at or below the target, or after "
        f"{record.fixed['most']} iterations. The time of attention includes building the search.",
    ]
    for goal in TARGETS:
        lines += [
            "",
            f"Target {goal}, gd at rate {cells[f'net/{goal}/rate']}:",
            "",
            "| | ms an iteration | iterations | mean | ms to the target | mean | train loss | "
            "validation loss | seeds that reach it |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        reported = REPORTED_NET.items() if goal == TARGETS[0] else ()
        for name, (each, count, seconds, train, validation) in reported:
            row = [f"{each}", f"{count}", "", f"{1000 * seconds:g}", "", f"{train}"]
            row += [f"{validation}", ""]
            lines.append(f"| reported {name} | " + " | ".join(row) + " |")
        for name, runs in cells[f"net/{goal}"].items():
            counts = [float(one["iterations"]) for one in runs]
            times = [1000 * one["seconds"] for one in runs]
            row = [
                f"{sum(times) / sum(counts):.3g}",
                _middle(counts),
                f"{statistics.fmean(counts):.3g}",
                _middle(times),
                f"{statistics.fmean(times):.3g}",
                spread([one["train"] for one in runs], 4),
                spread([one["validation"] for one in runs], 4),
                f"{sum(one['reached'] for one in runs)} of {seeds}",
            ]
            lines.append(f"| {name} | " + " | ".join(row) + " |")
    lines += [
        "",
        "## The learning rate",
        "",
        f"Linear model of 5 parameters, one gradient step from zero on 100 rows, scored on 100 "
        f"others; {TRIALS} rates each in [{LOWEST:g}, {HIGHEST:g}], on a logarithmic scale, "
        "evaluated in one pass a batch of rates.",
        "",
        "| | best rate | loss | ms |",
        "|---|---|---|---|",
    ]
    for name, (rate, loss, seconds) in REPORTED_RATE.items():
        lines.append(f"| reported {name} | {rate} | {loss} | {1000 * seconds:g} |")
        runs = cells["rate"][name]
        row = [spread([one[key] for one in runs], 4) for key in ("rate", "loss")]
        row.append(_middle([1000 * one["seconds"] for one in runs]))
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"
