"""Losses along a line in plain torch: truth and fallback.

``L(w - rate d)`` for many rates costs about what one does: all that is linear in the parameters is
computed once for w and once for d.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops import reference_candidates, reference_objectives
from unstuck.ops._objective_kinds import LogisticRegression, Objective, Trapped, TwoLayerNet

__all__ = ["choose", "losses"]

MEMORY = 1 << 23  # bytes of activations at a time


def losses(objective: Objective, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    """Return ``L(w - rates[k] d)`` for all k, ``[K]``, from one pass over the data."""
    if isinstance(objective, TwoLayerNet):
        return _net(objective, w, d, rates)
    along = torch.stack([w, d]) @ objective.X.T  # [2, n]
    if isinstance(objective, LogisticRegression):
        many = max(1, MEMORY // (along[0].numel() * along.element_size()))
        parts = [
            reference_objectives.binary_cross_entropy(
                along[0] - part[:, None] * along[1], objective.y
            )
            for part in torch.split(rates, many)
        ]
        return torch.cat(parts)
    wide = rates.double()
    residual, slope = along[0].double() - objective.y, along[1].double()
    loss = _parabola(residual, slope, wide) / len(objective.y)
    if isinstance(objective, Trapped):
        square = _parabola(w.double(), d.double(), wide)
        loss = loss + objective.lam * (objective.kappa * square).sin()
    return loss.to(w.dtype)


def _parabola(x: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    """``norm(x - rate d)^2`` for all rates, from three inner products."""
    return (x @ x - 2 * rates * (x @ d) + rates.square() * (d @ d)).clamp(min=0)


def _net(net: TwoLayerNet, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    w1, b1, w2, b2 = reference_objectives.layers(net, torch.stack([w, d]))
    first = w1 @ net.X.T + b1[..., None]  # [2, H, n]

    def loss(rate: Tensor) -> Tensor:
        active = (first[0] - rate * first[1]).relu()
        z = (w2[0] - rate * w2[1]) @ active + (b2[0] - rate * b2[1])[:, None]
        return reference_objectives.mean_loss(net, z)

    return torch.stack([loss(rate) for rate in rates])


def choose(losses: Tensor, rates: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Softmax weights ``[K]`` of ``-beta losses``, and the rate they make.

    Losses that are NaN or infinite weigh nothing; where all are, all weights and the rate are 0.
    """
    good = losses.isfinite() & rates.isfinite()
    weights = reference_candidates.relative_weights(losses, good, beta)
    total = weights.sum()
    p = torch.where(total > 0, weights / total, 0.0)
    rate = (p * torch.where(good, rates.double(), 0.0)).sum()
    return p.to(losses.dtype), rate.to(rates.dtype)
