"""Functions of a few numbers as tasks: quadratics and the named landscapes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unstuck import problems
from unstuck.learned.task import Batch, Scaled, Task, generator
from unstuck.ops import reference_landscapes

__all__ = ["Functions", "Landscape", "Quadratic", "Quadratics"]


class _Function:
    """A task without data: every batch is empty."""

    def batch(self, seed: int) -> Batch:
        """Return an empty tuple: there is no data."""
        return ()

    def validation(self, seed: int) -> Batch:
        """Return an empty tuple: there is no data."""
        return ()


@functools.lru_cache(maxsize=256)
def _system(seed: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return the matrix and the right-hand side of a quadratic."""
    draw = generator("quadratic", seed)
    return torch.randn(dim, dim, generator=draw), torch.randn(dim, generator=draw)


@dataclass(frozen=True)
class Quadratic(_Function):
    r"""A random quadratic function.

    .. math:: L(x) = \lVert W x - y \rVert^2

    with W [D, D] and y [D] standard normal; x begins standard normal.

    Parameters
    ----------
    seed : int
        Decides W and y.
    dim : int
        D.

    Raises
    ------
    ValueError
        When `dim` is below 1.

    Examples
    --------
    >>> task = Quadratic(seed=0)
    >>> bool(task.loss(task.initial(1), ()) > 0)
    True

    Notes
    -----
    The first task of Andrychowicz et al., *Learning to learn by gradient descent by gradient
    descent* (2016).
    """

    seed: int
    dim: int = 2

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")

    @property
    def name(self) -> str:
        """Its kind and dimension."""
        return f"quadratic of {self.dim} numbers"

    @property
    def floor(self) -> float:
        """No square is below 0."""
        return 0.0

    def initial(self, seed: int) -> list[Tensor]:
        """Return a standard normal point."""
        return [torch.randn(self.dim, generator=generator("start", seed))]

    def loss(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the value at a point."""
        W, y = _system(self.seed, self.dim)
        return (W @ params[0] - y).square().sum()


@dataclass(frozen=True)
class Landscape(_Function):
    """A named landscape, to be started anywhere in its box.

    Parameters
    ----------
    kind : str
        One of the landscapes of :func:`unstuck.problems.names`.
    dim : int
        D.

    Raises
    ------
    ValueError
        For an unknown name, or a dimension in which it is not defined.

    Examples
    --------
    >>> Landscape("rastrigin", 2).loss([torch.ones(2)], ())
    tensor(2.)
    """

    kind: str
    dim: int = 2

    def __post_init__(self) -> None:
        problems.lookup(reference_landscapes.TABLE, self.kind, "landscape")
        if problems.get(self.kind, dim=self.dim).minimum is None:
            raise ValueError(
                f"the lowest value of {self.kind} in {self.dim} dimensions is not known, so that "
                "losses could not be compared: choose another landscape or dimension"
            )

    @property
    def name(self) -> str:
        """Its kind and dimension."""
        return f"{self.kind} of {self.dim} numbers"

    @property
    def floor(self) -> float:
        """The lowest value there is in the box."""
        lowest = problems.get(self.kind, dim=self.dim).minimum
        assert lowest is not None
        return lowest

    def initial(self, seed: int) -> list[Tensor]:
        """Return a point drawn evenly from the box."""
        low, high = problems.get(self.kind, dim=self.dim).bounds
        return [low + (high - low) * torch.rand(self.dim, generator=generator("start", seed))]

    def loss(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the value at a point."""
        parameters = reference_landscapes.TABLE[self.kind].parameters
        return reference_landscapes.value(self.kind, parameters, params[0])


@dataclass(frozen=True)
class Quadratics:
    """Random quadratics of one dimension.

    Parameters
    ----------
    dim : int
        D.
    units : float
        Half the range, in decades, of the random units of the point; 0 for none.

    Examples
    --------
    >>> Quadratics().sample(seed=1).name
    'quadratic of 2 numbers'
    """

    dim: int = 2
    units: float = 0.0

    @property
    def name(self) -> str:
        """Its name."""
        return "quadratics"

    def sample(self, seed: int) -> Task:
        """Return a quadratic."""
        return in_units(Quadratic(seed, self.dim), 1, self.units, seed)


@dataclass(frozen=True)
class Functions:
    """Landscapes of given names.

    Parameters
    ----------
    name : str
        Its name.
    kinds : tuple of str
        Which landscapes.
    dim : int
        D.
    units : float
        Half the range, in decades, of the random units of the point; 0 for none.

    Examples
    --------
    >>> Functions("bowls", ("sphere", "zakharov")).sample(seed=0).name
    'sphere of 2 numbers'
    """

    name: str
    kinds: tuple[str, ...]
    dim: int = 2
    units: float = 0.0

    def sample(self, seed: int) -> Task:
        """Return one of the landscapes."""
        pick = int(torch.randint(len(self.kinds), (), generator=generator("kind", seed)))
        return in_units(Landscape(self.kinds[pick], self.dim), 1, self.units, seed)


def in_units(task: Task, tensors: int, decades: float, seed: int) -> Task:
    """Return a task with a random unit for each tensor, log-uniform within +-`decades`."""
    if not decades:
        return task
    exponents = decades * (2 * torch.rand(tensors, generator=generator("units", seed)) - 1)
    return Scaled(task, tuple(10.0**e for e in exponents.tolist()))
