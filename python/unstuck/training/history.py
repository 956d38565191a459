"""What a training run leaves behind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

At = Literal["last", "best"]


class Scores(NamedTuple):
    """The figures of a run at one epoch: mean losses, shares of right answers, seconds."""

    epoch: int
    train_loss: float
    validation_loss: float
    test_loss: float
    validation_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass
class History:
    """Losses and accuracies after every epoch; entry 0 is before the first step.

    Attributes
    ----------
    train_loss, validation_loss, test_loss : list of float
        Mean loss over all rows of the part, with the weights at the end of the epoch.
    validation_accuracy, test_accuracy : list of float
        Share of right answers, 0 to 1.
    seconds : list of float
        Seconds spent training so far; measuring these losses is not counted.
    probes : dict of str to list of float
        What was read from the optimizer after every epoch, by name.
    diverged : bool
        A loss was NaN or infinite, and training ended there.

    The test figures are recorded for reporting; nothing is ever chosen by them.
    """

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    probes: dict[str, list[float]] = field(default_factory=dict)
    diverged: bool = False

    @property
    def epochs(self) -> int:
        """Number of epochs trained."""
        return len(self.train_loss) - 1

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss; 0 is before training."""
        losses = [loss if math.isfinite(loss) else math.inf for loss in self.validation_loss]
        return losses.index(min(losses))

    def at(self, when: At = "last") -> Scores:
        """Return the figures at the last epoch, or at the one with the best validation loss."""
        if when not in ("last", "best"):
            raise ValueError(f"at={when!r} is unknown: choose 'last' or 'best'")
        epoch = self.best_epoch if when == "best" else self.epochs
        return Scores(
            epoch,
            self.train_loss[epoch],
            self.validation_loss[epoch],
            self.test_loss[epoch],
            self.validation_accuracy[epoch],
            self.test_accuracy[epoch],
            self.seconds[epoch],
        )
