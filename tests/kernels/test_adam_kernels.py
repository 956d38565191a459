"""The Adam kernels of every backend against the reference, statistics included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from unstuck.ops import adam, reference_adam
from unstuck.ops.adam import Group, Stat, Tracking

from ..emulator.build import ORDERS
from .conftest import Backend
from .support import TOLERANCE

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [(3,), (20_000,), (0,), (), (33, 7), (16_384,), (1, 1)]
MODES: dict[str, dict[str, Any]] = {
    "adam": {},
    "l2": dict(weight_decay=0.1, maximize=True),
    "decoupled": dict(weight_decay=0.1, decoupled=True),
    "new gradients weigh more": dict(beta1=0.3, beta2=0.5),
    "no moment": dict(beta1=0.0, eps=1e-3),
}
RELATIVE = Tracking(3, 0.5, 5, 0.05, 2, relative=True)
TRACKING = {
    "relative": RELATIVE,
    "absolute": Tracking(4, 3.0, 4, 0.02, 2),
    "norms alone": Tracking(2, 2.0, 4, -1.0, 1),
}


@dataclass
class Problem:
    """Everything an Adam step takes, for one group."""

    columns: list[list[Tensor]]  # params, exp_avgs, exp_avg_sqs, steps
    group: Group
    stats: Tensor | None
    tracking: Tracking
    extras: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> Problem:
        def move(x: Any) -> Any:
            return x.detach().clone().to(device) if isinstance(x, Tensor) else x

        columns = [[move(x) for x in column] for column in self.columns]
        group = Group(*(move(x) for x in self.group))
        extras = {k: move(v) for k, v in self.extras.items()}
        return Problem(columns, group, move(self.stats), self.tracking, extras)

    def step(self, grads: list[Tensor], *, by_reference: bool = False) -> None:
        p, m, v, s = self.columns
        call = reference_adam.adam_step if by_reference else adam.step
        call(p, grads, m, v, s, self.group, self.stats, self.tracking, **self.extras)

    def tell(self, loss: float) -> None:
        assert self.stats is not None
        self.stats[Stat.LAST_LOSS], self.stats[Stat.LOSS_WAITS] = loss, 1.0


def make(dtype: torch.dtype, sizes: list[tuple[int, ...]] = SIZES, **settings: Any) -> Problem:
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(s, generator=generator).to(dtype) for s in sizes]
    zeros = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    tracking = settings.pop("tracking", RELATIVE)
    stats = torch.zeros(tracking.size, dtype=torch.float64)
    columns = [params, *zeros, [torch.zeros(()) for _ in params]]
    return Problem(columns, Group(**{"lr": 1e-2, **settings}), stats, tracking)


def gradients(problem: Problem, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return [torch.randn(p.shape, generator=generator).to(p.dtype) for p in problem.columns[0]]


def assert_same(kernel: Problem, truth: Problem) -> None:
    for mine, theirs in zip(kernel.columns, truth.columns, strict=True):
        for x, y in zip(mine, theirs, strict=True):
            torch.testing.assert_close(x.cpu(), y.cpu(), **TOLERANCE[x.dtype])
    if kernel.stats is not None and truth.stats is not None:
        exact = all(p.dtype == torch.float64 for p in kernel.columns[0])
        tolerance = dict(rtol=1e-10, atol=1e-12) if exact else dict(rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(kernel.stats.cpu(), truth.stats, **tolerance)


def compare(backend: Backend, problem: Problem, steps: int = 4) -> tuple[Problem, Problem]:
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))
    for t in range(steps):
        grads = gradients(problem, t)
        if problem.stats is not None and t % 3 != 1:
            for one in (kernel, truth):
                one.tell(1.0 + 0.01 * (-1) ** t / (1 + t))
        kernel.step([g.to(backend.device) for g in grads])
        truth.step(grads, by_reference=True)
        assert_same(kernel, truth)
    return kernel, truth


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_step_equals_reference(backend: Backend, dtype: torch.dtype, mode: str) -> None:
    problem = make(dtype, **MODES[mode])
    kernel, _ = compare(backend, problem)
    assert not torch.equal(kernel.columns[0][1].cpu(), problem.columns[0][1])
    assert all(float(s) == 4 for s in kernel.columns[3])


@pytest.mark.parametrize("name", TRACKING)
def test_statistics_equal_the_reference_over_many_steps(backend: Backend, name: str) -> None:
    kernel, _ = compare(backend, make(torch.float64, [(50,), (3, 3)], tracking=TRACKING[name]), 20)
    assert kernel.stats is not None
    assert kernel.stats[Stat.TOTAL_STEPS] == 20
    assert 0 < kernel.stats[Stat.STAGNANT_STEPS] < 20  # the tests say both


@pytest.mark.parametrize("order", ORDERS)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        kernel = make(torch.float32).to(backend.device)
        for t in range(3):
            kernel.step([g.to(backend.device) for g in gradients(kernel, t)])
        results.append(kernel)
    for mine, theirs in zip(results[0].columns, results[1].columns, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
    assert torch.equal(results[0].stats, results[1].stats)


@pytest.mark.parametrize("count", [1, 300, 2000])
def test_long_lists(backend: Backend, count: int) -> None:
    sizes = [((i * 7) % 11,) if i % 5 else () for i in range(count)]
    compare(backend, make(torch.float32, sizes), steps=2)


def test_grad_scale_and_a_device_rate(backend: Backend) -> None:
    problem = make(torch.float32)
    problem.group = problem.group._replace(lr=torch.tensor(2e-2))
    problem.extras = dict(grad_scale=torch.tensor(128.0), found_inf=torch.tensor(0.0))
    kernel, _ = compare(backend, problem)
    plain = make(torch.float32).to(backend.device)
    plain.step([g.to(backend.device) for g in gradients(plain, 0)])
    assert not torch.equal(kernel.columns[0][1], plain.columns[0][1])


def test_found_inf_changes_nothing(backend: Backend) -> None:
    problem = make(torch.float32).to(backend.device)
    problem.step([g.to(backend.device) for g in gradients(problem, 0)])
    before = problem.to(backend.device)
    problem.extras = dict(found_inf=torch.tensor(1.0, device=backend.device))
    problem.step([torch.full_like(p, torch.inf) for p in problem.columns[0]])
    for mine, theirs in zip(problem.columns, before.columns, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
    assert torch.equal(problem.stats, before.stats)


def test_unaligned_memory(backend: Backend) -> None:
    """Views that start off a 16-byte boundary take the element-by-element path."""
    problem = make(torch.float32, [(1001,), (16_390,)])
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))
    kernel.columns[0] = [
        torch.cat((torch.zeros(1, device=backend.device), p))[1:] for p in kernel.columns[0]
    ]
    for t in range(2):
        grads = gradients(problem, t)
        kernel.step([g.to(backend.device) for g in grads])
        truth.step(grads, by_reference=True)
    assert_same(kernel, truth)


def test_without_statistics(backend: Backend) -> None:
    problem = make(torch.float32)
    problem.stats = None
    compare(backend, problem, steps=2)


def test_statistics_that_were_spoilt_are_no_reason_to_write_elsewhere(backend: Backend) -> None:
    for bad in (float("nan"), float("inf"), -3.0, 1e300):
        kernel = make(torch.float32, [(5,)]).to(backend.device)
        assert kernel.stats is not None
        kernel.stats.fill_(bad)
        kernel.step([g.to(backend.device) for g in gradients(kernel, 0)])
        assert torch.isfinite(kernel.columns[0][0]).all()


def test_statistics_in_the_memory_that_was_lent(backend: Backend) -> None:
    """Both are written: they may not share, nor may the workspace move away."""
    problem = make(torch.float32).to(backend.device)
    p, m, v, steps = problem.columns
    plan = backend.module.AdamPlan(p, m, v, steps, [0] * len(p))
    if not (size := plan.workspace_size()):
        pytest.skip("needs no workspace")
    memory = torch.zeros(size + problem.tracking.size, dtype=torch.float64, device=backend.device)
    workspace = memory[:size].clone()
    arguments = ([tuple(problem.group)], memory[size - 1 : -1], problem.tracking, True, None, None)
    where = torch.cuda.current_stream().cuda_stream if backend.device.type == "cuda" else 0
    for lent, text in ((memory[:size], "share memory"), (workspace, None)):
        plan.set_workspace(lent)
        plan.set_gradients([torch.ones_like(x) for x in p])
        if text is None:
            plan.step(*arguments, where)
            continue
        with pytest.raises(ValueError, match=f"workspace and stats {text}"):
            plan.step(*arguments, where)
    workspace.resize_(2 * size)
    plan.set_gradients([torch.ones_like(x) for x in p])
    with pytest.raises(ValueError, match="workspace"):
        plan.step(*arguments, where)


def test_tests_are_made_where_no_tensor_takes_a_step(backend: Backend) -> None:
    """As at a step where all gradients are None."""
    problem = make(torch.float64, [])
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))
    assert kernel.stats is not None
    assert truth.stats is not None
    plan = backend.module.AdamPlan([], [], [], [], [])
    plan.set_gradients([])
    where = torch.cuda.current_stream().cuda_stream if backend.device.type == "cuda" else 0
    for found_inf in (None, torch.zeros((), device=backend.device), torch.ones(())):
        stop = None if found_inf is None else found_inf.to(backend.device)
        for one in (kernel, truth):
            one.tell(1.0)
        plan.step([tuple(problem.group)], kernel.stats, RELATIVE, True, None, stop, where)
        if stop is None or not stop:
            reference_adam.track(truth.stats, RELATIVE)
        torch.testing.assert_close(kernel.stats.cpu(), truth.stats)
    assert kernel.stats[Stat.TOTAL_STEPS] == 2
