"""What a learned rule is judged by: its students' losses, on a scale that tasks can share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SCALES", "Objective"]

SCALES = ("log", "linear")


@dataclass(frozen=True)
class Objective:
    r"""The meta-loss of an unroll of H steps, a weighted mean over its steps.

    .. math::

        r_t = \frac{1}{1 + \epsilon} \left(
            \frac{L_t - L_\text{floor}}{L_0 - L_\text{floor}} + \epsilon \right), \qquad
        \frac{1}{H} \sum_t w_t \min(f(r_t), c), \qquad w_t = (p + 1) (t / H)^p

    with f the logarithm or the identity. A loss that is not finite counts as the ceiling c, so that
    a divergence costs something, but does not drown everything else.

    With `baselines` :math:`= \lambda`, what the best of some tuned baselines has on the same
    batches is taken off, and what is then below 0 counts little,

    .. math::
        \frac{1}{H} \sum_t w_t\, h(\min(f(r_t), c) - \min(f(r^*_t), c) + m), \qquad
        h(x) = \max(x, \lambda x) ,

    so that a rule learns to be below on training and on validation data, and not how far.

    Parameters
    ----------
    scale : str
        ``"log"`` or ``"linear"``: whether halving a small loss counts like halving a large one.
    late : float
        p: 0 weighs all steps the same, larger values the last ones.
    validation : float
        Share, from 0 to 1, of the loss on data that is not trained on, measured after each
        truncation; the rest is of the training losses.
    ceiling : float
        c.
    resolution : float
        epsilon, a share of the first loss above the floor: below it, improvements hardly count.
    baselines : float, optional
        lambda, from 0 to 1: what being below :class:`~unstuck.learned.baselines.Baselines` counts,
        where being above counts 1. By default losses are compared with none.
    margin : float
        m: how far below them, on training data, counts like being above. On validation data it
        is 0.

    Raises
    ------
    ValueError
        When a value is out of its range.

    Examples
    --------
    >>> start, now = torch.tensor([2.0, 2.0]), torch.tensor([1.0, float("nan")])
    >>> Objective(scale="linear", ceiling=3.0).score(now, start, floor=0.0)
    tensor([0.5005, 3.0000])
    """

    scale: str = "log"
    late: float = 0.0
    validation: float = 0.0
    ceiling: float = 2.0
    resolution: float = 1e-3
    baselines: float | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {self.scale!r}")
        for name in ("validation", "baselines"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {value}")
        for name in ("ceiling", "resolution"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value}")
        for name in ("late", "margin"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number from 0 on, not {value}")
        if self.margin and self.baselines is None:
            raise ValueError(f"margin={self.margin} is a distance to baselines: give baselines=")

    def weight(self, step: int, horizon: int) -> float:
        """Return the weight of step `step`, from 0 to ``horizon - 1``."""
        return float((self.late + 1) * ((step + 0.5) / horizon) ** self.late)

    def score(self, losses: Tensor, start: Tensor, floor: float) -> Tensor:
        """Return ``min(f(r), c)`` of losses [K] that began at `start` [K]; differentiable."""
        above = (start - floor).clamp_min(torch.finfo(start.dtype).tiny)
        ratio = ((losses - floor) / above).clamp_min(0) + self.resolution
        ratio = ratio / (1 + self.resolution)
        value = ratio.log() if self.scale == "log" else ratio
        good = value.isfinite() & (value < self.ceiling)
        return torch.where(good, value, self.ceiling)

    def compared(
        self, losses: Tensor, start: Tensor, floor: float, baseline: Tensor, margin: float
    ) -> Tensor:
        """Return ``h(score(losses) - score(baseline) + margin)``, the baseline's loss a number."""
        leak = 1.0 if self.baselines is None else self.baselines
        apart = self.score(losses, start, floor) - self.score(baseline, start, floor) + margin
        return torch.maximum(apart, leak * apart)
