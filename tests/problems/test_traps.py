"""Training problems that trap: starts, data, losses, and that the targets can be reached."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call

from unstuck.problems import TRAPS, load_trap
from unstuck.problems._trap_losses import Convection, Factors, bit_rows


@pytest.mark.parametrize("name", TRAPS)
def test_a_start_is_a_function_of_the_seed(name):
    before = torch.get_rng_state()
    one, same, other = load_trap(name, 3), load_trap(name, 3), load_trap(name, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.loss().item() == same.loss().item() != other.loss().item()
    assert one.loss().item() > one.target
    one.module.zero_grad()
    one.loss().backward()
    gradients = [p.grad for p in one.module.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", TRAPS)
def test_fresh_weights_are_for_the_same_data(name):
    run = load_trap(name, 3)
    start = run.loss().item()
    assert run.fresh(3) is not run.module
    run.module.load_state_dict(run.fresh(5).state_dict())
    assert run.loss().item() != start
    run.module.load_state_dict(run.fresh(3).state_dict())
    assert run.loss().item() == start


@pytest.mark.parametrize("name", TRAPS)
def test_the_loss_reads_the_parameters_of_the_module_it_was_made_for(name):
    run = load_trap(name, 0)
    names = dict(run.module.named_parameters())
    with torch.no_grad():
        for parameter in names.values():
            parameter.copy_(torch.linspace(0.5, 1.5, parameter.numel()).reshape(parameter.shape))
    alike = run.loss().item()
    assert math.isfinite(alike)
    assert alike > run.target


def test_an_unknown_name():
    with pytest.raises(ValueError, match="unknown trap 'maze': known are adding, blind"):
        load_trap("maze")


def test_parity_of_bits():
    x, y = bit_rows(3)
    assert x.shape == (8, 3)
    assert y.sum() == 4
    assert y[(x > 0).sum(1) == 3] == 1


def test_derivatives_of_the_convection_net():
    torch.manual_seed(0)
    net, points = Convection(5, 5), torch.rand(7, 2, requires_grad=True)
    u, u_x, u_t = net(points)
    (slopes,) = torch.autograd.grad(u.sum(), points)
    torch.testing.assert_close(torch.stack([u_x, u_t], 1), slopes)


def test_seven_products_multiply_matrices():
    """Strassen's algorithm has loss zero: the target can be reached."""
    run, net = load_trap("matrix-product"), Factors(4, 7)
    a = [[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1]]
    a += [[1, 1, 0, 0], [-1, 0, 1, 0], [0, 1, 0, -1]]
    b = [[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, -1], [-1, 0, 1, 0]]
    b += [[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]]
    c = [[1, 0, 0, 1], [0, 0, 1, -1], [0, 1, 0, 1], [1, 0, 1, 0]]
    c += [[-1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    state = {k: torch.tensor(v).T.float() for k, v in (("a", a), ("b", b), ("c", c))}
    run.module.load_state_dict(state)
    assert run.loss().item() == 0
    assert functional_call(net, state, ()).sum() == 8


@pytest.mark.parametrize("name", ["phase-retrieval", "matrix-sensing", "sinusoids", "bumps"])
def test_the_truth_that_made_the_data_has_no_loss(name):
    """Draw again what the generator of the data drew, and put it into the module."""
    run, generator = load_trap(name, 7), torch.Generator().manual_seed(7)
    if name == "phase-retrieval":
        torch.randn(56, 16, generator=generator)
        truth = {"w": torch.randn(16, generator=generator)}
    elif name == "matrix-sensing":
        torch.randn(24, 100, generator=generator)
        truth = {"w": torch.randn(10, 2, generator=generator)}
    elif name == "sinusoids":
        rate = 2 * math.pi * (2 + 8 * torch.rand(3, generator=generator))
        phase = 2 * math.pi * torch.rand(3, generator=generator)
        truth = {"w": torch.stack([torch.ones(3), (rate / 20).log(), phase])}
    else:
        centre = 1.8 * torch.rand(6, 2, generator=generator) - 0.9
        height = torch.tensor([1.0, -1.0]).repeat(3)
        truth = {"height": height, "centre": centre, "width": torch.full((6,), math.log(0.15))}
    run.module.load_state_dict(truth)
    assert run.loss().item() < 1e-8
