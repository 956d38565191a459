"""What the phases of a search share: the box, the precision, the noise, and how state is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unstuck.ops import noise

Array = NDArray[np.float64]
T = TypeVar("T")

_CANDIDATES, _STARTS = 0, 1  # streams of noise


@dataclass(frozen=True)
class Space:
    """Where a search may go: `low` and `high` [D] (infinite where there is no bound)."""

    x0: Array
    sigma0: float
    low: Array
    high: Array
    reflect: bool
    seed: int
    dtype: torch.dtype

    @property
    def dim(self) -> int:
        """How many coordinates a point has."""
        return self.x0.size

    @cached_property
    def eps(self) -> float:
        """The rounding of a candidate and of its loss, relative."""
        return float(torch.finfo(self.dtype).eps)

    @cached_property
    def boxed(self) -> bool:
        """Whether there is any bound."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def clip(self, x: Array) -> Array:
        """Return the points moved to the bounds, as the objective will see them."""
        if self.boxed:
            x = np.minimum(np.maximum(x, self.low), self.high)
        return x if self.dtype == torch.float64 else x.astype(np.float32).astype(np.float64)

    def inside(self, x: Array) -> Array:
        """Return the points clipped to or reflected at the bounds, as the objective sees them."""
        if self.reflect and self.boxed:
            x = np.where(x < self.low, 2 * self.low - x, x)
            x = np.where(x > self.high, 2 * self.high - x, x)
        return self.clip(x)

    def normals(self, iteration: int, count: int) -> Array:
        """Return the noise [count, D] of `iteration`, in antithetic pairs."""
        eps = noise.normals(self.seed, iteration, _CANDIDATES, 0, count, self.dim, antithetic=True)
        return eps.numpy().astype(np.float64)

    def uniforms(self, number: int) -> Array:
        """Return D + 2 numbers in (0, 1), other ones for every `number`."""
        words = noise.integers(self.seed, number, _STARTS, 0, 1, self.dim + 2)
        return (words[0].double().numpy() + 0.5) / 2.0**32

    def region(self) -> tuple[Array, Array]:
        """Return the box that restarts are drawn from: the bounds, else x0 -+ 2 sigma0."""
        reach = 2 * self.sigma0
        low = np.where(np.isfinite(self.low), self.low, np.minimum(self.x0, self.high) - reach)
        high = np.where(np.isfinite(self.high), self.high, np.maximum(self.x0, self.low) + reach)
        return low, high

    def start(self, number: int) -> Array:
        """Return the start of restart `number`: uniform in the region."""
        low, high = self.region()
        return self.inside(low + (high - low) * self.uniforms(number)[: self.dim])


def _kept(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Tensor):
        return value.numpy().copy()
    return list(value) if isinstance(value, list) else value


def pack(phase: object) -> dict[str, Any]:
    """Return a copy of the attributes of a phase but its space, arrays as tensors."""
    return {name: _kept(value) for name, value in vars(phase).items() if name != "space"}


def unpack(kind: type[T], space: Space, state: dict[str, Any]) -> T:
    """Return the phase that :func:`pack` was given."""
    phase = kind.__new__(kind)
    vars(phase).update({name: _kept(value) for name, value in state.items()}, space=space)
    return phase
