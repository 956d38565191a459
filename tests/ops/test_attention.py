"""Iterations of attention search: the native form against the rule in plain torch."""

from __future__ import annotations

import math
from copy import deepcopy
from types import ModuleType

import pytest
import torch

from unstuck.ops import _native, attention
from unstuck.ops.attention import State
from unstuck.ops.candidates import Draw
from unstuck.ops.landscapes import Landscape
from unstuck.ops.objectives import LinearRegression, LogisticRegression, Trapped, TwoLayerNet

DTYPES = [torch.float32, torch.float64]


def start(dim: int, dtype: torch.dtype = torch.float32, sigma: float = 0.7) -> State:
    generator = torch.Generator().manual_seed(dim)
    mean = 1 + torch.rand(dim, generator=generator, dtype=torch.float64)
    path, scale = 0.1 * torch.ones(dim), 0.5 + torch.rand(dim, generator=generator)
    return State(mean.to(dtype), path.to(dtype), scale.to(dtype), sigma)


@pytest.fixture
def rule(native: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """Return `attention.run` in plain torch, warnings of it apart."""

    def run(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(_native, "cpu", None)
            patch.setattr(_native, "_warned", {"cpu"})
            return attention.run(*args, **kwargs)

    return run


def assert_alike(ours: State, theirs: State, tolerance: float) -> None:
    for name in ("mean", "path", "scale"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(theirs, name), rtol=tolerance, atol=tolerance
        )
    assert ours.sigma == pytest.approx(theirs.sigma, rel=tolerance)
    assert ours.beta == pytest.approx(theirs.beta, rel=10 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(("dim", "count"), [(2, 6), (10, 33), (100, 64), (300, 20), (2000, 8)])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_iteration_is_that_of_the_rule(rule, dim, count, antithetic, dtype, threads) -> None:
    objective, draw = Landscape("rastrigin", dim), Draw(7, 3, antithetic=antithetic)
    ours, theirs = start(dim, dtype), start(dim, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mine = attention.run(objective, ours, draw, count)
    finally:
        torch.set_num_threads(before)
    truth = rule(objective, theirs, draw, count)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-5  # the deviates are float32
    torch.testing.assert_close(mine.losses, truth.losses, rtol=tolerance, atol=tolerance)
    assert (mine.steps, mine.finite) == (truth.steps, truth.finite) == (1, count)
    assert mine.ess == pytest.approx(truth.ess, rel=100 * tolerance)
    assert mine.best == pytest.approx(truth.best, rel=tolerance)
    torch.testing.assert_close(mine.x, truth.x, rtol=tolerance, atol=tolerance)
    assert_alike(ours, theirs, 100 * tolerance)


def with_data(kind: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(37, 6, generator=generator, dtype=torch.float64).to(dtype)
    y = (x[:, 0] > 0).to(dtype)
    if kind == "classes":
        return TwoLayerNet(x, torch.arange(37) % 3, 5, "cross-entropy")
    if kind == "trapped":
        return Trapped(x, y, lam=0.5, kappa=2.0)
    kinds = {"linear": LinearRegression, "logistic": LogisticRegression}
    return kinds[kind](x, y) if kind in kinds else TwoLayerNet(x, y, 5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["linear", "logistic", "trapped", "net", "classes"])
@pytest.mark.parametrize(("count", "antithetic"), [(16, True), (33, False)])
def test_iterations_on_data_are_those_of_the_rule(rule, kind, count, antithetic, dtype) -> None:
    objective, draw = with_data(kind, dtype), Draw(7, 3, antithetic=antithetic)
    ours, theirs = start(objective.dim, dtype), start(objective.dim, dtype)
    mine = attention.run(objective, ours, draw, count, steps=2)
    truth = rule(objective, theirs, draw, count, steps=2)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-5  # the deviates are float32
    torch.testing.assert_close(mine.losses, truth.losses, rtol=50 * tolerance, atol=50 * tolerance)
    assert (mine.steps, mine.finite) == (truth.steps, truth.finite) == (2, count)
    assert mine.best == pytest.approx(truth.best, rel=50 * tolerance)
    torch.testing.assert_close(mine.x, truth.x, rtol=50 * tolerance, atol=50 * tolerance)
    assert_alike(ours, theirs, 200 * tolerance)


@pytest.mark.parametrize("kind", ["linear", "logistic", "trapped", "net", "classes"])
@pytest.mark.parametrize("strided", [False, True])
def test_data_in_a_box_or_with_gaps(rule, kind: str, strided: bool) -> None:
    """What a kernel does not read takes the way of the rule."""
    objective = with_data(kind, torch.float32)
    if strided:
        object.__setattr__(objective, "X", objective.X.T.contiguous().T)
    low, high = torch.full((objective.dim,), 0.9), torch.full((objective.dim,), 2.1)
    ours, theirs = start(objective.dim), start(objective.dim)
    mine = attention.run(objective, ours, Draw(2), 20, low=low, high=high)
    truth = rule(objective, theirs, Draw(2), 20, low=low, high=high)
    torch.testing.assert_close(mine.losses, truth.losses, rtol=1e-3, atol=1e-3)
    assert bool(((mine.x >= low) & (mine.x <= high)).all())
    assert_alike(ours, theirs, 1e-2)


def test_data_turn_by_turn() -> None:
    """Two objectives of one dimension share a plan, and nothing of each other."""
    first, second = with_data("linear", torch.float32), with_data("logistic", torch.float32)
    for objective in (first, second, first):
        state = start(6)
        report = attention.run(objective, state, Draw(0), 8)
        alone = start(6)
        for kept in (attention._kept, attention.now._kept):
            vars(kept).clear()
        again = attention.run(objective, alone, Draw(0), 8)
        assert torch.equal(report.losses, again.losses)
        assert torch.equal(state.mean, alone.mean)


def test_data_that_does_not_fit_is_refused() -> None:
    objective = with_data("net", torch.float32)
    with pytest.raises(ValueError, match=r"region\.mean must have the shape \[41\], not \[6\]"):
        attention.run(objective, start(6), Draw(0), 8)
    with pytest.raises(TypeError, match=r"region\.mean must be torch\.float32 as the data"):
        attention.run(objective, start(41, torch.float64), Draw(0), 8)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (("net",), TypeError, "data must be a tuple of 6 fields"),
        (("tree", 1, 2, 3, 4, 5), ValueError, "begin with 'regression' or 'net', not 'tree'"),
        (("net", torch.ones(4, 2), torch.ones(4), False, 0, 1), ValueError, "hidden must be from"),
        (("net", torch.ones(4, 2), torch.ones(4), False, 9, 1), ValueError, "6 parameters.*not 37"),
        (("net", torch.ones(4, 3), torch.ones(3), False, 1, 1), ValueError, "y must be 4"),
        (("net", torch.ones(4, 3), torch.ones(4), True, 1, 1), TypeError, "y must be int64"),
        (
            ("regression", torch.ones(4, 6).double(), torch.ones(4), 0.0, 0.0, False),
            ValueError,
            "X must be .*float32",
        ),
        (
            ("regression", torch.ones(4, 6), torch.ones(4), math.nan, 0.0, False),
            ValueError,
            "lam must be finite",
        ),
    ],
)
def test_the_entry_point_refuses_data(native: ModuleType, data, error, text) -> None:
    plan, state = native.AttentionPlan(-1, (), 6), start(6)
    region = (state.mean, 0.5, state.scale, None, None, "clip")
    rest = (state.path, 0.0, 0.5, Draw(0), 1, torch.empty(4), torch.empty(6), math.inf, 1)
    before = state.mean.clone()
    with pytest.raises(error, match=text):
        plan.steps(data, region, *rest)
    boxed = (*region[:3], state.mean - 1, state.mean + 1, "clip")
    line = ("regression", torch.ones(4, 6), torch.ones(4), 0.0, 0.0, False)
    with pytest.raises(ValueError, match="low must be None"):
        plan.steps(line, boxed, *rest)
    with pytest.raises(ValueError, match="has no objective"):
        plan.steps(None, region, *rest)
    assert torch.equal(state.mean, before)


@pytest.mark.parametrize("bound", ["clip", "reflect"])
def test_in_a_box(rule, bound: str) -> None:
    objective, low, high = Landscape("ackley", 40), torch.full((40,), 1.2), torch.full((40,), 1.9)
    ours, theirs = start(40), start(40)
    box = dict(low=low, high=high, bound=bound)
    for state in (ours, theirs):
        state.mean.clamp_(1.2, 1.9)
    mine = attention.run(objective, ours, Draw(1), 32, steps=5, **box)
    truth = rule(objective, theirs, Draw(1), 32, steps=5, **box)
    assert_alike(ours, theirs, 1e-2)
    assert mine.best == pytest.approx(truth.best, rel=1e-3)
    assert bool(((mine.x >= low) & (mine.x <= high)).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_at_once_are_steps_in_turn(dtype: torch.dtype) -> None:
    objective = Landscape("griewank", 30)
    together, apart = start(30, dtype), start(30, dtype)
    whole = attention.run(objective, together, Draw(5), 24, steps=17)
    best, found = math.inf, None
    for iteration in range(17):
        report = attention.run(objective, apart, Draw(5, iteration), 24, best=best)
        best, found = report.best, found if report.x is None else report.x
    assert whole.steps == 17
    assert torch.equal(whole.losses, report.losses)
    assert torch.equal(together.mean, apart.mean)
    assert torch.equal(together.path, apart.path)
    assert torch.equal(together.scale, apart.scale)
    assert (together.sigma, together.beta, whole.best) == (apart.sigma, apart.beta, best)
    assert torch.equal(whole.x, found)


def test_threads_do_not_change_what_is_large(native: ModuleType) -> None:
    """The update of many coordinates is cut into the same chunks whatever the threads."""
    objective = Landscape("sphere", 300_000)
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            state = start(300_000)
            attention.run(objective, state, Draw(0), 4, steps=2)
        finally:
            torch.set_num_threads(before)
        results.append(state)
    assert torch.equal(results[0].mean, results[1].mean)
    assert results[0].sigma == results[1].sigma


def test_flat_losses_change_nothing(rule) -> None:
    for run in (attention.run, rule):
        state = start(6, sigma=0.0)  # all candidates are the mean
        before = deepcopy(state)
        report = run(Landscape("sphere", 6), state, Draw(0), 10, steps=4)
        assert (report.steps, report.ess, report.finite) == (1, 0, 10)
        assert torch.equal(state.mean, before.mean)
        assert torch.equal(state.path, before.path)
        assert (state.sigma, state.beta) == (0, 0)


def test_losses_without_a_number_change_nothing(rule) -> None:
    for run in (attention.run, rule):
        state = start(6)
        state.mean[2] = math.nan
        before = deepcopy(state)
        report = run(Landscape("sphere", 6), state, Draw(0), 10, steps=4, best=1.0)
        assert (report.steps, report.finite, report.best, report.x) == (1, 0, 1.0, None)
        assert torch.equal(state.mean.nan_to_num(), before.mean.nan_to_num())
        assert torch.equal(state.scale, before.scale)


def test_infinite_losses_weigh_nothing(rule) -> None:
    """Squares overflow for some of the candidates and not for others."""
    ours, theirs = start(4, sigma=6e18), start(4, sigma=6e18)
    mine = attention.run(Landscape("sphere", 4), ours, Draw(3), 64)
    truth = rule(Landscape("sphere", 4), theirs, Draw(3), 64)
    assert 0 < mine.finite == truth.finite < 64
    assert bool(torch.isfinite(ours.mean).all())
    assert_alike(ours, theirs, 1e-3)


def test_a_step_size_that_only_grows_stays_finite(rule) -> None:
    """A loss that falls for ever, the further out the lower."""
    for run in (attention.run, rule):
        state = start(6, sigma=1e15)
        x = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
        objective = LogisticRegression(x * 1e-15, torch.ones(1))
        for iteration in range(40):
            report = run(objective, state, Draw(0, iteration), 16)
            assert report.finite == 16
            assert 0 < state.sigma <= 1e15


def test_a_minimum_is_found() -> None:
    state = State(torch.full((100,), 3.0), torch.zeros(100), torch.ones(100), 1.0)
    report = attention.run(Landscape("sphere", 100), state, Draw(0), 200, steps=400)
    assert report.best < 1e-6


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, not 0"),
        ({"share": 1.0}, ValueError, r"strictly between 0 and 1, not 1\.0"),
        ({"share": math.nan}, ValueError, "not nan"),
        ({"bound": "wrap"}, ValueError, "'clip' or 'reflect', not 'wrap'"),
        ({"low": torch.zeros(3)}, ValueError, "low must"),
        ({"count": -1}, ValueError, "count"),
    ],
)
def test_what_is_refused(changes, error, text) -> None:
    state = start(6)
    before = deepcopy(state)
    with pytest.raises(error, match=text):
        attention.run(Landscape("sphere", 6), state, Draw(0), **{"count": 10, **changes})
    assert torch.equal(state.mean, before.mean)


def test_a_state_with_gaps_is_refused(native: ModuleType) -> None:
    state = start(6)
    state.mean = torch.ones(12)[::2]
    with pytest.raises(ValueError, match=r"mean has gaps; call \.contiguous"):
        attention.run(Landscape("sphere", 6), state, Draw(0), 10)


def test_shared_memory_is_refused(native: ModuleType) -> None:
    state = start(6)
    state.path = state.mean
    with pytest.raises(ValueError, match="share memory"):
        attention.run(Landscape("sphere", 6), state, Draw(0), 10)


@pytest.mark.parametrize("name", ["mean", "path", "scale"])
def test_wrong_tensors_are_refused(native: ModuleType, name: str) -> None:
    state = start(6)
    setattr(state, name, torch.zeros(6, dtype=torch.float64))
    with pytest.raises((ValueError, TypeError), match=r"float32|like mean"):
        attention.run(Landscape("sphere", 6), state, Draw(0), 10)
