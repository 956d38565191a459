"""Multi-layer perceptrons in plain torch, one parameter vector after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unstuck.ops import reference_candidates
from unstuck.ops.reference_candidates import Draw, Region

__all__ = ["ACTIVATIONS", "LOSSES", "candidate_losses", "line_losses", "losses"]

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
}
SUMS: dict[str, Callable[..., Tensor]] = {
    "squared": F.mse_loss,
    "bce": F.binary_cross_entropy_with_logits,
    "cross-entropy": F.cross_entropy,
}
ACTIVATIONS, LOSSES = tuple(FUNCTIONS), tuple(SUMS)  # in the order of the native numbers


def loss(net: Any, point: Tensor) -> Tensor:
    """Return the loss at one vector [P]."""
    h: Tensor = net.X
    for inputs, outputs, weight, bias, activation in net.layers:
        W = point[weight : weight + inputs * outputs].view(outputs, inputs)
        b = None if bias < 0 else point[bias : bias + outputs]
        h = FUNCTIONS[activation](F.linear(h, W, b))
    total = SUMS[net.loss](h, net.y, reduction="sum")
    return total * float(net.factor)


def losses(net: Any, points: Tensor, out: Tensor, gradients: Tensor | None) -> Tensor:
    """Write the losses [K] and, unless None, the gradients [K, P]."""
    for i, point in enumerate(points.detach()):
        with torch.set_grad_enabled(gradients is not None):
            w = point.clone().requires_grad_(gradients is not None)
            value = loss(net, w)
            if gradients is not None:
                (gradients[i],) = torch.autograd.grad(value, w)
        out[i] = value.detach()
    return out


def candidate_losses(net: Any, region: Region, draw: Draw, out: Tensor) -> Tensor:
    """Write the losses of candidates, made one pair at a time."""
    for first in range(0, len(out), 2):
        n = min(2, len(out) - first)
        losses(net, reference_candidates.sample(region, draw, first, n), out[first:], None)
    return out


def line_losses(net: Any, w: Tensor, d: Tensor, rates: Tensor, out: Tensor) -> Tensor:
    """Write the losses at ``w - rates[k] d``."""
    for k, rate in enumerate(rates):
        losses(net, (w - rate * d)[None], out[k:], None)
    return out
