"""Checkpoints of torch's own optimizers and of the blend's other mode."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from unstuck.optim import DynamicBlend, Gate

from .runs import assert_same, make_params, snapshot, train

SETTINGS = {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.02}


def trained(cls, params, steps=4, **kwargs):
    optimizer = cls(params, **kwargs)
    train(optimizer, params, range(steps))
    return optimizer


@pytest.mark.parametrize("fused", [None, True], ids=["adam", "fused-adam"])
@pytest.mark.parametrize("momentum", [0.8, 0.5], ids=["shared", "general"])
def test_adam_goes_on_as_adam(fused, momentum):
    params = make_params(dtype=torch.float64)
    adam = trained(torch.optim.Adam, params, fused=fused, **SETTINGS)
    twins = deepcopy(params)
    blend = DynamicBlend(twins, alpha=1.0, momentum=momentum)
    blend.load_state_dict(deepcopy(adam.state_dict()))
    for name, value in SETTINGS.items():
        assert blend.param_groups[0][name] == value
    assert blend.param_groups[0]["sgd_lr_ratio"] == pytest.approx(1e-2 / 0.01)
    train(adam, params, range(4, 20))
    train(blend, twins, range(4, 20))
    assert_same(params, twins, rtol=1e-10, atol=1e-12)


def test_adamw_stays_decoupled():
    params = make_params(dtype=torch.float64)
    adamw = trained(torch.optim.AdamW, params, **SETTINGS)
    blend = DynamicBlend(twins := deepcopy(params), alpha=1.0)
    blend.load_state_dict(deepcopy(adamw.state_dict()))
    assert blend.param_groups[0]["decoupled_weight_decay"] is True
    train(adamw, params, range(4, 20))
    train(blend, twins, range(4, 20))
    assert_same(params, twins, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.8, 0.5], ids=["shared", "general"])
def test_momentum_starts_from_adams_first_moment(momentum):
    """At alpha 0 the first step after the switch uses exp_avg / (1 - beta1) as the buffer."""
    params = make_params(dtype=torch.float64)
    adam = trained(torch.optim.Adam, params, **SETTINGS)
    blend = DynamicBlend(twins := deepcopy(params), alpha=0.0, momentum=momentum, sgd_lr=0.1)
    blend.load_state_dict(deepcopy(adam.state_dict()))
    moments = [adam.state[p]["exp_avg"].clone() for p in params]
    starts = [p.detach().clone() for p in twins]
    train(blend, twins, [4])
    for start, p, moment in zip(starts, twins, moments, strict=True):
        buffer = momentum * moment / (1 - 0.8) + p.grad + SETTINGS["weight_decay"] * start
        assert_same(p.detach(), start - 0.1 * buffer, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_sgd_goes_on_as_sgd(momentum):
    params = make_params(dtype=torch.float64)
    sgd = trained(torch.optim.SGD, params, lr=0.05, momentum=momentum, weight_decay=0.01)
    blend = DynamicBlend(twins := deepcopy(params), alpha=0.0)
    blend.load_state_dict(deepcopy(sgd.state_dict()))
    train(sgd, params, range(4, 20))
    train(blend, twins, range(4, 20))
    assert_same(params, twins, rtol=1e-10, atol=1e-12)


def test_gate_is_there_after_loading_adam():
    params = make_params()
    adam = trained(torch.optim.Adam, params)
    blend = DynamicBlend(twins := deepcopy(params), gate=Gate(init_alpha=0.25))
    blend.load_state_dict(deepcopy(adam.state_dict()))
    assert float(blend.alpha[0]) == 0.25
    train(blend, twins, range(4, 8))
    assert float(blend.alpha[0]) != 0.25


def test_amsgrad_is_refused_and_nothing_changed():
    params = make_params()
    adam = trained(torch.optim.Adam, params, amsgrad=True)
    blend = trained(DynamicBlend, twins := make_params())
    before = snapshot(blend, twins)
    with pytest.raises(ValueError, match="amsgrad=True, which DynamicBlend does not have"):
        blend.load_state_dict(adam.state_dict())
    assert_same(snapshot(blend, twins), before)


@pytest.mark.parametrize("alpha", [0.4, None], ids=["alpha", "gate"])
@pytest.mark.parametrize(
    ("saved_with", "loaded_into"),
    [({}, {"momentum": 0.5}), ({"momentum": 0.5}, {}), ({"dampening": 0.1}, {"momentum": 0})],
    ids=["shared-into-general", "general-into-shared", "general-into-none"],
)
def test_checkpoint_of_the_other_mode(alpha, saved_with, loaded_into):
    """A checkpoint brings its settings along, and with them its mode."""
    params = make_params()
    saver = trained(DynamicBlend, params, alpha=alpha, **saved_with)
    loader = trained(DynamicBlend, twins := make_params(seed=3), alpha=alpha, **loaded_into)
    loader.load_state_dict(deepcopy(saver.state_dict()))
    with torch.no_grad():
        for p, q in zip(params, twins, strict=True):
            q.copy_(p)
    train(saver, params, range(4, 9))
    train(loader, twins, range(4, 9))
    assert_same(snapshot(loader, twins), snapshot(saver, params))


@pytest.mark.parametrize("alpha", [0.4, None], ids=["alpha", "gate"])
def test_settings_changed_after_loading(alpha):
    """A shared checkpoint that is then given another momentum becomes general, exactly."""
    exact = trained(DynamicBlend, params := make_params(dtype=torch.float64), alpha=alpha)
    general = deepcopy(exact)
    twins = general.param_groups[0]["params"]
    for p in twins:
        general.state[p]["momentum_buffer"] = general.state[p]["exp_avg"] / (1 - 0.9)
    general.param_groups[0]["moment_beta"] = None
    for optimizer in (exact, general):
        optimizer.param_groups[0].update(momentum=0.6, dampening=0.1)
    train(exact, params, range(4, 9))
    train(general, twins, range(4, 9))
    assert_same(snapshot(exact, params), snapshot(general, twins))


def test_flags_of_the_way_are_not_taken_from_a_checkpoint():
    saver = trained(DynamicBlend, make_params(), alpha=0.4, foreach=True)
    loader = DynamicBlend(twins := make_params(), alpha=0.4)
    loader.load_state_dict(saver.state_dict())
    assert loader.param_groups[0]["foreach"] is None
    train(loader, twins, range(2))
    assert loader._plan is not None


def test_a_checkpoint_brings_its_gate_or_its_alpha():
    fixed = trained(DynamicBlend, make_params(), alpha=0.25)
    gated = trained(DynamicBlend, make_params())
    state = deepcopy(fixed.state_dict())
    fixed.load_state_dict(deepcopy(gated.state_dict()))
    gated.load_state_dict(state)
    assert fixed.param_groups[0]["gate_state"] is not None
    assert float(gated.alpha[0]) == 0.25


def test_groups_must_match():
    optimizer = trained(DynamicBlend, make_params())
    other = DynamicBlend([{"params": make_params()}, {"params": [nn.Parameter(torch.zeros(2))]}])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        other.load_state_dict(optimizer.state_dict())
