"""Multi-layer perceptrons at many vectors, on every backend, against plain torch in float64."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from unstuck.ops import candidates, mlp, reference_mlp
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.mlp import ACTIVATIONS, LOSSES, Layer, Net

from ..emulator.build import ORDERS
from .conftest import Backend

pytestmark = pytest.mark.parametrize(
    "backend", ["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True
)
DTYPES = [torch.float32, torch.float64]
CPU = torch.device("cpu")
# Widths and rows: the least; tails of every tile; more of each than a block has; weights that lie
# across groups of noise, and rows of them that are longer than two groups.
SIZES = [((1, 1), 1), ((3, 70, 5), 20), ((200, 7, 66, 33), 9), ((5, 6, 40), 140)]


def build(
    backend: Backend,
    sizes: tuple[int, ...],
    n: int,
    activation: str = "relu",
    loss: str = "cross-entropy",
    dtype: torch.dtype = torch.float32,
    last: str = "none",
) -> Net:
    """A net of these widths, with a gap before every layer, its second layer without a bias."""
    layers, dim = [], 0
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = dim + 1
        bias = -1 if i == 1 else weight + inputs * outputs
        dim = weight + inputs * outputs + (outputs if bias >= 0 else 0)
        kind = activation if i < len(sizes) - 2 else last
        layers.append(Layer(inputs, outputs, weight, bias, kind))
    generator = torch.Generator().manual_seed(n)
    X = torch.randn(n, sizes[0], dtype=torch.float64, generator=generator)
    y = torch.rand(n, sizes[-1], dtype=torch.float64, generator=generator)
    if loss == "cross-entropy":
        y = torch.randint(sizes[-1], (n,), generator=generator)
    y = y.to(backend.device, torch.int64 if loss == "cross-entropy" else dtype)
    return Net(X.to(backend.device, dtype), y, tuple(layers), loss, 1 / n, dim)


def wide(net: Net) -> Net:
    """The same in float64 on the CPU."""
    y = net.y.cpu()
    return net._replace(
        X=net.X.to(CPU, torch.float64), y=y.double() if y.is_floating_point() else y
    )


def vectors(net: Net, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    size = 1 / max(layer.inputs for layer in net.layers) ** 0.5
    x = size * torch.randn(*shape, net.dim, dtype=torch.float64, generator=generator)
    return x.to(net.X)


def exact(net: Net, points: Tensor) -> tuple[Tensor, Tensor]:
    points = points.to(CPU, torch.float64)
    losses, gradients = torch.empty(len(points)).double(), torch.empty_like(points)
    return reference_mlp.losses(wide(net), points, losses, gradients), gradients


def assert_close(x: Tensor, y: Tensor) -> None:
    close = {"rtol": 2e-5, "atol": 2e-5} if x.dtype == torch.float32 else {}
    torch.testing.assert_close(x.cpu().double(), y, **close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_losses_and_gradients(
    backend: Backend, size: tuple[tuple[int, ...], int], loss: str, dtype: torch.dtype
) -> None:
    net = build(backend, *size, "tanh", loss, dtype)
    points = vectors(net, 3)
    truth = exact(net, points)
    found = mlp.value_and_gradient(net, points)
    for mine, theirs in zip(found, truth, strict=True):
        assert_close(mine, theirs)
    assert torch.equal(mlp.losses(net, points), found[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(backend: Backend, activation: str, loss: str, dtype: torch.dtype) -> None:
    net = build(backend, (4, 9, 6, 3), 12, activation, loss, dtype, last=activation)
    points = vectors(net, 2)
    for mine, theirs in zip(mlp.value_and_gradient(net, points), exact(net, points), strict=True):
        assert_close(mine, theirs)


def region(net: Net, how: str, count: int) -> tuple[Region, Draw]:
    """Around a point: "pairs" of one size, or "alone" with all that a region has."""
    mean = vectors(net)
    if how == "pairs":
        return Region(mean, 0.1), Draw(seed=3, iteration=5)
    sigma = torch.linspace(0.01, 0.2, count).to(mean)
    scale = torch.linspace(0.5, 2, net.dim).to(mean)
    draw = Draw(seed=2**40 + 3, stream=1, antithetic=how != "alone", rounds=7)
    if how in ("clip", "reflect"):
        return Region(mean, sigma, scale, mean - 0.04, mean + 0.05, how), draw
    return Region(mean, sigma, scale), draw


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", ["pairs", "scaled pairs", "alone", "clip", "reflect"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_candidates(
    backend: Backend, size: tuple[tuple[int, ...], int], how: str, dtype: torch.dtype
) -> None:
    net = build(backend, *size, dtype=dtype)
    where, draw = region(net, how, 5)
    losses = mlp.candidate_losses(net, where, draw, 5)
    assert_close(losses, exact(net, candidates.sample(where, draw, 0, 5))[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_lines(backend: Backend, size: tuple[tuple[int, ...], int], dtype: torch.dtype) -> None:
    net = build(backend, *size, "gelu", "squared", dtype)
    w, d = vectors(net, 2)
    rates = torch.linspace(-0.5, 2, 6).to(w)
    assert_close(mlp.line_losses(net, w, d, rates), exact(net, w - rates[:, None] * d)[0])


# ---------------------------------------------------------------- more than the workspace holds
def test_rows_in_several_parts(backend: Backend) -> None:
    """One row takes more activations than a part is meant to have: parts of 128 rows."""
    net = build(backend, (1, 4100, 1), 130, "sigmoid", "bce", torch.float64)
    points, (where, draw) = vectors(net, 3), region(net, "pairs", 3)
    for mine, theirs in zip(mlp.value_and_gradient(net, points), exact(net, points), strict=True):
        assert_close(mine, theirs)
    rates = torch.linspace(0, 1, 3).to(points)
    along = points[0] - rates[:, None] * points[1]
    assert_close(mlp.line_losses(net, points[0], points[1], rates), exact(net, along)[0])
    samples = candidates.sample(where, draw, 0, 3)
    assert_close(mlp.candidate_losses(net, where, draw, 3), exact(net, samples)[0])


def test_a_loss_does_not_depend_on_how_many_there_are(backend: Backend) -> None:
    """Of the many, some fit into the workspace at a time."""
    net = build(backend, (2, 2048, 2), 128)
    where, draw = region(net, "pairs", 17)
    few, many = (mlp.candidate_losses(net, where, draw, n) for n in (3, 17))
    assert torch.equal(few, many[:3])
    points = candidates.sample(where, draw, 12, 5)
    assert_close(many[12:], mlp.losses(net, points).double().cpu())
    few, many = (mlp.value_and_gradient(net, x)[1] for x in (points[3:].clone(), points))
    assert torch.equal(few, many[3:])


# ---------------------------------------------------------------- numbers that are none
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_finite_stays_with_its_candidate(backend: Backend, loss: str) -> None:
    net = build(backend, (5, 6, 3), 10, "relu", loss)
    points = vectors(net, 4)
    good, slopes = mlp.value_and_gradient(net, points)
    bad = points.clone()
    bad[1], bad[2, net.layers[0].weight] = torch.nan, torch.inf
    found, gradients = mlp.value_and_gradient(net, bad)
    assert found[1].isnan()
    assert not found[2].isfinite()
    assert torch.equal(found[[0, 3]], good[[0, 3]])
    assert torch.equal(gradients[[0, 3]], slopes[[0, 3]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_in_the_data_is_seen(backend: Backend, activation: str) -> None:
    for loss in LOSSES:
        net = build(backend, (5, 6, 3), 10, activation, loss)
        net.X[7, 2] = torch.nan
        assert mlp.losses(net, vectors(net, 2)).isnan().all()
        assert mlp.candidate_losses(net, *region(net, "pairs", 3), 3).isnan().all()


def test_a_class_that_does_not_exist_has_no_loss(backend: Backend) -> None:
    net = build(backend, (5, 6, 3), 10)
    for label in (-1, 3, 2**40):
        net.y[4] = label
        assert mlp.losses(net, vectors(net, 2)).isnan().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_large_numbers(backend: Backend, activation: str) -> None:
    """Exponentials neither overflow nor lose the loss."""
    for loss in LOSSES:
        net = build(backend, (5, 6, 3), 10, activation, loss, torch.float64)
        points = 1000 * vectors(net, 2)
        assert_close(mlp.losses(net, points), exact(net, points)[0])


# ---------------------------------------------------------------- memory and order
def test_rows_that_lie_apart(backend: Backend) -> None:
    net = build(backend, (17, 6, 3), 40)
    memory = torch.full((40, 50), torch.nan, device=backend.device)
    memory[:, :17] = net.X
    apart, points = net._replace(X=memory[:, :17]), vectors(net, 2)
    for mine, theirs in zip(
        mlp.value_and_gradient(apart, points), mlp.value_and_gradient(net, points), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_no_candidates_have_no_losses(backend: Backend) -> None:
    net = build(backend, (5, 6, 3), 10)
    where, draw = region(net, "pairs", 1)
    assert mlp.candidate_losses(net, where, draw, 0).shape == (0,)
    assert mlp.value_and_gradient(net, vectors(net, 0))[1].shape == (0, net.dim)
    assert mlp.line_losses(net, where.mean, where.mean, where.mean[:0]).shape == (0,)


@pytest.mark.parametrize("order", ORDERS)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    net = build(backend, (150, 70, 40), 140, "tanh")
    where, draw = region(net, "pairs", 3)
    points, rates = candidates.sample(where, draw, 0, 2), torch.ones(2).to(where.mean)
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        results.append(
            [
                *mlp.value_and_gradient(net, points),
                mlp.candidate_losses(net, where, draw, 3),
                mlp.line_losses(net, points[0], points[1], rates),
            ]
        )
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def calls(net: Net, count: int) -> dict[str, tuple[str, list[Any]]]:
    """The arguments of every kernel after the net and before the workspace."""
    mean, out = vectors(net), torch.full((count,), 7.0).to(net.X)
    points = mean.repeat(count, 1)
    where, draw = region(net, "scaled pairs", count)
    return {
        "points": ("mlp_points", [points, out, None, 0]),
        "gradients": ("mlp_points", [points, out, torch.full_like(points, 7), 0]),
        "candidates": ("mlp_candidates", [where, draw, out, 0]),
        "line": ("mlp_line", [mean, mean.clone(), torch.ones_like(out), out, 0]),
    }


def data(net: Net) -> tuple[Any, ...]:
    layers = [(*layer[:4], ACTIVATIONS.index(layer.activation)) for layer in net.layers]
    return (net.X, net.y, layers, LOSSES.index(net.loss), net.factor, net.dim)


@pytest.mark.parametrize("kind", ["points", "gradients", "candidates", "line"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_workspace_must_have_room(backend: Backend, kind: str, dtype: torch.dtype) -> None:
    module = backend.module
    assert hasattr(module, "mlp_workspace") == backend.is_cuda_code
    if not backend.is_cuda_code:
        return
    for sizes, n in (((5, 6, 7), 9), ((2, 900, 3), 1200)):
        net = build(backend, sizes, n, "gelu", dtype=dtype)
        name, arguments = calls(net, 3)[kind]
        size = module.mlp_workspace(data(net), kind, 3)
        memory = torch.full((size + 1,), math.pi, dtype=torch.float64, device=backend.device)
        for lent in ([], [memory[: size - 1]]):
            text = rf"workspace must have {size} float64 numbers, not {len(lent) and size - 1}"
            with pytest.raises(ValueError, match=text):
                getattr(module, name)(data(net), *arguments, *lent)
        written = [x for x in arguments if isinstance(x, Tensor) and bool((x == 7).all())]
        assert len(written) == 1 + (kind == "gradients")
        getattr(module, name)(data(net), *arguments, memory[:size])
        assert memory[size] == math.pi
        assert not any(bool((x == 7).any()) for x in written)
    with pytest.raises(ValueError, match=r"kind must be points, .* not lines"):
        module.mlp_workspace(data(net), "lines", 3)
    shared = memory.view(dtype)[: written[0].numel()].view_as(written[0])
    clash = [shared if x is written[0] else x for x in arguments]
    with pytest.raises(ValueError, match="share memory"):
        getattr(module, name)(data(net), *clash, memory[:size])
