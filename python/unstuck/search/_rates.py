"""Learning rates that are tried together: how many or which, and how they are weighed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any, NamedTuple

from torch import Tensor

from unstuck.search._temperature import weigh


class Rates(NamedTuple):
    """The options of learning-rate attention.

    Attributes
    ----------
    wanted : int or tuple of float
        How many rates, or which.
    beta : float or None
        Inverse temperature of their weights in 1 / loss; None: as `share` asks.
    share : float
        The effective number of rates, as a share of those with a finite loss.
    """

    wanted: int | tuple[float, ...]
    beta: float | None
    share: float

    @classmethod
    def read(cls, rates: Any, beta: Any, share: Any) -> Rates:
        """Check the options; raise ``ValueError`` or ``TypeError`` for what they cannot be."""
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], not {share}")
        if beta is not None:
            _not_negative("beta", beta)
        if isinstance(rates, Integral) and not isinstance(rates, bool):
            if rates < 1:
                raise ValueError(f"rates must be at least 1, not {rates}")
            return cls(int(rates), beta, share)
        if not isinstance(rates, Iterable) or isinstance(rates, str):
            raise TypeError(
                f"rates must be how many rates to try, or a sequence of them, not {rates!r}"
            )
        given = tuple(float(rate) for rate in rates)
        if not given:
            raise ValueError("rates is empty: pass at least one, for example (1e-3, 1e-2, 1e-1)")
        for rate in given:
            _not_negative("a rate", rate)
        return cls(given, beta, share)

    @property
    def given(self) -> bool:
        """Whether they are numbers, and do not follow from a learning rate."""
        return not isinstance(self.wanted, int)

    def check(self, lr: float) -> None:
        """Raise ``ValueError`` when no multiple of a learning rate is a rate that was given."""
        if self.given and not lr > 0:
            raise ValueError(
                f"rates that are given are kept as multiples of lr, which is {lr}: pass one above 0"
            )

    def factors(self, lr: float, low: int, high: int) -> tuple[float, ...]:
        """Return the rates as multiples of a learning rate.

        So many rates, and no more, were asked for: then they go from 2^low to 2^high times the
        learning rate in equal ratios. A single one is the learning rate itself.
        """
        if not isinstance(self.wanted, int):
            return tuple(rate / lr for rate in self.wanted)
        if self.wanted == 1:
            return (1.0,)
        step = (high - low) / (self.wanted - 1)
        return tuple(2.0 ** (low + k * step) for k in range(self.wanted))

    def weigh(self, losses: Tensor) -> Tensor:
        """Return the weights [K] of the rates from their losses [K] in float64."""
        return weigh(losses, self.beta, self.share)


def _not_negative(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and at least 0, not {value}")
