"""The native step against plain torch, in every variant; the same bits from every run."""

from __future__ import annotations

import pytest
import torch

from unstuck.ops import _native
from unstuck.optim import DynamicBlend, Learned
from unstuck.optim import _plans as plans

from .registry import OptimizerInfo, Variant
from .runs import assert_changed, assert_same, derived, every_variant, make_params, snapshot, train

SHAPES = ((90, 401), (33,), (), (2, 3, 4), (0,))


def is_native(variant: Variant) -> bool:
    return variant.kwargs.get("fused") is not False and not variant.kwargs.get("foreach")


def plain_kwargs(variant: Variant) -> dict:
    return {**variant.kwargs, "fused": False, "foreach": None}


@every_variant()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_plain_torch(info: OptimizerInfo, variant: Variant, dtype, device):
    params, twins = (make_params(SHAPES, dtype, device) for _ in range(2))
    ours, plain = info.make(variant, params), info.cls(twins, **plain_kwargs(variant))
    start = [p.detach().clone() for p in params]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    for batch in range(6):
        train(ours, params, [batch])
        train(plain, twins, [batch])
        assert_same(params, twins, rtol=tolerance, atol=tolerance)
        assert_same(derived(ours), derived(plain), rtol=100 * tolerance, atol=tolerance)
    assert_changed(start, params)
    for p, q in zip(params, twins, strict=True):
        assert_same(ours.state[p], plain.state[q], rtol=50 * tolerance, atol=50 * tolerance)
    if is_native(variant):
        assert ours._plan is not None


@every_variant(is_native)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_equals_plain_torch_in_16_bits(info: OptimizerInfo, variant: Variant, dtype, device):
    params, twins = (make_params(SHAPES, dtype, device) for _ in range(2))
    ours, plain = info.make(variant, params), info.cls(twins, **plain_kwargs(variant))
    for batch in range(4):
        train(ours, params, [batch])
        train(plain, twins, [batch])
        few = 4 * torch.finfo(dtype).eps
        assert_same(params, twins, rtol=few, atol=few)
        assert_same(derived(ours), derived(plain), rtol=few, atol=few)


@every_variant()
def test_without_compiled_modules_the_results_are_the_same(
    info: OptimizerInfo, variant: Variant, monkeypatch
):
    if variant.kwargs.get("fused"):
        pytest.skip("fused=True insists on the compiled module")
    params, twins = (make_params(dtype=torch.float64) for _ in range(2))
    train(info.make(variant, params), params, range(3))
    monkeypatch.setattr(_native, "cpu", None)
    monkeypatch.setattr(_native, "cpu_missing", "not built")
    monkeypatch.setattr(_native, "_warned", set())
    optimizer = info.make(variant, twins)
    if is_native(variant):
        with pytest.warns(RuntimeWarning, match="CPU module is missing .*python -m unstuck"):
            train(optimizer, twins, [0])
    else:
        train(optimizer, twins, [0])
    train(optimizer, twins, range(1, 3))  # and only once
    assert_same(params, twins, rtol=1e-10, atol=1e-12)


@every_variant(lambda variant: bool(variant.kwargs.get("fused")))
def test_fused_insists_on_the_compiled_module(info: OptimizerInfo, variant: Variant, monkeypatch):
    monkeypatch.setattr(_native, "cpu", None)
    monkeypatch.setattr(_native, "cpu_missing", "not built")
    with pytest.raises(RuntimeError, match=r"CPU module is missing \(not built\).*leave fused"):
        info.make(variant, make_params())


def steps_on_noise(info: OptimizerInfo, variant: Variant, device="cpu") -> dict:
    params = make_params(SHAPES, device=device)
    optimizer = info.make(variant, params)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(device)
        optimizer.step()
    return snapshot(optimizer, params)


@every_variant(is_native)
@pytest.mark.usefixtures("threads")
def test_every_run_gives_the_same_bits(info: OptimizerInfo, variant: Variant, device):
    first = steps_on_noise(info, variant, device)
    assert_same(first, steps_on_noise(info, variant, device))
    assert_same(first, steps_on_noise(info, variant, device))


@every_variant(is_native)
def test_the_number_of_threads_is_not_part_of_the_result(info: OptimizerInfo, variant: Variant):
    if variant.name == "gate-gradient":
        pytest.skip("its matrix products are torch's, which cuts them by the number of threads")
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        runs.append(steps_on_noise(info, variant))
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


@every_variant(lambda variant: variant.kwargs.get("fused") is not False)
def test_a_plan_that_a_graph_may_have_captured_is_held(
    info: OptimizerInfo, variant: Variant, monkeypatch
):
    """Held where a stream is captured; here, that the step hands over what it has worked with."""
    used: list[object] = []
    monkeypatch.setattr(plans, "hold", lambda optimizer, device, *what: used.extend(what))
    params = make_params()
    optimizer = info.make(variant, params)
    train(optimizer, params, range(2))
    plan = getattr(optimizer._plan, "plan", optimizer._plan)
    if plan is None:
        pytest.skip("steps without a plan")
    assert len(used) >= 2
    assert any(x is plan for x in used)


@pytest.mark.parametrize("capturing", [False, True])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_plans_are_held_while_a_stream_is_captured(monkeypatch, capturing: bool, kind: str):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    optimizer, plan = Learned(make_params()), object()
    plans.hold(optimizer, torch.device(kind), plan)
    assert getattr(optimizer, "_captured", []) == [(plan,)] * (capturing and kind == "cuda")


def test_a_schedule_that_changes_a_parameter_is_refused():
    """It is asked after the plan has looked at the parameters' memory."""
    w = torch.nn.Parameter(torch.ones(1 << 16))
    moves = []

    def alpha(step: int) -> float:
        if moves:
            w.data = torch.ones(4)
        return 0.5

    optimizer = DynamicBlend([w], alpha=alpha)
    w.grad = torch.ones_like(w)
    optimizer.step()
    moves.append(1)
    with pytest.raises(RuntimeError, match="a schedule of alpha has changed a parameter"):
        optimizer.step()
