"""The function to minimise: called with what its author expects, counted, its best point kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unstuck.problems import Problem

STEP = 0.5  # a forward difference of eps^STEP balances rounding against curvature


class BudgetSpentError(Exception):
    """The evaluations that were allowed are used up; raised and caught in this package."""


class Form(NamedTuple):
    """What a point looks like to the caller.

    Attributes
    ----------
    shape : tuple of int
        Of one point.
    array : bool
        A numpy array, not a tensor.
    box : tuple of two torch.Tensor, optional
        ``(low [D], high [D])``: the search has the coordinates ``(x - low) / (high - low)``.
    """

    shape: tuple[int, ...]
    array: bool
    box: tuple[Tensor, Tensor] | None = None

    def read(self, x: Tensor) -> Tensor:
        """Return the coordinates of the search of a point ``[D]`` in the box."""
        if self.box is None:
            return x
        low, high = self.box
        return ((x - low) / (high - low)).clamp(0, 1)

    def write(self, x: Tensor, *, copy: bool = True) -> Any:
        """Return rows ``[..., D]`` as a tensor or array ``[..., *shape]``, fresh with `copy`."""
        points = x.detach()
        if self.box is None:
            points = points.clone() if copy else points
        else:
            low, high = self.box
            points = torch.addcmul(low, points, high - low).clamp(low, high)
        points = points.reshape(*x.shape[:-1], *self.shape)
        return points.cpu().numpy() if self.array else points

    def scale(self, gradient: Tensor) -> Tensor:
        """Return a gradient ``[D]`` with respect to the coordinates of the search."""
        return gradient if self.box is None else gradient * (self.box[1] - self.box[0])


class Function:
    """Maps candidates ``[N, D]`` to losses ``[N]`` and never evaluates more than it may.

    The best point is kept row by row, so that nothing is lost when the user's function raises or
    the keyboard interrupts in the middle of a batch.

    Parameters
    ----------
    fun : callable
        The user's function.
    form : Form
        What one point looks like to it.
    start : torch.Tensor
        The start ``[D]``: dtype and device of every point.
    vectorized : bool
        It takes points ``[N, *shape]`` and returns ``[N]``.
    budget : int
        Evaluations that are allowed.
    rows : int
        Points held, and handed to a vectorized function, at once.
    high : torch.Tensor, optional
        Upper bounds ``[D]``: a difference steps down where up is out.
    objective : optional
        What the fused operations evaluate in place of `fun`.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        form: Form,
        start: Tensor,
        *,
        vectorized: bool,
        budget: int,
        rows: int,
        high: Tensor | None = None,
        objective: Any = None,
    ) -> None:
        self._fun, self._form, self._vectorized, self._rows = fun, form, vectorized, rows
        self._analytic = getattr(fun, "value_and_gradient", None)
        self._reads = isinstance(fun, Problem) and form.box is None  # needs no copy of its own
        self._high, self._objective = high, objective
        self.budget = budget
        self.nfev = 0
        self.ngev = 0
        self.best_x = start
        self.best_f = math.inf

    def __call__(self, x: Tensor) -> Tensor:
        """Return the losses ``[N]`` of candidates ``[N, D]``, in float64.

        Raises
        ------
        BudgetSpentError
            After the evaluations that were left, when there are more candidates than that.
        """
        found = []
        left = self.budget - self.nfev
        with torch.no_grad():
            for start in range(0, min(len(x), left), self._rows):
                part = x[start : min(start + self._rows, left)]
                found.append(self._batch(part) if self._vectorized else self._each(part))
        if left < len(x):
            raise BudgetSpentError
        return torch.cat(found) if len(found) > 1 else found[0].clone()

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a point ``[D]``, in float64, and its gradient ``[D]``.

        Analytic where the function has ``value_and_gradient``, else by autograd, else (numpy) by
        forward differences, whose D values count as evaluations.
        """
        if self.nfev >= self.budget:
            raise BudgetSpentError
        if self._analytic is not None:
            value, gradient = self._analytic(self._point(x))
            loss, slope = self._scalar(value), torch.as_tensor(gradient).to(x).reshape(-1)
            if slope.shape != x.shape:
                raise ValueError(
                    f"value_and_gradient returned a gradient of {slope.numel()} numbers for a "
                    f"point of {x.numel()}: it must be shaped as x"
                )
        elif self._form.array:
            return self._differences(x)
        else:
            loss, slope = self._autograd(x)
        self.record(x[None], loss.reshape(1))
        self.ngev += 1
        return loss, self._form.scale(slope)

    def offer(self, count: int) -> Any:
        """Return the fused objective and count `count` evaluations, or None where it must not be.

        There may be no such objective, or not that many evaluations left: calling the function
        then spends what is left and not more.
        """
        if self._objective is None or self.nfev + count > self.budget:
            return None
        self.nfev += count
        return self._objective

    def record(self, x: Tensor, losses: Tensor) -> None:
        """Count points ``[n, D]`` with their losses ``[n]`` and keep the best."""
        values = losses.detach().cpu().numpy()  # a few numbers, mostly: cheaper than in torch
        self.nfev += values.size
        finite = np.where(np.isfinite(values), values, np.inf)
        index = int(finite.argmin())
        value = float(finite[index])
        if value < self.best_f:
            self.best_x, self.best_f = x[index].detach().clone(), value

    def _point(self, x: Tensor) -> Any:
        """Return what the function is called with, which it may write into."""
        return x if self._reads else self._form.write(x)

    def _batch(self, x: Tensor) -> Tensor:
        losses = _real(self._fun(self._point(x)))
        if losses.shape != (len(x),):
            raise ValueError(
                f"fun returned shape {[*losses.shape]} for {len(x)} points {[*x.shape]}: with "
                f"vectorized=True it must return one value a point, shape [{len(x)}]"
            )
        losses = losses.detach().to(x.device, torch.float64)
        self.record(x, losses)
        return losses

    def _each(self, x: Tensor) -> Tensor:
        losses: list[float | Tensor] = []
        try:
            for point in self._form.write(x):
                value = self._fun(point)
                losses.append(value if isinstance(value, float) else self._scalar(value).detach())
        finally:  # an error or an interrupt loses none of the points before it
            if losses:
                column = _column(losses, x.device)
                self.record(x[: len(losses)], column)
        return column

    def _scalar(self, value: Any) -> Tensor:
        """Return what a function gave for one point, as a 0-d tensor in float64."""
        loss = _real(value)
        if loss.numel() != 1:
            raise ValueError(
                f"fun returned shape {[*loss.shape]} for one point of shape "
                f"{[*self._form.shape]}: it must return one number (or take many points at once "
                "with vectorized=True)"
            )
        return loss.reshape(()).to(torch.float64)

    def _autograd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        point = self._form.write(x).requires_grad_()
        with torch.enable_grad():
            given = self._fun(point[None])[0] if self._vectorized else self._fun(point)
            loss = self._scalar(given)
        if not loss.requires_grad:
            raise ValueError(
                "fun gives no gradient: compute it with torch operations on x, give fun a method "
                "value_and_gradient(x), or pass a numpy x0 for gradients by differences"
            )
        (slope,) = torch.autograd.grad(loss, point)
        return loss.detach(), slope.reshape(-1)

    def _differences(self, x: Tensor) -> tuple[Tensor, Tensor]:
        step = torch.finfo(x.dtype).eps ** STEP * x.abs().clamp(min=1)
        if self._high is not None:
            step = torch.where(x + step > self._high, -step, step)
        loss = self(x[None])[0]
        slope = torch.empty_like(x)
        for start in range(0, len(x), self._rows):
            index = torch.arange(start, min(start + self._rows, len(x)), device=x.device)
            points = x.repeat(len(index), 1)
            points[range(len(index)), index] += step[index]
            moved = points[range(len(index)), index] - x[index]
            slope[index] = (self(points) - loss).to(x) / moved
        self.ngev += 1
        return loss, slope


def _column(losses: list[float | Tensor], device: torch.device) -> Tensor:
    """Return numbers and 0-d tensors as one tensor in float64."""
    if all(isinstance(loss, float) for loss in losses):
        return torch.tensor(losses, dtype=torch.float64, device=device)
    return torch.stack([torch.as_tensor(loss, dtype=torch.float64) for loss in losses]).to(device)


def _real(value: Any) -> Tensor:
    """Return what a function gave as a tensor of real numbers."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"fun returned {type(value).__name__}: it must return a number, a tensor or an array"
        ) from error
    if tensor.is_complex():
        raise TypeError(f"fun returned complex numbers ({tensor.dtype}): it must return real ones")
    return tensor
