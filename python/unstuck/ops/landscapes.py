"""Analytic test functions as fused objectives: named, with their formula compiled in."""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops import _candidates_now as now
from unstuck.ops import _landscapes_library as library
from unstuck.ops import reference_landscapes as reference
from unstuck.ops._landscape_kinds import NAMES, Landscape

__all__ = ["NAMES", "Landscape", "value", "value_and_gradient"]


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
    if x.requires_grad and torch.is_grad_enabled():
        return reference.value(landscape.name, landscape.parameters, x)
    if now.is_traced():
        return library.value(landscape, x)
    return library.value_now(landscape, x)


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
    if now.is_traced():
        return library.value_and_gradient(landscape, x)
    return library.value_and_gradient_now(landscape, x)
