"""The objectives with data in plain torch: truth and fallback.

All functions take points ``[..., D]`` and work on any device; the values can be differentiated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops._objective_kinds import (
    LinearRegression,
    LogisticRegression,
    Objective,
    Trapped,
    TwoLayerNet,
)

__all__ = ["layers", "mean_loss", "value", "value_and_gradient"]


def layers(net: TwoLayerNet, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of vectors ``[..., D]``: ``W1 [..., H, F]``, ``b1``, ``W2 [..., C, H]``, ``b2``."""
    features, hidden, outputs = net.X.shape[1], net.hidden, net.outputs
    sizes = [hidden * features, hidden, outputs * hidden, outputs]
    w1, b1, w2, b2 = torch.split(w, sizes, dim=-1)
    batch = w.shape[:-1]
    return w1.reshape(*batch, hidden, features), b1, w2.reshape(*batch, outputs, hidden), b2


def mean_loss(net: TwoLayerNet, z: Tensor) -> Tensor:
    """The loss ``[...]`` of outputs ``[..., C, n]``."""
    if net.loss == "bce":
        return binary_cross_entropy(z.squeeze(-2), net.y)
    index = net.y.expand(*z.shape[:-2], 1, -1)
    return (z.logsumexp(-2) - z.gather(-2, index).squeeze(-2)).mean(-1)


def binary_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """``mean log(1 + exp(z)) - y z`` over the last dimension, without overflow."""
    return ((1 - y) * z - torch.nn.functional.logsigmoid(z)).mean(-1)


def _hidden(net: TwoLayerNet, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activations ``[..., H, n]``, outputs ``[..., C, n]`` and the second layer's weights."""
    w1, b1, w2, b2 = layers(net, w)
    active = (w1 @ net.X.T + b1[..., None]).relu()
    return active, w2 @ active + b2[..., None], w2


def value(objective: Objective, w: Tensor) -> Tensor:
    """The loss ``[...]`` at every point of ``w [..., D]``."""
    if isinstance(objective, TwoLayerNet):
        return mean_loss(objective, _hidden(objective, w)[1])
    z = w @ objective.X.T
    if isinstance(objective, LogisticRegression):
        return binary_cross_entropy(z, objective.y)
    loss = (z - objective.y).square().mean(-1)
    if isinstance(objective, Trapped):
        loss = loss + objective.lam * (objective.kappa * w.square().sum(-1)).sin()
    return loss


def value_and_gradient(objective: Objective, w: Tensor) -> tuple[Tensor, Tensor]:
    """The loss ``[...]`` and its gradient ``[..., D]`` at every point of ``w [..., D]``."""
    if isinstance(objective, TwoLayerNet):
        return _net(objective, w)
    X, y, n = objective.X, objective.y, len(objective.y)
    z = w @ X.T
    if isinstance(objective, LogisticRegression):
        return binary_cross_entropy(z, y), (z.sigmoid() - y) @ X / n
    residual = z - y
    loss, gradient = residual.square().mean(-1), residual @ X * (2 / n)
    if isinstance(objective, LinearRegression):
        return loss, gradient
    lam, angle = objective.lam, objective.kappa * w.square().sum(-1)
    pull = 2 * lam * objective.kappa * angle.cos()
    return loss + lam * angle.sin(), gradient + pull[..., None] * w


def _net(net: TwoLayerNet, w: Tensor) -> tuple[Tensor, Tensor]:
    active, z, w2 = _hidden(net, w)
    if net.loss == "bce":
        error = z.sigmoid() - net.y
    else:
        one_hot = torch.nn.functional.one_hot(net.y, net.outputs).T
        error = z.softmax(-2) - one_hot.to(z.dtype)
    error = error / len(net.y)  # [..., C, n]
    back = (w2.mT @ error) * (active > 0)  # [..., H, n]
    parts = [
        (back @ net.X).flatten(-2),
        back.sum(-1),
        (error @ active.mT).flatten(-2),
        error.sum(-1),
    ]
    return mean_loss(net, z), torch.cat(parts, dim=-1)
