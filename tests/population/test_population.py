"""Losses of many parameter vectors are those of one after the other, whatever the layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unstuck.ops import candidates
from unstuck.ops.candidates import Draw, Region
from unstuck.population import PopulationLoss


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.attention(x, x, x, need_weights=False)
        return self.out(h.mean(1))


class Tied(nn.Module):
    """A tiny language model with one matrix for input and output."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.table(x))).mean(1)


class Own(nn.Module):
    """A layer that multiplies by its parameters itself."""

    def __init__(self):
        super().__init__()
        self.left = nn.Parameter(torch.randn(6, 5))
        self.right = nn.Parameter(torch.randn(3, 5))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * ((x @ self.left).tanh() @ self.right.t())


def conv(dim: int) -> nn.Module:
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1]
    return nn.Sequential(
        layer(2, 4, 3, padding=1),
        nn.ReLU(),
        layer(4, 4, 2, groups=2),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), (6,)),
    "conv1d": (lambda: conv(1), (2, 5)),
    "conv2d": (lambda: conv(2), (2, 5, 4)),
    "conv3d": (lambda: conv(3), (2, 4, 3, 3)),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
        (6,),
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 1),
            nn.GroupNorm(2, 4),
            nn.InstanceNorm1d(4, track_running_stats=True),
            nn.Flatten(),
            nn.LayerNorm(20),
            nn.Linear(20, 3),
        ),
        (2, 5),
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)),
        (6,),
    ),
    "attention": (Attention, (4, 8)),
    "own": (Own, (6,)),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose1d(2, 3, 2), nn.SiLU(), nn.Flatten(), nn.Linear(18, 3)
        ),
        (2, 5),
    ),
}


def build(name: str, dtype: torch.dtype = torch.float64):
    """A model and its closure."""
    if name == "tied":
        model, x = Tied().to(dtype), torch.randint(11, (16, 4))
        y = torch.randint(11, (16,))
    else:
        make, shape = MODELS[name]
        model, x = make().to(dtype), torch.randn(16, *shape, dtype=dtype)
        y = torch.randint(3, (16,))
        model(x)  # lazy layers
    return model, lambda: F.cross_entropy(model(x), y)


def one_by_one(model, closure, points: Tensor):
    """Losses and gradients with the points in the parameters, by plain autograd."""
    params = [p for p in model.parameters() if p.requires_grad]
    random = torch.get_rng_state()
    buffers = [(b, b.clone()) for b in model.buffers()]
    losses, gradients = [], []
    for point in points:
        torch.nn.utils.vector_to_parameters(point, params)
        torch.set_rng_state(random)
        loss = closure()
        found = torch.autograd.grad(loss, params)
        gradients.append(torch.cat([g.flatten() for g in found]))
        losses.append(loss.detach())
        for buffer, value in buffers:
            buffer.copy_(value)
    torch.set_rng_state(random)
    return torch.stack(losses), torch.stack(gradients)


@pytest.fixture(params=[*MODELS, "tied"])
def case(request):
    return build(request.param)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_points_are_evaluated_as_if_alone(case, training):
    model, closure = case
    model.train(training)
    population = PopulationLoss(model, closure)
    points = population.point() + 0.3 * torch.randn(5, population.dim, dtype=torch.float64)
    losses, gradients = one_by_one(model, closure, points)
    torch.testing.assert_close(population.losses(points), losses)
    found = population.value_and_gradient(points)
    torch.testing.assert_close(found[0], losses)
    torch.testing.assert_close(found[1], gradients)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_line_and_low_rank_are_the_points_they_stand_for(case, training):
    model, closure = case
    model.train(training)
    population = PopulationLoss(model, closure)
    d, rates = torch.randn(population.dim, dtype=torch.float64), torch.linspace(0, 0.2, 5)
    rates = rates.double()
    points = population.point() - rates[:, None] * d
    torch.testing.assert_close(population.line(d, rates), population.losses(points))
    draw, sigma = Draw(3), torch.linspace(0.1, 0.3, 6, dtype=torch.float64)
    for rank in (1, 2):
        points = population.low_rank_points(draw, sigma, 0, 6, rank)
        losses = population.low_rank(draw, sigma, 6, rank)
        torch.testing.assert_close(losses, population.losses(points))


def test_candidates_are_those_of_ops():
    model, closure = build("mlp")
    population = PopulationLoss(model, closure)
    region, draw = Region(population.point(), 0.1), Draw(5)
    points = candidates.sample(region, draw, 0, 7)
    torch.testing.assert_close(
        population.candidates(region, draw, 7), population.losses(points), rtol=0, atol=1e-12
    )
