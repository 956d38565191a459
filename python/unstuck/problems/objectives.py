"""The objectives with data as problems, and the seeded data sets that they are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unstuck.ops import objectives
from unstuck.ops.objectives import (
    LinearRegression,
    LogisticRegression,
    Objective,
    Trapped,
    TwoLayerNet,
)
from unstuck.problems import _optimum
from unstuck.problems.problem import Entry, Problem

__all__ = ["OBJECTIVES", "classification_data", "regression_data"]


def regression_data(
    samples: int, dim: int, seed: int = 0, *, noise: float = 0.1, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Make normal inputs with a column of ones, and targets ``y = X w + noise eps``.

    Parameters
    ----------
    samples : int
        Number of rows, n.
    dim : int
        Number of columns, D; the last one is of ones, for the bias.
    seed : int
        Of the inputs, the weights ``w ~ N(0, I)`` and the noise, drawn on the CPU in float64.
    noise : float
        Standard deviation of the noise.
    dtype : torch.dtype
        Of what is returned.

    Returns
    -------
    tuple of Tensor
        ``X [n, D]`` and ``y [n]``.

    Raises
    ------
    ValueError
        When there would be no row, no column, or a negative noise.

    Examples
    --------
    >>> X, y = regression_data(100, 3)
    >>> X.shape, y.shape, X[:, -1].unique()
    (torch.Size([100, 3]), torch.Size([100]), tensor([1.]))
    """
    X, drift, eps = _linear_model(samples, dim, seed, noise)
    return X.to(dtype), (drift + noise * eps).to(dtype)


def classification_data(
    samples: int, dim: int, seed: int = 0, *, noise: float = 1.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Make normal inputs with a column of ones, and labels ``y = 1 where X w + noise eps > 0``.

    Parameters
    ----------
    samples : int
        Number of rows, n.
    dim : int
        Number of columns, D; the last one is of ones, for the bias.
    seed : int
        Of the inputs, the weights ``w ~ N(0, I)`` and the noise, drawn on the CPU in float64.
    noise : float
        Standard deviation of the noise: labels near the border are wrong.
    dtype : torch.dtype
        Of what is returned.

    Returns
    -------
    tuple of Tensor
        ``X [n, D]`` and ``y [n]``, zeros and ones.

    Raises
    ------
    ValueError
        When there would be no row, no column, or a negative noise.

    Examples
    --------
    >>> X, y = classification_data(100, 3)
    >>> X.shape, y.unique()
    (torch.Size([100, 3]), tensor([0., 1.]))
    """
    X, drift, eps = _linear_model(samples, dim, seed, noise)
    return X.to(dtype), (drift + noise * eps > 0).to(dtype)


def _linear_model(samples: int, dim: int, seed: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    for name, number in (("samples", samples), ("dim", dim)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    if not noise >= 0:
        raise ValueError(f"noise must be at least 0, not {noise}")
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w, X, eps = normal(dim), normal(samples, dim), normal(samples)
    X[:, -1] = 1
    return X, X @ w, eps


def _problem(
    name: str, objective: Objective, box: Tensor | float, minimizer: Tensor | None
) -> Problem:
    """Give an objective its box, ``[-box, box]``, and its known minimum."""
    like = objective.X.new_empty(objective.dim)
    high = torch.as_tensor(box).to(like).expand_as(like).clone()
    minimum = None
    if minimizer is not None:
        minimizer = minimizer.to(like)
        minimum = float(objectives.value(objective, minimizer))
    return Problem(
        name=name,
        dim=objective.dim,
        bounds=(-high, high),
        minimum=minimum,
        minimizer=minimizer,
        objective=objective,
        evaluate=objectives.value,
        differentiate=objectives.value_and_gradient,
    )


def _wide(w: Tensor) -> float:
    """A box around zero with room around w."""
    return 2 * (1 + float(w.abs().max()))


def _linear(dim: int | None, dtype: torch.dtype, device: torch.device, **data: Any) -> Problem:
    X, y = regression_data(
        data["samples"], dim or 11, data["seed"], noise=data["noise"], dtype=torch.float64
    )
    w = _optimum.least_squares(X, y)
    objective = LinearRegression(X.to(device, dtype), y.to(device, dtype))
    return _problem("linear-regression", objective, _wide(w), w)


def _trapped(
    dim: int | None, dtype: torch.dtype, device: torch.device, lam: float, kappa: float, **data: Any
) -> Problem:
    X, y = regression_data(
        data["samples"], dim or 11, data["seed"], noise=data["noise"], dtype=torch.float64
    )
    w = _optimum.trapped(Trapped(X, y, lam, kappa))
    objective = Trapped(X.to(device, dtype), y.to(device, dtype), lam, kappa)
    return _problem("trapped", objective, _wide(w), w)


def _logistic(dim: int | None, dtype: torch.dtype, device: torch.device, **data: Any) -> Problem:
    X, y = classification_data(
        data["samples"], dim or 11, data["seed"], noise=data["noise"], dtype=torch.float64
    )
    w = _optimum.logistic(LogisticRegression(X, y))
    objective = LogisticRegression(X.to(device, dtype), y.to(device, dtype))
    return _problem("logistic-regression", objective, 10.0 if w is None else _wide(w), w)


def _two_layer_net(
    dim: int | None,
    dtype: torch.dtype,
    device: torch.device,
    features: int,
    hidden: int,
    **data: Any,
) -> Problem:
    X, y = classification_data(
        data["samples"], features + 1, data["seed"], noise=data["noise"], dtype=dtype
    )
    objective = TwoLayerNet(X[:, :features].contiguous().to(device), y.to(device), hidden)
    if dim not in (None, objective.dim):
        raise ValueError(
            f"two-layer-net has {objective.dim} parameters with features={features} and "
            f"hidden={hidden}, not dim={dim}: choose features and hidden, and leave dim out"
        )
    return _problem("two-layer-net", objective, 5.0, None)


_REGRESSION = {"samples": 200, "noise": 0.1, "seed": 0}
_CLASSES = {"samples": 200, "noise": 1.0, "seed": 0}

OBJECTIVES: dict[str, Entry] = {
    "trapped": Entry(
        _trapped,
        "least squares with rings of traps, mean (X w - y)^2 + lam sin(kappa norm(w)^2)",
        {"lam": 1.0, "kappa": 5.0, **_REGRESSION},
    ),
    "linear-regression": Entry(_linear, "mean squared error of a linear model", _REGRESSION),
    "logistic-regression": Entry(_logistic, "binary cross-entropy of a linear model", _CLASSES),
    "two-layer-net": Entry(
        _two_layer_net,
        "a hidden ReLU layer, sigmoid and binary cross-entropy on few samples",
        {"features": 2, "hidden": 10, **_CLASSES, "samples": 20},
    ),
}
