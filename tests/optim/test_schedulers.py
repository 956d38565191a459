"""torch's learning-rate schedulers, which drive both rates, and tensor rates."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from unstuck.optim import DynamicBlend

from .registry import OptimizerInfo, Variant
from .runs import (
    assert_changed,
    assert_same,
    backward,
    every_class,
    every_optimizer,
    every_variant,
    make_params,
    snapshot,
    train,
)

STEPS = 12


def sequential(optimizer):
    warm = schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    return schedulers.SequentialLR(
        optimizer, [warm, schedulers.ExponentialLR(optimizer, 0.8)], milestones=[4]
    )


SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda t: 1 / (1 + t)),
    "LambdaLR-from-zero": lambda o: schedulers.LambdaLR(o, lambda t: t / STEPS),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, 3, gamma=0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 7], gamma=0.3),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, factor=0.5, total_iters=4),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.2, total_iters=6),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=8, power=2),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 1e-4, 1e-2, step_size_up=3),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.02, total_steps=STEPS + 1),
    "SequentialLR": sequential,
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.StepLR(o, 2, 0.9), schedulers.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: SWALR(o, swa_lr=5e-4, anneal_epochs=4),
}


def run(optimizer, params, scheduler, steps=STEPS):
    """Train, and return the rate of each step."""
    rates = []
    for batch in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        train(optimizer, params, [batch])
        if isinstance(scheduler, schedulers.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
    return rates


@every_class()
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_every_scheduler_is_torchs(info: OptimizerInfo, name: str, tensor: bool):
    """At alpha 1 each schedule gives what torch's AdamW gives with it, whatever is cycled."""
    if info.lr_unit != 1:
        pytest.skip("these schedules have rates of another height")
    settings = {"weight_decay": 0.1, "decoupled_weight_decay": True, **info.as_adam}
    params, twins = (make_params(dtype=torch.float64) for _ in range(2))
    lr = torch.tensor(3e-3, dtype=torch.float64) if tensor else 3e-3
    optimizer = info.cls(params, lr=lr, **settings)
    reference = torch.optim.AdamW(twins, lr=3e-3, weight_decay=0.1)
    start = [p.detach().clone() for p in params]
    make = SCHEDULERS[name]
    rates = run(optimizer, params, make(optimizer))
    assert rates == pytest.approx(run(reference, twins, make(reference)), rel=1e-12)
    assert len(set(rates)) > 1
    assert_changed(start, params)
    assert_same(params, twins, rtol=1e-10, atol=1e-12)
    if tensor:
        assert optimizer.param_groups[0]["lr"] is not None
        assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)


@pytest.mark.parametrize("name", [n for n in SCHEDULERS if "Cycl" not in n or "One" in n])
def test_lr_drives_sgd_lr_by_the_ratio(name: str):
    """A schedule of lr gives plain SGD the same schedule, at its own height."""
    params, twins = (make_params(dtype=torch.float64) for _ in range(2))
    optimizer = DynamicBlend(params, lr=1e-3, sgd_lr=2e-2, alpha=0.0, momentum=0.7)
    sgd = torch.optim.SGD(twins, lr=1.0, momentum=0.7)
    scheduler = SCHEDULERS[name](optimizer)
    for batch in range(STEPS):
        sgd.param_groups[0]["lr"] = 20 * optimizer.param_groups[0]["lr"]
        train(optimizer, params, [batch])
        train(sgd, twins, [batch])
        if isinstance(scheduler, schedulers.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
    assert_same(params, twins, rtol=1e-10, atol=1e-12)


@every_optimizer(lambda v: v.name != "lbfgs")
def test_schedule_and_optimizer_resume_together(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params, lr=2e-3)
    cycled = {"total_steps": 20, "cycle_momentum": "betas" in optimizer.defaults}
    scheduler = schedulers.OneCycleLR(optimizer, 0.02, **cycled)
    run(optimizer, params, scheduler, 6)
    saved = deepcopy((params, optimizer.state_dict(), scheduler.state_dict()))

    twins = saved[0]
    other = info.make(variant, twins, lr=2e-3)
    again = schedulers.OneCycleLR(other, 0.02, **cycled)
    other.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    run(optimizer, params, scheduler, 6)
    run(other, twins, again, 6)
    assert_same(snapshot(other, twins), snapshot(optimizer, params))


@every_variant()
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-d", "1-d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tensor_rate_equals_a_number(info: OptimizerInfo, variant: Variant, shape, dtype):
    params, twins = make_params(), make_params()
    rate = torch.full(shape, 2**-7, dtype=dtype)
    by_tensor = info.make(variant, params, lr=rate)
    by_number = info.make(variant, twins, lr=2**-7)
    for batch, value in enumerate([2**-7, 2**-6, 2**-9]):
        rate.fill_(value)
        by_number.param_groups[0]["lr"] = value
        train(by_tensor, params, [batch])
        train(by_number, twins, [batch])
    assert by_tensor.param_groups[0]["lr"] is rate
    assert_same(params, twins)


def test_a_tensor_alpha_is_read_at_every_step():
    params, twins = make_params(), make_params()
    alpha = torch.tensor(0.25)
    by_tensor, by_number = DynamicBlend(params, alpha=alpha), DynamicBlend(twins, alpha=0.25)
    for batch, value in enumerate([0.25, 1.0, 0.0, 0.5]):
        alpha.fill_(value)
        by_number.param_groups[0]["alpha"] = value
        train(by_tensor, params, [batch])
        train(by_number, twins, [batch])
    assert_same(params, twins)
    by_tensor.alpha[0].fill_(0.125)  # what is handed out is a copy
    assert float(alpha) == 0.5


def test_a_function_gives_alpha_for_every_step():
    values = [0.25, 1.0, 0.0, 0.5]
    params, twins = make_params(), make_params()
    scheduled = DynamicBlend(params, alpha=lambda step: values[step])
    by_number = DynamicBlend(twins, alpha=0.0)
    for batch, value in enumerate(values):
        assert float(scheduled.alpha[0]) == value
        by_number.param_groups[0]["alpha"] = value
        train(scheduled, params, [batch])
        train(by_number, twins, [batch])
    assert_same(params, twins)


def test_an_alpha_out_of_range_from_the_function_changes_nothing():
    params = make_params()
    optimizer = DynamicBlend(params, alpha=lambda step: 0.5 + step)
    train(optimizer, params, [0])
    before = snapshot(optimizer, params)
    backward(params, 1)
    with pytest.raises(ValueError, match=r"returned 1\.5 for step 1; it must be in \[0, 1\]"):
        optimizer.step()
    assert_same(snapshot(optimizer, params), before)


def test_setting_sgd_lr_renews_the_ratio():
    params, twins = make_params(), make_params()
    changed, fresh = DynamicBlend(params, alpha=0.3), DynamicBlend(twins, alpha=0.3, sgd_lr=0.04)
    changed.param_groups[0]["sgd_lr"] = 0.04
    train(changed, params, range(3))
    train(fresh, twins, range(3))
    assert_same(params, twins)
    assert "sgd_lr" not in changed.param_groups[0]
    changed.param_groups[0].update(lr=0.0, sgd_lr=0.1)
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match=r"sgd_lr=0\.1 was set while lr is 0"):
        train(changed, params, [3])
    assert_same([p.detach() for p in params], before)


@pytest.mark.parametrize("fused", [None, False], ids=["native", "plain"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, None], ids=["sgd", "alpha", "gate"])
@pytest.mark.parametrize("moved", ["momentum", "betas", "dampening"])
def test_shared_moment_splits_when_a_scheduler_moves_one_of_the_two(alpha, moved, fused):
    """The buffers that appear are those that general mode would have had all along."""

    def move(group, t):
        if moved == "betas":
            group["betas"] = (0.9 - 0.02 * t, 0.999)
        else:
            group[moved] = {"momentum": 0.9 - 0.05 * t, "dampening": 0.03 * t}[moved]

    params, twins = (make_params(dtype=torch.float64) for _ in range(2))
    shared = DynamicBlend(params, alpha=alpha, fused=fused)
    general = DynamicBlend(twins, alpha=alpha, fused=fused, dampening=0.5)
    for batch in range(4):  # dampening 0 from the first step, but with buffers of its own
        general.param_groups[0]["dampening"] = 0.5 if batch == 0 and not general.state else 0
        train(general, twins, [batch])
        train(shared, params, [batch])
    assert "momentum_buffer" not in shared.state[params[0]]
    assert "momentum_buffer" in general.state[twins[0]]
    for batch in range(4, 10):
        move(shared.param_groups[0], batch)
        move(general.param_groups[0], batch)
        train(shared, params, [batch])
        train(general, twins, [batch])
    assert "momentum_buffer" in shared.state[params[0]]
    assert_same(params, twins, rtol=1e-9, atol=1e-12)
    assert_same(shared.alpha, general.alpha, rtol=1e-9)


def test_one_cycle_moves_momentum_as_in_sgd():
    """OneCycleLR built after the first steps, driving momentum: the split equals torch's SGD."""
    params, twins = (make_params(dtype=torch.float64) for _ in range(2))
    blend = DynamicBlend(params, lr=0.01, sgd_lr=0.01, alpha=0.0)
    sgd = torch.optim.SGD(twins, lr=0.01, momentum=0.9)
    train(blend, params, range(3))
    train(sgd, twins, range(3))
    cycle = schedulers.OneCycleLR(sgd, 0.05, total_steps=20)
    for batch in range(3, 20):
        for name in ("lr", "momentum"):
            blend.param_groups[0][name] = sgd.param_groups[0][name]
        train(blend, params, [batch])
        train(sgd, twins, [batch])
        cycle.step()
    assert_same(params, twins, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", [{}, {"fused": False}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
def test_momentum_switched_on_and_off_and_on(way, scaled):
    """Buffers that start late, with dampening, and rest in between, as in torch's SGD."""
    params, twins = (make_params(dtype=torch.float64) for _ in range(2))
    blend = DynamicBlend(
        params, lr=0.02, sgd_lr=0.02, alpha=0.0, momentum=0.0, dampening=0.3, **way
    )
    sgd = torch.optim.SGD(twins, lr=0.02, momentum=0.0, dampening=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for batch, momentum in enumerate([0.0, 0.0, 0.9, 0.9, 0.0, 0.0, 0.9, 0.5]):
        for optimizer, mine in ((blend, params), (sgd, twins)):
            optimizer.param_groups[0]["momentum"] = momentum
            backward(mine, batch)
        if scaled:
            for p in params:
                p.grad = scaler.scale(p.grad)
            scaler.step(blend)
            scaler.update()
        else:
            blend.step()
        sgd.step()
        assert_same(params, twins, rtol=1e-10, atol=1e-12)
