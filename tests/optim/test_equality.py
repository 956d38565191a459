"""At alpha 1 the blend is Adam or AdamW, at alpha 0 SGD, and between them a mean of the two."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from unstuck.optim import DynamicBlend

from .runs import assert_changed, assert_same, make_params

STEPS = 100
SHAPES = {1: ((40, 30), (17,), (), (0, 2)), 2: ((3, 11000), (17,), (), (0, 2))}  # by threads
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}

ADAM = {
    "shared": {},
    "general": {"betas": (0.8, 0.99)},
    "l2-maximize": {"weight_decay": 0.1, "maximize": True, "eps": 1e-6},
    "eps": {"eps": 1e-3, "betas": (0.0, 0.5)},
}
SGD = {
    "plain": {"momentum": 0.0},
    "momentum": {"momentum": 0.9},
    "l2-maximize": {"momentum": 0.6, "weight_decay": 0.1, "maximize": True},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "nesterov-general": {"momentum": 0.5, "nesterov": True},
    "dampening": {"momentum": 0.9, "dampening": 0.3, "maximize": True},
    "plain-l2": {"momentum": 0.0, "weight_decay": 0.2},
}
PAIRS = {
    **{f"adam-{n}": (torch.optim.Adam, k, {"alpha": 1.0}) for n, k in ADAM.items()},
    **{
        f"adamw-{n}": (torch.optim.AdamW, k, {"alpha": 1.0, "decoupled_weight_decay": True})
        for n, k in {"shared": {"weight_decay": 0.3}, "general": {"betas": (0.5, 0.9)}}.items()
    },
    **{f"sgd-{n}": (torch.optim.SGD, k, {"alpha": 0.0}) for n, k in SGD.items()},
}
every_pair = pytest.mark.parametrize("pair", PAIRS)


def build(pair, params, twins, **more):
    """Ours and torch's optimizer of one row."""
    cls, kwargs, ours = PAIRS[pair]
    if cls is torch.optim.AdamW:
        kwargs = {"weight_decay": 0.01, **kwargs}
    momentum = {"momentum": 0.9} if cls is not torch.optim.SGD else {}
    rates = {"lr": 0.01, "sgd_lr": 0.01}
    blend = DynamicBlend(params, **rates, **momentum, **kwargs, **ours, **more)
    return blend, cls(twins, lr=0.01, foreach=False, **kwargs)


def step_with(threads, blend):
    """Only our step gets the threads: what compares it need not wait for them."""
    torch.set_num_threads(threads)
    blend.step()
    torch.set_num_threads(1)


def random_gradients(params, twins):
    for p, q in zip(params, twins, strict=True):
        p.grad = torch.randn(p.shape).mul(0.1).to(p.device, p.dtype)
        q.grad = p.grad.to(q.dtype)


@every_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_hundred_steps(pair, dtype, device, threads):
    params, twins = (make_params(SHAPES[threads], dtype, device) for _ in range(2))
    start = [p.detach().clone() for p in params]
    blend, reference = build(pair, params, twins)
    tolerance = TOLERANCE[dtype]
    for _ in range(STEPS):
        random_gradients(params, twins)
        step_with(threads, blend)
        reference.step()
        assert_same(params, twins, rtol=tolerance, atol=tolerance)
    assert_changed(start[:2], params[:2])
    assert blend._plan is not None


@every_pair
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_hundred_steps_of_16_bits(pair, dtype, device, threads):
    """Arithmetic in float32, memory in 16 bits: torch's float32 step, rounded, gives the same."""
    params = make_params(SHAPES[threads], dtype, device)
    twins = [nn.Parameter(p.detach().float()) for p in params]
    start = [p.detach().clone() for p in params]
    blend, reference = build(pair, params, twins)
    one_rounding = torch.finfo(dtype).eps
    for _ in range(STEPS):
        random_gradients(params, twins)
        step_with(threads, blend)
        reference.step()
        rounded = [q.detach().to(dtype) for q in twins]
        assert_same([p.detach() for p in params], rounded, rtol=one_rounding, atol=1e-6)
        for p, q in zip(params, twins, strict=True):  # both go on from what is in our memory
            q.data.copy_(p.data)
            for key, value in reference.state[q].items():
                if key == "momentum_buffer" and key not in blend.state[p]:
                    value.copy_(blend.state[p]["exp_avg"].float() / (1 - 0.9))
                elif key != "step" and value is not None:
                    value.copy_(blend.state[p][key])
    assert_changed(start[:2], params[:2])


@every_pair
@pytest.mark.parametrize("way", [{"fused": False}, {"foreach": True}], ids=["plain", "foreach"])
def test_the_other_ways_equal_torch_too(pair, way, device):
    shapes = [(11, 3), (), (5,)]
    params, twins = (make_params(shapes, torch.float64, device) for _ in range(2))
    blend, reference = build(pair, params, twins, **way)
    for _ in range(30):
        random_gradients(params, twins)
        blend.step()
        reference.step()
        assert_same(params, twins, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", [{}, {"fused": False}, {"foreach": True}], ids=str)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"momentum": 0.5, "dampening": 0.2},
        {"nesterov": True, "maximize": True},
        {"momentum": 0.0},
    ],
    ids=["shared", "general", "nesterov", "no-momentum"],
)
def test_between_them_the_updates_are_averaged(kwargs, way, device):
    alpha = 0.3
    params, adam_params, sgd_params = (
        make_params([(50, 20), (7,)], torch.float64, device) for _ in range(3)
    )
    blend = DynamicBlend(params, lr=0.02, sgd_lr=0.05, alpha=alpha, **kwargs, **way)
    adam = torch.optim.Adam(adam_params, lr=0.02, maximize=kwargs.get("maximize", False))
    sgd = torch.optim.SGD(sgd_params, lr=0.05, **{"momentum": 0.9, **kwargs})
    for _ in range(20):
        random_gradients(params, adam_params)
        before = [deepcopy([p.data for p in x]) for x in (params, adam_params, sgd_params)]
        for p, q in zip(params, sgd_params, strict=True):
            q.grad = p.grad.clone()
        for optimizer in (blend, adam, sgd):
            optimizer.step()
        moved = [
            [p.data - old for p, old in zip(x, olds, strict=True)]
            for x, olds in zip((params, adam_params, sgd_params), before, strict=True)
        ]
        for ours, by_adam, by_sgd in zip(*moved, strict=True):
            wanted = alpha * by_adam + (1 - alpha) * by_sgd
            assert_same(ours, wanted, rtol=1e-9, atol=1e-13)


def test_decoupled_decay_shrinks_by_the_blended_rate(device):
    params, twins = (make_params([(50, 20), (7,)], torch.float64, device) for _ in range(2))
    settings = {"lr": 0.02, "sgd_lr": 0.05, "alpha": 0.3}
    decaying = DynamicBlend(params, weight_decay=0.4, decoupled_weight_decay=True, **settings)
    without = DynamicBlend(twins, **settings)
    for _ in range(20):
        with torch.no_grad():
            for p, q in zip(params, twins, strict=True):
                q.copy_(p * (1 - 0.4 * (0.3 * 0.02 + 0.7 * 0.05)))
        random_gradients(params, twins)
        decaying.step()
        without.step()
        assert_same(params, twins, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("nesterov", [False, True])
def test_shared_moment_equals_general_mode(dtype, nesterov, device):
    """The third buffer is redundant: a general optimizer with it takes the same steps."""
    params, twins = (make_params(SHAPES[1], dtype, device) for _ in range(2))
    shared = DynamicBlend(params, alpha=0.4, nesterov=nesterov, weight_decay=0.05)
    general = DynamicBlend(twins, alpha=0.4, nesterov=nesterov, weight_decay=0.05)
    general.param_groups[0]["momentum"] = 0.5  # general from the first step on
    for step in range(STEPS):
        random_gradients(params, twins)
        if step == 0:  # before any state, so that both start from the same momentum
            general.step()
            general.param_groups[0]["momentum"] = 0.9
        else:
            general.step()
        shared.step()
        if step == 0 and nesterov:  # the one step with another momentum
            for p, q in zip(params, twins, strict=True):
                q.data.copy_(p.data)
        tolerance = 10 * TOLERANCE[dtype]
        assert_same(params, twins, rtol=tolerance, atol=tolerance)
    p, q = params[0], twins[0]
    assert "momentum_buffer" not in shared.state[p]
    buffer = general.state[q]["momentum_buffer"]
    tolerance = 10 * TOLERANCE[dtype]
    assert_same(buffer, shared.state[p]["exp_avg"] / (1 - 0.9), rtol=tolerance, atol=tolerance)
