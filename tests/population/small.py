"""A small model that is no plain perceptron, and its losses one after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unstuck.population import PopulationLoss

DATA = torch.Generator().manual_seed(0)
X, Y = torch.randn(12, 4, generator=DATA), torch.randn(12, 2, generator=DATA)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 2))


def mse(model: nn.Module) -> Tensor:
    return F.mse_loss(model(X), Y)


def points_around(population: PopulationLoss, count: int = 5) -> Tensor:
    return population.point() + 0.1 * torch.randn(count, population.dim)


def in_turn(model: nn.Module, closure, points: Tensor) -> Tensor:
    """Losses with the points written into the model."""
    start = [p.detach().clone() for p in model.parameters()]
    losses = []
    for point in points:
        with torch.no_grad():
            for p, part in zip(
                model.parameters(),
                torch.split(point, [p.numel() for p in model.parameters()]),
                strict=True,
            ):
                p.copy_(part.view(p.shape))
        losses.append(torch.as_tensor(closure()).detach())
    with torch.no_grad():
        for p, value in zip(model.parameters(), start, strict=True):
            p.copy_(value)
    return torch.stack(losses)
