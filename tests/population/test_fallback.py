"""Closures that draw batches themselves, and those that vmap cannot evaluate."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unstuck.population import PopulationLoss

from .small import X, Y, in_turn, mse, points_around, small


def test_a_closure_that_draws_batches_itself():
    model, batches = small(), itertools.count(1)

    def closure() -> Tensor:
        return F.mse_loss(model(X * next(batches)), Y)

    population = PopulationLoss(model, closure)
    points = population.point().repeat(6, 1)
    losses = population.losses(points)
    torch.testing.assert_close(losses, losses[:1].expand(6))  # rows may round in several ways
    with pytest.raises(ValueError, match="another loss when it is called again"):
        PopulationLoss(model, closure, chunk=2).losses(points)
    assert [p.grad for p in model.parameters()] == [None] * 4


def test_a_net_that_is_known_needs_one_batch():
    model, batches = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), itertools.count(1)

    def closure() -> Tensor:
        return F.mse_loss(model(X * next(batches)), Y)

    population = PopulationLoss(model, closure, chunk=1)
    if population.is_plain:
        assert len(population.losses(population.point().repeat(6, 1)).unique()) == 1


# ---------------------------------------------------------------- where vmap gives up
def with_item(model: nn.Module) -> Tensor:
    loss = mse(model)
    return loss * loss.item()


def with_branch(model: nn.Module) -> Tensor:
    loss = mse(model)
    return loss if loss > 1 else 2 * loss


def with_writes(model: nn.Module) -> Tensor:
    out = torch.zeros(12, 2)
    out[:] = model(X)
    return F.mse_loss(out, Y)


def with_graph(model: nn.Module) -> Tensor:
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return slope.square().mean()


def with_number(model: nn.Module) -> float:
    return float(mse(model).detach())


@pytest.mark.parametrize("loss", [with_item, with_branch, with_writes, with_graph, with_number])
def test_what_vmap_cannot_do_is_done_in_turn_with_one_warning(loss):
    model = small()
    population = PopulationLoss(model, lambda: loss(model))
    points = points_around(population)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = population.losses(points)
        population.line(torch.randn(population.dim), torch.rand(3))
    told = [w for w in caught if "one at a time" in str(w.message)]
    assert len(told) == 1
    assert (told[0].category, told[0].filename) == (RuntimeWarning, __file__)
    with torch.enable_grad():
        wanted = in_turn(model, lambda: loss(model), points)
    torch.testing.assert_close(losses, wanted.to(losses.dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another kind
        _, gradients = population.value_and_gradient(points)
    assert bool(gradients.any()) == (loss is not with_number)


def test_the_warning_names_the_operation():
    model = small()
    with pytest.warns(RuntimeWarning, match=r"torch\.Tensor\.item"):
        PopulationLoss(model, lambda: with_item(model)).losses(torch.zeros(2, 23))
