"""Philox against published vectors, and what the normals made of it are like."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from unstuck.ops import noise
from unstuck.ops import reference_candidates as reference
from unstuck.ops.reference_candidates import Draw

F = 0xFFFFFFFF
# Known answers of Philox4x32-10 that come with Random123: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((F, F, F, F), (F, F), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_published_vectors(counter, key, words) -> None:
    found = reference.philox(tuple(torch.tensor([c]) for c in counter), key, 10)
    assert tuple(int(w) for w in found) == words


@pytest.mark.parametrize("rounds", [10, 7])
@pytest.mark.parametrize("form", ["scalar", "avx2", "avx512"])
def test_every_form_draws_the_same_integers(native: ModuleType, form: str, rounds: int) -> None:
    if form not in native.noise_forms():
        pytest.skip(f"this processor has no {form}")
    for seed, iteration, stream, first, dim in [
        (0, 0, 0, 0, 1),
        (2**64 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 9, 64),
        (12345678901234567890, 7, 3, 5, 150),
    ]:
        out = torch.full((9, dim), -1.0, dtype=torch.float64)
        draw = Draw(seed, iteration, stream, False, rounds)
        native.noise_words(draw, first, out, form, 1)
        counters = (seed, iteration, stream, first, 9, dim, rounds)
        wanted = reference.integers(*counters, torch.device("cpu"))
        assert torch.equal(out.long(), wanted)
        assert torch.equal(noise.integers(*counters[:-1], rounds=rounds), wanted)
        assert wanted.min() >= 0
        assert wanted.max() <= F


@pytest.mark.parametrize("dim", [1, 16, 17, 33, 64, 65, 128, 129, 513, 1100])
def test_native_normals_are_those_of_plain_torch(native: ModuleType, dim: int) -> None:
    for antithetic in (False, True):
        found = noise.normals(99, 5, 1, 3, 37, dim, antithetic=antithetic)
        draw = Draw(99, 5, 1, antithetic)
        torch.testing.assert_close(
            found, reference.noise(draw, 3, 37, dim, None), rtol=5e-7, atol=1e-6
        )


def test_dtype_changes_no_number(backend: str) -> None:
    low, high = (noise.normals(1, 2, 3, 0, 4, 70, dtype=t) for t in (torch.float32, torch.float64))
    assert torch.equal(low.double(), high)


def test_any_part_is_the_same_part(backend: str) -> None:
    whole = noise.normals(5, 1, 0, 0, 40, 300, antithetic=True)
    assert torch.equal(whole[7:20, :300], noise.normals(5, 1, 0, 7, 13, 300, antithetic=True))
    assert torch.equal(whole[:, :70], noise.normals(5, 1, 0, 0, 40, 70, antithetic=True))
    assert torch.equal(whole[0::2], -whole[1::2])


N, D = 512, 1024


@pytest.fixture(scope="module", params=[10, 7])
def table(request: pytest.FixtureRequest) -> Tensor:
    """Half a million normals: candidates by coordinates."""
    return reference.noise(Draw(2024, 0, 0, False, request.param), 0, N, D, None).double()


def test_moments(table: Tensor) -> None:
    n = table.numel()
    x = table.flatten()
    # mean, variance, skewness and kurtosis within five of their standard errors
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert 4 < x.abs().max() < 5.77  # sqrt(2 log 2^24)


def test_distribution(table: Tensor) -> None:
    """Kolmogorov and Smirnov: the largest gap to the normal distribution function."""
    x = table.flatten().sort().values
    n = x.numel()
    wanted = torch.special.ndtr(x)
    steps = torch.arange(1, n + 1) / n
    gap = torch.maximum((steps - wanted).abs().max(), (wanted - steps + 1 / n).abs().max())
    assert gap < 1.95 / math.sqrt(n)  # p = 0.001
    # The same for every coordinate of a block's sixteen by four places.
    for place in range(64):
        y = table[:, place::64].flatten().sort().values
        gap = (torch.arange(1, len(y) + 1) / len(y) - torch.special.ndtr(y)).abs().max()
        assert gap < 2.3 / math.sqrt(len(y))


def correlation(x: Tensor, y: Tensor) -> float:
    """In standard errors."""
    return abs(float((x * y).sum())) / math.sqrt(x.numel())


def test_independence(table: Tensor) -> None:
    """Of neighbours, of coordinates of one block, of candidates, of squares as of values."""
    square = (table * table - 1) / math.sqrt(2)
    for x in (table, square):
        for shift in (1, 2, 15, 16, 17, 32, 48, 63, 64, 128):
            assert correlation(x[:, shift:], x[:, :-shift]) < 5
        for shift in (1, 2, 16, 100):
            assert correlation(x[shift:], x[:-shift]) < 5
    assert correlation(table[:, 16:], square[:, :-16]) < 5  # r cos and r sin share r


@pytest.mark.parametrize("other", [(2025, 0, 0), (2024, 1, 0), (2024, 0, 1), (2024 + 2**32, 0, 0)])
def test_other_seeds_iterations_and_streams_are_independent(other, table: Tensor) -> None:
    x = reference.noise(Draw(*other, False), 0, N, D, None).double()
    assert correlation(table, x) < 5
    assert correlation(table**2 - 1, (x**2 - 1) / 2) < 5


def test_bits_are_balanced() -> None:
    words = noise.integers(7, 0, 0, 0, 256, 256)
    for bit in range(32):
        ones = int((words >> bit & 1).sum())
        assert abs(ones - words.numel() / 2) < 5 * math.sqrt(words.numel()) / 2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (dict(seed=-1), ValueError),
        (dict(seed=2**64), ValueError),
        (dict(seed=1.5), TypeError),
        (dict(iteration=2**32), ValueError),
        (dict(stream=-1), ValueError),
        (dict(count=3, first=2**32 - 1), ValueError),
        (dict(count=-1), ValueError),
        (dict(dim=-1), ValueError),
        (dict(rounds=8), ValueError),
        (dict(rounds=True), TypeError),
        (dict(dtype=torch.float16), TypeError),
    ],
)
def test_bad_arguments_are_named(backend: str, change, error) -> None:
    arguments = dict(seed=0, iteration=0, stream=0, first=0, count=1, dim=1) | change
    with pytest.raises(error, match=next(iter(change))):
        noise.normals(**arguments)


def test_nothing_is_nothing(backend: str) -> None:
    assert noise.normals(0, 0, 0, 0, 0, 5).shape == (0, 5)
    assert noise.normals(0, 0, 0, 0, 5, 0).shape == (5, 0)
