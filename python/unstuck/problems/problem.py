"""A function to minimise, with everything that is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Evaluate = Callable[[Any, Tensor], Tensor]
Differentiate = Callable[[Any, Tensor], "tuple[Tensor, Tensor]"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A named function of D numbers: call it, differentiate it, or hand it to a search.

    Made by :func:`unstuck.problems.get`. Calling it is differentiable: the backward pass uses the
    analytic gradient.

    Attributes
    ----------
    name : str
        What :func:`unstuck.problems.get` knows it by.
    dim : int
        Number of coordinates, D.
    bounds : tuple of two torch.Tensor
        The usual box, ``(low [D], high [D])``; infinite where there is none. Their dtype and device
        are those of the problem.
    minimum : float or None
        Lowest value in the box, where it is known.
    minimizer : torch.Tensor or None
        A point ``[D]`` that has it, where it is known.
    objective
        The description of the function that the fused operations understand.

    Examples
    --------
    >>> from unstuck import problems
    >>> problem = problems.get("rastrigin", dim=3)
    >>> problem(torch.ones(3)), problem(torch.zeros(2, 3))
    (tensor(3.), tensor([0., 0.]))
    >>> problem.minimum, problem.minimizer
    (0.0, tensor([0., 0., 0.]))
    """

    name: str
    dim: int
    bounds: tuple[Tensor, Tensor]
    minimum: float | None
    minimizer: Tensor | None
    objective: Any
    evaluate: Evaluate = field(repr=False)
    differentiate: Differentiate = field(repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the points."""
        return self.bounds[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the points live."""
        return self.bounds[0].device

    def __call__(self, x: Tensor) -> Tensor:
        """Return the value of a point ``[D]`` as a 0-d tensor, or those of ``[N, D]`` as ``[N]``.

        Raises
        ------
        TypeError, ValueError
            When `x` is no tensor of the problem's dtype, device and dimension.
        """
        self._check(x)
        if x.requires_grad and torch.is_grad_enabled():
            value: Tensor = _Differentiable.apply(x, self)  # type: ignore[no-untyped-call]
            return value
        return self.evaluate(self.objective, x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values as calling does, and the gradients, shaped as `x`.

        Raises
        ------
        TypeError, ValueError
            When `x` is no tensor of the problem's dtype, device and dimension.
        """
        self._check(x)
        return self.differentiate(self.objective, x.detach())

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{self.name} takes a tensor, not {type(x).__name__}: use torch.as_tensor(x)"
            )
        if x.ndim not in (1, 2) or x.shape[-1] != self.dim:
            raise ValueError(
                f"{self.name} takes points [{self.dim}] or [N, {self.dim}], not {[*x.shape]}"
            )
        if x.dtype != self.dtype or x.device != self.device:
            raise TypeError(
                f"{self.name} takes {self.dtype} on {self.device}, not {x.dtype} on {x.device}: "
                "use problems.get(..., dtype=, device=) or x.to(...)"
            )


class _Differentiable(torch.autograd.Function):
    """The value of a problem, with its analytic gradient for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, problem: Problem) -> Tensor:
        """Compute the value and keep the gradient."""
        value, gradient = problem.differentiate(problem.objective, x.detach())
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """Scale the kept gradient."""
        (gradient,) = ctx.saved_tensors
        return upstream.unsqueeze(-1) * gradient, None


@dataclass(frozen=True)
class Entry:
    """A row of the table behind :func:`unstuck.problems.get`.

    Attributes
    ----------
    make : callable
        ``make(dim, dtype, device, **parameters)`` returns the :class:`Problem`; `dim` is None where
        the caller gave none, and `make` refuses what it cannot do with a ``ValueError``.
    about : str
        One line: what it is.
    parameters : mapping of str
        Parameters it takes beside the dimension, with their defaults.
    """

    make: Callable[..., Problem]
    about: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
