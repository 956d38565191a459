"""What the hybrids on functions have in common: a point, a gradient optimizer, counts, state."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS, SGD, Adam, Optimizer

from unstuck.search._base import Best, Bounds, _start, read_bounds

BASES: dict[str, Callable[..., Optimizer]] = {
    "gd": SGD,
    "momentum": functools.partial(SGD, momentum=0.9),
    "adam": Adam,
    "lbfgs": functools.partial(LBFGS, line_search_fn="strong_wolfe"),
}

Base = str | Callable[..., Optimizer]


class Differentiable(Protocol):
    """A function of D numbers and its gradient."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the values [N] of points [N, D]."""

    def value_and_gradient(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return value and gradient [D] of a point [D]."""


class Record(NamedTuple):
    """What one call of ``step`` did.

    Attributes
    ----------
    phase : str
        ``"gradient"``, ``"escape"`` or ``"rates"``.
    loss : float
        Loss before the step.
    nfev, ngev : int
        Losses and gradients evaluated up to its end.
    rate : float or None
        The learning rate that was chosen.
    accepted : bool or None
        Whether the place that was found was taken; None for a gradient step.
    """

    phase: str
    loss: float
    nfev: int
    ngev: int
    rate: float | None = None
    accepted: bool | None = None


class Descent(ABC):
    """A point that a gradient optimizer moves, and something that it cannot do alone."""

    def __init__(
        self,
        x0: Any,
        sigma0: float = 1.0,
        *,
        bounds: Bounds | None = None,
        seed: int = 0,
        base: Base = "lbfgs",
        lr: float | None = None,
    ) -> None:
        start = _start(x0)
        self._low, self._high = read_bounds(bounds, start)
        if not (sigma0 > 0 and math.isfinite(sigma0)):
            raise ValueError(f"sigma0 must be finite and above 0, not {sigma0}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be between 0 and 2^64 - 1, not {seed}")
        self.sigma0, self._seed = float(sigma0), seed
        self._w = Parameter(start.clone())
        self._base = _build(base, self._w, lr)
        self._best = Best(start.clone(), math.inf)
        self._counts = {"nfev": 0, "ngev": 0, "nit": 0, "attempts": 0, "escapes": 0}
        self._seen: dict[str, Any] = {}  # what else decides how it goes on: plain values
        self.history: list[Record] = []

    # ------------------------------------------------------------ what can be read
    @property
    def dim(self) -> int:
        """How many coordinates a point has."""
        return self._w.numel()

    @property
    def center(self) -> Tensor:
        """The point [D] where the descent is."""
        return self._w.detach()

    @property
    def best(self) -> Best:
        """The best point that was evaluated, and its loss."""
        return self._best

    @property
    def popsize(self) -> int:
        """Losses that the next step evaluates, about."""
        return 1

    @property
    def nfev(self) -> int:
        """Losses evaluated so far, those with a gradient included."""
        return self._counts["nfev"]

    @property
    def ngev(self) -> int:
        """Gradients evaluated so far."""
        return self._counts["ngev"]

    @property
    def nit(self) -> int:
        """Calls of :meth:`step` so far."""
        return self._counts["nit"]

    @property
    def attempts(self) -> int:
        """How often a better place was looked for."""
        return self._counts["attempts"]

    @property
    def escapes(self) -> int:
        """How often one was found and taken."""
        return self._counts["escapes"]

    def stop(self) -> dict[str, Any]:
        """Return why to stop: reason to the value that set it, ``{}`` when there is no reason."""
        lost = not bool(torch.isfinite(self.center).all())
        return {"nonfinite": self.nit} if lost else {}

    # ------------------------------------------------------------ one iteration
    def step(self, problem: Differentiable) -> Record:
        """Make one iteration: a gradient step, or a look around.

        Parameters
        ----------
        problem : callable with ``value_and_gradient``
            The function; see :mod:`unstuck.search.hybrids`.

        Returns
        -------
        Record
            What was done; also appended to ``history``.
        """
        record = self._advance(problem)
        self._counts["nit"] += 1
        self.history.append(record)
        return record

    @abstractmethod
    def _advance(self, problem: Differentiable) -> Record:
        """Make the iteration."""

    def _differentiate(self, problem: Differentiable) -> float:
        """Evaluate loss and gradient where the point is, or at the nearest point in the bounds.

        There the components of the gradient that lead out of the bounds are 0: a line search may
        look outside, and finds the loss on the edge.
        """
        x = self._inside(self.center)
        loss, gradient = problem.value_and_gradient(x)
        gradient = gradient.to(self._w)
        if self._low is not None and self._high is not None:
            w = self.center
            out = ((w <= self._low) & (gradient > 0)) | ((w >= self._high) & (gradient < 0))
            gradient = torch.where(out | (x != w), 0.0, gradient)
        self._w.grad = gradient
        self._counts["nfev"] += 1
        self._counts["ngev"] += 1
        self._note(x, float(loss))
        return float(loss)

    def _inside(self, x: Tensor) -> Tensor:
        """Return the nearest point in the bounds."""
        if self._low is None or self._high is None:
            return x
        return x.clamp(self._low, self._high)

    def _note(self, x: Tensor, loss: float) -> None:
        if loss < self._best.f:
            self._best = Best(x.clone(), loss)

    def _descend(self, problem: Differentiable) -> float:
        """Let the gradient optimizer make a step; return the loss before it."""
        first: list[float] = []

        def closure() -> float:
            first.append(self._differentiate(problem))
            return first[-1]

        self._base.step(closure)
        self._move(self.center)
        return first[0]

    def _gradient_step(self, problem: Differentiable) -> Record:
        return Record("gradient", self._descend(problem), self.nfev, self.ngev)

    def _move(self, x: Tensor) -> None:
        """Go to a point, inside the bounds."""
        with torch.no_grad():
            self._w.copy_(self._inside(x))

    # ------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """Return everything a later run needs to go on bit for bit; ``history`` is not in it."""
        return {
            "kind": type(self).__name__,
            "x": self.center.clone(),
            "best_x": self._best.x.clone(),
            "best_f": self._best.f,
            "seed": self._seed,
            "counts": dict(self._counts),
            "base": deepcopy(self._base.state_dict()),
            "seen": dict(self._seen),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which one of the same class, start and options wrote.

        Raises
        ------
        ValueError
            When `state` is of another class or another number of coordinates.
        """
        if state.get("kind") != type(self).__name__:
            raise ValueError(
                f"this is the state of {state.get('kind')!r}, not of {type(self).__name__!r}"
            )
        if state["x"].shape != self._w.shape:
            raise ValueError(
                f"the state is of {state['x'].numel()} coordinates, this search of {self.dim}"
            )
        self._move(state["x"])
        self._best = Best(state["best_x"].to(self._w).clone(), float(state["best_f"]))
        self._seed, self._counts = int(state["seed"]), dict(state["counts"])
        self._base.load_state_dict(state["base"])
        self._seen = dict(state["seen"])


def fused(problem: Any, count: int) -> Any:
    """Return what a fused operation evaluates at `count` points in place of a problem, or None.

    A problem that counts its evaluations has a method ``offer(count)`` for that, which counts them;
    any other may have an attribute ``objective``.
    """
    offer = getattr(problem, "offer", None)
    return getattr(problem, "objective", None) if offer is None else offer(count)


def _build(base: Base, w: Parameter, lr: float | None) -> Optimizer:
    if isinstance(base, str):
        if base not in BASES:
            raise ValueError(f"unknown base {base!r}: known are {', '.join(BASES)}")
        base = BASES[base]
    if not callable(base):
        raise TypeError(
            f"base must be one of {', '.join(BASES)}, a torch.optim class or a function of the "
            f"parameters, not {base!r}"
        )
    return base([w]) if lr is None else base([w], lr=lr)


def whole(name: str, value: Any) -> int:
    """Return a whole number of at least 1, or raise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


def at_least(name: str, value: float, low: float) -> float:
    """Return a finite number of at least `low`, or raise."""
    if not (value >= low and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and at least {low:g}, not {value}")
    return float(value)
