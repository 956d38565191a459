"""Attention steps on the parameters of a model: candidates around them, a softmax of losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unstuck.ops import candidates
from unstuck.ops.candidates import Draw, Region
from unstuck.optim._trials import Trials, copies
from unstuck.optim._validate import non_negative
from unstuck.population import PopulationLoss
from unstuck.population._flat import Flat
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

    Parameters
    ----------
    trials : Trials
        Open; evaluates one candidate after another.
    settings : Settings
        How candidates are drawn.
    sigma : float
        Their standard deviation.
    population : PopulationLoss, optional
        Evaluates all of them at once.
    """

    def __init__(
        self, trials: Trials, settings: Settings, sigma: float, population: PopulationLoss | None
    ) -> None:
        self._trials, self._settings, self._population = trials, settings, population
        self._flat = Flat(trials.params)
        explores = torch.arange(settings.popsize) >= settings.popsize // 4 * 2
        spread = torch.where(explores, sigma * settings.explore, sigma)
        self._spread = spread.to(self._flat.device, self._flat.dtype)

    def _where(self, center: Sequence[Tensor]) -> Region:
        return Region(self._flat.gather(center), self._spread)

    def _draw(self, iteration: int) -> Draw:
        return Draw(self._settings.seed, iteration)

    def losses(self, center: Sequence[Tensor], iteration: int) -> Tensor:
        """Return the losses of all candidates in float64, on the CPU."""
        popsize = self._settings.popsize
        if self._population is not None:
            region, draw = self._where(center), self._draw(iteration)
            self._trials.count += popsize
            return self._population.candidates(region, draw, popsize).double().cpu()
        losses = []
        for index in range(popsize):
            self.go(center, iteration, index)
            losses.append(self._trials.loss())
        return torch.stack([loss.cpu() for loss in losses])

    def go(self, center: Sequence[Tensor], iteration: int, index: int) -> None:
        """Write one candidate into the parameters."""
        (point,) = candidates.sample(self._where(center), self._draw(iteration), index, 1)
        self._trials.write(self._flat.split(point))

    def go_to_mean(self, center: Sequence[Tensor], iteration: int, weights: Tensor) -> None:
        """Write center + sum a_i (w_i - center) into the parameters."""
        region = self._where(center)
        weights = weights.to(region.mean)
        moments = candidates.combine(region, self._draw(iteration), weights)
        self._trials.write(self._flat.split(region.mean + moments.shift))


def search_around(
    trials: Trials,
    settings: Settings,
    *,
    sigma: float,
    before: float,
    steps: int,
    iteration: int,
    sign: float,
    population: PopulationLoss | None,
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
    population : PopulationLoss or None
        Evaluates all candidates at once.
    """
    cloud = Cloud(trials, settings, sigma, population)
    center: Sequence[Tensor] = trials.start
    best: list[Tensor] | None = None
    lowest = before if math.isfinite(before) else math.inf  # anything finite beats NaN
    for done in range(steps):
        number = iteration + done
        told = cloud.losses(center, number) * sign
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
