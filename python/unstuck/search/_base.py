"""What every ask/tell search has in common: the checks, the best point, counting, state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unstuck.ops import landscapes, objectives
from unstuck.ops.landscapes import Landscape
from unstuck.search._space import Array

Bounds = Sequence[Any]
"""A pair ``(low, high)``, each a number or D numbers."""

_FORMAT = 1


class Best(NamedTuple):
    """The best point that was told, and its loss (the start and infinity before the first)."""

    x: Tensor
    f: float


def evaluate(objective: Any, x: Tensor) -> Tensor:
    """Return the losses [N] of candidates [N, D] under an objective of ``unstuck.ops``."""
    if isinstance(objective, Landscape):
        return landscapes.value(objective, x)
    return objectives.value(objective, x)


class Search(ABC):
    """Base of the ask/tell searches, which never call the objective.

    Parameters
    ----------
    x0 : Tensor [D] or sequence of D floats
        The start. Its dtype (float32 or float64) and device are those of every candidate.
    bounds : pair (low, high), optional
        Each a number or D numbers, infinite where there is none; no candidate lies outside.
    seed : int
        Seed of the noise, 0 to 2^64 - 1. The same seed, start and losses give the same search.

    Raises
    ------
    ValueError
        When the start is empty, not finite or outside the bounds, or a bound has a wrong shape.
    """

    def __init__(self, x0: Any, *, bounds: Bounds | None = None, seed: int = 0) -> None:
        self._x0 = _start(x0)
        self._low, self._high = read_bounds(bounds, self._x0)
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be between 0 and 2^64 - 1, not {seed}")
        self._seed = int(seed)
        self._best = Best(self._x0.clone(), math.inf)
        self._nfev = 0
        self._nit = 0
        self._asked: Tensor | None = None

    @property
    def dim(self) -> int:
        """How many coordinates a point has."""
        return self._x0.numel()

    @property
    @abstractmethod
    def center(self) -> Tensor:
        """The point [D] that the next candidates lie around."""

    @property
    @abstractmethod
    def popsize(self) -> int:
        """How many candidates the next :meth:`ask` returns."""

    @property
    def best(self) -> Best:
        """The best point told so far and its loss; not a view, later steps leave it alone."""
        return self._best

    @property
    def nfev(self) -> int:
        """Losses told so far, those of NaN and infinity included."""
        return self._nfev

    @property
    def nit(self) -> int:
        """Completed rounds of ask and tell."""
        return self._nit

    def ask(self) -> Tensor:
        """Return the next candidates [N, D]; asking again without telling returns the same."""
        if self._asked is None:
            self._asked = self._candidates()
        return self._asked

    def tell(self, losses: Any) -> None:
        """Take the losses [N] of the candidates that :meth:`ask` returned, in that order.

        A loss that is NaN or infinite gets weight zero.

        Raises
        ------
        RuntimeError
            When nothing was asked.
        ValueError
            When there is not one loss a candidate; the search is as before.
        """
        x = self._asked
        if x is None:
            raise RuntimeError("tell() without ask(): call ask() first, then tell its losses")
        values = torch.as_tensor(losses).detach().to(self._x0.device, torch.float64)
        if values.ndim != 1:
            values = values.reshape(-1)
        if values.numel() != x.shape[0]:
            raise ValueError(
                f"{x.shape[0]} candidates were asked, {values.numel()} losses were told: "
                "tell one loss for each row of ask()"
            )
        self._update(values)
        self._record(values.cpu().numpy(), lambda index: x[index])

    def step(self, objective: Any) -> None:
        """Ask, evaluate and tell in one call.

        Parameters
        ----------
        objective : objective of ``unstuck.ops`` or callable
            A callable maps candidates [N, D] to losses [N]. An objective of ``unstuck.ops`` is
            evaluated natively, where the search can without storing a candidate; the result is
            that of ask and tell to rounding.
        """
        x = self.ask()
        self.tell(objective(x) if callable(objective) else evaluate(objective, x))

    def stop(self) -> dict[str, Any]:
        """Return why to stop, ``{}`` when there is no reason: reason to the value that set it."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything a later run needs to go on bit for bit (tensors and numbers only).

        Candidates that were asked and not told are not in it: the resumed search asks them again.
        """
        return {
            "format": _FORMAT,
            "kind": type(self).__name__,
            "seed": self._seed,
            "nfev": self._nfev,
            "nit": self._nit,
            "best_x": self._best.x.clone(),
            "best_f": self._best.f,
            "rule": self._rule_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which a search of the same class, start and options wrote.

        Raises
        ------
        ValueError
            When `state` is of another class or another number of coordinates.
        """
        if state.get("kind") != type(self).__name__ or state.get("format") != _FORMAT:
            raise ValueError(
                f"this is the state of {state.get('kind')!r}, format {state.get('format')}; "
                f"expected {type(self).__name__!r}, format {_FORMAT}"
            )
        if state["best_x"].shape != self._x0.shape:
            raise ValueError(
                f"the state is of {state['best_x'].numel()} coordinates, this search of {self.dim}"
            )
        self._load_rule(state["rule"])
        self._seed, self._nfev, self._nit = state["seed"], state["nfev"], state["nit"]
        self._best = Best(state["best_x"].to(self._x0).clone(), float(state["best_f"]))
        self._asked = None

    def _record(self, losses: Array, candidate: Callable[[int], Tensor]) -> None:
        """Count, keep the best, and forget the candidates."""
        finite = np.where(np.isfinite(losses), losses, np.inf)
        index = int(finite.argmin())
        value = float(finite[index])
        if value < self._best.f:
            self._best = Best(candidate(index).clone(), value)
        self._nfev += losses.size
        self._nit += 1
        self._asked = None

    @abstractmethod
    def _candidates(self) -> Tensor:
        """Return the candidates [N, D] of this iteration: a function of the state alone."""

    @abstractmethod
    def _update(self, losses: Tensor) -> None:
        """Move, from the losses [N] (float64) of the candidates of this iteration."""

    @abstractmethod
    def _rule_state(self) -> dict[str, Any]:
        """Return what the rule needs to go on."""

    @abstractmethod
    def _load_rule(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`_rule_state` returned."""


def _start(x0: Any) -> Tensor:
    """Return the start as a fresh vector [D], checked."""
    x = torch.as_tensor(x0).detach()
    if x.dtype not in (torch.float32, torch.float64):
        if x.is_complex():
            raise ValueError(f"x0 must be real, not {x.dtype}")
        x = x.to(torch.get_default_dtype())
    if x.ndim != 1 or x.numel() == 0:
        raise ValueError(f"x0 must be a vector of at least one coordinate, not {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).nonzero()[0])
        raise ValueError(f"x0 must be finite, x0[{bad}] is {float(x[bad])}")
    return x.clone().contiguous()


def read_bounds(bounds: Bounds | None, x0: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return (low [D], high [D]) like `x0`, or (None, None)."""
    if bounds is None:
        return None, None
    dim = x0.numel()
    if len(bounds) != 2:
        raise ValueError(f"bounds must be a pair (low, high), not {len(bounds)} entries")
    both = []
    for name, side in zip(("low", "high"), bounds, strict=True):
        value = torch.as_tensor(side).to(x0)
        if value.ndim > 1 or value.numel() not in (1, dim):
            raise ValueError(
                f"the {name} bound must be a number or {dim} numbers, not {tuple(value.shape)}"
            )
        both.append(value.reshape(-1).expand(dim).contiguous())
    low, high = both
    if bool((~(low < high)).any()):
        bad = int((~(low < high)).nonzero()[0])
        raise ValueError(f"low must be below high: coordinate {bad} has {low[bad]} and {high[bad]}")
    if bool(((x0 < low) | (x0 > high)).any()):
        bad = int(((x0 < low) | (x0 > high)).nonzero()[0])
        raise ValueError(
            f"x0 lies outside the bounds: x0[{bad}] = {x0[bad]}, "
            f"not in [{low[bad]}, {high[bad]}]; clamp it"
        )
    return low, high
