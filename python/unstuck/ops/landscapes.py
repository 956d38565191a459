"""Analytic test functions as fused objectives: named, with their formula compiled in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstuck.ops import _candidates_now as now
from unstuck.ops import reference_landscapes as reference

__all__ = ["NAMES", "Landscape", "value", "value_and_gradient"]

#: The names that :class:`Landscape` knows.
NAMES = tuple(reference.TABLE)


@dataclass(frozen=True)
class Landscape:
    """A named function of `dim` coordinates, to be minimised.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    dim : int
        The number D of coordinates. Some landscapes are defined for two only.
    parameters : tuple of float
        The numbers in the formula that may be chosen: ``(a, b)`` of ``"ravine"``,
        ``a x^2 + b y^2``, (1, 2) where left empty. The others have none.

    Raises
    ------
    ValueError
        For an unknown name, a dimension that the landscape does not have, or parameters that are
        too many, too few or not finite.

    Examples
    --------
    >>> import torch
    >>> value(Landscape("rastrigin", 3), torch.zeros(3))
    tensor(0.)

    Notes
    -----
    The formulas are in ``ops/reference_landscapes.py`` (torch) and ``csrc/math/landscapes.hpp``.
    """

    name: str
    dim: int
    parameters: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in reference.TABLE:
            raise ValueError(f"unknown landscape {self.name!r}: known are {', '.join(NAMES)}")
        formula = reference.TABLE[self.name]
        if isinstance(self.dim, bool) or not isinstance(self.dim, int):
            raise ValueError(f"dim must be an integer, not {self.dim!r}")
        if self.dim < formula.least or (formula.most is not None and self.dim > formula.most):
            limits = f"{formula.least}" if formula.most else f"at least {formula.least}"
            raise ValueError(f"dim of {self.name} must be {limits}, not {self.dim}")
        parameters = tuple(float(p) for p in self.parameters) or formula.parameters
        if len(parameters) != len(formula.parameters):
            raise ValueError(
                f"{self.name} has {len(formula.parameters)} parameters, not {self.parameters}"
            )
        if not all(math.isfinite(p) for p in parameters):
            raise ValueError(f"parameters must be finite, not {self.parameters}")
        object.__setattr__(self, "parameters", parameters)


def _check(landscape: Landscape, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, not {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating point dtype, not {x.dtype}")
    if x.ndim == 0 or x.shape[-1] != landscape.dim:
        raise ValueError(
            f"x must have {landscape.dim} coordinates in its last dimension, "
            f"not the shape {tuple(x.shape)}"
        )


def value(landscape: Landscape, x: Tensor) -> Tensor:
    """Return the values of a landscape at one or many points.

    Parameters
    ----------
    landscape : Landscape
        The function.
    x : Tensor
        Points [..., D] of any floating point dtype. May require a gradient.

    Returns
    -------
    Tensor
        The values [...], in the dtype of `x`.

    Raises
    ------
    ValueError, TypeError
        When `x` is not a floating point tensor whose last dimension is D.

    Examples
    --------
    >>> import torch
    >>> value(Landscape("sphere", 2), torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    tensor([5., 9.])
    """
    _check(landscape, x)
    differentiable = x.requires_grad and torch.is_grad_enabled()
    if not differentiable and (module := now.native_for(x)):
        return now.values(module, landscape.name, landscape.parameters, x)
    return reference.value(landscape.name, landscape.parameters, x)


def value_and_gradient(landscape: Landscape, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of a landscape and its analytic gradients.

    Parameters
    ----------
    landscape : Landscape
        The function.
    x : Tensor
        Points [..., D] of any floating point dtype.

    Returns
    -------
    values, gradients : Tensor
        [...] and [..., D], in the dtype of `x`. Where there is no derivative it is 0.

    Raises
    ------
    ValueError, TypeError
        As :func:`value`.

    Examples
    --------
    >>> import torch
    >>> value_and_gradient(Landscape("ravine", 2, (10, 1)), torch.tensor([1.0, 2.0]))
    (tensor(14.), tensor([20.,  4.]))
    """
    _check(landscape, x)
    x = x.detach()
    if module := now.native_for(x):
        return now.value_and_gradient(module, landscape.name, landscape.parameters, x)
    return reference.value_and_gradient(landscape.name, landscape.parameters, x)
