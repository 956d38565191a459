"""Losses of a multi-layer perceptron at many parameter vectors.

Layers are ``h <- activation(W h + b)``, their numbers in one flat vector; weights are made from a
point, a candidate's noise or a line as they are read.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unstuck.ops import _native, candidates, reference_mlp
from unstuck.ops._candidates_now import dense, dense_region, native_for
from unstuck.ops._native import on, where
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.reference_mlp import ACTIVATIONS, LOSSES

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "Layer",
    "Net",
    "candidate_losses",
    "line_losses",
    "losses",
    "native_ready",
    "value_and_gradient",
]


def native_ready(device: torch.device) -> bool:
    """Whether kernels evaluate nets on a device; elsewhere one vector comes after the other."""
    return hasattr(_native.module_for(device), "mlp_points")


class Layer(NamedTuple):
    """Where a layer stands in the flat vector.

    Parameters
    ----------
    inputs, outputs : int
        The shape of W is [outputs, inputs].
    weight, bias : int
        Where W, row-major, and b begin; bias -1 is none.
    activation : str
        One of :data:`ACTIVATIONS`.
    """

    inputs: int
    outputs: int
    weight: int
    bias: int
    activation: str


class Net(NamedTuple):
    """A multi-layer perceptron with its data.

    Parameters
    ----------
    X : Tensor
        Inputs [n, F], float32 or float64.
    y : Tensor
        Targets like the outputs [n, C], or for cross-entropy classes [n] in int64.
    layers : tuple of Layer
        From the inputs to the outputs; no two share parameters.
    loss : str
        One of :data:`LOSSES`.
    factor : float
        What the sum of losses is multiplied by, such as 1 / n.
    dim : int
        Length P of the flat vector.
    """

    X: Tensor
    y: Tensor
    layers: tuple[Layer, ...]
    loss: str
    factor: float
    dim: int


def check(net: Net) -> None:
    """Refuse a net whose parts do not fit each other.

    Raises
    ------
    ValueError, TypeError
        The text names the part.
    """
    X, y, layers, loss, _, dim = net
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
    if X.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"X must be float32 or float64, not {X.dtype}: use X.float()")
    if X.ndim != 2 or not X.numel() or not layers:
        raise ValueError(
            f"there must be rows of features and a layer, not X of shape {[*X.shape]} and "
            f"{len(layers)} layers"
        )
    width = X.shape[1]
    parts: list[tuple[int, int, int]] = []
    for i, layer in enumerate(layers):
        if layer.activation not in ACTIVATIONS:
            raise ValueError(
                f"layers[{i}]: activation must be one of {', '.join(ACTIVATIONS)}, not "
                f"{layer.activation!r}"
            )
        ends = [layer.weight + layer.inputs * layer.outputs, layer.bias + layer.outputs]
        least = min(layer.weight, layer.bias + 1, layer.outputs - 1)
        if layer.inputs != width or least < 0 or max(ends) > dim:
            raise ValueError(f"layers[{i}] does not fit {width} numbers and dim={dim}: {layer}")
        width = layer.outputs
        parts.append((layer.weight, ends[0], i))
        if layer.bias >= 0:
            parts.append((layer.bias, ends[1], i))
    for a, b in pairwise(sorted(parts)):
        if b[0] < a[1]:
            raise ValueError(f"layers[{a[2]}] and layers[{b[2]}] share parameters")
    classes = loss == "cross-entropy"
    shape = (len(X),) if classes else (len(X), width)
    if y.shape != shape or y.dtype != (torch.int64 if classes else X.dtype):
        raise ValueError(
            f"y must have the shape {[*shape]} and be {torch.int64 if classes else X.dtype}, not "
            f"{[*y.shape]} of {y.dtype}"
        )
    if y.device != X.device:
        raise ValueError(f"y is on {y.device}, but X is on {X.device}: use y.to(X.device)")


def _check_vector(net: Net, name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if x.shape != shape or x.dtype != net.X.dtype or x.device != net.X.device:
        raise ValueError(
            f"{name} must have the shape {[*shape]} and be {net.X.dtype} on {net.X.device}, not "
            f"{[*x.shape]}, {x.dtype} on {x.device}"
        )


def _run(net: Net, kind: str, arguments: tuple[Any, ...], out: Tensor) -> bool:
    """Write the losses by a kernel; False where there is none for this net.

    The kind is "points", "gradients" (with them), "candidates" or "line".
    """
    module = native_for(net.X)
    if module is None or not hasattr(module, "mlp_points"):
        return False
    layers = [(*layer[:4], ACTIVATIONS.index(layer.activation)) for layer in net.layers]
    rows = net.X.stride(1) == 1 and net.X.stride(0) >= net.X.shape[1]  # side by side
    X = net.X if rows and not net.X.is_neg() else net.X.contiguous()
    data = (X, dense(net.y), layers, LOSSES.index(net.loss), float(net.factor), net.dim)
    name = "mlp_points" if kind == "gradients" else f"mlp_{kind}"
    with on(out.device):
        memory: list[Tensor] = []
        if hasattr(module, "mlp_workspace"):  # on CUDA
            size = module.mlp_workspace(data, kind, len(out))
            memory.append(torch.empty(size, dtype=torch.float64, device=out.device))
        getattr(module, name)(data, *arguments, where(out.device), *memory)
    return True


def losses(net: Net, points: Tensor) -> Tensor:
    """Evaluate a net at parameter vectors.

    Parameters
    ----------
    net : Net
        What to evaluate.
    points : Tensor
        [K, P].

    Returns
    -------
    Tensor
        [K].

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> X, y = torch.ones(4, 2), torch.zeros(4, 1)
    >>> net = Net(X, y, (Layer(2, 1, 0, 2, "none"),), "squared", 1 / 4, 3)
    >>> losses(net, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 3.0]]))
    tensor([4., 9.])
    """
    return _points(net, points, None)


def value_and_gradient(net: Net, points: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate a net and its gradient at parameter vectors.

    Parameters
    ----------
    net : Net
        What to evaluate.
    points : Tensor
        [K, P].

    Returns
    -------
    tuple of Tensor
        [K] and [K, P].

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> X, y = torch.ones(4, 2), torch.zeros(4, 1)
    >>> net = Net(X, y, (Layer(2, 1, 0, 2, "none"),), "squared", 1 / 4, 3)
    >>> value_and_gradient(net, torch.tensor([[1.0, 1.0, 0.0]]))
    (tensor([4.]), tensor([[4., 4., 4.]]))
    """
    gradients = torch.empty_like(points, memory_format=torch.contiguous_format)
    return _points(net, points, gradients), gradients


def _points(net: Net, points: Tensor, gradients: Tensor | None) -> Tensor:
    check(net)
    _check_vector(net, "points", points, (len(points), net.dim))
    out = points.new_empty(len(points))
    kind = "points" if gradients is None else "gradients"
    if _run(net, kind, (dense(points), out, gradients), out):
        return out
    return reference_mlp.losses(net, points, out, gradients)


def candidate_losses(net: Net, region: Region, draw: Draw, count: int) -> Tensor:
    """Evaluate a net at candidates around a point.

    Parameters
    ----------
    net : Net
        What to evaluate.
    region : Region
        Where the candidates lie.
    draw : Draw
        Their noise.
    count : int
        How many.

    Returns
    -------
    Tensor
        [count].

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> X, y = torch.ones(4, 2), torch.zeros(4, 1)
    >>> net = Net(X, y, (Layer(2, 1, 0, 2, "none"),), "squared", 1 / 4, 3)
    >>> candidate_losses(net, Region(torch.ones(3), 0.0), Draw(seed=0), 2)
    tensor([9., 9.])
    """
    check(net)
    candidates.check(region, draw, count)
    _check_vector(net, "region.mean", region.mean, (net.dim,))
    out = region.mean.new_empty(count)
    if _run(net, "candidates", (dense_region(region), draw, out), out):
        return out
    return reference_mlp.candidate_losses(net, region, draw, out)


def line_losses(net: Net, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    """Evaluate a net at ``w - rates[k] d``.

    Parameters
    ----------
    net : Net
        What to evaluate.
    w, d : Tensor
        The point and the direction [P].
    rates : Tensor
        [K].

    Returns
    -------
    Tensor
        [K].

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> X, y = torch.ones(4, 2), torch.zeros(4, 1)
    >>> net = Net(X, y, (Layer(2, 1, 0, 2, "none"),), "squared", 1 / 4, 3)
    >>> line_losses(net, torch.ones(3), torch.ones(3), torch.tensor([0.0, 1.0]))
    tensor([9., 0.])
    """
    check(net)
    _check_vector(net, "w", w, (net.dim,))
    _check_vector(net, "d", d, (net.dim,))
    _check_vector(net, "rates", rates, (len(rates),))
    out = rates.new_empty(len(rates))
    if _run(net, "line", (dense(w), dense(d), dense(rates), out), out):
        return out
    return reference_mlp.line_losses(net, w, d, rates, out)
