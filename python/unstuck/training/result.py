"""The result of a race: every run, and what they come to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from unstuck.training.history import At, History


class Stat(NamedTuple):
    """Mean and standard deviation over seeds; the deviation of a single seed is NaN."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: list[float]) -> Stat:
        """Summarise values; NaN where there are too few."""
        mean = statistics.fmean(values) if values else math.nan
        return cls(mean, statistics.stdev(values) if len(values) > 1 else math.nan)


@dataclass(frozen=True)
class Run:
    """One optimizer trained once."""

    label: str
    seed: int
    history: History


@dataclass(frozen=True)
class Row:
    """One optimizer over all its seeds; diverged runs are counted, not averaged."""

    label: str
    settings: Mapping[str, object]
    finished: int
    diverged: int
    epoch: Stat
    train_loss: Stat
    validation_loss: Stat
    test_loss: Stat
    validation_accuracy: Stat
    test_accuracy: Stat
    seconds: Stat


@dataclass(frozen=True)
class RaceResult:
    """What was raced, and every run that finished.

    Attributes
    ----------
    data, model : str
        Names of the data set and the model.
    epochs, batch_size : int
        Length of a run, rows per step.
    schedule : str
        What happened to the learning rates: ``"constant"`` or ``"cosine"``.
    device : str
        Where it ran.
    threads : int
        CPU threads it ran with.
    seeds : list of int
        The seeds that were to be run.
    rows : dict of str to int
        Rows in each part of the data.
    parameters : int
        Parameters of the model.
    settings : dict of str to dict
        The settings of each optimizer, by label, in the order entered.
    torch : str
        Version of torch.
    runs : list of Run
        The runs that finished, in the order they did.
    interrupted : bool
        Stopped by Ctrl-C before all runs were done.
    """

    data: str
    model: str
    epochs: int
    batch_size: int
    schedule: str
    device: str
    threads: int
    seeds: list[int]
    rows: dict[str, int]
    parameters: int
    settings: dict[str, dict[str, object]]
    torch: str
    runs: list[Run] = field(default_factory=list)
    interrupted: bool = False

    @property
    def labels(self) -> list[str]:
        """The optimizers, in the order entered."""
        return list(self.settings)

    def histories(self, label: str) -> list[History]:
        """Return the finished runs of one optimizer, diverged ones included."""
        return [run.history for run in self.runs if run.label == label]

    def summary(self, at: At = "last") -> list[Row]:
        """Summarise every optimizer that has a run, best mean validation loss first.

        Parameters
        ----------
        at : str
            ``"last"``: the figures at the end of training. ``"best"``: the figures of every run
            at its epoch of lowest validation loss.
        """
        table = []
        for label in self.labels:
            histories = self.histories(label)
            scores = [history.at(at) for history in histories if not history.diverged]
            if not histories:
                continue
            columns = {
                name: Stat.of([float(getattr(score, name)) for score in scores])
                for name in (
                    "epoch",
                    "train_loss",
                    "validation_loss",
                    "test_loss",
                    "validation_accuracy",
                    "test_accuracy",
                    "seconds",
                )
            }
            table.append(
                Row(
                    label=label,
                    settings=self.settings[label],
                    finished=len(histories),
                    diverged=len(histories) - len(scores),
                    **columns,
                )
            )

        def order(row: Row) -> float:
            mean = row.validation_loss.mean
            return mean if math.isfinite(mean) else math.inf

        return sorted(table, key=order)

    def lead(self, first: str, second: str, at: At = "last") -> Stat:
        """Summarise by how much the validation loss of one is below another's, seed by seed.

        Seeds on which either diverged or did not finish are left out.
        """
        losses: dict[str, dict[int, float]] = {first: {}, second: {}}
        for run in self.runs:
            if run.label in losses and not run.history.diverged:
                losses[run.label][run.seed] = run.history.at(at).validation_loss
        common = [seed for seed in losses[first] if seed in losses[second]]
        return Stat.of([losses[second][seed] - losses[first][seed] for seed in common])

    def to_json(self) -> str:
        """Write everything as JSON; a number that is not finite becomes ``null``.

        The summary at the last epoch is written for readers; :meth:`from_json` makes it anew.
        """
        content = asdict(self)
        content["summary"] = [
            {
                key: value._asdict() if isinstance(value, Stat) else value
                for key, value in vars(row).items()
            }
            for row in self.summary()
        ]
        return json.dumps(_finite(content), indent=1, allow_nan=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> RaceResult:
        """Read what :meth:`to_json` wrote; ``null`` in a curve becomes NaN."""
        content: dict[str, Any] = json.loads(text)
        content.pop("summary")
        content["runs"] = [
            Run(run["label"], run["seed"], History(**_with_nan(run["history"])))
            for run in content["runs"]
        ]
        return cls(**content)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value
