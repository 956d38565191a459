"""Learning-rate trials beside the evaluations that they replace, written with torch's autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unstuck import problems
from unstuck.ops import objectives, reference_objectives, trials
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.objectives import LogisticRegression, Trapped, TwoLayerNet
from unstuck.problems.objectives import classification_data, regression_data
from unstuck.search import AttentionSearch


def by_autograd(loss: Callable[[Tensor], Tensor], w: Tensor) -> Callable[[], object]:
    """One loss and its gradient, as a user of torch gets them."""

    def run() -> object:
        point = w.detach().requires_grad_()
        return torch.autograd.grad(loss(point), point)

    return run


def trapped() -> tuple[Trapped, Callable[[Tensor], Tensor]]:
    objective = Trapped(*regression_data(10_000, 1000), lam=1.0, kappa=5.0)

    def loss(w: Tensor) -> Tensor:
        fit = (objective.X @ w - objective.y).square().mean()
        return fit + objective.lam * (objective.kappa * w.square().sum()).sin()

    return objective, loss


def logistic() -> tuple[LogisticRegression, Callable[[Tensor], Tensor]]:
    objective = LogisticRegression(*classification_data(10_000, 1000))

    def loss(w: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(objective.X @ w, objective.y)

    return objective, loss


def line(dim: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    w, d = (0.1 * torch.randn(dim, generator=generator) for _ in range(2))
    return w, d, torch.linspace(0, 1, count)


def test_trapped_64_rates(side_by_side) -> None:
    objective, loss = trapped()
    w, d, rates = line(objective.dim, 64)
    side_by_side(
        "trapped 10000 x 1000, 64 rates",
        lambda: trials.step(objective, w, d, rates, beta=1.0),
        {
            "one loss and gradient, autograd": by_autograd(loss, w),
            "one loss and gradient, ours": lambda: objectives.value_and_gradient(objective, w),
        },
        bytes=4 * objective.X.numel(),
        targets={"one loss and gradient, autograd": 1.5},
    )


def test_logistic_64_rates(side_by_side) -> None:
    objective, loss = logistic()
    w, d, rates = line(objective.dim, 64)
    side_by_side(
        "logistic 10000 x 1000, 64 rates",
        lambda: trials.step(objective, w, d, rates, beta=1.0),
        {"one loss and gradient, autograd": by_autograd(loss, w)},
        bytes=4 * objective.X.numel(),
        targets={"one loss and gradient, autograd": 1.5},
    )


def test_one_gradient(side_by_side) -> None:
    """The loss and the gradient from one reading of the data, where torch reads it twice."""
    objective, loss = trapped()
    w = line(objective.dim, 1)[0]
    side_by_side(
        "trapped 10000 x 1000, one gradient",
        lambda: objectives.value_and_gradient(objective, w),
        {"autograd": by_autograd(loss, w)},
        bytes=4 * objective.X.numel(),
    )


def forwards(objective: TwoLayerNet, w: Tensor, d: Tensor, rates: Tensor) -> Callable[[], object]:
    """As many forward passes of torch modules as there are rates."""
    features = objective.X.shape[1]
    net = nn.Sequential(
        nn.Linear(features, objective.hidden),
        nn.ReLU(),
        nn.Linear(objective.hidden, objective.outputs),
    )
    parameters = list(net.parameters())

    @torch.no_grad()
    def run() -> object:
        losses = []
        for rate in rates:
            nn.utils.vector_to_parameters(w - rate * d, parameters)
            z = net(objective.X)
            if objective.loss == "bce":
                bce = nn.functional.binary_cross_entropy_with_logits
                losses.append(bce(z.squeeze(1), objective.y))
            else:
                losses.append(nn.functional.cross_entropy(z, objective.y))
        return torch.stack(losses)

    return run


def compare_net(side_by_side, name: str, objective: TwoLayerNet) -> None:
    w, d, rates = line(objective.dim, 16)
    side_by_side(
        name,
        lambda: trials.step(objective, w, d, rates, beta=1.0),
        {"16 forward passes": forwards(objective, w, d, rates)},
        targets={"16 forward passes": 0.3},
    )


def test_wide_net_16_rates(side_by_side) -> None:
    X = torch.randn(1000, 784)
    net = TwoLayerNet(X, torch.arange(1000) % 10, hidden=128, loss="cross-entropy")
    compare_net(side_by_side, "net 784-128-10, 1000 rows, 16 rates", net)


def test_narrow_net_16_rates(side_by_side) -> None:
    X, y = classification_data(1000, 20)
    compare_net(side_by_side, "net 20-64-1, 1000 rows, 16 rates", TwoLayerNet(X, y, hidden=64))


def test_small_net_16_rates(side_by_side) -> None:
    X, y = classification_data(20, 2)
    compare_net(side_by_side, "net 2-10-1, 20 rows, 16 rates", TwoLayerNet(X, y, hidden=10))


def small_net() -> tuple[TwoLayerNet, Tensor]:
    """Twenty samples, and a start near zero, where the loss is about log 2."""
    net = problems.get("two-layer-net").objective
    return net, 0.1 * torch.randn(net.dim, generator=torch.Generator().manual_seed(0))


def backprop(net: TwoLayerNet, start: Tensor, lr: float) -> Callable[[], float]:
    """A step of gradient descent on torch modules, which returns the loss before it."""
    layers = nn.Linear(net.X.shape[1], net.hidden), nn.ReLU(), nn.Linear(net.hidden, 1)
    model = nn.Sequential(*layers)
    nn.utils.vector_to_parameters(start.clone(), model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(net.X)[:, 0], net.y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def attention(net: TwoLayerNet, start: Tensor, **options: object) -> Callable[[], float]:
    """An iteration of attention search, which returns the best loss so far."""
    search = AttentionSearch(start, 0.3, seed=0, **options)

    def step() -> float:
        search.step(net)
        return float(search.best[1])

    return step


PLAIN = {"mode": "plain", "popsize": 64, "beta": 20.0}


def test_small_net_one_step(side_by_side) -> None:
    net, start = small_net()
    side_by_side(
        "net 2-10-1, 20 rows, attention step",
        attention(net, start, **PLAIN),
        {
            "backprop step": backprop(net, start, 0.1),
            "adaptive attention step": attention(net, start),
        },
    )


@pytest.mark.parametrize("mode", ["plain", "adaptive"])
def test_small_net_to_a_loss(side_by_side, mode: str) -> None:
    """Seconds to a loss of 0.35, beside gradient descent at several rates, also its best."""
    net, start = small_net()

    def reach(make: Callable[[], Callable[[], float]]) -> Callable[[], None]:
        def run() -> None:
            step = make()
            for _ in range(2000):
                if step() <= 0.35:
                    return
            raise AssertionError("the loss was not reached")

        return run

    options = PLAIN if mode == "plain" else {}
    side_by_side(
        f"net 2-10-1, 20 rows, {mode} to 0.35",
        reach(lambda: attention(net, start, **options)),
        {
            f"backprop lr {lr:g}": reach(lambda lr=lr: backprop(net, start, lr))
            for lr in (0.1, 1.0, 3.0)
        },
        targets={"backprop lr 0.1": 1.0, "backprop lr 1": 1.0},
    )


def candidates_by_torch(objective: Trapped, region: Region, count: int) -> Callable[[], object]:
    """As a user of torch writes it: all candidates in one matrix."""

    def run() -> object:
        w = region.mean + region.sigma * torch.randn(count, objective.dim)
        fit = (w @ objective.X.T - objective.y).square().mean(1)
        return fit + objective.lam * (objective.kappa * w.square().sum(1)).sin()

    return run


@pytest.mark.parametrize(("n", "dim"), [(200, 11), (10_000, 1000)])
def test_trapped_candidates(side_by_side, n: int, dim: int) -> None:
    objective = Trapped(*regression_data(n, dim), lam=1.0, kappa=5.0)
    region = Region(line(dim, 1)[0], 0.1)
    side_by_side(
        f"trapped {n} x {dim}, 256 candidates",
        lambda: objectives.candidate_losses(objective, region, Draw(seed=0), 256),
        {"torch": candidates_by_torch(objective, region, 256)},
    )


def test_small_net_candidates(side_by_side) -> None:
    net, start = small_net()

    def by_torch() -> object:
        w = start + 0.1 * torch.randn(256, net.dim)
        w1, b1, w2, b2 = reference_objectives.layers(net, w)
        z = w2 @ (w1 @ net.X.T + b1[..., None]).relu() + b2[..., None]
        y = net.y.expand(256, -1)
        bce = nn.functional.binary_cross_entropy_with_logits
        return bce(z[:, 0], y, reduction="none").mean(1)

    side_by_side(
        "net 2-10-1, 20 rows, 256 candidates",
        lambda: objectives.candidate_losses(net, Region(start, 0.1), Draw(seed=0), 256),
        {"torch, batched": by_torch},
    )
