"""What "below" and "no worse" mean in the study of held-out tasks: differences paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unstuck.experiments.learned_training import PARTS, Job

ERRORS = 2.0  # standard errors that a difference must exceed
SINGLE = (  # what can hold of a task
    "trains_below",
    "validates",
    "one_does_both",
    "validates_strictly",
    "tuned_trains_below",
    "tuned_validates",
)


@dataclass(frozen=True)
class Key:
    """Names of the cells of one task and length.

    Examples
    --------
    >>> Key("digits 512", 300).rule("e1299b26", 0.3)
    'digits 512/300/rule e1299b26 x 0.3'
    """

    task: str
    steps: int

    def baseline(self, job: Job) -> str:
        """Name of a baseline's cell."""
        return f"{self.task}/{self.steps}/{job.name}"

    def rule(self, mark: str, lr: float) -> str:
        """Name of the cell of a rule with a multiplier."""
        return f"{self.task}/{self.steps}/rule {mark} x {lr:g}"


def average(values: Sequence[float | None]) -> float:
    """Return the mean over seeds, infinite where a run was not finite."""
    return math.inf if None in values else statistics.fmean(v for v in values if v is not None)


@dataclass(frozen=True)
class Difference:
    """A difference between two settings, seed by seed.

    Attributes
    ----------
    mean : float
        Its mean over seeds.
    error : float
        The mean's standard error: deviation over seeds by the root of their number.

    Examples
    --------
    >>> Difference.of([1.0, 2.0, 3.0], [2.0, 3.5, 4.0]).verdict
    'below'
    """

    mean: float
    error: float

    @classmethod
    def of(cls, left: Sequence[float | None], right: Sequence[float | None]) -> Difference:
        """Return left minus right; who has a run that was not finite is infinitely far above."""
        pairs = [a - b for a, b in zip(left, right, strict=True) if a is not None and b is not None]
        if len(pairs) < len(left):
            mean = (math.inf if None in left else 0.0) - (math.inf if None in right else 0.0)
            return cls(0.0 if math.isnan(mean) else mean, 0.0)
        deviation = statistics.stdev(pairs) if len(pairs) > 1 else 0.0
        return cls(statistics.fmean(pairs), deviation / math.sqrt(len(pairs)))

    @property
    def verdict(self) -> str:
        """``"below"`` or ``"above"`` where the mean is so by more than two errors, or ``"level"``.

        "No worse within the spread" is whatever is not above.
        """
        if abs(self.mean) <= ERRORS * self.error or self.mean == 0:
            return "level"
        return "below" if self.mean < 0 else "above"


@dataclass(frozen=True)
class Chosen:
    """A setting that was chosen by a loss.

    Attributes
    ----------
    name : str
        Its name.
    cell : dict
        Its figures.
    """

    name: str
    cell: Mapping[str, Any]

    @classmethod
    def of(cls, cells: Mapping[str, Mapping[str, Any]], part: str) -> Chosen:
        """Return the setting with the lowest mean loss on a part of the data."""
        name = min(cells, key=lambda name: average(cells[name][part]["loss"]))
        return cls(name, cells[name])

    def losses(self, part: str) -> Sequence[float | None]:
        """Return the losses of all seeds."""
        values: Sequence[float | None] = self.cell[part]["loss"]
        return values

    def minus(self, other: Chosen, part: str) -> Difference:
        """Return the difference of losses on a part of the data."""
        return Difference.of(self.losses(part), other.losses(part))


@dataclass(frozen=True)
class Comparison:
    """A rule beside the best baselines of a task.

    Attributes
    ----------
    task, family : str
        Which.
    rule : Chosen
        The rule with the multiplier of the lowest training loss.
    rule_by_validation : Chosen
        The rule with the multiplier of the lowest validation loss.
    by_training, by_validation : Chosen
        The baseline, of all methods, schedules and rates, of the lowest training loss, and that of
        the lowest validation loss.
    every : tuple of Chosen
        The rule with each of its multipliers.

    Notes
    -----
    Choices are made on the seeds that are shown: that is in favour of who has more to choose from,
    the baselines.
    """

    task: str
    family: str
    rule: Chosen
    rule_by_validation: Chosen
    by_training: Chosen
    by_validation: Chosen
    every: tuple[Chosen, ...]

    @classmethod
    def of(
        cls,
        task: str,
        family: str,
        rules: Mapping[str, Mapping[str, Any]],
        baselines: Mapping[str, Mapping[str, Any]],
    ) -> Comparison:
        """Choose among the cells of a rule and of baselines, by name."""
        ours, best = ([Chosen.of(x, part) for part in PARTS[:2]] for x in (rules, baselines))
        every = tuple(Chosen(name, cell) for name, cell in rules.items())
        return cls(task, family, ours[0], ours[1], best[0], best[1], every)

    def difference(self, part: str, against: str = "by_training", rule: str = "rule") -> Difference:
        """Return the rule's loss on a part of the data minus a baseline's."""
        ours: Chosen = getattr(self, rule)
        return ours.minus(getattr(self, against), part)

    @property
    def trains_below(self) -> bool:
        """Whether the training loss is below that of the baseline with the lowest."""
        return self.difference("train").verdict == "below"

    @property
    def validates(self) -> bool:
        """Whether the validation loss of these same runs is no worse."""
        return self.difference("validation").verdict != "above"

    @property
    def doing_both(self) -> list[str]:
        """The multipliers with which the former and the latter hold."""
        return [
            one.name
            for one in self.every
            if one.minus(self.by_training, "train").verdict == "below"
            and one.minus(self.by_training, "validation").verdict != "above"
        ]

    @property
    def one_does_both(self) -> bool:
        """Whether there is such a multiplier."""
        return bool(self.doing_both)

    @property
    def validates_strictly(self) -> bool:
        """Whether it is no worse than that of the baseline tuned by validation loss."""
        return self.difference("validation", "by_validation").verdict != "above"

    def tuned(self, part: str) -> Difference:
        """Return the difference where rule and baseline are both tuned by validation loss."""
        return self.difference(part, "by_validation", "rule_by_validation")

    @property
    def tuned_trains_below(self) -> bool:
        """Whether the training loss is below where both are tuned by validation loss."""
        return self.tuned("train").verdict == "below"

    @property
    def tuned_validates(self) -> bool:
        """Whether the validation loss is no worse where both are tuned by it."""
        return self.tuned("validation").verdict != "above"


def families(comparisons: Sequence[Comparison]) -> dict[str, dict[str, bool]]:
    """Return of every family what holds on all its tasks.

    Returns
    -------
    dict
        By family: ``trains_below``, ``validates``, ``both`` (these two), ``one_does_both``,
        ``validates_strictly``, ``both_strictly`` (the first and this), ``tuned_trains_below``,
        ``tuned_validates``, and ``tuned_both`` (these two).
    """
    found: dict[str, dict[str, bool]] = {}
    for family in dict.fromkeys(one.family for one in comparisons):
        mine = [one for one in comparisons if one.family == family]
        held = {kind: all(getattr(one, kind) for one in mine) for kind in SINGLE}
        found[family] = {
            **held,
            "both": held["trains_below"] and held["validates"],
            "both_strictly": held["trains_below"] and held["validates_strictly"],
            "tuned_both": held["tuned_trains_below"] and held["tuned_validates"],
        }
    return found
