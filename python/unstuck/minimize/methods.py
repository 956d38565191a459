"""The methods of ``minimize``: one row each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from unstuck.search import AttentionSearch, Search
from unstuck.search.hybrids import (
    Alternating,
    AttentionRestart,
    Descent,
    LearningRateAttention,
    ReactiveEscape,
)


@dataclass(frozen=True)
class Method:
    """A row of :data:`METHODS`.

    Attributes
    ----------
    make : callable
        ``make(x0, sigma0, *, bounds, seed, **options)`` returns the search.
    about : str
        One line: how it searches.
    """

    make: Callable[..., Search | Descent]
    about: str

    @property
    def options(self) -> tuple[str, ...]:
        """The options it takes: the arguments of `make` that ``minimize`` does not set itself."""
        taken = inspect.signature(self.make).parameters
        return tuple(name for name in taken if name not in {"x0", "bounds", "seed"})


METHODS: dict[str, Method] = {
    "attention": Method(
        AttentionSearch, "softmax-weighted mean of candidates drawn around a point; no gradient"
    ),
    "reactive-escape": Method(
        ReactiveEscape, "gradient steps; attention search where they reach a plateau"
    ),
    "alternating": Method(Alternating, "gradient and attention steps in a fixed cycle"),
    "attention-restart": Method(
        AttentionRestart, "gradient steps to a minimum; attention search for the next start"
    ),
    "lr-attention": Method(
        LearningRateAttention,
        "gradient steps with the softmax-weighted mean of many learning rates",
    ),
}
