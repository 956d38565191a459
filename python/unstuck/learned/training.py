"""Meta-training: Adam on a rule's parameters, with checkpoints from which it goes on exactly."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unstuck.learned import _file
from unstuck.learned.baselines import Baselines
from unstuck.learned.estimators import Estimator
from unstuck.learned.rule import UpdateRule
from unstuck.learned.task import seed_of
from unstuck.learned.unroll import Unroll
from unstuck.learned.workers import Workers

__all__ = ["MetaTraining", "Row"]

CHECKPOINT, CURVE, RULE = "checkpoint.safetensors", "curve.json", "rule.safetensors"
VERSION = 1


class Row(NamedTuple):
    """A meta-step.

    Attributes
    ----------
    step : int
        Its number, from 1.
    score : float
        Objective of the students that it was made from, at perturbed parameters.
    gradient_norm : float
        Of the meta-gradient before it was clipped.
    judged : float
        Objective on tasks that are the same all along, NaN where it was not measured.
    student_steps : int
        Steps that students have made so far, not counting judged ones.
    seconds : float
        Spent so far.
    """

    step: int
    score: float
    gradient_norm: float
    judged: float
    student_steps: int
    seconds: float


class MetaTraining:
    """Trains the parameters of a rule by Adam on meta-gradients.

    Parameters
    ----------
    estimator : Estimator or Workers
        Where meta-gradients come from; its rule is the one that is trained.
    steps : int, optional
        Meta-steps of the whole training. By default there is no end to them: :meth:`run` stops by
        time.
    lr : float
        Meta-learning rate at the beginning; with `steps` it falls to 0 along half a cosine.
    clip : float
        Highest norm of a meta-gradient; a larger one is shortened to it.
    judge_every : int
        Meta-steps between two judgements.
    judges : int
        Tasks of the family, drawn with seeds of their own, on which the rule is judged: two
        students each, trained for the longest horizon.
    folder : Path or str, optional
        Where checkpoints, the curve and the rule are written. What is there already is gone on
        with.

    Attributes
    ----------
    rows : list of Row
        The meta-steps so far.

    Raises
    ------
    ValueError
        When a number is out of its range, or the folder holds a training with other options.

    Examples
    --------
    >>> from unstuck.learned import FAMILIES, MLP, Evolution, MetaTraining, Plan
    >>> plan = Plan(unrolls=1, students=4, truncation=5, horizon=(10, 10))
    >>> training = MetaTraining(Evolution(MLP(), FAMILIES["quadratics"], plan), steps=3)
    >>> rule = training.run()
    >>> [row.step for row in training.rows]
    [1, 2, 3]
    """

    def __init__(
        self,
        estimator: Estimator | Workers,
        steps: int | None = None,
        *,
        lr: float = 3e-3,
        clip: float = 1.0,
        judge_every: int = 50,
        judges: int = 8,
        folder: Path | str | None = None,
    ) -> None:
        counts = {"steps": steps, "judge_every": judge_every, "judges": judges}
        for name, number in counts.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        for name, value in (("lr", lr), ("clip", clip)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value}")
        self.estimator, self.steps, self.lr, self.clip = estimator, steps, lr, clip
        self.judge_every, self.judges = judge_every, judges
        self.rows: list[Row] = []
        self._baselines: dict[int, Baselines | None] = {}  # of each task that is judged on
        self._theta = estimator.layout.read().requires_grad_()
        self._adam = torch.optim.Adam([self._theta], lr=lr)
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            if (self._folder / CHECKPOINT).exists():
                self._restore(self._folder / CHECKPOINT)

    @property
    def done(self) -> bool:
        """Whether all steps have been made."""
        return self.steps is not None and len(self.rows) >= self.steps

    @property
    def seconds(self) -> float:
        """Time spent so far, that of earlier runs included."""
        return self.rows[-1].seconds if self.rows else 0.0

    def run(
        self,
        *,
        minutes: float = math.inf,
        save_every: float = 30.0,
        progress: Callable[[Row], None] | None = None,
    ) -> UpdateRule:
        """Train until all steps are made or the time is over, and return the rule.

        Parameters
        ----------
        minutes : float
            Time for the whole training, earlier runs included.
        save_every : float
            Seconds between two checkpoints.
        progress : callable, optional
            Is handed every meta-step.

        Returns
        -------
        UpdateRule
            The estimator's rule, with the trained parameters.

        Raises
        ------
        ValueError
            When neither steps nor time are limited.
        """
        if self.steps is None and minutes == math.inf:
            raise ValueError("a training without steps= has no end: give minutes=")
        saved = time.monotonic()
        while not self.done and self.seconds < 60 * minutes:
            row = self.step()
            if progress is not None:
                progress(row)
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.estimator.layout.write(self._theta.detach())
        self.save()
        return self.estimator.rule

    def step(self) -> Row:
        """Make a meta-step."""
        began, number = time.monotonic(), len(self.rows)
        gradient, score, student_steps = self.estimator.estimate(self._theta.detach())
        self._theta.grad = gradient
        norm = float(torch.nn.utils.clip_grad_norm_([self._theta], self.clip))
        rate = self.lr
        if self.steps is not None:
            rate *= (1 + math.cos(math.pi * number / self.steps)) / 2
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        number += 1
        judged = math.nan
        if number == 1 or number % self.judge_every == 0 or number == self.steps:
            judged = self.judge()
        before = self.rows[-1].student_steps if self.rows else 0
        spent = self.seconds + time.monotonic() - began
        self.rows.append(Row(number, score, norm, judged, before + student_steps, spent))
        return self.rows[-1]

    def judge(self) -> float:
        """Return the objective on tasks that are the same all along."""
        estimator = self.estimator
        longest = estimator.plan.horizon[1]
        plan = dataclasses.replace(estimator.plan, students=2, horizon=(longest, longest))
        thetas, total = self._theta.detach().repeat(2, 1), 0.0
        for number in range(self.judges):
            key = seed_of(estimator.seed, "judge", number)
            unroll = Unroll(
                *(estimator.rule, estimator.family, plan, key),
                pairs=False,
                baselines=self._baselines.get(number),
            )
            self._baselines[number] = unroll.baselines
            total += float(unroll.run(thetas, longest).mean())
        return total / self.judges

    # ------------------------------------------------------------ files
    def options(self) -> dict[str, Any]:
        """Return all that decides what the training computes, fit for JSON."""
        estimator = self.estimator
        own = {"lr": self.lr, "clip": self.clip, "steps": self.steps, "judges": self.judges}
        values = {**own, "judge_every": self.judge_every, **estimator.options()}
        out: dict[str, Any] = json.loads(json.dumps(values))
        return out

    def save(self) -> None:
        """Write checkpoint, curve and rule into the folder, each complete or not at all."""
        if self._folder is None:
            return
        memory = self._adam.state[self._theta] if self._adam.state else {}
        tensors = {
            "theta": self._theta.detach(),
            "rows": torch.tensor(self.rows, dtype=torch.float64).reshape(-1, len(Row._fields)),
            **{f"adam.{name}": value for name, value in memory.items()},
            **{f"estimator.{name}": x for name, x in self.estimator.tensors().items()},
        }
        about = {
            "meta_training": VERSION,
            "options": self.options(),
            "estimator": self.estimator.numbers(),
        }
        _file.write(self._folder / CHECKPOINT, tensors, about)
        self.estimator.layout.write(self._theta.detach())
        self.estimator.rule.save(self._folder / RULE)
        columns = {
            name: [None if value != value else value for value in column]
            for name, column in zip(Row._fields, zip(*self.rows, strict=True), strict=False)
        }
        beside = self._folder / (CURVE + ".part")
        beside.write_text(json.dumps({"options": self.options(), **columns}) + "\n")
        os.replace(beside, self._folder / CURVE)

    def _restore(self, path: Path) -> None:
        tensors, about = _file.read(path)
        if about.get("meta_training") != VERSION:
            raise ValueError(f"{path} is no checkpoint of a meta-training: choose another folder")
        now = self.options()
        for name, value in about["options"].items():
            if value != now.get(name):
                raise ValueError(
                    f"{path} is of a training with {name}={value}, not {now.get(name)}: choose "
                    "another folder, or the same options"
                )
        self.rows = [
            Row(int(step), score, norm, judged, int(student_steps), seconds)
            for step, score, norm, judged, student_steps, seconds in tensors["rows"].tolist()
        ]
        with torch.no_grad():
            self._theta.copy_(tensors["theta"])
        self._adam.state[self._theta] = {
            name.removeprefix("adam."): x for name, x in tensors.items() if name.startswith("adam.")
        }
        own = {
            name.removeprefix("estimator."): x
            for name, x in tensors.items()
            if name.startswith("estimator.")
        }
        self.estimator.restore(about["estimator"], own)
        self.estimator.layout.write(tensors["theta"])
