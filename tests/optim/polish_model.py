"""A net under ALME on all rows: it polishes, unless the rows change."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from unstuck.optim import ALME

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.sin(X.sum(1, keepdim=True))


def net(*extra):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), *extra, nn.Tanh(), nn.Linear(8, 1))


class Model:
    """A net, an optimizer, and a closure on some rows that counts its calls."""

    def __init__(self, model=None, rows=lambda: slice(None), backward=False, lr=1e-3, **options):
        self.model = net() if model is None else model
        self.optimizer = ALME(self.model.parameters(), lr=lr, **options)
        self.rows, self.backward, self.calls = rows, backward, 0
        self.shift = 0.0
        self.sign = -1.0 if options.get("maximize") else 1.0

    def loss(self, rows=slice(None)):
        return self.sign * F.mse_loss(self.model(X[rows]), Y[rows] + self.shift)

    def closure(self):
        self.calls += 1
        if self.backward:
            self.optimizer.zero_grad()
        loss = self.loss(self.rows())
        if self.backward:
            loss.backward()
        return loss

    def step(self, count=1):
        return [self.optimizer.step(self.closure).item() for _ in range(count)]

    @property
    def polishing(self):
        return self.optimizer._watch.search is not None

    @property
    def values(self):
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])
