"""Settings of :class:`unstuck.optim.ALME`, their defaults, and what is recorded of an escape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from unstuck.ops import adam
from unstuck.optim import _validate as validate

SCALES = {0.5: 2, 1.0: 3, 2.0: 3, 4.0: 1, 8.0: 1}
THRESHOLDS = {"plain": (1e-6, -1.0), "adaptive": (1e-2, 1e-2)}  # of gradient norms, of losses
BATCHES = {"plain": 1, "adaptive": 4}
WINDOWS = {"plain": 10, "adaptive": 100}  # of losses


class Settings(NamedTuple):
    """How an escape is made; see :class:`unstuck.optim.ALME`."""

    mode: str
    scales: tuple[tuple[float, int], ...]
    n_eval_steps: int
    escape_budget: float
    check_every: int
    seed: int
    memory: int | None

    @property
    def popsize(self) -> int:
        """Candidates of one escape."""
        return sum(count for _, count in self.scales)

    @property
    def gradients(self) -> int:
        """Gradients that one escape evaluates: those of the candidates and of the incumbent."""
        return (self.popsize + 1) * self.n_eval_steps

    @property
    def batches(self) -> int:
        """Batches on which the losses are compared in the end."""
        return BATCHES[self.mode]

    @property
    def most(self) -> int:
        """Losses, those with a gradient included, that one escape evaluates at most."""
        return self.gradients + self.batches * (self.popsize + 2)

    def check(self) -> None:
        """Raise for a value out of range."""
        if self.mode not in ("adaptive", "plain"):
            raise ValueError(f"mode must be 'adaptive' or 'plain', not {self.mode!r}")
        if not self.scales:
            raise ValueError("scales is empty: pass {scale: number of candidates}")
        for scale, count in self.scales:
            validate.non_negative("scale", scale)
            validate.positive(f"number of candidates of scale {scale}", count)
        for name in ("n_eval_steps", "check_every"):
            validate.positive(name, getattr(self, name))
        validate.non_negative("escape_budget", self.escape_budget)
        if self.escape_budget >= 1:
            raise ValueError(
                f"Invalid escape_budget: {self.escape_budget}; a share of all evaluations is "
                "below 1"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"Invalid seed: {self.seed}; it must be in [0, 2^64)")
        if self.memory is not None:
            validate.positive("memory", self.memory)


class Escape(NamedTuple):
    """What one escape did.

    Attributes
    ----------
    step : int
        Steps made before it.
    before, after : float
        Loss of where it started (the better of staying and of going on by Adam), and of the best
        candidate, on the same batch.
    accepted : bool
        Whether the candidate was taken.
    distance : float
        How far the best candidate had got from where the escape started.
    scale : float
        The scale it was drawn with.
    reason : str
        Why it was not taken, or nothing.
    """

    step: int
    before: float
    after: float
    accepted: bool
    distance: float
    scale: float
    reason: str


def scales_of(scales: Mapping[float, int]) -> tuple[tuple[float, int], ...]:
    """Return ``{scale: number}`` as pairs."""
    if not isinstance(scales, Mapping):
        raise TypeError(f"scales must be {{scale: number of candidates}}, not {scales!r}")
    return tuple(scales.items())


def tracking_of(
    mode: str,
    norm_window: int,
    norm_threshold: float | None,
    loss_window: int | None,
    loss_threshold: float | None,
    patience: int,
) -> adam.Tracking:
    """Return the tests of stagnation, with the defaults of a mode."""
    norm, loss = THRESHOLDS[mode]
    if norm_threshold is not None:
        validate.non_negative("grad_norm_threshold", norm_threshold)
        norm = norm_threshold
    if loss_threshold is not None:
        validate.non_negative("loss_threshold", loss_threshold)
        loss = loss_threshold
    losses = WINDOWS[mode] if loss_window is None else loss_window
    for name, value, least in (
        ("grad_norm_window", norm_window, 2),
        ("loss_window", losses, 4),
        ("stagnation_patience", patience, 1),
    ):
        validate.positive(name, value)
        if value < least:
            raise ValueError(f"Invalid {name}: {value}; it must be at least {least}")
    return adam.Tracking(norm_window, norm, losses, loss, patience, mode == "adaptive")
