"""The trial kernels of every backend against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unstuck.ops import reference_landscapes, reference_trials, trials
from unstuck.ops.landscapes import Landscape
from unstuck.ops.objectives import (
    LinearRegression,
    LogisticRegression,
    Objective,
    Trapped,
    TwoLayerNet,
)
from unstuck.ops.trials import Step

from ..emulator.build import ORDERS
from .conftest import Backend

pytestmark = pytest.mark.parametrize(
    "backend", ["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True
)
DTYPES = [torch.float32, torch.float64]
KINDS = ["linear", "trapped", "logistic", "bce", "cross-entropy", "rastrigin", "levy"]
# Rows, features and rates: the least; few; more rates than a block has; a row folded in parts.
SIZES = [(1, 1, 1), (70, 33, 64), (300, 40, 150), (9, 5000, 7)]
CPU = torch.device("cpu")


def make(kind: str, n: int, features: int, dtype: torch.dtype, device: torch.device) -> Objective:
    X, y = torch.randn(n, features, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
    X, y = X.to(device, dtype), y.to(device, dtype)
    if kind == "linear":
        return LinearRegression(X, y)
    if kind == "trapped":
        return Trapped(X, y, 0.5, 0.7)
    if kind == "logistic":
        return LogisticRegression(X, (y > 0).to(dtype))
    if kind == "bce":
        return TwoLayerNet(X, (y > 0).to(dtype), 5)
    return TwoLayerNet(X, torch.arange(n, device=device) % 4, 5, "cross-entropy", 4)


class Line:
    """An objective, and a line through its parameters."""

    def __init__(
        self, kind: str, size: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        n, features, count = size
        named = kind in reference_landscapes.TABLE
        self.objective = (
            Landscape(kind, features) if named else make(kind, n, features, dtype, device)
        )
        w, d = torch.randn(2, self.objective.dim, dtype=torch.float64) / self.objective.dim**0.5
        self.w, self.d = w.to(device, dtype), d.to(device, dtype)
        self.rates = torch.linspace(-0.1, 1.0, count, dtype=dtype, device=device)

    def step(self, beta: float = 3.0) -> Step:
        return trials.step(self.objective, self.w, self.d, self.rates, beta)

    def truth(self, beta: float = 3.0) -> tuple[Tensor, ...]:
        """The same step by the reference, in float64 on the CPU."""
        w, d, rates = (x.to(CPU, torch.float64) for x in (self.w, self.d, self.rates))
        if isinstance(self.objective, Landscape):
            o = self.objective
            losses = reference_landscapes.value(o.name, o.parameters, w - rates[:, None] * d)
        else:
            X, y = self.objective.X.to(CPU, torch.float64), self.objective.y.cpu()
            y = y.double() if y.is_floating_point() else y
            wide = replace(self.objective, X=X, y=y)
            losses = reference_trials.losses(wide, w, d, rates)
        p, rate = reference_trials.choose(losses, rates, beta)
        return torch.where(rate == 0, w, w - rate * d), losses, p, rate


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_step_equals_reference(
    backend: Backend, kind: str, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    line = Line(kind, size, dtype, backend.device)
    tolerance = (
        dict(rtol=1e-5, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-11, atol=1e-11)
    )
    if isinstance(line.objective, Landscape):  # weights of large losses, which differ by rounding
        tolerance["atol"] *= line.objective.dim
    step, truth = line.step(), line.truth()
    for name, mine, theirs in zip(Step._fields, step, truth, strict=True):
        torch.testing.assert_close(
            mine.cpu().double(), theirs, **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert float(step.p.sum()) == pytest.approx(1, abs=1e-5)
    losses = trials.losses(line.objective, line.w, line.d, line.rates)
    assert torch.equal(losses, step.losses)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_weighs_nothing(backend: Backend, kind: str) -> None:
    line = Line(kind, (20, 6, 5), torch.float64, backend.device)
    line.rates[1], line.rates[3] = torch.nan, torch.inf
    step, truth = line.step(), line.truth()
    assert step.losses.isfinite().tolist() == [True, False, True, False, True]
    assert step.p.isfinite().all()
    assert (step.p == 0).tolist() == [False, True, False, True, False]
    torch.testing.assert_close(step.w.cpu(), truth[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("label", [-1, 18, 2**40])
def test_a_class_that_does_not_exist_has_no_loss(backend: Backend, label: int) -> None:
    line = Line("cross-entropy", (20, 6, 5), torch.float32, backend.device)
    assert isinstance(line.objective, TwoLayerNet)
    line.objective.y[11] = label
    assert bool(trials.losses(line.objective, line.w, line.d, line.rates).isnan().all())


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_finite_the_point_stays(backend: Backend, kind: str) -> None:
    line = Line(kind, (20, 6, 5), torch.float32, backend.device)
    line.d[:] = torch.inf
    line.rates += 1
    step = line.step()
    assert torch.equal(step.w, line.w)
    assert float(step.rate) == 0
    assert step.p.tolist() == [0.0] * 5
    assert not step.losses.isfinite().any()


@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_rows_that_lie_apart(backend: Backend, kind: str) -> None:
    line = Line(kind, (40, 37, 6), torch.float32, backend.device)
    assert not isinstance(line.objective, Landscape)
    expected = line.step()
    wide = torch.full((40, 50), torch.nan, device=backend.device)
    wide[:, :37] = line.objective.X
    line.objective = replace(line.objective, X=wide[:, :37])
    assert all(torch.equal(x, y) for x, y in zip(line.step(), expected, strict=True))


@pytest.mark.parametrize("kind", ["bce", "logistic"])
def test_groups_of_rates_may_be_more_than_a_grid_is_high(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """65,535 blocks are the most along all axes but the first; here 3, so that rates are few."""
    line = Line(kind, (70, 5, 400), torch.float32, backend.device)
    losses = trials.losses(line.objective, line.w, line.d, line.rates)
    monkeypatch.setenv("CUDA_EMULATOR_GRID_YZ", "3")
    assert torch.equal(trials.losses(line.objective, line.w, line.d, line.rates), losses)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str, kind: str
) -> None:
    line = Line(kind, (300, 150, 9), torch.float32, backend.device)
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        results.append(line.step())
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_workspace_must_have_room(backend: Backend, kind: str) -> None:
    if not backend.is_cuda_code:
        assert not hasattr(backend.module, "regression_trials_workspace")
        return
    line = Line(kind, (300, 1000, 9), torch.float32, backend.device)
    module, out = backend.module, torch.empty_like(line.rates)
    small = torch.empty(2, dtype=torch.float64, device=backend.device)
    rest = (line.w, line.d, line.rates, 0.0, out, None, None, None, small, 0)
    o = line.objective
    if isinstance(o, Landscape):
        call, first = module.landscape_trials, (0, ())
    elif isinstance(o, TwoLayerNet):
        hidden = torch.zeros(2, o.hidden, len(o.y), device=backend.device)
        classes = o.loss == "cross-entropy"
        call, first = module.net_trials, (hidden, o.y, classes, 1000, o.hidden, o.outputs)
    else:
        call, first = module.regression_trials, (o.X, o.y, 0.0, 0.0, kind == "logistic")
    with pytest.raises(ValueError, match=r"workspace must have \d+ float64 numbers, not 2"):
        call(*first, *rest)
