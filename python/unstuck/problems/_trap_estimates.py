"""Training problems that trap: what made the data, by likelihood or least squares."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstuck.problems._trap_losses import Made, Output, Point


def mixed(points: Tensor, centre: Tensor, logit: Tensor) -> Tensor:
    """Minus the logarithms [N] of a mixture of unit normal densities at points [N, 2]."""
    away = (points[:, None] - centre).square().sum(2)
    logs = torch.log_softmax(logit, 0) - 0.5 * away - math.log(2 * math.pi)
    return -torch.logsumexp(logs, 1)


class Mixture(nn.Module):
    """Normal densities of unit variance in the plane, with weights."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(3 * torch.randn(count, 2))
        self.logit = nn.Parameter(torch.zeros(count))

    def forward(self, points: Tensor) -> Tensor:
        """Return minus the logarithms [N] of the density at points [N, 2]."""
        return mixed(points, self.centre, self.logit)


def clusters(
    generator: torch.Generator, count: int, rows: int, side: float, deviation: float
) -> tuple[Tensor, Tensor]:
    """Centres [count, 2] that keep away from each other in a square, and points around them."""
    apart = 0.6 * side / math.sqrt(count)
    centres = torch.empty(0, 2)
    while len(centres) < count:
        drawn = side * (torch.rand(1, 2, generator=generator) - 0.5)
        if len(centres) == 0 or float((centres - drawn).norm(dim=1).min()) > apart:
            centres = torch.cat([centres, drawn])
    which = torch.arange(rows) % count
    return centres, centres[which] + deviation * torch.randn(rows, 2, generator=generator)


def gaussian_mixture(generator: torch.Generator, count: int = 8, rows: int = 400) -> Made:
    centres, x = clusters(generator, count, rows, side=16.0, deviation=1.0)

    def loss(module: Output) -> Tensor:
        return module(x).mean()

    floor = float(mixed(x, centres, torch.zeros(count)).mean())
    return lambda: Mixture(count), loss, floor


def k_means(generator: torch.Generator, count: int = 10, rows: int = 300) -> Made:
    centres, x = clusters(generator, count, rows, side=8.0, deviation=0.3)

    def distance(centre: Tensor) -> Tensor:
        return (x[:, None] - centre).square().sum(2).min(1).values.mean()

    return lambda: Point(count, 2, scale=2.0), lambda m: distance(m()), float(distance(centres))


def localization(generator: torch.Generator, sensors: int = 20, radius: float = 0.45) -> Made:
    anchors = torch.tensor([[0.1, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.9]])
    truth = torch.cat([anchors, torch.rand(sensors, 2, generator=generator)])
    i, j = torch.triu_indices(len(truth), len(truth), 1)
    squares = (truth[i] - truth[j]).square().sum(1)
    near = (squares < radius**2) & (j >= len(anchors))
    i, j, squares = i[near], j[near], squares[near]
    unit = squares.square().mean()

    def loss(module: Output) -> Tensor:
        x = torch.cat([anchors, 0.5 + module()])
        return F.mse_loss((x[i] - x[j]).square().sum(1), squares) / unit

    return lambda: Point(sensors, 2, scale=0.3), loss


def predators(log_rates: Tensor, steps: int = 48, width: float = 0.25) -> Tensor:
    """Logarithms of prey and predators [steps, 2] by leapfrog, from logarithms of rates [4]."""
    growth, eaten, death, born = log_rates.exp().unbind()
    prey = predator = torch.zeros(())
    path = []
    prey = prey + 0.5 * width * (growth - eaten * predator.exp())
    for _ in range(steps):
        predator = predator + width * (born * prey.exp() - death)
        prey = prey + width * (growth - eaten * predator.exp())
        path += [prey, predator]
    return torch.stack(path).reshape(steps, 2)


def lotka_volterra(generator: torch.Generator) -> Made:
    low, high = torch.tensor([1.5, 0.6, 1.2, 0.4]), torch.tensor([2.5, 1.2, 2.0, 0.9])
    truth = (low + (high - low) * torch.rand(4, generator=generator)).log()
    y = predators(truth)
    unit = y.var()

    def loss(module: Output) -> Tensor:
        return F.mse_loss(predators(module()), y) / unit

    return lambda: Point(4), loss


def blind_deconvolution(generator: torch.Generator, dim: int = 8, rows: int = 24) -> Made:
    a = torch.randn(2, rows, dim, generator=generator)
    truth = torch.randn(2, dim, generator=generator)

    def product(w: Tensor) -> Tensor:
        return (a @ w[:, :, None])[..., 0].prod(0)

    y = product(truth)
    unit = y.square().mean()

    def loss(module: Output) -> Tensor:
        return F.mse_loss(product(module()), y) / unit

    return lambda: Point(2, dim), loss
