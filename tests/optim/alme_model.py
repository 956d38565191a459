"""A small net with its ALME, and closures on all rows and on drawn ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstuck.optim import ALME

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = torch.sin(2 * X.sum(1, keepdim=True))


def net(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), *extra, nn.Tanh(), nn.Linear(8, 1))


class Model:
    """A net, its optimizer after some steps, and closures on all rows and on drawn ones."""

    def __init__(
        self, *extra: nn.Module, together: bool = True, steps: int = 5, **options: Any
    ) -> None:
        self.model = net(*extra)
        module = self.model if together else None
        settings = {"lr": 0.01, "mode": "plain", **options}
        self.optimizer = ALME(self.model.parameters(), module=module, **settings)
        self.sign = -1.0 if options.get("maximize") else 1.0
        self.drawn: list[Tensor] = []
        for _ in range(steps):
            self.optimizer.step(self.closure)

    def closure(self) -> Tensor:
        return self.sign * F.mse_loss(self.model(X), Y)

    def drawing(self) -> Tensor:
        rows = torch.randint(0, len(X), (16,))
        self.drawn.append(rows)
        return self.sign * F.mse_loss(self.model(X[rows]), Y[rows])

    @property
    def params(self) -> list[nn.Parameter]:
        return list(self.model.parameters())
