"""torch.amp.GradScaler: scaled gradients, and overflows that leave everything as it was."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from unstuck.ops.adam import Stat

from .registry import OptimizerInfo, Variant
from .runs import (
    assert_changed,
    assert_same,
    backward,
    derived,
    every_variant,
    make_params,
    record_loss,
    snapshot,
    train,
)


def scaled_step(scaler, optimizer, params, batch, *, overflow=False, unscale=False):
    """What a training loop with a scaler does."""
    optimizer.zero_grad()
    loss = backward(params, batch)
    record_loss(optimizer, loss)
    for p in params:
        p.grad = p.grad * scaler.scale(torch.ones((), device=p.device))
    if overflow:
        params[0].grad[0, 0] = float("inf")
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


def new_scaler(device):
    return torch.amp.GradScaler(device.type, init_scale=2.0**10)


@every_variant()
@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale"])
def test_scaled_training_equals_unscaled(info: OptimizerInfo, variant: Variant, unscale, device):
    params, twins = make_params(device=device), make_params(device=device)
    ours, plain = info.make(variant, params), info.make(variant, twins)
    start = [p.detach().clone() for p in params]
    scaler = new_scaler(device)
    for batch in range(4):
        scaled_step(scaler, ours, params, batch, unscale=unscale)
        record_loss(plain, backward(twins, batch))
        plain.step()
    assert_changed(start, params)
    assert_same([p.detach() for p in params], [p.detach() for p in twins])
    assert_same(derived(ours), derived(plain))


@every_variant()
@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale"])
@pytest.mark.parametrize("overflows", [[0], [0, 1], [3], [2, 4]], ids=str)
def test_an_overflow_changes_nothing(
    info: OptimizerInfo, variant: Variant, overflows, unscale, device
):
    """Steps that overflow might as well not have been made."""
    params, twins = make_params(device=device), make_params(device=device)
    ours, plain = info.make(variant, params), info.make(variant, twins)
    scaler = new_scaler(device)
    for batch in range(6):
        before = snapshot(ours, params)
        overflow = batch in overflows
        scaled_step(scaler, ours, params, batch, overflow=overflow, unscale=unscale)
        if overflow:
            if device.type == "cpu":  # on a GPU the host does not know, and creates its zeros
                mask_loss(before, snapshot(ours, params))
            assert_same([p.detach() for p in params], before["params"])
        else:
            record_loss(plain, backward(twins, batch))
            plain.step()
    assert scaler.get_scale() == 2.0 ** (10 - len(overflows))
    assert_same([p.detach() for p in params], [p.detach() for p in twins])
    assert_same(ours.state_dict()["state"], plain.state_dict()["state"])
    assert_same(derived(ours), derived(plain))


def mask_loss(before, after):
    """A recorded loss waits until a step takes it in; all else is as before."""
    for state in (before, after):
        for group in state["optimizer"]["param_groups"]:
            if group.get("gate_state") is not None:
                group["gate_state"][2] = 0.0
            if "stagnation" in group:
                group["stagnation"][[Stat.LAST_LOSS, Stat.LOSS_WAITS]] = 0.0
    assert_same(after, before)


@every_variant(lambda variant: variant.amp)
def test_the_step_takes_scale_and_overflow_itself(info: OptimizerInfo, variant: Variant, device):
    """Without unscale_ nothing passes over the gradients before the step."""
    params = make_params(device=device)
    optimizer = info.make(variant, params)
    assert optimizer._step_supports_amp_scaling
    scaler = new_scaler(device)
    loss = backward(params, 0)
    for p in params:
        p.grad = p.grad * scaler.scale(torch.ones((), device=device))
    kept = [p.grad.clone() for p in params]
    scaler.step(optimizer)
    assert_same([p.grad for p in params], kept)
    assert loss is not None
    assert not hasattr(optimizer, "found_inf")


class Elsewhere(torch.Tensor):
    """A scaler's number that lies on another GPU: it must be brought to the parameters' first."""

    brought = 0

    def to(self, device):
        type(self).brought += 1
        return self.as_subclass(torch.Tensor).to(device)


@every_variant(lambda variant: variant.amp)
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=["plan", "slowly"])
def test_the_scaler_may_be_on_another_device(info: OptimizerInfo, variant: Variant, shape):
    """Its scale is where the loss was; a complex parameter takes the step off its plan."""
    dtype = torch.complex64 if shape else torch.float32
    params = [*make_params(), *make_params([shape], dtype, seed=3)]
    optimizer = info.make(variant, params)
    record_loss(optimizer, backward(params, 0))
    for _ in range(2):
        Elsewhere.brought = 0
        optimizer.grad_scale = torch.ones(()).as_subclass(Elsewhere)
        optimizer.step()
        assert Elsewhere.brought


@every_variant(lambda variant: not variant.amp)
def test_else_the_scaler_unscales(info: OptimizerInfo, variant: Variant):
    assert not info.make(variant, make_params())._step_supports_amp_scaling


@every_variant()
def test_overflow_with_a_change_of_who_has_gradients(info: OptimizerInfo, variant: Variant):
    """A parameter that has a gradient in the overflowing batch alone stays without state."""
    params, twins = make_params(), make_params()
    ours, plain = info.make(variant, params), info.make(variant, twins)
    scaler = new_scaler(torch.device("cpu"))
    train(ours, params, range(3))
    train(plain, twins, range(3))
    late = make_params([(3,)], seed=9)[0]
    ours.add_param_group({"params": [late]})
    plain.add_param_group({"params": [deepcopy(late)]})
    late.grad = torch.full((3,), float("inf"))
    params[1].grad = None
    scaler.scale(torch.ones(()))
    scaler.step(ours)
    assert late not in ours.state
    late.grad = None
    train(ours, params, range(3, 6))
    train(plain, twins, range(3, 6))
    assert_same(params, twins)
    assert_same(derived(ours), derived(plain))


@every_variant(lambda variant: variant.amp)
def test_autocast_and_scaler_together(info: OptimizerInfo, variant: Variant, device):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    model.to(device)
    sign = -1 if variant.kwargs.get("maximize") else 1
    x = torch.randn(64, 4, device=device)
    optimizer = info.make(variant, model.parameters(), lr=0.01 * info.lr_unit)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**8)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = (model(x) - x.sum(1, keepdim=True)).float().square().mean()
        scaler.scale(sign * loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
