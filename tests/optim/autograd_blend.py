"""The blend step written for autograd: what the hypergradient is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class History:
    """What one parameter remembers from step to step."""

    step: int = 0
    exp_avg: Any = 0.0
    exp_avg_sq: Any = 0.0
    buffer: Any = None


@dataclass
class AutogradBlend:
    """One group; `step` returns new parameters that depend on alpha by autograd."""

    lr: float = 1e-3
    sgd_lr: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    maximize: bool = False
    histories: dict[int, History] = field(default_factory=dict)

    def step(
        self, params: list[Tensor], grads: list[Tensor | None], alphas: list[Tensor]
    ) -> list[Tensor]:
        """Return the parameters after a step with one alpha for each of them."""
        return [
            p if g is None else self._one(self.histories.setdefault(i, History()), p, g, alpha)
            for i, (p, g, alpha) in enumerate(zip(params, grads, alphas, strict=True))
        ]

    def _one(self, h: History, w: Tensor, grad: Tensor, alpha: Tensor) -> Tensor:
        beta1, beta2 = self.betas
        x = -grad if self.maximize else grad
        if not self.decoupled_weight_decay:
            x = x + self.weight_decay * w
        h.step += 1
        h.exp_avg = beta1 * h.exp_avg + (1 - beta1) * x
        h.exp_avg_sq = beta2 * h.exp_avg_sq + (1 - beta2) * x**2
        first = h.buffer is None
        h.buffer = x if first else self.momentum * h.buffer + (1 - self.dampening) * x
        adam = (h.exp_avg / (1 - beta1**h.step)) / (
            (h.exp_avg_sq / (1 - beta2**h.step)).sqrt() + self.eps
        )
        sgd = x + self.momentum * h.buffer if self.nesterov else h.buffer
        if self.decoupled_weight_decay:
            adam = adam + self.weight_decay * w
            sgd = sgd + self.weight_decay * w
        return w - (alpha * self.lr * adam + (1 - alpha) * self.sgd_lr * sgd)


def gate_alpha(weights: Tensor, hidden: int, inputs: Tensor) -> Tensor:
    """sigmoid(w2 . relu(W1 x + b1) + b2), the weights as one vector."""
    n = inputs.shape[-1]
    W1, b1, w2, b2 = weights.split([hidden * n, hidden, hidden, 1])
    h = torch.relu(inputs @ W1.view(hidden, n).T + b1)
    return torch.sigmoid(h @ w2 + b2)
