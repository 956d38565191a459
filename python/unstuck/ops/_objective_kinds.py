"""The objectives with data: what each holds and checks. The formulas are in the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)


def _check_data(X: Tensor, y: Tensor, dtype: torch.dtype | None = None) -> None:
    """Check inputs [n, F] and targets [n], which have the dtype of the inputs unless told."""
    if X.dtype not in DTYPES:
        raise TypeError(f"X must be float32 or float64, not {X.dtype}: use X.float()")
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X must be rows of features [n, D], none of them 0, not {[*X.shape]}")
    if y.shape != X.shape[:1]:
        raise ValueError(f"y must have one target a row, [{X.shape[0]}], not {[*y.shape]}")
    if y.dtype != (dtype or X.dtype):
        raise TypeError(f"y must be {dtype or X.dtype}, not {y.dtype}: use y.to(...)")
    if y.device != X.device:
        raise ValueError(f"y is on {y.device}, but X is on {X.device}: use y.to(X.device)")


@dataclass(frozen=True, eq=False)
class LinearRegression:
    """Mean squared error of a linear model: ``mean (X w - y)^2``.

    Parameters
    ----------
    X : Tensor
        Inputs, ``[n, D]``, float32 or float64; give it a column of ones for a bias.
    y : Tensor
        Targets, ``[n]``, of the same dtype and on the same device.

    Raises
    ------
    ValueError, TypeError
        When shapes, dtypes or devices do not fit each other.

    Examples
    --------
    >>> from unstuck.ops.objectives import LinearRegression, value
    >>> line = LinearRegression(torch.tensor([[1.0, 1.0], [2.0, 1.0]]), torch.tensor([3.0, 5.0]))
    >>> line.dim, value(line, torch.tensor([2.0, 0.0]))
    (2, tensor(1.))
    """

    X: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        """Check the data."""
        _check_data(self.X, self.y)

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.X.shape[1]


@dataclass(frozen=True, eq=False)
class Trapped:
    """Least squares with rings of traps: ``mean (X w - y)^2 + lam sin(kappa norm(w)^2)``.

    The gradient is ``(2/n) X^T (X w - y) + 2 lam kappa cos(kappa norm(w)^2) w``: the second term
    is strong and changes its sign every ``pi / kappa`` of ``norm(w)^2``, so that gradient descent
    stops on the first ring it meets.

    Parameters
    ----------
    X : Tensor
        Inputs, ``[n, D]``, float32 or float64; one column is of ones, for the bias.
    y : Tensor
        Targets, ``[n]``, of the same dtype and on the same device.
    lam : float
        Depth of the traps.
    kappa : float
        Traps per unit of ``norm(w)^2``, times two pi.

    Raises
    ------
    ValueError, TypeError
        When shapes, dtypes or devices do not fit each other, or `lam` or `kappa` is not finite.

    Examples
    --------
    >>> from unstuck.ops.objectives import Trapped, value_and_gradient
    >>> X, y = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0])
    >>> loss, gradient = value_and_gradient(Trapped(X, y, lam=0.5, kappa=0.0), torch.zeros(1))
    >>> loss, gradient
    (tensor(2.5000), tensor([-5.]))
    """

    X: Tensor
    y: Tensor
    lam: float
    kappa: float

    def __post_init__(self) -> None:
        """Check the data and the two numbers."""
        _check_data(self.X, self.y)
        for name in ("lam", "kappa"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, not {getattr(self, name)}")

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.X.shape[1]


@dataclass(frozen=True, eq=False)
class LogisticRegression:
    """Mean binary cross-entropy of a linear model: ``mean log(1 + exp(z)) - y z``, ``z = X w``.

    Parameters
    ----------
    X : Tensor
        Inputs, ``[n, D]``, float32 or float64; give it a column of ones for a bias.
    y : Tensor
        Targets from 0 to 1, ``[n]``, of the same dtype and on the same device.

    Raises
    ------
    ValueError, TypeError
        When shapes, dtypes or devices do not fit each other.

    Examples
    --------
    >>> from unstuck.ops.objectives import LogisticRegression, value
    >>> model = LogisticRegression(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 1.0]))
    >>> value(model, torch.zeros(1))  # log 2
    tensor(0.6931)
    """

    X: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        """Check the data."""
        _check_data(self.X, self.y)

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.X.shape[1]


@dataclass(frozen=True, eq=False)
class TwoLayerNet:
    """Mean loss of a network with one hidden ReLU layer, its weights in one flat vector.

    ``z = W2 relu(W1 x + b1) + b2``; the vector holds ``W1 [hidden, F]``, ``b1``,
    ``W2 [outputs, hidden]``, ``b2``, in this order, as
    ``torch.nn.utils.parameters_to_vector`` gives them for two ``nn.Linear``.

    Parameters
    ----------
    X : Tensor
        Inputs, ``[n, F]``, float32 or float64.
    y : Tensor
        ``[n]``: targets from 0 to 1 in the dtype of X for ``"bce"``, class numbers in int64 for
        ``"cross-entropy"``.
    hidden : int
        Width of the hidden layer.
    loss : str
        ``"bce"``: one output, sigmoid and binary cross-entropy. ``"cross-entropy"``: one output a
        class, softmax and cross-entropy.
    classes : int, optional
        Number of classes; by default one more than the largest number in y.

    Raises
    ------
    ValueError, TypeError
        When shapes, dtypes or devices do not fit each other, for an unknown loss, or for class
        numbers outside of ``0 .. classes - 1``.

    Examples
    --------
    >>> from unstuck.ops.objectives import TwoLayerNet, value
    >>> X, y = torch.randn(20, 2), torch.arange(20) % 3
    >>> net = TwoLayerNet(X, y, hidden=8, loss="cross-entropy")
    >>> net.dim, net.outputs  # 8 x 2 + 8 + 3 x 8 + 3
    (51, 3)
    >>> value(net, torch.zeros(net.dim))  # log 3
    tensor(1.0986)
    """

    X: Tensor
    y: Tensor
    hidden: int
    loss: str = "bce"
    classes: int | None = None

    def __post_init__(self) -> None:
        """Check the data and the sizes."""
        if self.loss not in ("bce", "cross-entropy"):
            raise ValueError(f"loss must be 'bce' or 'cross-entropy', not {self.loss!r}")
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, not {self.hidden}")
        if self.loss == "bce":
            _check_data(self.X, self.y)
            if self.classes is not None:
                raise ValueError(f"classes={self.classes} is for 'cross-entropy', not for 'bce'")
            return
        _check_data(self.X, self.y, torch.int64)
        low, high = int(self.y.min()), int(self.y.max())
        classes = high + 1 if self.classes is None else self.classes
        if low < 0 or high >= classes:
            raise ValueError(
                f"y holds classes from {low} to {high}, not from 0 to {classes - 1}: "
                "number the classes from 0, or set classes"
            )
        object.__setattr__(self, "classes", classes)

    @property
    def outputs(self) -> int:
        """Width of the last layer."""
        return self.classes or 1

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.hidden * (self.X.shape[1] + 1) + self.outputs * (self.hidden + 1)


Objective: TypeAlias = LinearRegression | Trapped | LogisticRegression | TwoLayerNet
