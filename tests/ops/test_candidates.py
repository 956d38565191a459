"""Candidates evaluated natively against candidates that are materialised in plain torch."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from unstuck.ops import candidates, landscapes
from unstuck.ops import reference_candidates as reference
from unstuck.ops import reference_landscapes as formulas
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.landscapes import NAMES, Landscape

# Columns of sixteen candidates up to 128 dimensions, rows in pieces of 512 above.
DIMS = (1, 2, 17, 33, 64, 65, 128, 129, 513, 1100)


def region(dim: int, count: int, kind: str, dtype: torch.dtype) -> Region:
    """Return a region of one of the kinds below."""
    random = torch.Generator().manual_seed(dim)

    def vector(size: int) -> Tensor:
        return torch.rand(size, generator=random, dtype=torch.float64).to(dtype) + 0.3

    mean = vector(dim) * 2 - 1.5
    made = Region(mean, 0.7)
    if "groups" in kind:
        made = made._replace(sigma=vector(count))
    if "scale" in kind:
        made = made._replace(scale=vector(dim))
    if "clip" in kind or "reflect" in kind:
        made = made._replace(low=mean - 0.4, high=mean + 0.9, bound=kind.split()[0])
    return made


KINDS = ["plain", "groups", "scale", "clip", "clip groups scale", "reflect", "reflect scale"]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_dim = pytest.mark.parametrize("dim", DIMS)


def close(found: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    scale = 1 + float(wanted.abs().max()) if wanted.numel() else 1.0
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


@each_kind
@each_dim
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_native_is_plain_torch(native: ModuleType, dim: int, kind: str, dtype: torch.dtype) -> None:
    for count, antithetic, rounds in ((1, True, 10), (37, True, 10), (34, False, 7)):
        place = region(dim, count, kind, dtype)
        draw = Draw(2**63 + dim, 5, 2, antithetic, rounds)
        close(candidates.sample(place, draw, 0, count), reference.sample(place, draw, 0, count))
        landscape = Landscape("ackley", dim)

        def evaluate(x: Tensor, landscape: Landscape = landscape) -> Tensor:
            return formulas.value(landscape.name, (), x)

        losses = candidates.losses(landscape, place, draw, count)
        close(losses, reference.losses(evaluate, place, draw, count))
        weights = torch.linspace(-1, 2, count, dtype=dtype)
        weights[::5] = 0
        wanted = reference.combine(place, draw, weights)
        moments = candidates.combine(place, draw, weights)
        close(moments.shift, wanted.shift)
        close(moments.square, wanted.square)
        values, moments, ess = candidates.softmax_pass(landscape, place, draw, count, 1.5)
        a, size = reference.softmax(losses, 1.5)
        wanted = reference.combine(place, draw, a)
        assert torch.equal(values, losses)
        assert ess == pytest.approx(size, rel=1e-4)
        close(moments.shift, wanted.shift)
        close(moments.square, wanted.square)


@pytest.mark.parametrize("name", NAMES)
def test_every_landscape(native: ModuleType, name: str) -> None:
    formula = formulas.TABLE[name]
    for dim in {formula.least, min(100, formula.most or 100), min(700, formula.most or 700)}:
        landscape = Landscape(name, dim)
        for dtype in (torch.float32, torch.float64):
            place = region(dim, 40, "reflect groups scale", dtype)
            x = reference.sample(place, Draw(3), 0, 40).double()
            exact = formulas.value(name, landscape.parameters, x)
            tolerance = 1e-3 if name == "michalewicz" else 1e-5  # its phase grows with i
            close(candidates.losses(landscape, place, Draw(3), 40).double(), exact, tolerance)


def test_the_redrawn_noise_is_the_kept_noise(native: ModuleType) -> None:
    """With noise left by losses(), after other noise, and by a new plan."""
    for dim in (10, 300):
        place, draw = region(dim, 64, "scale", torch.float32), Draw(1, 2)
        weights = torch.rand(64)
        fresh = candidates.combine(place, draw, weights)
        candidates.losses(Landscape("sphere", dim), place, draw, 64)
        kept = candidates.combine(place, draw, weights)
        for other in (draw._replace(seed=2), draw._replace(antithetic=False), Draw(1, 2, 1)):
            candidates.losses(Landscape("sphere", dim), place, other, 64)
            again = candidates.combine(place, draw, weights)
            assert torch.equal(again.shift, fresh.shift)
        assert torch.equal(kept.shift, fresh.shift)
        assert torch.equal(kept.square, fresh.square)


@pytest.mark.parametrize("dim", [10, 100, 1000, 5000])
def test_a_number_of_threads_gives_one_result(native: ModuleType, dim: int) -> None:
    place, count = region(dim, 512, "scale", torch.float32), 512
    landscape = Landscape("rastrigin", dim)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2, 3, 3):
            torch.set_num_threads(threads)
            results.append(candidates.softmax_pass(landscape, place, Draw(5), count, 0.01))
    finally:
        torch.set_num_threads(before)
    for losses, moments, _ in results:
        assert torch.equal(losses, results[0][0])
        close(moments.shift, results[0][1].shift, 1e-5)
    for a, b in ((1, 2), (3, 4)):
        assert torch.equal(results[a][1].shift, results[b][1].shift)
        assert torch.equal(results[a][1].square, results[b][1].square)


@pytest.mark.parametrize("dim", [5, 200, 1100])
def test_better_candidates_may_come_late(native: ModuleType, dim: int) -> None:
    """Weights are rescaled with every group of candidates, and infinite sums are forgotten."""
    count, beta = 203, 100.0
    sigma = torch.linspace(3, 0.01, count)
    sigma[:40] = 1e25  # their squares overflow, their losses do not
    place = region(dim, count, "scale", torch.float32)._replace(sigma=sigma)
    landscape, draw = Landscape("ackley", dim), Draw(8)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            losses, moments, ess = candidates.softmax_pass(landscape, place, draw, count, beta)
            weights, size = reference.softmax(losses, beta)
            wanted = reference.combine(place, draw, weights)
            assert bool((losses[:40] > losses[-40:].max()).all())
            assert ess == pytest.approx(size, rel=1e-4)
            torch.testing.assert_close(moments.shift, wanted.shift, rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(moments.square, wanted.square, rtol=1e-3, atol=1e-8)
    finally:
        torch.set_num_threads(before)


def test_what_no_cache_holds_is_drawn_twice(native: ModuleType) -> None:
    dim = 2**18 + 70
    place, landscape, draw = Region(torch.ones(dim), 0.5), Landscape("sphere", dim), Draw(3)
    values, moments, ess = candidates.softmax_pass(landscape, place, draw, 5, 1e-3)
    weights, size = reference.softmax(values, 1e-3)
    wanted = reference.combine(place, draw, weights)
    assert ess == pytest.approx(size, rel=1e-4)
    close(moments.shift, wanted.shift)
    close(moments.square, wanted.square)


def test_threads_do_not_share_scratch_memory(backend: str) -> None:
    place = region(50, 200, "plain", torch.float32)
    landscape = Landscape("sphere", 50)
    wanted = [candidates.losses(landscape, place, Draw(s), 200) for s in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(30):
            if not torch.equal(candidates.losses(landscape, place, Draw(seed), 200), wanted[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_bounds_keep_inside_and_leave_the_rest(backend: str) -> None:
    mean = torch.tensor([0.0, 0.0, 5.0, 0.0])
    inf = math.inf
    low, high = torch.tensor([-1.0, -inf, -1.0, 0.0]), torch.tensor([1.0, 0.5, 1.0, 0.0])
    free = candidates.sample(Region(mean, 3.0), Draw(1), 0, 400)
    for bound in ("clip", "reflect"):
        x = candidates.sample(Region(mean, 3.0, None, low, high, bound), Draw(1), 0, 400)
        assert bool(((x >= low) & (x <= high)).all())
        inside = (free >= low) & (free <= high)
        assert torch.equal(x[inside], free[inside])
    once = torch.where(free[:, 1] > 0.5, 1 - free[:, 1], free[:, 1])
    torch.testing.assert_close(x[:, 1], once)  # where there is one border
    assert x[:, 0].unique().numel() > 300  # folded, not clipped
    one_sided = candidates.sample(Region(mean, 3.0, None, low), Draw(1), 0, 400)
    assert bool((one_sided >= low).all())


@pytest.mark.parametrize("dim", [5, 200])
def test_bad_losses_have_no_weight(backend: str, dim: int) -> None:
    """A quarter of the candidates lie where the loss overflows."""
    sigma = torch.ones(64)
    sigma[::4] = 1e30
    landscape, draw = Landscape("rosenbrock", dim), Draw(3, antithetic=False)
    place = Region(torch.ones(dim), sigma)
    losses, moments, ess = candidates.softmax_pass(landscape, place, draw, 64, 1e-3)
    assert not bool(torch.isfinite(losses[::4]).any())
    assert bool(torch.isfinite(moments.shift).all())
    assert 1 <= ess <= 48
    assert float(moments.square.max()) < 100
    place = place._replace(sigma=1e30)
    losses, moments, ess = candidates.softmax_pass(landscape, place, draw, 64, 1.0)
    assert ess == 0
    assert torch.equal(moments.shift, torch.zeros(dim))
    assert torch.equal(moments.square, torch.zeros(dim))


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(("dim", "sigma"), [(4, 1e19), (200, 6e18)])
def test_what_has_no_weight_may_lie_anywhere(
    backend: str, dim: int, sigma: float, antithetic: bool
) -> None:
    """Squares overflow in the box, but not those of the candidate that has all the weight."""
    low, high = torch.full((dim,), -3e38), torch.full((dim,), 3e38)
    place = Region(torch.zeros(dim), sigma, low=low, high=high)
    draw = Draw(1, antithetic=antithetic)
    x = candidates.sample(place, draw, 0, 32)
    weights = torch.zeros(32)
    weights[x.abs().amax(1).argmin()] = 1
    nearest = x[weights.argmax()]
    assert bool(nearest.square().isfinite().all())
    assert not bool(x.square().isfinite().all())
    moments = candidates.combine(place, draw, weights)
    torch.testing.assert_close(moments.shift, nearest, rtol=1e-5, atol=0)
    torch.testing.assert_close(moments.square, nearest.square(), rtol=1e-5, atol=0)


def test_temperature_is_stable(backend: str) -> None:
    landscape, place = Landscape("sphere", 3), Region(torch.full((3,), 100.0), 1.0)
    losses, moments, ess = candidates.softmax_pass(landscape, place, Draw(0), 32, 1e6)
    assert ess == pytest.approx(1)  # the best alone
    best = candidates.sample(place, Draw(0), int(losses.argmin()), 1)[0]
    torch.testing.assert_close(moments.shift, best - place.mean, rtol=1e-5, atol=1e-5)
    _, moments, ess = candidates.softmax_pass(landscape, place, Draw(0), 32, 0.0)
    assert ess == pytest.approx(32)
    close(moments.shift, torch.zeros(3), 1e-6)  # antithetic pairs of one weight


def test_layouts(backend: str) -> None:
    """Gaps and lazily negated memory are no obstacle, and nothing given is written."""
    storage = torch.randn(20)
    mean, scale = storage[::2], torch.rand(20)[1::2]
    negated = torch.complex(torch.zeros(10), -mean).conj().imag
    plain = Region(mean.clone(), 0.5, scale.clone())
    for place in (Region(mean, 0.5, scale), Region(negated, 0.5, scale)):
        kept = [x.clone() for x in (place.mean, scale)]
        found = candidates.softmax_pass(Landscape("sphere", 10), place, Draw(0), 9, 0.1)
        wanted = candidates.softmax_pass(Landscape("sphere", 10), plain, Draw(0), 9, 0.1)
        torch.testing.assert_close(found[0], wanted[0])
        torch.testing.assert_close(found[1], wanted[1])
        assert torch.equal(place.mean, kept[0])
        assert torch.equal(scale, kept[1])


def test_no_graph(backend: str) -> None:
    mean = torch.zeros(4, requires_grad=True)
    losses, moments, _ = candidates.softmax_pass(
        Landscape("sphere", 4), Region(mean, 1.0), Draw(0), 8, 1.0
    )
    assert not losses.requires_grad
    assert not moments.shift.requires_grad


def peak() -> int:
    """The most memory of this process since the last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) * 1024


def test_memory_does_not_grow_with_the_candidates(native: ModuleType) -> None:
    """Beside the results there is a fixed amount of scratch memory, and nothing N D large."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        pytest.skip("this system does not count the peak of memory")
    dim, count = 2_000_000, 16
    place, draw = Region(torch.zeros(dim), 0.5), Draw(1)
    before = peak()
    stored = candidates.sample(place, draw, 0, count)
    assert peak() - before > count * 4 * dim * 0.9  # or it is not counted
    del stored
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    candidates.softmax_pass(Landscape("rastrigin", dim), place, draw, count, 0.01)
    vectors = (peak() - before) / 4 / dim
    assert vectors < 5, f"{vectors:.1f} vectors"


def test_nothing_to_do(backend: str) -> None:
    place = Region(torch.zeros(3), 1.0)
    assert candidates.losses(Landscape("sphere", 3), place, Draw(0), 0).shape == (0,)
    moments = candidates.combine(place, Draw(0), torch.empty(0))
    assert torch.equal(moments.shift, torch.zeros(3))
    assert candidates.sample(place, Draw(0), 3, 0).shape == (0, 3)


V = torch.zeros(3)
BAD = [
    (dict(mean=[0.0]), TypeError, "mean must be a torch.Tensor"),
    (dict(mean=V.half()), TypeError, "mean must be float32 or float64"),
    (dict(mean=V[None]), ValueError, "mean must have one dimension"),
    (dict(scale=torch.ones(2)), ValueError, "scale must be like mean"),
    (dict(low=V.double()), ValueError, "low must be like mean"),
    (dict(high=1.0), TypeError, "high must be a torch.Tensor"),
    (dict(sigma=math.nan), ValueError, "sigma must be finite"),
    (dict(sigma=torch.ones(5)), ValueError, r"sigma must be like mean, of shape \(4,\)"),
    (dict(bound="wrap"), ValueError, "bound must be 'clip' or 'reflect', not 'wrap'"),
    (dict(mean=torch.zeros(2)), ValueError, "3 coordinates, but mean has 2"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD)
def test_regions_are_checked(backend: str, change, error, text: str) -> None:
    place = Region(V, 1.0)._replace(**change)
    with pytest.raises(error, match=text):
        candidates.losses(Landscape("sphere", 3), place, Draw(0), 4)


def test_other_arguments_are_checked(backend: str) -> None:
    place, sphere = Region(V, 1.0), Landscape("sphere", 3)
    for count in (-1, 2**32 + 1, 1.5):
        with pytest.raises((ValueError, TypeError), match="count"):
            candidates.losses(sphere, place, Draw(0), count)
    for beta in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="beta must be finite and at least 0"):
            candidates.softmax_pass(sphere, place, Draw(0), 4, beta)
    with pytest.raises(ValueError, match="weights must have one dimension"):
        candidates.combine(place, Draw(0), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="weights must be like mean"):
        candidates.combine(place, Draw(0), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"weights must be a torch\.Tensor"):
        candidates.combine(place, Draw(0), [1.0])
    with pytest.raises(ValueError, match="sigma has 4 entries, but candidate 5 is wanted"):
        candidates.sample(Region(V, torch.ones(4)), Draw(0), 3, 3)


def test_any_objective_is_evaluated_in_chunks(backend: str, monkeypatch) -> None:
    """A function over materialised candidates gives what the fused op gives."""
    monkeypatch.setattr(reference, "CHUNK", 200)
    place, draw = region(20, 33, "clip", torch.float32), Draw(8)
    sizes: list[int] = []

    def evaluate(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return landscapes.value(Landscape("levy", 20), x)

    losses = reference.losses(evaluate, place, draw, 33)
    close(losses, candidates.losses(Landscape("levy", 20), place, draw, 33))
    assert max(sizes) == 10
    assert sum(sizes) == 33
