"""Faults that torch's own fused optimizers have, or had. One test each."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from .registry import OptimizerInfo, Variant
from .runs import assert_changed, assert_same, every_variant, make_params, snapshot


@every_variant()
@pytest.mark.parametrize("swapped", ["parameter", "gradient", "state"])
def test_strides_that_differ_are_honoured(info: OptimizerInfo, variant: Variant, swapped, device):
    """A transposed parameter with a contiguous gradient: the k-th number in memory is another."""
    grads = [torch.randn(4, 3, device=device) for _ in range(3)]
    twin = make_params([(4, 3)], device=device)[0]
    base = twin.detach().clone()
    p = nn.Parameter(base.t().contiguous().t() if swapped == "parameter" else base)
    ours, plain = info.make(variant, [p]), info.make(variant, [twin])
    start = p.detach().clone()
    for step, grad in enumerate(grads):
        twin.grad = grad.clone()
        p.grad = grad.t().contiguous().t() if swapped == "gradient" else grad.clone()
        if swapped == "state" and step:
            for key in ours.state[p].keys() - {"step"}:
                ours.state[p][key] = ours.state[p][key].t().contiguous().t()
        ours.step()
        plain.step()
    assert_changed([start], [p])
    assert_same(p.detach(), twin.detach(), rtol=1e-6, atol=1e-7)


@every_variant()
def test_the_version_counter_rises(info: OptimizerInfo, variant: Variant, device):
    """Without it autograd differentiates with the new values where the old ones were used."""
    p = make_params([(4, 3)], device=device)[0]
    optimizer = info.make(variant, [p])
    for _ in range(3):
        p.grad = torch.ones_like(p)
        version = p._version
        loss = p.square().sum()
        optimizer.step()
        assert p._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@every_variant()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_steps_reach_every_element(info: OptimizerInfo, variant: Variant, dtype, device):
    for numel in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 257, 1025):
        p = nn.Parameter(torch.ones(numel, dtype=dtype, device=device))
        optimizer = info.make(
            variant, [p], lr=0.1 * info.lr_unit, **dict.fromkeys(info.further_rates, 0.1)
        )
        p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        assert (p.detach() == p.detach()[0]).all()
        assert p.detach()[0] != 1


@every_variant()
def test_an_overflow_at_the_first_step_leaves_no_garbage(
    info: OptimizerInfo, variant: Variant, device
):
    """The momentum buffer of the next step starts from the gradient, not from what lay there."""
    params, twins = make_params(device=device), make_params(device=device)
    ours, plain = info.make(variant, params), info.make(variant, twins)
    ours.found_inf = torch.ones((), device=device)
    ours.grad_scale = torch.full((), 4.0, device=device)
    for p in params:
        p.grad = torch.full_like(p, float("inf"))
    if variant.amp:
        ours.step()
    del ours.found_inf, ours.grad_scale
    assert_same([p.detach() for p in params], [p.detach() for p in twins])
    for _ in range(2):
        for p, q in zip(params, twins, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        plain.step()
    assert_same([p.detach() for p in params], [p.detach() for p in twins])
    assert_same(ours.state_dict()["state"], plain.state_dict()["state"])


@every_variant(lambda variant: "schedule" not in variant.name)
def test_a_first_gradient_that_comes_late_is_a_first_step(
    info: OptimizerInfo, variant: Variant, device
):
    """Its bias corrections and its momentum start then, not with the others."""
    early, late = make_params([(5,), (4, 3)], device=device)
    twin = deepcopy(late)
    settings = {**variant.kwargs, **info.without_gate}
    ours, alone = info.cls([early, late], **settings), info.cls([twin], **settings)
    for step in range(6):
        early.grad = torch.randn_like(early)
        if step >= 3:
            late.grad = torch.randn_like(late)
            twin.grad = late.grad.clone()
            alone.step()
        ours.step()
    assert float(ours.state[late]["step"]) == 3
    assert float(ours.state[early]["step"]) == 6
    assert_same(late.detach(), twin.detach())


@every_variant()
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("amp", [False, True], ids=["", "scaled"])
def test_gradients_are_not_written(info: OptimizerInfo, variant: Variant, nesterov, amp, device):
    """Neither nesterov's sum, nor weight decay, nor the sign, nor the scale ends up in p.grad."""
    settings = {"weight_decay": 0.1, "maximize": True}
    if nesterov:
        if "momentum" not in info.cls([torch.zeros(1)]).defaults:
            pytest.skip("it has no momentum besides Adam's")
        settings |= {"momentum": 0.9, "dampening": 0, "nesterov": True}
    params = make_params([(6, 3), (5,)], device=device)
    optimizer = info.make(variant, params, **settings)
    if amp and variant.amp:
        optimizer.grad_scale = torch.full((), 8.0, device=device)
        optimizer.found_inf = torch.zeros((), device=device)
    for _ in range(3):
        grads = [torch.randn_like(p) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        before = snapshot(optimizer, params)["params"]
        optimizer.step()
        assert_changed(before, params)
        assert_same([p.grad for p in params], grads)
