"""The gradients and candidate losses of the objectives, on every backend, against the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from unstuck.ops import candidates, objectives, reference_objectives
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.objectives import (
    LinearRegression,
    LogisticRegression,
    Objective,
    Trapped,
    TwoLayerNet,
)

from ..emulator.build import ORDERS
from .conftest import Backend

pytestmark = pytest.mark.parametrize(
    "backend", ["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True
)
DTYPES = [torch.float32, torch.float64]
REGRESSIONS = ["linear", "trapped", "logistic"]
CPU = torch.device("cpu")


def make(
    kind: str, size: tuple[int, ...], dtype: torch.dtype, device: torch.device = CPU
) -> Objective:
    """Of a net the size is rows, features, hidden units and classes, 1 for binary targets."""
    n, features, *layers = size
    generator = torch.Generator().manual_seed(n)
    X = torch.randn(n, features, dtype=torch.float64, generator=generator).to(device, dtype)
    y = torch.randn(n, dtype=torch.float64, generator=generator).to(device, dtype)
    if kind == "linear":
        return LinearRegression(X, y)
    if kind == "trapped":
        return Trapped(X, y, 0.5, 0.7)
    if kind == "logistic":
        return LogisticRegression(X, (y > 0).to(dtype))
    hidden, classes = layers
    if classes == 1:
        return TwoLayerNet(X, (y > 0).to(dtype), hidden)
    labels = torch.arange(n, device=device) % classes
    return TwoLayerNet(X, labels, hidden, "cross-entropy", classes)


def wide(objective: Objective) -> Objective:
    """Return the same in float64 on the CPU."""
    X, y = objective.X.to(CPU, torch.float64), objective.y.cpu()
    return replace(objective, X=X, y=y.double() if y.is_floating_point() else y)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return dict(rtol=2e-5, atol=2e-5) if dtype == torch.float32 else dict(rtol=1e-10, atol=1e-11)


def around(objective: Objective, count: int, how: str) -> tuple[Region, Draw]:
    """Return a region and a draw: "pairs" of one size, or "alone" with all that a region has."""
    generator = torch.Generator().manual_seed(7)

    def random(*size: int) -> Tensor:
        return torch.rand(*size, dtype=torch.float64, generator=generator).to(objective.X)

    mean = (random(objective.dim) - 0.5) / objective.dim**0.5
    if how == "pairs":
        return Region(mean, 0.05), Draw(seed=3, iteration=5)
    region = Region(mean, 0.1 * random(count), 0.5 + random(objective.dim))
    if how in ("clip", "reflect"):
        region = region._replace(low=mean - 0.04, high=mean + 0.04, bound=how)
    return region, Draw(seed=2**40 + 3, stream=1, antithetic=how != "alone", rounds=7)


def assert_losses(objective: Objective, count: int, how: str) -> Tensor:
    region, draw = around(objective, count, how)
    losses = objectives.candidate_losses(objective, region, draw, count)
    points = candidates.sample(region, draw, 0, count).to(CPU, torch.float64)
    truth = reference_objectives.value(wide(objective), points)
    torch.testing.assert_close(losses.cpu().double(), truth, **tolerance(objective.X.dtype))
    return losses


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", REGRESSIONS)
@pytest.mark.parametrize("size", [(1, 1), (70, 33), (600, 40), (9, 2500)], ids=str)
def test_gradient(backend: Backend, kind: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    objective = make(kind, size, dtype, backend.device)
    w = around(objective, 1, "pairs")[0].mean
    truth = reference_objectives.value_and_gradient(wide(objective), w.to(CPU, torch.float64))
    for mine, theirs in zip(objectives.value_and_gradient(objective, w), truth, strict=True):
        torch.testing.assert_close(mine.cpu().double(), theirs, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", ["pairs", "alone"])
@pytest.mark.parametrize("kind", REGRESSIONS)
@pytest.mark.parametrize("size", [(1, 1, 1), (140, 33, 67), (9, 130, 5)], ids=str)
def test_candidates_of_a_regression(
    backend: Backend, kind: str, how: str, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    *data, count = size
    assert_losses(make(kind, tuple(data), dtype, backend.device), count, how)


# The least; tails of rows, units and classes; more of each than a block has at once.
NETS = [(1, 1, 1, 1), (130, 2, 40, 1), (20, 70, 33, 3), (9, 5, 3, 35)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", ["pairs", "alone", "clip"])
@pytest.mark.parametrize("size", NETS, ids=str)
def test_candidates_of_a_net(
    backend: Backend, how: str, size: tuple[int, ...], dtype: torch.dtype
) -> None:
    assert_losses(make("net", size, dtype, backend.device), 3, how)


def test_candidates_of_a_net_are_reflected(backend: Backend) -> None:
    clipped, reflected = (
        assert_losses(make("net", (20, 3, 4, 2), torch.float64, backend.device), 4, how)
        for how in ("clip", "reflect")
    )
    assert not torch.equal(clipped, reflected)


@pytest.mark.parametrize("kind", [*REGRESSIONS, "net"])
def test_rows_that_lie_apart(backend: Backend, kind: str) -> None:
    objective = make(kind, (40, 17, 3, 2), torch.float32, backend.device)
    memory = torch.full((40, 50), torch.nan, device=backend.device)
    memory[:, :17] = objective.X
    apart = replace(objective, X=memory[:, :17])
    assert torch.equal(assert_losses(apart, 5, "pairs"), assert_losses(objective, 5, "pairs"))
    if kind != "net":
        w = around(objective, 1, "pairs")[0].mean
        results = [objectives.value_and_gradient(o, w) for o in (apart, objective)]
        assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def test_a_class_that_does_not_exist_has_no_loss(backend: Backend) -> None:
    net = make("net", (20, 3, 4, 18), torch.float32, backend.device)
    for label in (-1, 18, 2**40):
        net.y[11] = label
        region, draw = around(net, 4, "pairs")
        assert objectives.candidate_losses(net, region, draw, 4).isnan().all()


@pytest.mark.parametrize("kind", [*REGRESSIONS, "net"])
def test_nan_in_the_data_is_seen(backend: Backend, kind: str) -> None:
    objective = make(kind, (20, 3, 4, 2), torch.float32, backend.device)
    objective.X[13, 1] = torch.nan
    region, draw = around(objective, 4, "pairs")
    assert objectives.candidate_losses(objective, region, draw, 4).isnan().all()
    if kind != "net":
        assert objectives.value_and_gradient(objective, region.mean)[0].isnan()


@pytest.mark.parametrize("kind", [*REGRESSIONS, "net"])
def test_no_candidates_have_no_losses(backend: Backend, kind: str) -> None:
    objective = make(kind, (20, 3, 4, 2), torch.float32, backend.device)
    region, draw = around(objective, 4, "pairs")
    assert objectives.candidate_losses(objective, region, draw, 0).shape == (0,)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", [*REGRESSIONS, "net"])
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str, kind: str
) -> None:
    objective = make(kind, (290, 70, 3, 2), torch.float32, backend.device)
    region, draw = around(objective, 5, "pairs")
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        results.append([objectives.candidate_losses(objective, region, draw, 5)])
        if kind != "net":
            results[-1] += objectives.value_and_gradient(objective, region.mean)
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def calls(backend: Backend) -> dict[str, tuple[tuple[Any, ...], int]]:
    """Arguments of every kernel but the workspace, and the size of that."""
    module = backend.module
    line, net = (make(k, (300, 20, 3, 2), torch.float32, backend.device) for k in ("linear", "net"))
    mean, loss = torch.zeros(20, device=backend.device), torch.empty((), device=backend.device)
    weights, out = torch.zeros(net.dim, device=backend.device), torch.empty(9).to(mean)
    regression, draw = (line.X, line.y, 0.0, 0.0, False), Draw(0)
    return {
        "regression_gradient": (
            (*regression, mean, loss, torch.empty_like(mean), 0),
            module.regression_gradient_workspace(300, 20),
        ),
        "linear_candidates": (
            (*regression, Region(mean, 1.0), draw, out, 0),
            module.linear_candidates_workspace(300, 9, True),
        ),
        "net_candidates": (
            (net.X, net.y, True, 3, 2, Region(weights, 1.0), draw, out, 0),
            module.net_candidates_workspace(300, 9),
        ),
    }


@pytest.mark.parametrize("name", ["regression_gradient", "linear_candidates", "net_candidates"])
def test_workspace_must_have_room(backend: Backend, name: str) -> None:
    if not backend.is_cuda_code:
        assert not hasattr(backend.module, f"{name}_workspace")
        return
    arguments, size = calls(backend)[name]
    call = getattr(backend.module, name)
    memory = torch.full((size + 1,), torch.nan, dtype=torch.float64, device=backend.device)
    call(*arguments, memory[:size])
    assert memory[size].isnan()
    with pytest.raises(ValueError, match=rf"workspace must have {size} float64 numbers, not 2"):
        call(*arguments, memory[:2])
    with pytest.raises(ValueError, match=rf"workspace must have {size} float64 numbers, not 0"):
        call(*arguments)
    with pytest.raises(TypeError, match="workspace must be float64"):
        call(*arguments, memory.float())
    shared = memory.view(torch.float32)
    written = next(i for i in reversed(range(len(arguments))) if isinstance(arguments[i], Tensor))
    clash = [*arguments]
    clash[written] = shared[: arguments[written].numel()]
    with pytest.raises(ValueError, match="share memory"):
        call(*clash, memory[:size])
