"""Whole iterations of attention search on every backend, against the rule in plain torch."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch

from unstuck.ops import _native, attention
from unstuck.ops.attention import Report, State
from unstuck.ops.candidates import Draw
from unstuck.ops.landscapes import Landscape
from unstuck.ops.objectives import LinearRegression, LogisticRegression, Trapped, TwoLayerNet

from ..emulator.build import ORDERS
from .conftest import Backend

pytestmark = pytest.mark.parametrize(
    "backend", ["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True
)
DTYPES = [torch.float32, torch.float64]
#: The deviates are float32 whatever the dtype.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-5}


def start(
    backend: Backend, dim: int, dtype: torch.dtype = torch.float32, sigma: float = 0.7
) -> State:
    generator = torch.Generator().manual_seed(dim)
    mean, scale = torch.rand(2, dim, generator=generator, dtype=torch.float64)
    path = torch.full((dim,), 0.1)
    vectors = (x.to(backend.device, dtype) for x in (1 + mean, path, 0.5 + scale))
    return State(*vectors, sigma)


def by_rule(monkeypatch: pytest.MonkeyPatch, state: State, *args: Any, **kwargs: Any) -> Report:
    """Run the same in plain torch on the CPU; `state` is the result's, on the CPU."""
    for name in ("mean", "path", "scale"):
        setattr(state, name, getattr(state, name).cpu())
    with monkeypatch.context() as patch:
        patch.setattr(_native, "cpu", None)
        patch.setattr(_native, "_warned", {"cpu"})
        return attention.run(args[0], state, *args[1:], **kwargs)


def assert_alike(ours: State, theirs: State, tolerance: float) -> None:
    for name in ("mean", "path", "scale"):
        mine, truth = getattr(ours, name).cpu(), getattr(theirs, name)
        torch.testing.assert_close(mine, truth, rtol=tolerance, atol=tolerance)
    assert ours.sigma == pytest.approx(theirs.sigma, rel=tolerance)
    assert ours.beta == pytest.approx(theirs.beta, rel=10 * tolerance)


def assert_same(ours: State, theirs: State) -> None:
    for name in ("mean", "path", "scale"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert (ours.sigma, ours.beta) == (theirs.sigma, theirs.beta)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(("dim", "count"), [(2, 6), (10, 600), (300, 20), (5000, 8)])
@pytest.mark.parametrize("steps", [1, 3])
def test_iterations_are_those_of_the_rule(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    antithetic: bool,
    dim: int,
    count: int,
    steps: int,
) -> None:
    draw = Draw(7, 3, antithetic=antithetic)
    objective = Landscape("rastrigin", dim)
    ours, theirs = start(backend, dim, dtype), start(backend, dim, dtype)
    mine = attention.run(objective, ours, draw, count, steps=steps)
    truth = by_rule(monkeypatch, theirs, objective, draw, count, steps=steps)
    tolerance = TOLERANCE[dtype] * (1 if steps == 1 else 50)
    torch.testing.assert_close(mine.losses.cpu(), truth.losses, rtol=tolerance, atol=tolerance)
    assert (mine.steps, mine.finite) == (truth.steps, truth.finite) == (steps, count)
    assert mine.ess == pytest.approx(truth.ess, rel=100 * tolerance)
    assert mine.best == pytest.approx(truth.best, rel=tolerance)
    assert mine.x is not None
    torch.testing.assert_close(mine.x.cpu(), truth.x, rtol=tolerance, atol=tolerance)
    assert_alike(ours, theirs, 100 * TOLERANCE[dtype])


def with_data(kind: str, dtype: torch.dtype, device: torch.device) -> Any:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(37, 6, generator=generator, dtype=torch.float64).to(device, dtype)
    y = (x[:, 0] > 0).to(dtype)
    if kind == "classes":
        return TwoLayerNet(x, (torch.arange(37) % 3).to(device), 5, "cross-entropy")
    if kind == "trapped":
        return Trapped(x, y, lam=0.5, kappa=2.0)
    kinds = {"linear": LinearRegression, "logistic": LogisticRegression}
    return kinds[kind](x, y) if kind in kinds else TwoLayerNet(x, y, 5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["linear", "logistic", "trapped", "net", "classes"])
@pytest.mark.parametrize(("count", "antithetic"), [(16, True), (33, False)])
def test_iterations_on_data_are_those_of_the_rule(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    dtype: torch.dtype,
    count: int,
    antithetic: bool,
) -> None:
    objective, draw = with_data(kind, dtype, backend.device), Draw(7, 3, antithetic=antithetic)
    ours, theirs = (start(backend, objective.dim, dtype) for _ in range(2))
    mine = attention.run(objective, ours, draw, count, steps=2)
    on_cpu = with_data(kind, dtype, torch.device("cpu"))
    truth = by_rule(monkeypatch, theirs, on_cpu, draw, count, steps=2)
    tolerance = 50 * TOLERANCE[dtype]
    torch.testing.assert_close(mine.losses.cpu(), truth.losses, rtol=tolerance, atol=tolerance)
    assert (mine.steps, mine.finite) == (truth.steps, truth.finite) == (2, count)
    assert mine.best == pytest.approx(truth.best, rel=tolerance)
    assert_alike(ours, theirs, 4 * tolerance)


@pytest.mark.parametrize("bound", ["clip", "reflect"])
def test_in_a_box(backend: Backend, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    objective = Landscape("ackley", 40)
    low, high = (torch.full((40,), x, device=backend.device) for x in (1.2, 1.9))
    ours, theirs = start(backend, 40), start(backend, 40)
    for state in (ours, theirs):
        state.mean.clamp_(1.2, 1.9)
    mine = attention.run(objective, ours, Draw(1), 32, steps=5, low=low, high=high, bound=bound)
    box = dict(low=low.cpu(), high=high.cpu(), bound=bound)
    truth = by_rule(monkeypatch, theirs, objective, Draw(1), 32, steps=5, **box)
    assert_alike(ours, theirs, 1e-2)
    assert mine.best == pytest.approx(truth.best, rel=1e-3)
    assert mine.x is not None
    assert bool(((mine.x >= low) & (mine.x <= high)).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_at_once_are_steps_in_turn(backend: Backend, dtype: torch.dtype) -> None:
    objective = Landscape("griewank", 30)
    together, apart = start(backend, 30, dtype), start(backend, 30, dtype)
    whole = attention.run(objective, together, Draw(5), 24, steps=17)
    best, found = math.inf, None
    for iteration in range(17):
        report = attention.run(objective, apart, Draw(5, iteration), 24, best=best)
        best, found = report.best, found if report.x is None else report.x
    assert whole.steps == 17
    assert torch.equal(whole.losses, report.losses)
    assert_same(together, apart)
    assert whole.best == best
    assert whole.x is not None
    assert found is not None
    assert torch.equal(whole.x, found)


def test_the_best_before_stays(backend: Backend) -> None:
    objective = Landscape("sphere", 20)
    report = attention.run(objective, start(backend, 20), Draw(0), 16, steps=3, best=-1.0)
    assert (report.best, report.x) == (-1.0, None)


@pytest.mark.parametrize(("sigma", "value"), [(0.0, 1.0), (0.7, math.nan)])
def test_nothing_to_go_by_changes_nothing(backend: Backend, sigma: float, value: float) -> None:
    state = start(backend, 6, sigma=sigma)
    state.mean[2] = value
    before, objective = deepcopy(state), Landscape("sphere", 6)
    finite = 10 if math.isfinite(value) else 0
    report = attention.run(objective, state, Draw(0), 10, steps=4)
    assert (report.steps, report.ess, report.finite) == (1, 0, finite)
    assert (report.x is not None) == (report.best < math.inf) == (finite > 0)
    once = attention.run(objective, deepcopy(before), Draw(0), 10)
    assert torch.equal(report.losses.nan_to_num(), once.losses.nan_to_num())
    state.mean[2] = before.mean[2] = 0
    assert_same(state, before)


def test_an_end_in_the_middle(backend: Backend) -> None:
    """Near its minimum the function is 0 in float32: nothing to go by from there on."""
    objective, wanted = Landscape("griewank", 2), 100
    whole, part = start(backend, 2), start(backend, 2)
    for state in (whole, part):
        state.mean.mul_(0.3)
    report = attention.run(objective, whole, Draw(2), 8, steps=wanted)
    assert 1 < report.steps < wanted
    assert (report.ess, report.finite, report.best) == (0, 8, 0)
    again = attention.run(objective, part, Draw(2), 8, steps=report.steps)
    assert torch.equal(again.losses, report.losses)
    assert again.steps == report.steps
    assert again.x is not None
    assert report.x is not None
    assert torch.equal(again.x, report.x)
    assert_same(whole, part)


def test_infinite_losses_weigh_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares overflow for some of the candidates and not for others."""
    ours, theirs = start(backend, 4, sigma=6e18), start(backend, 4, sigma=6e18)
    objective = Landscape("sphere", 4)
    mine = attention.run(objective, ours, Draw(3), 64)
    truth = by_rule(monkeypatch, theirs, objective, Draw(3), 64)
    assert 0 < mine.finite == truth.finite < 64
    assert bool(torch.isfinite(ours.mean).all())
    assert_alike(ours, theirs, 1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    states = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        states.append(start(backend, 3000))
        attention.run(Landscape("levy", 3000), states[-1], Draw(0), 65, steps=3)
    assert_same(*states)


def test_workspace_must_have_room(backend: Backend) -> None:
    plan, state = backend.module.AttentionPlan(0, (), 1000), start(backend, 1000)
    needed = plan.workspace_size(64, True, None)
    assert (needed > 0) == backend.is_cuda_code
    if not backend.is_cuda_code:
        return
    plan.set_workspace(torch.empty(needed - 1, dtype=torch.float64, device=backend.device))
    before, losses = deepcopy(state), torch.empty(64, device=backend.device)
    region = (state.mean, state.sigma, state.scale, None, None, "clip")
    rest = (0.0, 0.5, Draw(0), 1, losses, torch.empty_like(state.mean), math.inf, 0)
    with pytest.raises(ValueError, match=rf"workspace must have {needed} float64 numbers"):
        plan.steps(None, region, state.path, *rest)
    assert_same(state, before)
