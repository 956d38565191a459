"""The search by descents: L-BFGS a value at a time, which descent goes on, where others begin."""

from __future__ import annotations

import math

import pytest
import torch

from unstuck.optim._polish import Polish, first_scales
from unstuck.optim._quasi_newton import LBFGS


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def rastrigin(x):
    return (x.square() - 10 * torch.cos(2 * math.pi * x) + 10).sum()


def value(function, x):
    x = x.clone().requires_grad_()
    loss = function(x)
    return loss.item(), torch.autograd.grad(loss, x)[0]


def run(search, function, count):
    for _ in range(count):
        if getattr(search, "over", False):
            break
        search.tell(*value(function, search.ask()))
    return search


def test_a_descent_finds_the_minimum():
    x0 = torch.full((10,), -1.0, dtype=torch.float64)
    descent = run(LBFGS(x0), rosenbrock, 400)
    assert descent.low < 1e-16
    assert len(descent.lows) < 150
    torch.testing.assert_close(descent.lowest, torch.ones_like(x0), atol=1e-6, rtol=0)
    assert descent.losses == sorted(descent.losses, reverse=True)
    assert descent.lows == sorted(descent.lows, reverse=True)


def test_a_quadratic_takes_few_values():
    widths = torch.logspace(0, 2, 8, dtype=torch.float64)
    descent = run(LBFGS(torch.ones(8, dtype=torch.float64)), lambda x: (widths * x * x).sum(), 100)
    assert next(n for n, low in enumerate(descent.lows) if low < 1e-12) < 45


def test_kinks_do_not_end_a_descent():
    descent = run(LBFGS(torch.tensor([3.0, -2.0])), lambda x: x.abs().sum() + x.square().sum(), 200)
    assert descent.low < 1e-2


def test_a_descent_ends_where_there_is_no_way_down():
    flat = run(LBFGS(torch.ones(3)), lambda x: (0 * x).sum() + 1, 10)
    assert flat.over
    assert flat.lows == [1.0]
    lost = run(LBFGS(torch.ones(3)), lambda x: (x * math.nan).sum(), 10)
    assert lost.over
    assert lost.low == math.inf
    wrong = LBFGS(torch.ones(3))  # the gradient leads up: nothing is below
    while not wrong.over:
        loss, gradient = value(lambda x: x.sum(), wrong.ask())
        wrong.tell(loss, -gradient)
    assert wrong.f == 3.0


def test_a_line_search_steps_back_from_what_is_not_finite():
    descent = run(LBFGS(torch.tensor([0.1, 5.0])), lambda x: (x - x.log()).sum(), 60)
    torch.testing.assert_close(descent.lowest, torch.ones(2), atol=1e-3, rtol=0)


def test_gradients_that_underflow():
    descent = run(LBFGS(torch.full((4,), 0.5)), lambda x: 1 + 1e-22 * x.square().sum(), 30)
    assert descent.lowest.isfinite().all()
    tiny = run(LBFGS(torch.full((4,), 1e-3)), lambda x: x.pow(8).sum(), 60)
    assert tiny.lowest.isfinite().all()
    assert tiny.low < 4.1e-24


def test_a_search_leaves_local_minima():
    generator = torch.Generator().manual_seed(0)
    for seed in range(3):
        x0 = 3 * torch.randn(3, generator=generator, dtype=torch.float64)
        once = run(LBFGS(x0), rastrigin, 1000)
        search = run(Polish(x0, [x0.shape], seed=seed), rastrigin, 1000)
        assert once.over
        assert search.loss < once.low
        assert value(rastrigin, search.best)[0] == search.loss
        assert search.evaluations == 1000
        assert search.descents > search.escapes > 0


def test_a_search_is_a_function_of_the_seed():
    x0 = torch.tensor([2.0, -3.0, 1.0])
    one, same, other = (run(Polish(x0, [x0.shape], seed=k), rastrigin, 200) for k in (1, 1, 2))
    assert torch.equal(one.best, same.best)
    assert torch.equal(one.ask(), same.ask())
    assert not torch.equal(one.ask(), other.ask())


def test_an_offset_of_the_loss_is_nothing_to_a_search():
    """Energies and likelihoods have one: whether a descent stands still must not hang on it."""
    generator = torch.Generator().manual_seed(0)
    x0 = 3 * torch.randn(3, generator=generator, dtype=torch.float64)
    found = {}
    for offset in (0.0, 1000.0, -1000.0):
        search = run(Polish(x0, [x0.shape]), lambda x: rastrigin(x) + offset, 1500)  # noqa: B023
        found[offset] = search.loss - offset, search.descents
    assert max(loss for loss, _ in found.values()) < 2.1
    assert max(n for _, n in found.values()) < 2 * min(n for _, n in found.values())


def test_a_search_survives_losses_that_are_not_finite():
    x0 = torch.tensor([1.0, -2.0])
    search = run(Polish(x0, [x0.shape]), lambda x: x.sum() * math.nan, 50)
    assert search.loss == math.inf
    assert torch.equal(search.best, x0)
    run(search, lambda x: x.square().sum(), 50)
    assert search.loss < 1e-6


def test_the_leader_goes_on_when_it_is_slow():
    """A valley in which every iteration gains little: other descents must not take all values."""
    x0 = torch.full((50,), -1.0, dtype=torch.float64)
    search = run(Polish(x0, [x0.shape]), rosenbrock, 1500)
    assert search.loss < 1e-6


def test_fresh_points_are_like_the_first_ones():
    shapes = [torch.Size([40, 50]), torch.Size([50]), torch.Size([3]), torch.Size([])]
    weight = 0.1 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    shifted = -0.7 + 0.05 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    start = torch.cat([weight, shifted, torch.ones(3), torch.tensor([-0.5])])
    means, deviations = zip(*first_scales(start, [s.numel() for s in shapes]), strict=True)
    assert means[0] == 0
    assert deviations[0] == pytest.approx(0.1, rel=0.1)
    assert means[1] == pytest.approx(-0.7, abs=0.05)
    assert deviations[1] == pytest.approx(0.05, rel=0.4)
    assert means[2:] == (1, 0)
    assert deviations[2] == 0
    assert deviations[3] == pytest.approx(math.sqrt((0.25 + 4 * deviations[1] ** 2) / 5))
    search = Polish(start, shapes, seed=3)
    search.loss, search.descents = 1.0, 9
    points = torch.stack([search._candidate(start) for _ in range(60)])
    assert (points[:, 2050:2053] == 1).all()
    changed = (points[:, :2000] != start[:2000]).view(60, 40, 50)
    whole = changed.all(2) | ~changed.any(2)
    share = changed.float().mean((1, 2))
    moved = (share == 1) & ((points[:, :2000] - start[:2000]).std(1) < 0.065)
    fresh, by_rows = (share == 1) & ~moved, whole.all(1) & (share < 1)
    entries = ~whole.all(1)
    assert min(fresh.sum(), by_rows.sum(), entries.sum(), moved.sum()) > 6
    assert share[entries].max() < 0.6
    widths = points[fresh, :2000].std(1)
    assert 0.02 < widths.min() < 0.06 < 0.15 < widths.max() < 0.42


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"have 4 numbers, but the point is of shape \(3,\)"):
        Polish(torch.ones(3), [torch.Size([2, 2])])
