"""The ALME step beside torch's fused Adam, while nothing stagnates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import Parameter

from unstuck.optim import ALME

Tensors = list[Parameter]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def tensors(count: int, size: int, device: str) -> Tensors:
    """Return parameters with gradients."""
    params = [Parameter(torch.randn(size, device=device)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn(size, device=device)
    return params


def torch_adam(params: Tensors) -> Callable[[], object]:
    return torch.optim.Adam(params, fused=True).step


def test_one_large(side_by_side, device: str) -> None:
    n = 10_000_000 if device == "cpu" else 100_000_000
    side_by_side(
        f"{device} 1 x {n // 10**6}M ALME",
        ALME(tensors(1, n, device)).step,
        {"torch fused Adam": torch_adam(tensors(1, n, device))},
        bytes=28 * n,
        targets={"torch fused Adam": 1.05},
        device=device,
    )


def test_many_small(side_by_side, device: str) -> None:
    """The whole step() of 500 small tensors: the host's work."""
    side_by_side(
        f"{device} 500 x 200 ALME",
        ALME(tensors(500, 200, device)).step,
        {"torch fused Adam": torch_adam(tensors(500, 200, device))},
        targets={"torch fused Adam": 0.2},
        device=device,
    )
