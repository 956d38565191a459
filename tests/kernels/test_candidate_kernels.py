"""The candidate kernels of every backend against the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unstuck.ops import candidates, landscapes, reference_candidates, reference_landscapes
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.landscapes import NAMES, Landscape

from ..emulator.build import ORDERS
from .conftest import Backend

pytestmark = pytest.mark.parametrize(
    "backend", ["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True
)
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {
    torch.float32: dict(rtol=1e-5, atol=1e-5),
    torch.float64: dict(rtol=1e-12, atol=1e-12),
}
SEED = 0xFEDCBA9876543210
CPU = torch.device("cpu")


def plain(mean: Tensor, count: int) -> Region:
    return Region(mean, 0.7)


def scaled(mean: Tensor, count: int) -> Region:
    sigma = torch.linspace(0.2, 1.5, count, dtype=mean.dtype, device=mean.device)
    scale = torch.linspace(0.5, 2.0, len(mean), dtype=mean.dtype, device=mean.device)
    return Region(mean, sigma, scale)


def clipped(mean: Tensor, count: int) -> Region:
    return Region(mean, 2.0, None, mean - 1, mean + 0.8)


def reflected(mean: Tensor, count: int) -> Region:
    return scaled(mean, count)._replace(low=mean - 1, high=mean + 0.8, bound="reflect")


REGIONS: list[Callable[[Tensor, int], Region]] = [plain, scaled, clipped, reflected]
DRAWS = [Draw(SEED, 3, 1, True, 10), Draw(SEED, 2**32 - 1, 2**32 - 2, False, 7)]


def centre(dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return 2 * torch.randn(dim, dtype=torch.float64).to(device, dtype)


def to_cpu(region: Region) -> Region:
    return Region(*(x.cpu() if isinstance(x, Tensor) else x for x in region))


def precise(landscape: Landscape, x: Tensor) -> Tensor:
    """The values in float64."""
    wide = x.cpu().double()
    return reference_landscapes.value(landscape.name, landscape.parameters, wide)


def assert_close(x: Tensor, y: Tensor, size: float = 1.0) -> None:
    """Compare numbers of about this size."""
    tolerance = dict(TOLERANCE[x.dtype])
    tolerance["atol"] *= size
    torch.testing.assert_close(x.cpu(), y.to(CPU, x.dtype), **tolerance)


def dims(name: str) -> list[int]:
    """Less than a warp takes, all of it, a slice of two, many slices."""
    return [2] if reference_landscapes.TABLE[name].most else [2, 64, 129, 1000]


@pytest.mark.parametrize("draw", DRAWS, ids=["10 rounds", "7 rounds"])
def test_words_equal_reference(backend: Backend, draw: Draw) -> None:
    shape, first = (3, 200), 2**32 - 3
    truth = reference_candidates.integers(*draw[:3], first, *shape, draw.rounds, CPU)
    forms = backend.module.noise_forms()
    assert forms
    for form in forms:
        words = torch.empty(shape, dtype=torch.float64, device=backend.device)
        backend.module.noise_words(draw, first, words, form, 1)
        assert torch.equal(words.cpu().long(), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("draw", DRAWS, ids=["pairs", "single"])
@pytest.mark.parametrize("first", [0, 3])
def test_sample_equals_reference(
    backend: Backend,
    dtype: torch.dtype,
    region: Callable[[Tensor, int], Region],
    draw: Draw,
    first: int,
) -> None:
    where = region(centre(150, dtype, backend.device), first + 5)
    x = candidates.sample(where, draw, first, 5)
    truth = reference_candidates.sample(to_cpu(where), draw, first, 5)
    torch.testing.assert_close(x.cpu(), truth, rtol=1e-6, atol=5e-6)  # of the normals' own


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("draw", DRAWS, ids=["pairs", "single"])
def test_losses_are_the_landscape_at_the_candidates(
    backend: Backend, dtype: torch.dtype, name: str, draw: Draw
) -> None:
    count = 5
    for dim in dims(name):
        landscape = Landscape(name, dim)
        for region in (plain, reflected):
            where = region(centre(dim, dtype, backend.device), count)
            losses = candidates.losses(landscape, where, draw, count)
            x = candidates.sample(where, draw, 0, count)
            size = dim * (100 if name == "michalewicz" else 1)  # sines of large numbers
            assert_close(losses, precise(landscape, x), size)
            assert_close(landscapes.value(landscape, x), precise(landscape, x), size)


@pytest.mark.parametrize("name", ["sphere", "griewank", "rosenbrock", "levy", "zakharov"])
def test_losses_of_many_slices(backend: Backend, name: str) -> None:
    """More coordinates than 64 slices of the least length have."""
    landscape, draw = Landscape(name, 20_001), DRAWS[0]
    mean = torch.full((landscape.dim,), 0.01, dtype=torch.float64, device=backend.device)
    where = Region(mean, 0.01)
    losses = candidates.losses(landscape, where, draw, 3)
    x = candidates.sample(where, draw, 0, 3)
    torch.testing.assert_close(losses.cpu(), precise(landscape, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_reference(backend: Backend, dtype: torch.dtype, name: str) -> None:
    for dim in [*dims(name), 1] if reference_landscapes.TABLE[name].least == 1 else dims(name):
        landscape = Landscape(name, dim)
        x = torch.stack([centre(dim, dtype, backend.device) for _ in range(3)])
        x[1] = 0  # where some have no derivative
        values, gradients = landscapes.value_and_gradient(landscape, x)
        assert torch.equal(values, landscapes.value(landscape, x))
        exact, slopes = reference_landscapes.value_and_gradient(
            name, landscape.parameters, x.cpu().double()
        )
        for g, slope, loss in zip(gradients, slopes, exact, strict=True):
            size = 20 + slope.abs().max() + loss.abs() / dim
            # the phase of Michalewicz's function grows with the coordinate's number
            error = dim if name in ("michalewicz", "zakharov") else 1
            assert_close(g / size, slope / size, error)


@pytest.mark.parametrize("name", ["griewank", "zakharov", "levy"])
def test_gradients_at_many_points_are_those_one_by_one(backend: Backend, name: str) -> None:
    landscape = Landscape(name, 300)
    x = torch.stack([centre(300, torch.float64, backend.device) for _ in range(9)])
    values, gradients = landscapes.value_and_gradient(landscape, x)
    for row, value, gradient in zip(x, values, gradients, strict=True):
        alone = landscapes.value_and_gradient(landscape, row)
        assert torch.equal(alone[0], value)
        assert torch.equal(alone[1], gradient)


def test_gradients_want_room(backend: Backend) -> None:
    if not backend.is_cuda_code:
        return
    x = torch.ones(4, 1000, device=backend.device)
    out, gradients = torch.empty(4, device=backend.device), torch.full_like(x, 7)
    small = torch.empty(3, dtype=torch.float64, device=backend.device)
    for lent in ([], [small]):
        with pytest.raises(ValueError, match=r"workspace must have \d+ float64 numbers, not [03]"):
            backend.module.landscape_gradients(0, (), x, out, gradients, 0, *lent)
    assert bool((gradients == 7).all())


@pytest.mark.slow
def test_losses_of_more_candidates_than_a_launch_takes(backend: Backend) -> None:
    count, draw = 90_001, DRAWS[0]
    where = Region(torch.zeros(600, device=backend.device), 1.0)
    losses = candidates.losses(Landscape("sphere", 600), where, draw, count)
    for first in (0, 87_380, count - 3):
        x = candidates.sample(where, draw, first, 3)
        assert_close(losses[first : first + 3], (x.double() ** 2).sum(-1), 600)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("draw", DRAWS, ids=["pairs", "single"])
@pytest.mark.parametrize(("dim", "count"), [(70, 201), (1100, 3), (1, 1)])
def test_moments_are_those_of_the_candidates(
    backend: Backend,
    dtype: torch.dtype,
    region: Callable[[Tensor, int], Region],
    draw: Draw,
    dim: int,
    count: int,
) -> None:
    where = region(centre(dim, dtype, backend.device), count)
    weights = torch.randn(count, dtype=torch.float64).to(backend.device, dtype)
    weights[1::3] = 0
    moments = candidates.combine(where, draw, weights)
    way = candidates.sample(where, draw, 0, count).double() - where.mean.double()
    assert_close(moments.shift, weights.double() @ way, 5)
    assert_close(moments.square, weights.double() @ (way * way), 25)


def test_candidates_without_weight_may_lie_anywhere(backend: Backend) -> None:
    sigma = torch.tensor([1.0, torch.inf, 1.0, torch.nan], device=backend.device)
    weights = torch.tensor([0.5, 0.0, -1.0, 0.0], device=backend.device)
    where = Region(torch.ones(100, device=backend.device), sigma)
    moments = candidates.combine(where, DRAWS[0], weights)
    same = candidates.combine(where._replace(sigma=1.0), DRAWS[0], weights)
    torch.testing.assert_close(moments, same, rtol=1e-6, atol=1e-6)
    assert bool((moments.shift != 0).any())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("draw", DRAWS, ids=["pairs", "single"])
@pytest.mark.parametrize(("dim", "count"), [(70, 201), (1100, 4)])
def test_softmax_leaves_out_losses_that_are_not_finite(
    backend: Backend, dtype: torch.dtype, draw: Draw, dim: int, count: int
) -> None:
    landscape, mean = Landscape("rastrigin", dim), centre(dim, dtype, backend.device)
    where = scaled(mean, count)
    assert isinstance(where.sigma, Tensor)
    where.sigma[1], where.sigma[2] = torch.inf, torch.nan
    beta = 0.3 / dim
    losses, moments, ess = candidates.softmax_pass(landscape, where, draw, count, beta)
    assert losses.isfinite().tolist() == where.sigma.isfinite().tolist()
    assert torch.equal(
        losses.nan_to_num(), candidates.losses(landscape, where, draw, count).nan_to_num()
    )
    weights, truth = reference_candidates.softmax(losses, beta)
    assert ess == pytest.approx(truth, rel=1e-6)
    expected = candidates.combine(where, draw, weights)
    assert_close(moments.shift, expected.shift, 5)
    assert_close(moments.square, expected.square, 25)


def test_softmax_of_nothing_finite(backend: Backend) -> None:
    where = Region(torch.full((50,), torch.nan, device=backend.device), 1.0)
    losses, moments, ess = candidates.softmax_pass(Landscape("sphere", 50), where, DRAWS[0], 9, 1.0)
    assert ess == 0
    assert bool(losses.isnan().all())
    assert [bool((x == 0).all()) for x in moments] == [True, True]


@pytest.mark.parametrize("order", ORDERS)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    where = reflected(centre(700, torch.float32, backend.device), 65)
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        for name in ("griewank", "levy"):
            losses, moments, ess = candidates.softmax_pass(
                Landscape(name, 700), where, DRAWS[0], 65, 0.01
            )
            results.append([losses, *moments, torch.tensor(ess)])
    for mine, theirs in zip(results[:2], results[2:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def test_a_loss_does_not_depend_on_how_many_there_are(backend: Backend) -> None:
    where = Region(centre(3000, torch.float32, backend.device), 0.3)
    landscape = Landscape("ackley", 3000)
    few, many = (candidates.losses(landscape, where, DRAWS[0], n) for n in (4, 33))
    assert torch.equal(few, many[:4])


def test_workspace_must_have_room(backend: Backend) -> None:
    plan = backend.module.CandidatePlan(0, (), 1000)
    needed = plan.workspace_size(64, True)
    assert (needed > 0) == backend.is_cuda_code
    if not backend.is_cuda_code:
        return
    where = Region(torch.zeros(1000, device=backend.device), 1.0)
    out = torch.empty(64, device=backend.device)
    small = torch.empty(3, dtype=torch.float64, device=backend.device)
    plan.set_workspace(small)
    with pytest.raises(ValueError, match=r"workspace must have \d+ float64 numbers, not 3"):
        plan.losses(where, DRAWS[0], out, 0)
