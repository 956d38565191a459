"""Attention steps on the parameters of a model: candidates around them, a softmax of losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unstuck.ops import noise
from unstuck.optim._trials import Trials, copies
from unstuck.optim._validate import non_negative
from unstuck.search._temperature import weigh


class Settings(NamedTuple):
    """How candidates are drawn and weighed.

    Attributes
    ----------
    popsize : int
        Candidates in an attention step.
    sigma : float
        Their standard deviation; of those that explore it is `explore` times that.
    explore : float
        See `sigma`; half of the candidates explore, 1 makes them all alike.
    beta : float or None
        Inverse temperature; None sets it by `share`.
    share : float
        Effective share of the candidates with a finite loss.
    seed : int
        Key of the noise.
    """

    popsize: int
    sigma: float
    explore: float
    beta: float | None
    share: float
    seed: int

    def check(self) -> None:
        """Raise for a value out of range."""
        if self.popsize < 2 or self.popsize % 2:
            raise ValueError(
                f"Invalid popsize: {self.popsize}; candidates come in pairs, so pass an even number"
            )
        for name in ("sigma", "explore"):
            value = getattr(self, name)
            non_negative(name, value)
            if value == 0:
                raise ValueError(f"Invalid {name}: 0; candidates would all be where they start")
        if self.beta is not None:
            non_negative("beta", self.beta)
        if not 0 < self.share <= 1:
            raise ValueError(f"Invalid share: {self.share}; it must be in (0, 1]")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"Invalid seed: {self.seed}; it must be in [0, 2^64)")


class Found(NamedTuple):
    """The best place that was seen: its loss, its values (None: nothing better), or why not."""

    loss: float
    values: list[Tensor] | None
    iterations: int
    reason: str


class Cloud:
    r"""Candidates :math:`w + s_i \epsilon_i` around parameters, drawn again instead of kept.

    The noise is a function of seed, iteration, candidate and coordinate, where the coordinates are
    the elements of the parameters in their order; a complex element is two. Candidates come in
    pairs of opposite noise.
    """

    def __init__(self, params: Sequence[Tensor], settings: Settings, sigma: float) -> None:
        self._params = [_real(p.detach()) for p in params]
        self._settings = settings
        self._sigma = sigma
        self._sizes = [p.numel() for p in self._params]
        self._device = self._params[0].device if self._params else torch.device("cpu")
        wide = any(p.dtype == torch.float64 for p in self._params)
        self._dtype = torch.float64 if wide else torch.float32

    def spread(self, index: int) -> float:
        """Return the standard deviation of one candidate."""
        explores = index >= self._settings.popsize // 4 * 2
        return self._sigma * (self._settings.explore if explores else 1.0)

    def go(self, center: Sequence[Tensor], iteration: int, index: int) -> None:
        """Write one candidate into the parameters."""
        self._write(center, self._noise(iteration, index).mul_(self.spread(index)))

    def go_to_mean(self, center: Sequence[Tensor], iteration: int, weights: Tensor) -> None:
        """Write center + sum a_i (w_i - center) into the parameters."""
        total = torch.zeros(sum(self._sizes), dtype=self._dtype, device=self._device)
        for index, weight in enumerate(weights.tolist()):
            if weight:
                total.add_(self._noise(iteration, index), alpha=weight * self.spread(index))
        self._write(center, total)

    def _noise(self, iteration: int, index: int) -> Tensor:
        drawn = noise.normals(
            self._settings.seed,
            iteration,
            0,
            index,
            1,
            sum(self._sizes),
            antithetic=True,
            dtype=self._dtype,
            device=self._device,
        )
        return drawn[0]

    def _write(self, center: Sequence[Tensor], shift: Tensor) -> None:
        parts = torch.split(shift, self._sizes)
        for p, where, part in zip(self._params, center, parts, strict=True):
            p.copy_(_real(where).to(self._dtype) + part.view(p.shape).to(p.device))


def search_around(
    trials: Trials,
    settings: Settings,
    *,
    sigma: float,
    before: float,
    steps: int,
    iteration: int,
    sign: float,
) -> Found:
    """Make attention steps from where the trials start, on one batch.

    Each draws candidates, weighs them by a softmax of their losses and moves to their weighted
    mean. The best of all candidates and means counts.

    Parameters
    ----------
    trials : Trials
        Open; the parameters are left anywhere.
    settings : Settings
        How candidates are drawn and weighed.
    sigma : float
        Their standard deviation.
    before : float
        The loss to beat.
    steps : int
        Attention steps.
    iteration : int
        Number of the first, for the noise.
    sign : float
        -1 where losses are to be raised.
    """
    cloud = Cloud(trials.params, settings, sigma)
    center: Sequence[Tensor] = trials.start
    best: list[Tensor] | None = None
    lowest = before if math.isfinite(before) else math.inf  # anything finite beats NaN
    for done in range(steps):
        number = iteration + done
        losses = []
        for index in range(settings.popsize):
            cloud.go(center, number, index)
            losses.append(trials.loss() * sign)
        told = torch.stack([loss.cpu() for loss in losses])
        weights = weigh(told, settings.beta, settings.share)
        if not bool(weights.any()):
            return Found(lowest, best, done + 1, "no candidate has a finite loss")
        first = int(torch.where(torch.isfinite(told), told, torch.inf).argmin())
        if float(told[first]) < lowest:
            lowest = float(told[first])
            cloud.go(center, number, first)
            best = copies(trials.params)
        cloud.go_to_mean(center, number, weights)
        mean = copies(trials.params)
        loss = float(trials.loss()) * sign
        if loss < lowest:
            lowest, best = loss, mean
        if math.isfinite(loss):
            center = mean
    return Found(lowest, best, steps, "" if best is not None else "nothing better was found")


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
