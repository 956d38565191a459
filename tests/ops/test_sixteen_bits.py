"""16-bit numbers as a step reads and rounds them: every bit pattern, against torch."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from unstuck.ops import blend

from .cases import settings

DTYPES = (torch.bfloat16, torch.float16)
PLAIN_SGD = settings(alpha=0.0, lr=1.0, sgd_lr_ratio=1.0, momentum=0.0, beta1=0.0)


def every_pattern(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).clone()


def sgd_step(w: Tensor, g: Tensor) -> Tensor:
    """Return w - g as the step computes it."""
    w = w.clone()
    moments = [torch.zeros_like(w)], [torch.zeros_like(w)]
    blend.step([w], [g], *moments, [], [], [torch.zeros(())], [0], [False], PLAIN_SGD)
    return w


def finite(dtype: torch.dtype) -> Tensor:
    patterns = every_pattern(dtype)
    return patterns[patterns.isfinite()]


def assert_difference(w: Tensor, g: Tensor) -> None:
    """A step gives w - g, rounded to nearest even; which zero it gives does not matter."""
    torch.testing.assert_close(
        sgd_step(w, g), (w.float() - g.float()).to(w.dtype), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_pattern_is_kept_by_a_step_of_nothing(native: ModuleType, dtype) -> None:
    """Widened and rounded back: subnormals, infinities and both zeros come out as they went in."""
    w = every_pattern(dtype)
    stepped = sgd_step(w, torch.zeros_like(w))
    assert torch.equal(stepped.isnan(), w.isnan())
    numbers = ~w.isnan()
    assert torch.equal(stepped.view(torch.int16)[numbers], w.view(torch.int16)[numbers])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [0.0, 1.0, -3.0e-5, 6.0e-8, 1e-40, 65504.0, -3.0e38])
def test_every_pattern_less_a_number(native: ModuleType, dtype: torch.dtype, shift: float) -> None:
    """Differences that are subnormal, cancel, or overflow to infinity."""
    patterns = finite(dtype)
    fixed = torch.full(patterns.shape, shift).to(dtype)
    assert_difference(every_pattern(dtype)[: len(patterns)], patterns)
    if fixed.isfinite().all():
        assert_difference(fixed, patterns)
        assert_difference(patterns, fixed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_exponent_is_rounded_to_nearest_even(native: ModuleType, dtype: torch.dtype) -> None:
    """Pairs whose difference lies between two numbers, on the middle, and next to it."""
    generator = torch.Generator().manual_seed(0)
    w = finite(dtype).repeat(8)
    assert_difference(w, w[torch.randperm(len(w), generator=generator)])
    precision = 9 if dtype == torch.bfloat16 else 12
    for bits in (precision - 1, precision, precision + 1):
        part = (w.float().abs() * 2.0**-bits).to(dtype)  # about half a unit in the last place
        assert_difference(w, part)
        assert_difference(w, -part)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 3, 7, 8, 15, 16, 17, 31, 33])
def test_the_ends_of_short_tensors(native: ModuleType, dtype: torch.dtype, length: int) -> None:
    """What does not fill a vector goes another way through the kernel, to the same bits."""
    patterns = finite(dtype)
    for start in range(0, len(patterns) - length, 4099):
        w = patterns[start : start + length]
        assert_difference(w, w.flip(0))
        assert_difference(w, w.roll(1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_moments_are_rounded_once(native: ModuleType, dtype: torch.dtype) -> None:
    g = finite(dtype)
    w, m, v = (torch.zeros_like(g) for _ in range(3))
    group = PLAIN_SGD._replace(beta1=0.75, beta2=0.5)
    blend.step([w], [g], [m], [v], [], [], [torch.zeros(())], [0], [False], group)
    assert torch.equal(m, (0.25 * g.float()).to(dtype))
    assert torch.equal(v, (0.5 * (g.float() * g.float())).to(dtype))
