"""Attention search on a small net, and on a learning rate: reported times, measured again."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unstuck.experiments.cells import CellRecord, spread
from unstuck.ops import objectives, trials
from unstuck.ops.objectives import LinearRegression, TwoLayerNet
from unstuck.problems.objectives import classification_data, regression_data
from unstuck.search import AttentionSearch

TARGETS = (0.52, 0.1)  # the loss that the source runs to, and a harder one
SAMPLES, FEATURES, HIDDEN = 20, 2, 10
ROWS = 200  # of validation
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SIGMA = 0.5
TUNING_SEED = 10_000
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


@dataclass(frozen=True)
class NetPlan:
    """How many seeds to run, and how far.

    Parameters
    ----------
    seeds : int
        Data sets and starts.
    most : int
        Iterations after which a run that has not reached its target ends.

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

    def __post_init__(self) -> None:
        if min(self.seeds, self.most) < 1:
            raise ValueError(f"seeds={self.seeds}, most={self.most}: at least 1")

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common."""
        return {"seeds": self.seeds, "most": self.most}


def run_net(
    plan: NetPlan, path: Path | None = None, progress: Callable[[str], None] | None = None
) -> CellRecord:
    """Run both studies: the net to its target loss, and the search for a learning rate.

    Parameters
    ----------
    plan : NetPlan
        How many seeds.
    path : Path, optional
        JSON file that is written after every method; what it holds is not run again.
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
    >>> record = run_net(NetPlan(seeds=1, most=30))
    >>> record.cells["net/0.52/attention"][0]["train"] <= 0.52
    True
    """
    record = CellRecord.open(path, "attention-net", plan.fixed)
    seeds = range(plan.seeds)

    runs: dict[str, Callable[[int], Any]] = {}
    for goal in TARGETS:

        def rate(goal: float = goal) -> float:
            def steps(lr: float) -> int:
                return sum(_module(seed, lr, goal, plan.most)["iterations"] for seed in _tuning())

            return min(RATES, key=steps)

        best = record.cell(f"net/{goal}/rate", rate)
        runs[f"net/{goal}/gd"] = functools.partial(_module, lr=best, goal=goal, most=plan.most)
        runs[f"net/{goal}/gd-analytic"] = functools.partial(
            _analytic, lr=best, goal=goal, most=plan.most
        )
        for name, mode in (("attention", "adaptive"), ("plain", "plain")):
            runs[f"net/{goal}/{name}"] = functools.partial(
                _attention, mode=mode, goal=goal, most=plan.most
            )
    for method in REPORTED_RATE:
        runs[f"rate/{method}"] = functools.partial(_rate_search, method=method)
    for name, run in runs.items():
        run(TUNING_SEED)  # what is built once is not timed
        found = record.cell(name, lambda run=run: [run(seed) for seed in seeds])  # type: ignore[misc]
        if progress is not None:
            progress(f"{name}: {spread([one['seconds'] for one in found])} s")
    return record


def _tuning() -> range:
    return range(TUNING_SEED, TUNING_SEED + 3)


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


def net_markdown(record: CellRecord) -> str:
    """Write both tables: reported beside measured, mean and standard deviation over seeds.

    Parameters
    ----------
    record : CellRecord
        From :func:`run_net`.

    Examples
    --------
    >>> "5.427" in net_markdown(run_net(NetPlan(seeds=1, most=30)))
    True
    """
    cells, seeds = record.cells, record.fixed["seeds"]
    lines = [
        "# A two-layer net to a target loss, and the search for a learning rate",
        "",
        f"Mean ± standard deviation over {seeds} seeds, float32.",
        "",
        record.origin,
        "",
        "## The net",
        "",
        f"{FEATURES}-{HIDDEN}-1, ReLU, sigmoid, binary cross-entropy, {SAMPLES} training rows, "
        f"{ROWS} validation rows, torch's initial weights. gd is autograd and `torch.optim.SGD` "
        f"at the best of {len(RATES)} rates, found on three other seeds; gd-analytic has this "
        "package's gradient; attention is `AttentionSearch` as it is, plain its mode of the "
        "source.",
    ]
    for goal in TARGETS:
        lines += [
            "",
            f"Target {goal}, gd at rate {cells[f'net/{goal}/rate']}:",
            "",
            "| | ms an iteration | iterations | ms to the target | train loss | validation loss | "
            "seeds that reach it |",
            "|---|---|---|---|---|---|---|",
        ]
        reported = REPORTED_NET.items() if goal == TARGETS[0] else ()
        for name, (each, count, seconds, train, validation) in reported:
            row = [f"{each}", f"{count}", f"{1000 * seconds:g}", f"{train}", f"{validation}", ""]
            lines.append(f"| reported {name} | " + " | ".join(row) + " |")
        for name in ("gd", "gd-analytic", "attention", "plain"):
            runs = cells[f"net/{goal}/{name}"]
            row = [
                spread([1000 * one["seconds"] / one["iterations"] for one in runs]),
                spread([float(one["iterations"]) for one in runs]),
                spread([1000 * one["seconds"] for one in runs]),
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
        runs = cells[f"rate/{name}"]
        row = [spread([one[key] for one in runs], 4) for key in ("rate", "loss")]
        row.append(spread([1000 * one["seconds"] for one in runs]))
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"
