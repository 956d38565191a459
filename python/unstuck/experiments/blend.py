"""The dynamic blend of Adam and SGD on mnist1d, as reported and done again honestly.

Reported (mnist1d, MLP 40-256-256-10, batches of 128, 10 epochs, five Optuna trials each):
validation loss 0.7656 for the gated blend, 1.0807 for Adam, 0.8775 for SGD. There the gate is
trained on the very rows whose loss is reported, and that loss also chose the trial.

``protocol="source"`` does as reported: training on all 4000 rows, gate and choice of trial on the
1000 others, whose loss is the result. ``protocol="honest"`` keeps training, meta-learning,
validation and test rows apart, tunes on some seeds and reports others.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from unstuck._extras import require
from unstuck.experiments.blend_methods import METHODS, Method, rounded
from unstuck.experiments.blend_record import BlendRecord, figures
from unstuck.optim import DynamicBlend
from unstuck.problems import DATA, Split, Splits, load_data, lookup, make_model
from unstuck.training import History, fit, steps

PROTOCOLS = ("honest", "source")
REPORTED: Mapping[str, float] = MappingProxyType(
    {"gate-source": 0.7656, "adam": 1.0807, "sgd": 0.8775}
)
TUNING_SEED = 1000  # tuning uses the seeds from here on, reporting those from 0
WORST = 10.0  # what a diverged trial counts as; a guess of equal odds has ln 10 = 2.3


@dataclass(frozen=True)
class Plan:
    """What a study runs.

    Attributes
    ----------
    protocol : str
        ``"honest"`` or ``"source"``.
    data, methods : tuple of str
        Names from ``DATA`` and ``METHODS``.
    seeds : int
        Seeds reported: 0, 1, ...
    trials : int
        Optuna trials of every method.
    tuning_seeds : int
        Seeds a trial averages over (honest protocol; none of them is reported).
    epochs, batch_size : int
        Length of a run and rows per step.

    Raises
    ------
    ValueError
        For an unknown name or a count below 1.

    Examples
    --------
    >>> Plan(data=("digits",), methods=("gate", "adam"), seeds=2, trials=3).runs
    16
    """

    protocol: str = "honest"
    data: tuple[str, ...] = ("mnist1d", "digits", "mnist")
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 16
    trials: int = 16
    tuning_seeds: int = 2
    epochs: int = 10
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol={self.protocol!r} is unknown: choose one of {PROTOCOLS}")
        for name in self.data:
            lookup(DATA, name, "data set")
        for name in self.methods:
            lookup(METHODS, name, "method")
        for name in ("seeds", "trials", "tuning_seeds", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if not (self.data and self.methods):
            raise ValueError("nothing to do: name at least one data set and one method")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Data set and method of every cell of the study."""
        found = []
        for data in self.data:
            inputs = math.prod(load_data(data).shape)
            for name in self.methods:
                most = METHODS[name].most_inputs
                if most is None or inputs <= most:
                    found.append((data, name))
        if not found:
            raise ValueError(
                f"{', '.join(self.methods)} leaves out data with so many inputs as "
                f"{', '.join(self.data)}: choose mnist1d, or another method"
            )
        return found

    @property
    def runs(self) -> int:
        """How many trainings the study takes in all."""
        pairs = len(self.pairs)
        if self.protocol == "source":
            return pairs * self.seeds * self.trials
        return pairs * (self.trials * self.tuning_seeds + self.seeds)

    @property
    def fixed(self) -> dict[str, Any]:
        """What all runs of one file have in common."""
        names = ("protocol", "tuning_seeds", "epochs", "batch_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Progress:
    """Where a study is: trainings done and to do, what ran last and its validation loss."""

    done: int
    total: int
    label: str
    loss: float


def run_study(
    plan: Plan, path: Path | None = None, progress: Callable[[Progress], None] | None = None
) -> BlendRecord:
    """Run what a study still lacks.

    Parameters
    ----------
    plan : Plan
        What to run.
    path : Path, optional
        JSON file that is written after every trial and run; what it holds is not run again.
    progress : callable, optional
        Called with a :class:`Progress` after every training.

    Returns
    -------
    BlendRecord
        All trials and runs, those of the file included.

    Raises
    ------
    ValueError
        When the file belongs to another study.
    MissingExtraError
        When optuna or the library of a data set is not installed.

    Examples
    --------
    >>> least = dict(seeds=1, trials=1, tuning_seeds=1, epochs=1)
    >>> plan = Plan(data=("digits",), methods=("adam",), **least)
    >>> record = run_study(plan)
    >>> record.runs["digits/adam"][0]["last"]["validation_loss"] < 2.3
    True
    """
    require("optuna", extra="experiments", purpose="the blend study")
    record = BlendRecord.open(path, plan.fixed)
    study = _Study(plan, record, progress)
    one = study.honest if plan.protocol == "honest" else study.source
    for data, name in plan.pairs:
        one(data, name)
    return record


class _Study:
    """One pass over a plan, skipping what the record holds."""

    def __init__(
        self, plan: Plan, record: BlendRecord, progress: Callable[[Progress], None] | None
    ) -> None:
        self.plan, self.record, self._progress = plan, record, progress
        self._done = 0

    def honest(self, data: str, name: str) -> None:
        """Tune on the tuning seeds, then run the best settings on the others."""
        plan, method = self.plan, METHODS[name]
        seeds = [TUNING_SEED + i for i in range(plan.tuning_seeds)]

        def splits(seed: int) -> Splits:
            return load_data(data, seed, meta=method.meta)

        key = f"{data}/{name}"
        self._tune(key, method, splits, seeds)
        settings = best_trial(self.record, key, plan.trials)["settings"]
        kept = [run for run in self.record.runs.get(key, []) if run["settings"] == settings]
        self.record.runs[key] = kept
        for seed in range(plan.seeds):
            if any(run["seed"] == seed for run in kept):
                self._tell(key, math.nan)
                continue
            history = self._train(splits(seed), method, settings, seed)
            kept.append({"seed": seed, "settings": settings, **figures(history)})
            self.record.save()
            self._tell(f"{key}, seed {seed}", history.validation_loss[-1])

    def source(self, data: str, name: str) -> None:
        """Do for every seed as reported: the best of some trials, by the loss that is reported."""
        plan, method = self.plan, METHODS[name]
        runs = []
        for seed in range(plan.seeds):
            key = f"{data}/{name}/{seed}"
            self._tune(key, method, lambda seed: leaking(load_data(data, seed)), [seed])
            best = best_trial(self.record, key, plan.trials)
            runs.append({"seed": seed, "settings": best["settings"], **best["runs"][0]})
        self.record.runs[f"{data}/{name}"] = runs
        self.record.save()

    def _tune(
        self, key: str, method: Method, splits: Callable[[int], Splits], seeds: list[int]
    ) -> None:
        """Bring the trials of `key` up to the plan's number."""
        trials = self.record.trials.setdefault(key, [])
        for number in range(self.plan.trials):
            if number < len(trials):
                self._tell(key, math.nan, len(seeds))
                continue
            settings = propose(method, trials, key.partition("/")[0])
            runs = []
            for seed in seeds:
                history = self._train(splits(seed), method, settings, seed)
                runs.append({"seed": seed, **figures(history)})
                self._tell(f"{key}, trial {number + 1}", history.validation_loss[-1])
            losses = [run["last"]["validation_loss"] for run in runs]
            value = statistics.fmean(min(loss, WORST) for loss in losses)
            if self.plan.protocol == "honest":
                runs = [
                    {"seed": run["seed"], "validation_loss": min(loss, WORST)}
                    for run, loss in zip(runs, losses, strict=True)
                ]
            trials.append({"settings": settings, "value": round(value, 6), "runs": runs})
            self.record.save()

    def _train(
        self, data: Splits, method: Method, settings: Mapping[str, float], seed: int
    ) -> History:
        plan = self.plan
        total = steps(data, plan.epochs, plan.batch_size)
        model = make_model("mlp", data, seed)
        optimizer = method.build(model, settings, total)
        gated = isinstance(optimizer, DynamicBlend)
        held_out = bool(method.meta)
        return fit(
            model,
            optimizer,
            data,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            seed=seed,
            scheduler=CosineAnnealingLR(optimizer, T_max=total) if method.cosine else None,
            meta_every=1 if held_out else 0,
            probes={"alpha": _mean_alpha} if gated else {},
        )

    def _tell(self, label: str, loss: float, count: int = 1) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(Progress(self._done, self.plan.runs, label, loss))


def propose(method: Method, trials: list[dict[str, Any]], data: str) -> dict[str, float]:
    """Return the settings of the next trial: the usual ones first, then by Optuna's TPE.

    A function of the trials so far and of the data set alone: a study that was stopped goes on as
    if it had not been, and methods that tune the same settings start from the same guesses.
    """
    if not trials:
        return {name: one.usual for name, one in method.space.items()}
    optuna: Any = require("optuna", extra="experiments", purpose="the blend study")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {
        name: optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)
        for name, one in method.space.items()
    }
    seed = zlib.crc32(f"{data} {len(trials)}".encode())
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5))
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(trial["settings"]), distributions=space, value=trial["value"]
            )
        )
    asked = study.ask(space)
    return {
        name: min(max(rounded(value), method.space[name].low), method.space[name].high)
        for name, value in asked.params.items()
    }


def best_trial(record: BlendRecord, key: str, trials: int) -> dict[str, Any]:
    """Return the trial with the lowest validation loss among the first `trials`."""
    return min(record.trials[key][:trials], key=lambda trial: trial["value"])


def leaking(data: Splits) -> Splits:
    """Cut the data as the source does: one part serves meta-learning, choosing and reporting."""
    train = Split(
        *(
            torch.cat([getattr(data.train, name), getattr(data.validation, name)])
            for name in ("x", "y", "index")
        )
    )
    return dataclasses.replace(data, train=train, validation=data.test, meta=data.test)


def _mean_alpha(optimizer: Optimizer) -> float:
    assert isinstance(optimizer, DynamicBlend)
    return torch.cat([alpha.detach().flatten() for alpha in optimizer.alpha]).mean().item()
