"""differentiable=True: autograd runs through steps, as in torch's own tests by gradcheck."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unstuck.optim import DynamicBlend

from .autograd_blend import AutogradBlend
from .runs import assert_same, loss_of, make_params

SETTINGS = {
    "shared": {},
    "general": {"momentum": 0.7, "dampening": 0.2},
    "nesterov": {"nesterov": True, "maximize": True},
    "no-momentum": {"momentum": 0.0, "weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.4, "decoupled_weight_decay": True},
}


def one_step(p: Tensor, grad: Tensor, state: dict[str, Tensor], **settings) -> list[Tensor]:
    """A step from a state that may itself need a gradient."""
    p = p.clone()
    p.grad = grad
    optimizer = DynamicBlend([p], differentiable=True, **settings)
    optimizer.state[p].update({k: v.clone() for k, v in state.items()})
    if "momentum_buffer" not in state:
        optimizer.param_groups[0]["moment_beta"] = 0.9
    optimizer.step()
    return [p, *(v for v in optimizer.state[p].values() if v.requires_grad)]


@pytest.mark.parametrize("name", SETTINGS)
def test_gradcheck(name):
    settings = SETTINGS[name]
    p, grad, m, b = (torch.rand(5, dtype=torch.float64, requires_grad=True) for _ in range(4))
    v = torch.rand(5, dtype=torch.float64).add(0.5).requires_grad_()
    alpha = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    shared = name in ("shared", "nesterov", "decoupled")

    def step(p, grad, m, v, b, alpha):
        state = {"step": torch.tensor(10.0), "exp_avg": m, "exp_avg_sq": v}
        if not shared and settings.get("momentum") != 0:
            state["momentum_buffer"] = b
        return tuple(one_step(p, grad, state, alpha=alpha, lr=0.05, sgd_lr=0.1, **settings))

    assert torch.autograd.gradcheck(step, (p, grad, m, v, b, alpha))


@pytest.mark.parametrize("name", SETTINGS)
def test_derivatives_through_several_steps(name):
    """Those of the start and of alpha, through four steps whose gradients depend on them."""
    settings = SETTINGS[name]
    values = []
    for ours in (True, False):
        start = make_params([(6,)], torch.float64)[0]
        alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        p = start.clone()
        twin = AutogradBlend(lr=0.05, sgd_lr=0.1, **settings)
        optimizer = DynamicBlend(
            [p.detach()], differentiable=True, alpha=alpha, lr=0.05, sgd_lr=0.1, **settings
        )
        state: dict[str, Tensor] = {}
        for batch in range(4):
            (grad,) = torch.autograd.grad(loss_of([p], batch), p, create_graph=True)
            if not ours:
                [p] = twin.step([p], [grad], [alpha])
                continue
            p = p.clone()
            p.grad = grad
            optimizer.param_groups[0]["params"] = [p]
            optimizer.state.clear()
            optimizer.state[p].update(state)
            optimizer.step()
            state = dict(optimizer.state[p])
        values.append([p.detach(), *torch.autograd.grad(loss_of([p], 9), (start, alpha))])
    assert values[0][2].abs() > 1e-3
    assert_same(values[0], values[1], rtol=1e-9, atol=1e-12)


def test_a_rate_can_be_learned():
    """dL/dlr through the step, lr a tensor that needs a gradient."""
    p = make_params([(6,)], torch.float64)[0]
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(loss_of([p], 0), p)

    def after(lr):
        q = p.detach().clone()
        q.grad = grad
        DynamicBlend([q], lr=lr, alpha=0.5, differentiable=True).step()
        return loss_of([q], 1)

    (slope,) = torch.autograd.grad(after(lr), lr)
    assert slope.abs() > 1e-3
    h = 1e-6
    with torch.no_grad():
        ratio = 1e-2 / 0.05

        def number(value):
            q = p.detach().clone()
            q.grad = grad
            DynamicBlend([q], lr=value, sgd_lr=value * ratio, alpha=0.5).step()
            return loss_of([q], 1)

        numeric = (number(0.05 + h) - number(0.05 - h)) / (2 * h)
    torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-9)


def test_without_it_no_graph_is_built():
    p = make_params([(6,)])[0]
    p.grad = torch.ones_like(p).requires_grad_()
    optimizer = DynamicBlend([p], alpha=0.5)
    optimizer.step()
    assert p.is_leaf
    assert p.grad_fn is None
    assert all(v.grad_fn is None for v in optimizer.state[p].values())
