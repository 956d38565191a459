"""Closures of plain perceptrons are seen for what they are, and others are not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unstuck.ops import mlp
from unstuck.ops.candidates import Draw, Region
from unstuck.population import PopulationLoss

DATA = torch.Generator().manual_seed(0)
X = torch.randn(20, 8, generator=DATA)
CLASSES = torch.randint(3, (20,), generator=DATA)
VALUES = torch.rand(20, 3, generator=DATA)

pytestmark = pytest.mark.skipif(
    not mlp.native_ready(torch.device("cpu")), reason="needs the native module"
)


def net(*between: nn.Module, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 6), *between, nn.Linear(6, outputs))


class Layers(nn.Module):
    """Written out, without a bias in the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.second(h.view(len(x), -1))


PLAIN = {
    "relu": (lambda: net(nn.ReLU()), nn.CrossEntropyLoss()),
    "in place": (lambda: net(nn.ReLU(inplace=True)), nn.CrossEntropyLoss(reduction="sum")),
    "tanh": (lambda: net(nn.Tanh()), nn.MSELoss()),
    "sigmoid": (lambda: net(nn.Sigmoid()), nn.BCEWithLogitsLoss()),
    "gelu": (lambda: net(nn.GELU()), nn.MSELoss(reduction="sum")),
    "gelu-tanh": (lambda: net(nn.GELU("tanh")), nn.CrossEntropyLoss()),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), nn.CrossEntropyLoss()),
    "no dropout": (lambda: net(nn.ReLU(), nn.Dropout(0.5)).eval(), nn.CrossEntropyLoss()),
    "last activation": (lambda: nn.Sequential(net(nn.ReLU()), nn.Tanh()), nn.MSELoss()),
    "own layers": (Layers, nn.CrossEntropyLoss()),
    "vector": (lambda: nn.Sequential(net(nn.ReLU(), outputs=1), nn.Flatten(0)), nn.MSELoss()),
}


def target(loss: nn.Module, model: nn.Module) -> Tensor:
    if isinstance(loss, nn.CrossEntropyLoss):
        return CLASSES
    return VALUES if model(X).ndim == 2 else VALUES[:, 0]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_nets_give_what_vmap_gives(name):
    make, loss = PLAIN[name]
    model = make()
    y, optimizer = target(loss, model), torch.optim.SGD(model.parameters(), lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model(X), y)
        value.backward()
        return value

    population = PopulationLoss(model, closure)
    general = PopulationLoss(model, lambda: loss(model(X), y) * 1.0)
    points = population.point() + 0.1 * torch.randn(5, population.dim)
    close = {"rtol": 2e-5, "atol": 2e-5}
    for found, wanted in zip(
        population.value_and_gradient(points), general.value_and_gradient(points), strict=True
    ):
        torch.testing.assert_close(found, wanted, **close)
    torch.testing.assert_close(population.losses(points), general.losses(points), **close)
    d, rates = torch.randn(population.dim), torch.rand(4)
    torch.testing.assert_close(population.line(d, rates), general.line(d, rates), **close)
    region = Region(population.point(), 0.1)
    found, wanted = (p.candidates(region, Draw(1), 5) for p in (population, general))
    torch.testing.assert_close(found, wanted, **close)
    assert population.is_plain
    assert not general.is_plain


def _decay(model: nn.Module) -> Tensor:
    return F.mse_loss(model(X), VALUES) + sum(p.square().sum() for p in model.parameters())


def _other_use(model: nn.Module) -> Tensor:
    z = model(X)
    z.mul_(2)
    return F.mse_loss(z, VALUES)


def _changed_later(model: nn.Module) -> Tensor:
    x = X.clone()
    loss = F.mse_loss(model(x), VALUES)
    x.add_(1)
    return loss


def _branch(model: nn.Module) -> Tensor:
    z = model(X)
    return F.mse_loss(z, VALUES) if z.sum() > 0 else F.l1_loss(z, VALUES)


def _twice(model: nn.Module) -> Tensor:
    F.mse_loss(model(X), VALUES)
    return F.mse_loss(model(X + 1), VALUES)


def _ignored(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(X), torch.where(CLASSES == 1, -100, CLASSES))


def _wide(model: nn.Module) -> Tensor:
    return F.mse_loss(model(X.view(2, 10, 8)), VALUES.view(2, 10, 3))


def _autocast(model: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.mse_loss(model(X), VALUES)


def _autocast_later(model: nn.Module) -> Tensor:
    h = model[1](model[0](X))
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(model[2](h), CLASSES)


@pytest.mark.parametrize(
    "closure",
    [
        *(_decay, _other_use, _changed_later, _twice, _ignored, _wide, _autocast, _autocast_later),
        lambda model: F.cross_entropy(model(X), CLASSES, label_smoothing=0.1),
        lambda model: F.cross_entropy(model(X), CLASSES, weight=torch.ones(3)),
        lambda model: F.cross_entropy(model(X), VALUES.softmax(1)),
        lambda model: F.mse_loss(VALUES, model(X)),
        lambda model: F.mse_loss(model(X), VALUES).detach(),
        lambda model: F.l1_loss(model(X), VALUES),
        lambda model: F.mse_loss(model(X), model(X)),
        lambda model: F.mse_loss(model[2](F.elu(model[0](X))), VALUES),
    ],
)
def test_anything_else_is_left_to_vmap(closure):
    model = net(nn.ReLU())
    population = PopulationLoss(model, lambda: closure(model))
    points = population.point() + 0.1 * torch.randn(3, population.dim)
    general = PopulationLoss(model, lambda: closure(model) * 1.0)
    torch.testing.assert_close(population.losses(points), general.losses(points))
    assert not population.is_plain


def test_dropout_and_a_branch_are_left_to_vmap():
    model = net(nn.ReLU(), nn.Dropout(0.5))
    population = PopulationLoss(model, lambda: F.mse_loss(model(X), VALUES))
    population.losses(population.point()[None])
    assert not population.is_plain
    model = net(nn.ReLU())
    population = PopulationLoss(model, lambda: _branch(model))
    with pytest.warns(RuntimeWarning, match="one at a time"):
        population.losses(population.point()[None])
    assert not population.is_plain


def test_a_net_is_seen_anew_at_every_call():
    model, rows = net(nn.ReLU()), [X, X[:7]]
    labels = [CLASSES, CLASSES[:7]]

    def closure() -> Tensor:
        return F.cross_entropy(model(rows[0]), labels[0])

    population = PopulationLoss(model, closure)
    points = population.point() + 0.1 * torch.randn(3, population.dim)
    population.losses(points)
    rows.reverse(), labels.reverse()
    wanted = PopulationLoss(model, lambda: closure() * 1.0).losses(points)
    torch.testing.assert_close(population.losses(points), wanted)
    assert population.is_plain


def test_nothing_is_computed_or_kept_to_see_it():
    model = net(nn.ReLU())
    F.mse_loss(model(X), VALUES).backward()
    grads = [p.grad for p in model.parameters()]

    def closure() -> Tensor:
        seen.append(F.mse_loss(model(X), VALUES))
        return seen[-1]

    seen: list[Tensor] = []
    population = PopulationLoss(model, closure)
    assert population.losses(population.point()[None]).shape == (1,)
    assert [loss.is_meta for loss in seen] == [True]
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))


def test_parts_of_a_net_may_be_frozen():
    model = net(nn.ReLU())
    model[0].requires_grad_(False)
    population = PopulationLoss(model, lambda: F.mse_loss(model(X), VALUES))
    points = population.point() + 0.1 * torch.randn(3, population.dim)
    general = PopulationLoss(model, lambda: F.mse_loss(model(X), VALUES) * 1.0)
    torch.testing.assert_close(population.losses(points), general.losses(points))
    assert population.is_plain  # its inputs are those of the last layer


@pytest.mark.parametrize("shape", [(), (1,), (20, 3)])
def test_a_bias_of_another_shape_is_left_to_vmap(shape):
    model = nn.Module()
    model.first, model.bias = nn.Linear(8, 3, bias=False), nn.Parameter(torch.randn(shape))
    model.last = nn.Linear(3, 3)

    def closure() -> Tensor:
        return F.mse_loss(model.last(F.linear(X, model.first.weight, model.bias)), VALUES)

    population = PopulationLoss(model, closure)
    torch.testing.assert_close(population.losses(population.point()[None])[0], closure().detach())
    assert not population.is_plain


def test_inputs_of_another_width_raise_torchs_error():
    model = net(nn.ReLU())
    population = PopulationLoss(model, lambda: F.mse_loss(model(X[:, :5]), VALUES))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        population.losses(population.point()[None])


@pytest.mark.parametrize("rows", [X[:1].expand(20, 8), torch.randn(27).unfold(0, 8, 1)])
def test_rows_may_share_memory(rows):
    model = net(nn.ReLU())
    population = PopulationLoss(model, lambda: F.mse_loss(model(rows), VALUES))
    loss = F.mse_loss(model(rows), VALUES).detach()
    torch.testing.assert_close(population.losses(population.point()[None])[0], loss)
    assert population.is_plain


def test_no_gradient_passes_what_the_closure_does_without_a_graph():
    model = net(nn.ReLU())

    def closure() -> Tensor:
        with torch.no_grad():
            h = model[:2](X)
        return F.mse_loss(model[2](h), VALUES)

    population = PopulationLoss(model, closure)
    _, gradient = population.value_and_gradient(population.point()[None])
    closure().backward()
    assert not gradient[0, : 8 * 6 + 6].any()
    torch.testing.assert_close(gradient[0, -3:], model[2].bias.grad)
