"""What the study of ALME runs, as read from ``alme.json`` beside this file."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from unstuck import problems
from unstuck.optim import ALME
from unstuck.problems import DATA, Splits, lookup

TUNING_SEED = 10_000  # the first seed that settings are chosen on; reported are seeds from 0
KINDS: Mapping[str, Any] = {"alme": ALME, "sgd": SGD, "adam": Adam, "adamw": AdamW}


@functools.cache
def configuration() -> dict[str, Any]:
    """Return what ``alme.json`` holds: optimizers, grids, networks and sizes."""
    text = Path(__file__).with_name("alme.json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class AlmePlan:
    """What to run.

    Parameters
    ----------
    tasks : tuple of str
        Data set and network of each training study, such as ``"digits/mlp"``.
    functions : tuple of str
        Function and dimension, such as ``"ackley/10"``.
    seeds, tuning_seeds : int
        Seeds of the trainings that are reported, and others on which a grid is tried.
    epochs, batch_size : int
        Length of a training and rows per step.
    eval_rows : int
        Training rows on which an escape compares candidates.
    starts, budget : int
        Starts on a function, and losses that a run may evaluate; one with its gradient counts once.
    repeats : int
        Escapes whose time is measured.

    Raises
    ------
    ValueError
        For an unknown name or a count below 1.

    Examples
    --------
    >>> AlmePlan.of("full").seeds >= 5
    True
    """

    tasks: tuple[str, ...]
    functions: tuple[str, ...]
    seeds: int
    tuning_seeds: int
    epochs: int
    batch_size: int
    eval_rows: int
    starts: int
    budget: int
    repeats: int

    @classmethod
    def of(cls, size: str) -> AlmePlan:
        """Return the plan of a size in ``alme.json``, ``"full"`` or ``"small"``."""
        found = dict(lookup(configuration()["sizes"], size, "size"))
        for name in ("tasks", "functions"):
            found[name] = tuple(found[name])
        return cls(**found)

    def __post_init__(self) -> None:
        for task in self.tasks:
            data, _, network = task.partition("/")
            lookup(DATA, data, "data set")
            lookup(configuration()["networks"], network, "network")
        for function in self.functions:
            name, _, dim = function.partition("/")
            if not dim.isdigit():
                raise ValueError(f"{function!r}: write a function as name/dimension: ackley/10")
            problems.get(name, int(dim))
        counts = {k: v for k, v in asdict(self).items() if k not in ("tasks", "functions")}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count}: at least 1")

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cells of one file have in common: the counts, and the configuration."""
        counts = {k: v for k, v in asdict(self).items() if k not in ("tasks", "functions")}
        config = configuration()
        return {**counts, **{k: config[k] for k in ("optimizers", "grids", "networks")}}

    @property
    def optimizers(self) -> list[str]:
        """The names of what is compared."""
        return list(configuration()["optimizers"])


def grid(where: str, optimizer: str) -> Iterator[dict[str, float]]:
    """Yield the settings that are tried of a baseline in ``"training"`` or on ``"functions"``."""
    ranges = configuration()["grids"][where][configuration()["optimizers"][optimizer]["kind"]]
    for values in itertools.product(*ranges.values()):
        yield dict(zip(ranges, values, strict=True))


def make_optimizer(
    name: str,
    params: Iterable[Tensor],
    tuned: Mapping[str, float],
    *,
    module: nn.Module | None = None,
    seed: int = 0,
) -> Optimizer:
    """Make an optimizer of ``alme.json`` with its settings and those that were tuned.

    Parameters
    ----------
    name : str
        One of :attr:`AlmePlan.optimizers`.
    params : iterable of Tensor
        What it is to move.
    tuned : mapping
        Settings that were chosen on a grid.
    module : torch.nn.Module, optional
        Given to ALME, so that it evaluates its candidates together.
    seed : int
        Of ALME's candidates.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> make_optimizer("alme", layer.parameters(), {"lr": 0.1}, module=layer).defaults["lr"]
    0.1
    """
    entry = lookup(configuration()["optimizers"], name, "optimizer")
    settings = {**entry["settings"], **tuned}
    if entry["kind"] == "alme":
        settings |= {"module": module, "seed": seed}
        if "scales" in settings:  # JSON has no numbers for keys
            settings["scales"] = {float(k): n for k, n in settings["scales"].items()}
    made: Optimizer = KINDS[entry["kind"]](list(params), **settings)
    return made


def make_network(name: str, data: Splits, seed: int) -> nn.Module:
    """Make a network of ``alme.json`` with weights that depend on `seed` alone."""
    spec = lookup(configuration()["networks"], name, "network")
    widths = [data.train.x[0].numel(), *spec["hidden"]]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            if spec["dropout"]:
                layers.append(nn.Dropout(spec["dropout"]))
        return nn.Sequential(*layers, nn.Linear(widths[-1], data.classes))
