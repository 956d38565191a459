"""The modules and losses of the training problems that trap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Output = Callable[..., Tensor]  # a module that returns one tensor
Loss = Callable[[nn.Module], Tensor]
Fresh = Callable[[], nn.Module]
Made = (
    tuple[Fresh, Loss] | tuple[Fresh, Loss, float]
)  # and the loss of what made the data, if not 0


def net_of(activation: type[nn.Module], *widths: int) -> nn.Sequential:
    """Linear layers of these widths with an activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def bit_rows(count: int) -> tuple[Tensor, Tensor]:
    """All rows of +-1, and 1 where the number of +1 is odd."""
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=count)))
    return x, (x > 0).sum(1).remainder(2).float()


def parity(bits: int, activation: type[nn.Module], *hidden: int) -> Made:
    x, y = bit_rows(bits)

    def loss(module: Output) -> Tensor:
        return F.binary_cross_entropy_with_logits(module(x)[:, 0], y)

    return lambda: net_of(activation, bits, *hidden, 1), loss


def xor() -> Made:
    x, y = bit_rows(2)

    def loss(module: Output) -> Tensor:
        return F.mse_loss(torch.sigmoid(module(x)[:, 0]), y)

    return lambda: net_of(nn.Sigmoid, 2, 2, 1), loss


class Point(nn.Module):
    """Parameters that are drawn from N(0, scale^2), of one shape."""

    def __init__(self, *shape: int, scale: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(scale * torch.randn(*shape))

    def forward(self) -> Tensor:
        return self.w


def phase_retrieval(generator: torch.Generator, dim: int = 16, rows: int = 56) -> Made:
    a = torch.randn(rows, dim, generator=generator)
    y = (a @ torch.randn(dim, generator=generator)).square()
    unit = y.square().mean()

    def loss(module: Output) -> Tensor:
        return ((a @ module()).square() - y).square().mean() / unit

    return lambda: Point(dim), loss


def matrix_sensing(
    generator: torch.Generator, dim: int = 10, rank: int = 2, rows: int = 24
) -> Made:
    a = torch.randn(rows, dim * dim, generator=generator)
    truth = torch.randn(dim, rank, generator=generator)
    y = a @ (truth @ truth.T).reshape(-1)
    unit = y.square().mean()

    def loss(module: Output) -> Tensor:
        u = module()
        return (a @ (u @ u.T).reshape(-1) - y).square().mean() / unit

    return lambda: Point(dim, rank), loss


class Convection(nn.Module):
    """A tanh net u(x, t), evaluated with its derivatives (forward mode)."""

    def __init__(self, *hidden: int) -> None:
        super().__init__()
        widths = (2, *hidden, 1)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return u, du/dx and du/dt [N] at points [N, 2]."""
        value = points
        slopes = torch.eye(2)[:, None, :].expand(2, len(points), 2)
        last = len(self.layers) - 1
        for k, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            value, slopes = layer(value), slopes @ layer.weight.T
            if k < last:
                value = torch.tanh(value)
                slopes = slopes * (1 - value.square())
        return value[:, 0], slopes[0, :, 0], slopes[1, :, 0]


def convection(beta: float = 30.0) -> Made:
    x = 2 * math.pi * torch.arange(16) / 16
    t = torch.linspace(0, 1, 48)
    sobol = torch.quasirandom.SobolEngine(2)  # type: ignore[no-untyped-call]
    inside: Tensor = sobol.draw(512)  # on a grid the wave has aliases
    inside = inside * torch.tensor([2 * math.pi, 1.0])
    start = torch.stack([x, torch.zeros_like(x)], 1)
    left = torch.stack([torch.zeros_like(t), t], 1)
    right = torch.stack([torch.full_like(t, 2 * math.pi), t], 1)
    points = torch.cat([inside, start, left, right])
    parts = [len(inside), len(start), len(left), len(right)]
    first = torch.sin(x)

    def loss(module: nn.Module) -> Tensor:
        u, u_x, u_t = module(points)
        _, at_start, at_left, at_right = u.split(parts)
        residual = (u_t + beta * u_x)[: parts[0]]
        ends = F.mse_loss(at_start, first) + F.mse_loss(at_left, at_right)
        total: Tensor = ends + residual.square().mean()
        return total

    return lambda: Convection(32, 32), loss


def two_spirals() -> Made:
    turn = torch.arange(97) * math.pi / 16
    radius = (104 - torch.arange(97)) / 104
    one = torch.stack([radius * torch.sin(turn), radius * torch.cos(turn)], 1)
    x = torch.cat([one, -one])
    y = torch.cat([torch.ones(97), torch.zeros(97)])

    def loss(module: Output) -> Tensor:
        return F.binary_cross_entropy_with_logits(module(x)[:, 0], y)

    return lambda: net_of(nn.Tanh, 2, 12, 12, 1), loss


def teacher_student(generator: torch.Generator, dim: int = 8, width: int = 8) -> Made:
    x = torch.randn(400, dim, generator=generator)
    orthogonal, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
    y = torch.relu(x @ orthogonal[:width].T).sum(1)

    def loss(module: Output) -> Tensor:
        return F.mse_loss(torch.relu(x @ module().T).sum(1), y)

    return lambda: Point(width, dim, scale=dim**-0.5), loss


def sinusoids(generator: torch.Generator, waves: int = 3) -> Made:
    t = torch.linspace(0, 1, 100)
    rate = 2 * math.pi * (2 + 8 * torch.rand(waves, generator=generator))
    phase = 2 * math.pi * torch.rand(waves, generator=generator)
    y = torch.sin(rate[:, None] * t + phase[:, None]).sum(0)
    unit = y.var()

    def loss(module: Output) -> Tensor:
        w = module()  # amplitudes, logarithms of frequencies, phases
        wave = torch.sin(20 * w[1][:, None].exp() * t + w[2][:, None])
        return (w[0] @ wave - y).square().mean() / unit

    return lambda: Point(3, waves), loss


def deep_sigmoids() -> Made:
    return parity(3, nn.Sigmoid, 4, 4, 4)


def encoder(codes: int = 8, narrow: int = 2) -> Made:
    x = torch.eye(codes)

    def loss(module: Output) -> Tensor:
        return F.binary_cross_entropy_with_logits(module(x), x)

    return lambda: nn.Sequential(
        nn.Linear(codes, narrow), nn.Sigmoid(), nn.Linear(narrow, codes)
    ), loss


class Factors(nn.Module):
    """Three factor matrices of a canonical polyadic decomposition."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(0.5 * torch.randn(size, rank))
        self.b = nn.Parameter(0.5 * torch.randn(size, rank))
        self.c = nn.Parameter(0.5 * torch.randn(size, rank))

    def forward(self) -> Tensor:
        """Return the tensor [size, size, size]."""
        pairs = self.a[:, None, :] * self.b[None, :, :]
        return pairs @ self.c.T


def matrix_product(rank: int = 7) -> Made:
    tensor = torch.zeros(4, 4, 4)
    for i, j, k in itertools.product(range(2), repeat=3):
        tensor[2 * i + j, 2 * j + k, 2 * i + k] = 1

    def loss(module: Output) -> Tensor:
        return (module() - tensor).square().sum()

    return lambda: Factors(4, rank), loss


class Bumps(nn.Module):
    """A sum of Gaussian bumps in the plane, with heights, centres and log widths."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.randn(count))
        self.centre = nn.Parameter(2 * torch.rand(count, 2) - 1)
        self.width = nn.Parameter(torch.full((count,), math.log(0.2)))

    def forward(self, points: Tensor) -> Tensor:
        """Return the sums [N] at points [N, 2]."""
        away = (points[:, None] - self.centre).square().sum(2)
        return torch.exp(-away / (2 * self.width.exp().square())) @ self.height


def bumps(generator: torch.Generator, count: int = 6) -> Made:
    line = torch.linspace(-1, 1, 20)
    points = torch.cartesian_prod(line, line)
    centre = 1.8 * torch.rand(count, 2, generator=generator) - 0.9
    sign = torch.tensor([1.0, -1.0]).repeat(count)[:count]
    away = (points[:, None] - centre).square().sum(2)
    y = torch.exp(-away / (2 * 0.15**2)) @ sign
    unit = y.var()

    def loss(module: Output) -> Tensor:
        return F.mse_loss(module(points), y) / unit

    return lambda: Bumps(count), loss


def dead_units() -> Made:
    x = torch.linspace(-1, 1, 64)[:, None]
    y = torch.sin(3 * math.pi * x)
    unit = y.var()

    def build() -> nn.Module:
        net = net_of(nn.ReLU, 1, 16, 16, 1)
        for layer in (net[0], net[2]):
            assert isinstance(layer, nn.Linear)
            with torch.no_grad():
                layer.bias.sub_(0.5)
        return net

    def loss(module: Output) -> Tensor:
        return F.mse_loss(module(x), y) / unit

    return build, loss
