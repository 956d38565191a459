"""Training problems that trap: energies of matter, and equations of physics."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from unstuck.problems._trap_losses import Made, Output, Point


def lennard_jones(atoms: int = 13) -> Made:
    i, j = torch.triu_indices(atoms, atoms, 1)

    def loss(module: Output) -> Tensor:
        x = module()
        sixth = (x[i] - x[j]).square().sum(1).pow(-3)
        return 4 * (sixth.square() - sixth).sum()

    return lambda: Point(atoms, 3), loss


def oscillators(count: int = 40) -> Made:
    def loss(module: Output) -> Tensor:
        phase = module()
        return (1 - torch.cos(phase - phase.roll(1))).mean()

    return lambda: Point(count, scale=3.0), loss


class Wave(nn.Module):
    """A tanh net u(x), evaluated with its second derivative (forward mode)."""

    def __init__(self, *hidden: int) -> None:
        super().__init__()
        widths = (1, *hidden, 1)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return u and u'' [N] at points [N]."""
        value, first = points[:, None], torch.ones(len(points), 1)
        second = torch.zeros(len(points), 1)
        last = len(self.layers) - 1
        for k, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            value, first, second = layer(value), first @ layer.weight.T, second @ layer.weight.T
            if k < last:
                value = torch.tanh(value)
                slope = 1 - value.square()
                second = slope * (second - 2 * value * first.square())
                first = slope * first
        return value[:, 0], second[:, 0]


def helmholtz(waves: float = 4.0) -> Made:
    """-u'' - k^2 u = f on [-1, 1], u = 0 at the ends, with the solution sin(waves pi x)."""
    x = torch.linspace(-1, 1, 101)
    k = 3.0
    force = ((waves * math.pi) ** 2 - k**2) * torch.sin(waves * math.pi * x)
    unit = force.square().mean()

    def loss(module: nn.Module) -> Tensor:
        u, bend = module(x)
        residual = (-bend - k**2 * u - force).square().mean() / unit
        total: Tensor = residual + u[0].square() + u[-1].square()
        return total

    return lambda: Wave(16, 16), loss
