"""What is particular to a GPU: graphs, no waiting, no allocation, moving between devices."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from unstuck.optim import DynamicBlend

from .registry import OptimizerInfo, Variant
from .runs import (
    assert_changed,
    assert_same,
    backward,
    derived,
    every_variant,
    has_gate,
    make_params,
    record_loss,
    snapshot,
    train,
)

pytestmark = pytest.mark.cuda
SHAPES = ((300, 40), (7,), (), (0,))


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    from unstuck.ops import blend

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if not blend.native_ready(torch.device("cuda")):
        pytest.skip("unstuck was built without CUDA")


def is_native(variant: Variant) -> bool:
    return variant.kwargs.get("fused") is not False and not variant.kwargs.get("foreach")


def is_capturable(variant: Variant) -> bool:
    """Without what the host decides: schedules, whitening, and what torch's foreach asks it."""
    return is_native(variant) and variant.name not in ("alpha-schedule", "pretrained", "whitened")


def with_static_gradients(device="cuda"):
    params = make_params(SHAPES, device=device)
    for p in params:
        p.grad = torch.zeros_like(p)
    return params


def fill_gradients(step, *sets):
    generator = torch.Generator().manual_seed(step)
    for i in range(len(sets[0])):
        value = torch.randn(sets[0][i].shape, generator=generator)
        for params in sets:
            params[i].grad.copy_(value)


@every_variant(is_capturable)
@pytest.mark.parametrize("capturable", [False, True])
def test_a_captured_step_replays(info: OptimizerInfo, variant: Variant, capturable: bool):
    params, twins = with_static_gradients(), with_static_gradients()
    lr = torch.tensor(1e-3, device="cuda")
    on_device = {}
    if isinstance(variant.kwargs.get("alpha"), torch.Tensor):
        on_device["alpha"] = variant.kwargs["alpha"].cuda()
    ours = info.make(variant, params, lr=lr, capturable=capturable, **on_device)
    plain = info.make(variant, twins, lr=lr, **on_device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in range(3):
            fill_gradients(step, params, twins)
            ours.step()
            plain.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    before = [p.detach().clone() for p in params]
    for step in range(3, 8):
        fill_gradients(step, params, twins)
        lr.fill_(1e-3 / step)
        graph.replay()
        plain.step()
        assert_same(params, twins, rtol=1e-6, atol=1e-7)
        assert_same(derived(ours), derived(plain), rtol=1e-6)
    assert_changed(before, params)
    assert all(float(ours.state[p]["step"]) == 8 for p in params)


@every_variant(is_capturable)
def test_a_captured_step_outlives_its_plan(info: OptimizerInfo, variant: Variant):
    """Nothing that an optimizer drops between replays is given to others."""
    params, twins = with_static_gradients(), with_static_gradients()
    kwargs = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in variant.kwargs.items()}
    ours, plain = info.cls(params, **kwargs), info.cls(twins, **kwargs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in range(3):
            fill_gradients(step, params, twins)
            ours.step()
            plain.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    ours._plan = None  # as add_param_group() does
    others = []
    for used in (stream, torch.cuda.current_stream()):
        with torch.cuda.stream(used):
            others += [torch.full((n,), 7.0, device="cuda") for n in (2, 64, 256, 4096, 65536)]
    for step in range(3, 6):
        fill_gradients(step, params, twins)
        graph.replay()
        plain.step()
        assert_same(params, twins, rtol=1e-6, atol=1e-7)
    assert all(bool((x == 7).all()) for x in others)


@every_variant(lambda variant: is_capturable(variant) and variant.name != "gate-gradient")
def test_a_step_neither_waits_nor_allocates(info: OptimizerInfo, variant: Variant):
    params = with_static_gradients()
    kwargs = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in variant.kwargs.items()}
    optimizer = info.cls(params, **kwargs)
    found_inf, grad_scale = torch.zeros((), device="cuda"), torch.ones((), device="cuda")
    optimizer.found_inf, optimizer.grad_scale = found_inf, grad_scale
    for step in range(3):
        fill_gradients(step, params)
        optimizer.step()
    torch.cuda.synchronize()
    allocations = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == allocations


@every_variant()
def test_the_cpu_and_the_gpu_agree(info: OptimizerInfo, variant: Variant):
    params, twins = (make_params(SHAPES, torch.float64, d) for d in ("cuda", "cpu"))
    on_gpu, on_cpu = info.make(variant, params), info.make(variant, twins)
    for batch in range(5):
        train(on_gpu, params, [batch])
        train(on_cpu, twins, [batch])
    assert_same([p.cpu() for p in params], twins, rtol=1e-9, atol=1e-11)
    assert_same([a.cpu() for a in derived(on_gpu)], [a.cpu() for a in derived(on_cpu)], rtol=1e-7)


@every_variant()
def test_training_moves_to_the_gpu_and_back(info: OptimizerInfo, variant: Variant):
    params, twins = make_params(dtype=torch.float64), make_params(dtype=torch.float64)
    moving, staying = info.make(variant, params), info.make(variant, twins)
    module = nn.ParameterList(params)
    for device in ("cpu", "cuda", "cpu"):
        moving.zero_grad()
        module.to(device)
        train(moving, params, range(2))
        train(staying, twins, range(2))
        assert_same([p.cpu() for p in params], [p.cpu() for p in twins], rtol=1e-9, atol=1e-11)
        assert {x.device.type for x in moving.state[params[0]].values()} == {device}


@every_variant()
def test_checkpoints_cross_devices(info: OptimizerInfo, variant: Variant):
    params = make_params(dtype=torch.float64)
    optimizer = info.make(variant, params)
    train(optimizer, params, range(3))
    there = [nn.Parameter(p.detach().cuda()) for p in params]
    other = info.make(variant, there)
    saved = deepcopy(optimizer.state_dict())
    other.load_state_dict(saved)
    assert_same(saved, optimizer.state_dict())
    train(optimizer, params, range(3, 6))
    train(other, there, range(3, 6))
    assert_same([p.cpu() for p in there], params, rtol=1e-9, atol=1e-11)
    back = [nn.Parameter(p.detach().cpu()) for p in there]
    third = info.make(variant, back)
    third.load_state_dict(deepcopy(other.state_dict()))
    train(other, there, range(6, 8))
    train(third, back, range(6, 8))
    assert_same([p.cpu() for p in there], back, rtol=1e-9, atol=1e-11)


@every_variant(lambda variant: not has_gate(variant))
def test_parameters_on_two_devices(info: OptimizerInfo, variant: Variant):
    params = [*make_params([(4, 3)], device="cuda"), *make_params([(5,)], seed=1)]
    twins = [*make_params([(4, 3)]), *make_params([(5,)], seed=1)]
    ours, plain = info.make(variant, params), info.make(variant, twins)
    start = [p.detach().clone() for p in params]
    for step in range(4):
        for p, q in zip(params, twins, strict=True):
            q.grad = torch.full_like(q, 1.0 + step)
            p.grad = q.grad.to(p.device)
        ours.step()
        plain.step()
    assert_changed(start, params)
    assert_same([p.cpu() for p in params], twins, rtol=1e-6, atol=1e-7)


def test_a_gate_wants_one_device_a_group():
    mixed = [*make_params([(3,)], device="cuda"), *make_params([(3,)])]
    with pytest.raises(ValueError, match="on one device; make a group for each device"):
        DynamicBlend(mixed)
    optimizer = DynamicBlend([{"params": mixed[:1]}, {"params": mixed[1:]}])
    start = [p.detach().clone() for p in mixed]
    for p in mixed:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert_changed(start, mixed)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("what", ["lr", "alpha"])
def test_scalars_on_either_device(where: str, what: str):
    params, twins = make_params(device="cuda"), make_params(device="cuda")
    value = 2.0**-7
    ours = DynamicBlend(params, **{"alpha": 0.25, what: torch.tensor(value, device=where)})
    plain = DynamicBlend(twins, **{"alpha": 0.25, what: value})
    train(ours, params, range(3))
    train(plain, twins, range(3))
    assert_same(params, twins)


@every_variant(lambda variant: is_native(variant) and "lr" in variant.kwargs)
def test_a_rate_in_a_tensor_of_the_cpu(info: OptimizerInfo, variant: Variant):
    params, twins = make_params(device="cuda"), make_params(device="cuda")
    lr = torch.tensor(variant.kwargs["lr"], dtype=torch.float64)
    ours, plain = info.make(variant, params, lr=lr), info.make(variant, twins)
    train(ours, params, range(3))
    train(plain, twins, range(3))
    assert_same(params, twins)


@every_variant(lambda variant: is_native(variant) and variant.amp)
def test_a_scaler_on_another_gpu(info: OptimizerInfo, variant: Variant):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    params, twins = make_params(device="cuda:1"), make_params(device="cuda:1")
    ours, plain = info.make(variant, params), info.make(variant, twins)
    for batch in range(3):
        record_loss(ours, backward(params, batch))
        for p in params:
            p.grad.mul_(8)
        ours.grad_scale = torch.full((), 8.0, device="cuda:0")
        ours.found_inf = torch.zeros((), device="cuda:0")
        ours.step()
        record_loss(plain, backward(twins, batch))
        plain.step()
    assert_same(params, twins)


@every_variant(is_native)
def test_a_step_on_another_stream(info: OptimizerInfo, variant: Variant):
    params, twins = make_params(device="cuda"), make_params(device="cuda")
    ours, plain = info.make(variant, params), info.make(variant, twins)
    stream = torch.cuda.Stream()
    for batch in range(4):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = backward(params, batch)
            record_loss(ours, loss)
            ours.step()
        torch.cuda.current_stream().wait_stream(stream)
        record_loss(plain, backward(twins, batch))
        plain.step()
    assert_same(snapshot(ours, params), snapshot(plain, twins))


def test_capturable_wants_the_native_step():
    with pytest.raises(ValueError, match="capturable=True needs the native step"):
        DynamicBlend(make_params(device="cuda"), alpha=0.5, capturable=True, foreach=True)
