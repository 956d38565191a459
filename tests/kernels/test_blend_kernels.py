"""The blend kernels of every backend against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unstuck.ops import blend, gate

from ..emulator.build import ORDERS
from .conftest import Backend
from .support import Problem, assert_same, gradients, make

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [(3,), (20_000,), (0,), (), (33, 7), (16_384,), (1, 1)]
MODES: dict[str, dict[str, Any]] = {
    "shared": {},
    "general": dict(momentum=0.6, dampening=0.2),
    "nesterov": dict(nesterov=True),
    "no momentum": dict(momentum=0.0),
    "l2": dict(weight_decay=0.1, maximize=True),
    "decoupled": dict(weight_decay=0.1, decoupled=True),
}
GATES: dict[str, dict[str, Any]] = {
    "alpha": {},
    "gate": dict(gated=True),
    "per tensor": dict(gated=True, per_tensor=True),
}


def compare(backend: Backend, problem: Problem, steps: int = 3) -> tuple[Problem, Problem]:
    """Step a kernel's and the reference's copy of `problem`; return both."""
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))
    for t in range(steps):
        grads = gradients(problem, t)
        kernel.step([g.to(backend.device) for g in grads])
        truth.step(grads, by_reference=True)
    assert_same(kernel, truth)
    return kernel, truth


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gated", GATES)
def test_step_equals_reference(backend: Backend, dtype: torch.dtype, mode: str, gated: str) -> None:
    problem = make(SIZES, dtype, **MODES[mode], **GATES[gated])
    before = [p.clone() for p in problem.params]
    kernel, _ = compare(backend, problem)
    assert not torch.equal(kernel.params[1].cpu(), before[1])
    assert all(float(s) == 3 for s in kernel.steps)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("gated", GATES)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str, gated: str
) -> None:
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        kernel = make(SIZES, torch.float32, **GATES[gated]).to(backend.device)
        for t in range(3):
            kernel.step([g.to(backend.device) for g in gradients(kernel, t)])
        results.append(kernel)
    for mine, theirs in zip(results[0].state, results[1].state, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
    if results[0].group.gate is not None:
        a, b = results[0].group.gate, results[1].group.gate
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gated", ["gate", "per tensor"])
def test_hypergradient_equals_reference(
    backend: Backend, dtype: torch.dtype, mode: str, gated: str
) -> None:
    kernel, truth = compare(backend, make(SIZES, dtype, **MODES[mode], **GATES[gated]), steps=2)
    for t in (7, 8):
        grads = gradients(truth, t)
        kernel.hypergradient([g.to(backend.device) for g in grads])
        truth.hypergradient(grads, by_reference=True)
    assert_same(kernel, truth)
    assert kernel.group.sums is not None
    assert truth.group.sums is not None
    mine = kernel.group.sums.view(-1, gate.SUMS).cpu()
    theirs = truth.group.sums.view(-1, gate.SUMS)
    loose = dtype in (torch.bfloat16, torch.float16)
    tolerance = dict(rtol=3e-2, atol=3e-1) if loose else dict(rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(mine, theirs, **tolerance)
    assert mine[:, gate.Sum.HYPER].abs().max() > 0


@pytest.mark.parametrize("where", range(4))
@pytest.mark.parametrize("shape", [(0,), ()], ids=["empty", "0-d"])
def test_odd_tensors_in_every_position(
    backend: Backend, where: int, shape: tuple[int, ...]
) -> None:
    sizes: list[tuple[int, ...]] = [(5,), (16_385,), (64, 3)]
    sizes.insert(where, shape)
    compare(backend, make(sizes, torch.float32, gated=True, per_tensor=True))


def test_empty_tensors_alone(backend: Backend) -> None:
    kernel, _ = compare(backend, make([(0,), (0, 4)], torch.float32, gated=True))
    assert [float(s) for s in kernel.steps] == [3, 3]


@pytest.mark.parametrize("count", [1, 300, 5000])
@pytest.mark.parametrize("gated", GATES)
def test_long_lists(backend: Backend, count: int, gated: str) -> None:
    sizes = [((i * 7) % 11,) if i % 5 else () for i in range(count)]
    compare(backend, make(sizes, torch.float32, **GATES[gated]), steps=2)


@pytest.mark.parametrize("count", [1, 300, 5000])
def test_as_few_launches_as_the_arguments_allow(backend: Backend, count: int) -> None:
    p = make([(2,)] * count, torch.float32).to(backend.device)
    none = [None] * count
    plan = blend.plan_for(
        backend.device,
        p.params,
        p.exp_avgs,
        p.exp_avg_sqs,
        none,
        none,
        p.steps,
        [0] * count,
        [0] * count,
        [True] * count,
    )
    if not backend.is_cuda_code:
        assert plan.launches() == 1
        return
    small = plan.launches() > 1 and count == 300  # 4 KB of arguments
    most = 48 if small else 440
    assert plan.launches() <= -(-count // (most - 8))
    assert plan.launches() >= -(-count // (most + 8))


@pytest.mark.parametrize("gated", GATES)
def test_grad_scale_and_device_scalars(backend: Backend, gated: str) -> None:
    problem = make(SIZES, torch.float32, **GATES[gated])
    problem.group = problem.group._replace(lr=torch.tensor(2e-2))
    if not GATES[gated]:
        problem.group = problem.group._replace(alpha=torch.tensor(0.7, dtype=torch.float64))
    problem.extras = dict(grad_scale=torch.tensor(128.0), found_inf=torch.tensor(0.0))
    kernel, _ = compare(backend, problem)
    plain = make(SIZES, torch.float32, **GATES[gated]).to(backend.device)
    plain.step([g.to(backend.device) for g in gradients(plain, 0)])
    assert not torch.equal(kernel.params[1], plain.params[1])


@pytest.mark.parametrize("gated", GATES)
def test_found_inf_changes_nothing(backend: Backend, gated: str) -> None:
    problem = make(SIZES, torch.float32, **GATES[gated]).to(backend.device)
    problem.step([g.to(backend.device) for g in gradients(problem, 0)])
    before = problem.to(backend.device)
    problem.extras = dict(found_inf=torch.tensor(1.0, device=backend.device))
    problem.step([torch.full_like(p, torch.inf) for p in problem.params])
    for mine, theirs in zip(problem.state, before.state, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
    if problem.group.gate is not None and before.group.gate is not None:
        assert torch.equal(problem.group.gate.nan_to_num(), before.group.gate.nan_to_num())


def test_unaligned_memory(backend: Backend) -> None:
    """Views that start off a 16-byte boundary take the element-by-element path."""
    problem = make([(1001,), (16_390,)], torch.float32, gated=True)
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))

    def shifted(x: torch.Tensor) -> torch.Tensor:
        memory = torch.zeros(x.numel() + 1, dtype=x.dtype, device=x.device)
        memory[1:] = x
        return memory[1:]

    for column in (kernel.params, kernel.exp_avgs, kernel.exp_avg_sqs):
        column[:] = [shifted(x) for x in column]
    for t in range(3):
        grads = gradients(truth, t)
        kernel.step([shifted(g.to(backend.device)) for g in grads])
        truth.step(grads, by_reference=True)
    assert_same(kernel, truth)
