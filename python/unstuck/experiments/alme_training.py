"""Networks on real data by ALME and by torch's optimizers, step by step beside each other."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Mapping
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck.experiments.alme_settings import (
    TUNING_SEED,
    AlmePlan,
    configuration,
    grid,
    make_network,
    make_optimizer,
)
from unstuck.optim import ALME
from unstuck.problems import Splits, load_data
from unstuck.training import evaluate
from unstuck.training.loop import Batches

POINTS = 120  # of a stored trace
WORST = 10.0  # what the loss of a diverged trial counts as; a guess of equal odds has ln 10 = 2.3
PARTS = ("train", "validation", "test")


@functools.lru_cache(maxsize=4)
def _splits(data: str, seed: int) -> Splits:
    return load_data(data, seed)


class Trainer:
    """One training: a step is timed by the processor time that it takes.

    Every optimizer of a seed starts at the same weights and sees the same batches and the same
    dropout masks. ALME's escapes draw further batches of the training rows from a stream of their
    own, and compare candidates on the first rows of the training part.

    Parameters
    ----------
    plan : AlmePlan
        Batch size and lengths.
    task : str
        Data set and network.
    name : str
        The optimizer.
    tuned : mapping
        Its tuned settings.
    seed : int
        Of weights, batches, masks and candidates.
    traced : bool
        Keep losses and gradient norms of single steps, of an ALME.
    """

    def __init__(
        self,
        plan: AlmePlan,
        task: str,
        name: str,
        tuned: Mapping[str, float],
        seed: int,
        *,
        traced: bool = False,
    ) -> None:
        data, _, network = task.partition("/")
        self.data, self.seed = _splits(data, seed), seed
        self.model = make_network(network, self.data, seed)
        self._l2 = configuration()["networks"][network]["l2"]
        self.optimizer = make_optimizer(
            name, self.model.parameters(), tuned, module=self.model, seed=seed
        )
        self._batches = Batches(self.data.train, plan.batch_size, seed, stream=0)
        self._spare = Batches(self.data.train, plan.batch_size, seed, stream=1).forever()
        self._rows = slice(0, plan.eval_rows)
        total = plan.epochs * -(-len(self.data.train) // plan.batch_size)
        traced = traced and isinstance(self.optimizer, ALME)
        self._every = max(1, total // POINTS) if traced else 0
        self.trace: dict[str, list[float]] = {"step": [], "loss": [], "norm": []}
        self.curves: dict[str, list[float]] = {part: [] for part in PARTS}
        self.accuracy = 0.0
        self.step_seconds: list[float] = []
        self.escape_seconds: list[float] = []

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch, with the network's penalty."""
        loss = functional.cross_entropy(self.model(x), y)
        if self._l2:
            loss = loss + self._l2 * sum(p.square().sum() for p in self.model.parameters())
        return loss

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Make one step on a batch, and return its loss."""
        if isinstance(self.optimizer, ALME):
            first = True

            def closure() -> Tensor:
                nonlocal first
                batch = (x, y) if first else next(self._spare)
                first = False
                return self.loss(*batch)

            return self.optimizer.step(closure, self.compare)  # type: ignore[no-any-return]
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def compare(self) -> Tensor:
        """Return the loss by which an escape compares its candidates."""
        return self.loss(self.data.train.x[self._rows], self.data.train.y[self._rows])

    def begin(self) -> None:
        """Begin an epoch: once over the training rows."""
        self.model.train()
        self._left = iter(self._batches)

    def advance(self) -> bool:
        """Make the next step of the epoch, with the clock running; False when there is none."""
        batch = next(self._left, None)
        if batch is None:
            return False
        count = len(self.step_seconds) + len(self.escape_seconds)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(100_000 * self.seed + count)
            tried = self._attempts
            begun = time.process_time()
            loss = self.step(*batch)
            took = time.process_time() - begun
        escaped = self._attempts > tried
        (self.escape_seconds if escaped else self.step_seconds).append(took)
        self._keep(loss)
        return True

    def measure(self) -> None:
        """Append the losses of all parts to the curves."""
        for part in PARTS:
            value, self.accuracy = evaluate(self.model, getattr(self.data, part))
            self.curves[part].append(value)

    @property
    def _attempts(self) -> int:
        return self.optimizer.attempts if isinstance(self.optimizer, ALME) else 0

    def _keep(self, loss: Tensor) -> None:
        count = len(self.step_seconds) + len(self.escape_seconds)
        if not self._every or count % self._every:
            return
        assert isinstance(self.optimizer, ALME)
        norm = float(self.optimizer.grad_norm)
        for name, value in (("step", count), ("loss", float(loss.detach())), ("norm", norm)):
            self.trace[name].append(significant(value))

    def outcome(self) -> dict[str, Any]:
        """Return what a study keeps of this training."""
        kept: dict[str, Any] = {"seed": self.seed, "accuracy": round(self.accuracy, 6)}
        for part, values in self.curves.items():
            kept[part] = [significant(value) for value in values]
        kept["seconds"] = significant(sum(self.step_seconds) + sum(self.escape_seconds))
        kept["step"] = significant(statistics.median(self.step_seconds))
        if self.escape_seconds:
            kept["escape"] = significant(statistics.median(self.escape_seconds))
        if isinstance(self.optimizer, ALME):
            kept |= escapes_of(self.optimizer)
        if self._every:
            kept["trace"] = self.trace
        return kept


def significant(value: float) -> float:
    """Keep four digits."""
    return float(f"{value:.4g}")


def escapes_of(optimizer: ALME) -> dict[str, Any]:
    """Return the counts of escapes, and of each its step, losses, distance and scale."""
    history = []
    for one in optimizer.history:
        before, after, distance, scale = map(
            significant, (one.before, one.after, one.distance, one.scale)
        )
        history.append([one.step, before, after, one.accepted, distance, scale])
    return {
        "attempts": optimizer.attempts,
        "escapes": optimizer.escapes,
        "stagnant": optimizer.stagnation_count,
        "history": history,
    }


def measure_task(plan: AlmePlan, task: str) -> dict[str, Any]:
    """Tune the baselines of a task, then train everything on the seeds that are reported.

    Parameters
    ----------
    plan : AlmePlan
        Seeds and lengths.
    task : str
        Data set and network, such as ``"digits/mlp"``.

    Returns
    -------
    dict
        ``tuned``, the settings of every optimizer, and ``runs``, a list by optimizer: losses after
        every epoch, seconds, escapes, and of seed 0 a trace of every ALME.

    Examples
    --------
    >>> import dataclasses
    >>> plan = dataclasses.replace(AlmePlan.of("small"), seeds=1, epochs=1)
    >>> sorted(measure_task(plan, "digits/mlp"))
    ['runs', 'tuned']
    """
    entries = configuration()["optimizers"]
    tuned = {
        name: _tune(plan, task, name) for name, entry in entries.items() if "tuned" not in entry
    }
    tuned = {name: tuned[entry.get("tuned", name)] for name, entry in entries.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in entries}
    for seed in range(plan.seeds):
        trainers = {
            name: Trainer(plan, task, name, tuned[name], seed, traced=seed == 0) for name in entries
        }
        _train(list(trainers.values()), plan.epochs, seed)
        for name, trainer in trainers.items():
            runs[name].append(trainer.outcome())
    return {"tuned": tuned, "runs": runs}


def _train(trainers: list[Trainer], epochs: int, seed: int) -> None:
    """Train step by step beside each other, in an order drawn anew for every step."""
    order, random = list(trainers), Random(seed)
    for _ in range(epochs):
        for trainer in trainers:
            trainer.begin()
        going = [True]
        while all(going):
            random.shuffle(order)
            going = [trainer.advance() for trainer in order]
        for trainer in trainers:
            trainer.measure()


def _tune(plan: AlmePlan, task: str, name: str) -> dict[str, float]:
    """Return the settings with the lowest validation loss after the last epoch."""

    def score(settings: dict[str, float]) -> float:
        losses = []
        for seed in range(TUNING_SEED, TUNING_SEED + plan.tuning_seeds):
            trainer = Trainer(plan, task, name, settings, seed)
            _train([trainer], plan.epochs, seed)
            loss = trainer.curves["validation"][-1]
            losses.append(loss if loss < WORST else WORST)
        return statistics.fmean(losses)

    return min(grid("training", name), key=score)


def measure_escapes(plan: AlmePlan, task: str) -> dict[str, Any]:
    """Time escapes beside steps of a task: candidates together, and one after another.

    Returns
    -------
    dict
        Median seconds of a ``step``, of an escape ``together`` and ``one by one``, and the number
        of losses that an escape evaluates.

    Examples
    --------
    >>> found = measure_escapes(AlmePlan.of("small"), "digits/mlp")
    >>> sorted(found)
    ['losses', 'one by one', 'step', 'together']
    """
    trainer = Trainer(plan, task, "alme", {"lr": 1e-3}, 0)
    alone = Trainer(plan, task, "alme", {"lr": 1e-3}, 0)
    assert isinstance(alone.optimizer, ALME)
    alone.optimizer.module = None
    seconds: dict[str, list[float]] = {"step": [], "together": [], "one by one": []}
    batches = Batches(trainer.data.train, plan.batch_size, 0, stream=0).forever()
    spent = 0
    for repeat in range(plan.repeats + 1):  # the first is not counted
        for one in (trainer, alone):
            for _ in range(10):
                x, y = next(batches)
                begun = time.process_time()
                one.step(x, y)
                if repeat and one is trainer:
                    seconds["step"].append(time.process_time() - begun)
        x, y = next(batches)
        for name, one in (("together", trainer), ("one by one", alone)):
            optimizer = one.optimizer
            assert isinstance(optimizer, ALME)
            before = optimizer.nfev
            begun = time.process_time()
            optimizer.escape(functools.partial(one.loss, x, y))
            if repeat:
                seconds[name].append(time.process_time() - begun)
            spent = optimizer.nfev - before
    return {
        **{name: significant(statistics.median(times)) for name, times in seconds.items()},
        "losses": spent,
    }
