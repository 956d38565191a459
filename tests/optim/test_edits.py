"""What users do to parameters, groups and state between two steps."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from .registry import OptimizerInfo, Variant
from .runs import (
    assert_changed,
    assert_same,
    every_optimizer,
    every_variant,
    has_gate,
    make_params,
    snapshot,
    train,
)


def pair(info: OptimizerInfo, variant: Variant, shapes=((7, 5), (5,), ())):
    """Two equal optimizers in the middle of their training."""
    params, twins = make_params(shapes), make_params(shapes)
    ours, plain = info.make(variant, params), info.make(variant, twins)
    train(ours, params, range(3))
    train(plain, twins, range(3))
    return ours, params, plain, twins


@every_optimizer()
def test_new_memory_under_a_parameter(info: OptimizerInfo, variant: Variant):
    ours, params, plain, twins = pair(info, variant)
    old = params[0].data
    params[0].data = old.clone()
    old.fill_(float("nan"))
    train(ours, params, range(3, 6))
    train(plain, twins, range(3, 6))
    assert_same(snapshot(ours, params), snapshot(plain, twins))
    assert old.isnan().all()


@every_optimizer()
def test_new_memory_at_every_step(info: OptimizerInfo, variant: Variant):
    ours, params, plain, twins = pair(info, variant)
    for batch in range(3, 6):
        for p in params:
            p.data = p.data.clone()
        train(ours, params, [batch])
        train(plain, twins, [batch])
    assert_same(snapshot(ours, params), snapshot(plain, twins))


@every_variant()
@pytest.mark.parametrize("way", ["data", "to", "swap"])
def test_another_dtype_between_steps(info: OptimizerInfo, variant: Variant, way: str):
    """The state follows the parameters; going on equals loading into that dtype."""
    ours, params, plain, twins = pair(info, variant)
    if way == "data":
        for p in params:
            p.data = p.data.double()
    elif way == "to":
        module = nn.ParameterList(params)
        module.to(torch.float64)
    else:
        for p in params:
            torch.utils.swap_tensors(p, nn.Parameter(p.detach().double()))
    wide = [nn.Parameter(p.detach().double()) for p in twins]
    other = info.make(variant, wide)
    other.load_state_dict(plain.state_dict())
    train(ours, params, range(3, 6))
    train(other, wide, range(3, 6))
    assert all(p.dtype == torch.float64 for p in params)
    assert_same(snapshot(ours, params), snapshot(other, wide))


@every_variant()
def test_another_memory_format_between_steps(info: OptimizerInfo, variant: Variant):
    ours, params, plain, twins = pair(info, variant, ((2, 3, 4, 5), (3,)))
    module = nn.ParameterList(params)
    module.to(memory_format=torch.channels_last)
    assert params[0].is_contiguous(memory_format=torch.channels_last)
    train(ours, params, range(3, 6))
    train(plain, twins, range(3, 6))
    assert_same(params, twins, rtol=1e-5 * variant.slack, atol=1e-6 * variant.slack)
    assert ours.state[params[0]]["exp_avg"].stride() == params[0].stride()


@every_variant()
def test_state_tensors_replaced(info: OptimizerInfo, variant: Variant):
    ours, params, plain, twins = pair(info, variant)
    for p in params:
        for key, value in ours.state[p].items():
            ours.state[p][key] = value.clone()
    train(ours, params, range(3, 5))
    train(plain, twins, range(3, 5))
    assert_same(snapshot(ours, params), snapshot(plain, twins))

    for p, q in zip(params, twins, strict=True):  # and their values changed, in place and not
        ours.state[p]["exp_avg_sq"] = ours.state[p]["exp_avg_sq"] * 4
        plain.state[q]["exp_avg_sq"].mul_(4)
        ours.state[p]["step"] = 7
        plain.state[q]["step"].fill_(7)
    train(ours, params, range(5, 7))
    train(plain, twins, range(5, 7))
    assert_same(snapshot(ours, params), snapshot(plain, twins))


@every_variant()
def test_state_deleted_or_moved_to_another_dictionary(info: OptimizerInfo, variant: Variant):
    ours, params, plain, twins = pair(info, variant)
    kept = dict(ours.state)
    ours.state.clear()
    ours.state.update(kept)
    train(ours, params, [3])
    train(plain, twins, [3])
    assert_same(snapshot(ours, params), snapshot(plain, twins))

    del ours.state[params[1]], plain.state[twins[1]]
    train(ours, params, range(4, 6))
    train(plain, twins, range(4, 6))
    assert ours.state[params[1]]["step"] == 2
    assert_same(snapshot(ours, params), snapshot(plain, twins))


@every_variant()
def test_state_of_a_wrong_shape_is_named(info: OptimizerInfo, variant: Variant):
    ours, params, *_ = pair(info, variant)
    ours.state[params[0]]["exp_avg"] = torch.zeros(3)
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match=r"'exp_avg' has shape \(3,\), .* has \(7, 5\)"):
        train(ours, params, [3])
    assert_same([p.detach() for p in params], before)


@every_variant()
def test_state_that_shares_memory_is_refused(info: OptimizerInfo, variant: Variant):
    if variant.kwargs.get("fused") is False or variant.kwargs.get("foreach"):
        pytest.skip("plain torch writes one tensor after the other")
    ours, params, *_ = pair(info, variant)
    ours.state[params[0]]["exp_avg_sq"] = ours.state[params[0]]["exp_avg"]
    before = snapshot(ours, params)
    with pytest.raises(ValueError, match="share memory; both would be written: clone one"):
        train(ours, params, [3])
    assert_same([p.detach() for p in params], before["params"])
    assert_same(ours.state_dict()["state"], before["optimizer"]["state"])


@every_variant()
def test_a_gradient_that_shares_memory_is_refused(info: OptimizerInfo, variant: Variant):
    if variant.kwargs.get("fused") is False or variant.kwargs.get("foreach"):
        pytest.skip("plain torch reads the gradient before it writes")
    ours, params, *_ = pair(info, variant)
    before = snapshot(ours, params)
    params[0].grad = params[0].detach()
    with pytest.raises(ValueError, match=r"grads\[0\] shares memory with params\[0\]"):
        ours.step()
    assert_same([p.detach() for p in params], before["params"])


@every_variant()
def test_two_parameters_on_the_same_memory_are_refused(info: OptimizerInfo, variant: Variant):
    if variant.kwargs.get("fused") is False or variant.kwargs.get("foreach"):
        pytest.skip("plain torch writes one tensor after the other")
    p = make_params([(4, 3)])[0]
    params = [p, nn.Parameter(p.detach().view(12)[6:])]
    optimizer = info.make(variant, params)
    before = snapshot(optimizer, params)
    with pytest.raises(ValueError, match="share memory; both would be written: clone one of them"):
        train(optimizer, params, [0])
    assert_same([p.detach() for p in params], before["params"])
    assert not optimizer.state


@every_variant(lambda variant: not variant.kwargs.get("per_tensor"))
def test_the_parameter_list_of_a_group_edited(info: OptimizerInfo, variant: Variant):
    """A parameter taken out of its group stops, one put in starts; the others go on."""
    if variant.name == "gate-gradient":
        pytest.skip("its first layer has one weight a parameter; refused, see below")
    ours, params, *_ = pair(info, variant)
    out = params[1].detach().clone()
    new = make_params([(4,)], seed=8)[0]
    start = new.detach().clone()
    group = ours.param_groups[0]["params"]
    del group[1]
    group.append(new)
    train(ours, [params[0], params[2], new], range(3, 6))
    assert_same(params[1].detach(), out)
    assert_changed([start], [new])
    assert ours.state[new]["step"] == 3
    assert ours.state[params[0]]["step"] == 6


@every_variant(has_gate)
def test_the_parameter_list_edited_where_the_gate_counts_them(
    info: OptimizerInfo, variant: Variant
):
    ours, params, *_ = pair(info, variant)
    ours.param_groups[0]["params"].append(new := make_params([(4,)], seed=8)[0])
    everything = [*params, new]
    if not variant.kwargs.get("per_tensor") and variant.name != "gate-gradient":
        train(ours, everything, [3])
        return
    before = [p.detach().clone() for p in everything]
    with pytest.raises(ValueError, match=r"made for \[.*; bring new .* with add_param_group\(\)"):
        train(ours, everything, [3])
    assert_same([p.detach() for p in everything], before)


@every_variant()
def test_settings_changed_between_steps(info: OptimizerInfo, variant: Variant):
    """Every number of a group is read at each step; the twin is built with them."""
    changes = {"lr": 0.004, "weight_decay": 0.2, **info.settings}
    params, twins = make_params(), make_params()
    ours, other = info.make(variant, params), info.make(variant, twins, **changes)
    start = snapshot(ours, params)
    ours.param_groups[0].update(changes)
    if "sgd_lr_ratio" in info.rate_entries:
        other.param_groups[0]["sgd_lr_ratio"] = ours.param_groups[0]["sgd_lr_ratio"]
    train(ours, params, range(3))
    train(other, twins, range(3))
    assert_same(params, twins)
    assert_changed(start["params"], params)
    ours.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in params]
    train(ours, params, [3])
    assert_same([p.detach() for p in params], before)


@every_optimizer(lambda v: v.name != "lbfgs")
def test_requires_grad_switched_off_and_on(info: OptimizerInfo, variant: Variant):
    ours, params, *_ = pair(info, variant)
    ours.zero_grad()
    params[0].requires_grad_(False)
    before = params[0].detach().clone()
    train(ours, params[1:], range(3, 5))
    assert_same(params[0].detach(), before)
    params[0].requires_grad_(True)
    train(ours, params, range(5, 7))
    assert_changed([before], params[:1])


@every_optimizer()
def test_a_deepcopy_of_the_parameters_does_not_follow(info: OptimizerInfo, variant: Variant):
    ours, params, *_ = pair(info, variant)
    copies = deepcopy(params)
    before = [p.detach().clone() for p in copies]
    train(ours, params, range(3, 5))
    assert_same([p.detach() for p in copies], before)
