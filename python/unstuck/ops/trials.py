"""Losses at many learning rates along one direction, and the step that they decide on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unstuck.ops import objectives
from unstuck.ops._trials_library import pack
from unstuck.ops._trials_now import Along, Step, losses_now, step_now
from unstuck.ops.landscapes import Landscape

__all__ = ["Step", "losses", "step"]


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
    w, d, rates = w.detach(), d.detach(), rates.detach()
    if torch.compiler.is_compiling():
        losses: Tensor = torch.ops.unstuck.trial_losses(*pack(objective), w, d, rates)
        return losses
    return losses_now(objective, w, d, rates)


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
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be a finite number of at least 0, not {beta}")
    w, d, rates = w.detach(), d.detach(), rates.detach()
    if torch.compiler.is_compiling():
        return Step(*torch.ops.unstuck.trial_step(*pack(objective), w, d, rates, beta))
    return step_now(objective, w, d, rates, beta)
