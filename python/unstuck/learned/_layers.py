"""Layers in the type that computes: meta-parameters are float32, students may be float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return the layer's output for ``x [..., in]``, in the dtype of `x`."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return torch.nn.functional.linear(x, layer.weight.to(x.dtype), bias)


def by_row(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return the same as :func:`linear`, each row rounded as if it were alone."""
    y = (x[..., None, :] * layer.weight.to(x.dtype)).sum(-1)
    return y + layer.bias.to(x.dtype)


def normalized(x: Tensor) -> Tensor:
    """Return ``x [..., width]`` with mean 0 and variance 1 along its last axis."""
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def zero(*layers: nn.Linear) -> None:
    """Let layers start at zero."""
    for layer in layers:
        for p in layer.parameters():
            nn.init.zeros_(p)
