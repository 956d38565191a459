"""Losses at many learning rates along one direction, and the step that they decide on."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from unstuck.ops import landscapes, objectives, reference_trials
from unstuck.ops.landscapes import Landscape
from unstuck.ops.objectives import Objective

__all__ = ["Step", "losses", "step"]

Along: TypeAlias = Objective | Landscape

MEMORY = 1 << 23  # bytes of trial points of a landscape at a time


class Step(NamedTuple):
    """What :func:`step` returns."""

    w: Tensor
    """The new point, ``[D]``."""
    losses: Tensor
    """``L(w - rates[k] d)``, ``[K]``."""
    p: Tensor
    """Weights of the rates, ``[K]``; their sum is one, or zero when no loss was finite."""
    rate: Tensor
    """``sum p_k rates_k``, 0-d; zero when no loss was finite."""


def _check(objective: Along, w: Tensor, d: Tensor, rates: Tensor) -> None:
    dim = objective.dim
    for name, x in (("w", w), ("d", d)):
        if x.shape != (dim,):
            raise ValueError(f"{name} must have the shape [{dim}], not {[*x.shape]}")
    if not isinstance(objective, Landscape):
        objectives.check_point(objective, w, batch=False)
    if rates.ndim != 1 or len(rates) == 0:
        raise ValueError(f"rates must be a vector of at least one rate, not {[*rates.shape]}")
    for name, x in (("d", d), ("rates", rates)):
        if x.dtype != w.dtype or x.device != w.device:
            raise ValueError(
                f"{name} must have the dtype and the device of w, {w.dtype} on {w.device}, not "
                f"{x.dtype} on {x.device}"
            )


def _losses(objective: Along, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    if not isinstance(objective, Landscape):
        return reference_trials.losses(objective, w, d, rates)
    many = max(1, MEMORY // (w.numel() * w.element_size()))
    parts = [
        landscapes.value(objective, w - part[:, None] * d) for part in torch.split(rates, many)
    ]
    return torch.cat(parts)


def losses(objective: Along, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    """Evaluate ``L(w - rates[k] d)`` for all rates, from about one pass over the data.

    For the least-squares objectives it is a closed form: with ``r = X w - y`` and ``q = X d``,
    ``norm(r - rate q)^2`` takes three inner products for all rates, and ``norm(w - rate d)^2``
    three more. For logistic regression and the two-layer net what is linear in the parameters is
    computed once.

    Parameters
    ----------
    objective : Objective or Landscape
        The loss.
    w, d : Tensor
        The point and the direction that is subtracted, ``[D]``.
    rates : Tensor
        Learning rates, ``[K]``, in the dtype of w.

    Returns
    -------
    Tensor
        The losses, ``[K]``.

    Raises
    ------
    ValueError, TypeError
        When shapes, dtypes or devices do not fit the objective.

    Examples
    --------
    >>> from unstuck.ops.objectives import LinearRegression
    >>> line = LinearRegression(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0]))
    >>> w, gradient = torch.zeros(1), torch.tensor([-5.0])
    >>> losses(line, w, gradient, torch.tensor([0.0, 0.1, 0.3]))
    tensor([2.5000, 0.6250, 0.6250])
    """
    _check(objective, w, d, rates)
    with torch.no_grad():
        return _losses(objective, w, d, rates)


def step(objective: Along, w: Tensor, d: Tensor, rates: Tensor, beta: float) -> Step:
    """Try all rates and take the step that their losses agree on.

    ``p = softmax(-beta L(w - rates d))`` and ``w_new = w - (sum p_k rates_k) d``. Losses that are
    NaN or infinite weigh nothing; when all are, the point stays and the rate is 0.

    Parameters
    ----------
    objective : Objective or Landscape
        The loss.
    w, d : Tensor
        The point and the direction that is subtracted, ``[D]``.
    rates : Tensor
        Learning rates, ``[K]``, in the dtype of w.
    beta : float
        Inverse temperature, at least 0; large values take the best rate.

    Returns
    -------
    Step
        ``(w, losses, p, rate)``.

    Raises
    ------
    ValueError, TypeError
        When shapes, dtypes or devices do not fit the objective, or `beta` is negative or not
        finite.

    Examples
    --------
    >>> from unstuck.ops.objectives import LinearRegression
    >>> line = LinearRegression(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0]))
    >>> w, gradient = torch.zeros(1), torch.tensor([-5.0])
    >>> step(line, w, gradient, torch.tensor([0.0, 0.1, 0.2]), beta=1e3).w
    tensor([1.])
    """
    _check(objective, w, d, rates)
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta must be a finite number of at least 0, not {beta}")
    with torch.no_grad():
        tried = _losses(objective, w, d, rates)
        p, rate = reference_trials.choose(tried, rates, beta)
        return Step(torch.where(rate == 0, w, w - rate * d), tried, p, rate)
