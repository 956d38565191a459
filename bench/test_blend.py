"""The blend step beside torch's fused, foreach and for-loop optimizers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import Parameter

from unstuck.optim import DynamicBlend, Gate

Tensors = list[Parameter]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def tensors(count: int, size: int, device: str, dtype: torch.dtype = torch.float32) -> Tensors:
    """Return parameters with gradients."""
    params = [Parameter(torch.randn(size, device=device).to(dtype)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn(size, device=device).to(dtype)
    return params


def torch_adam(params: Tensors, **kwargs: object) -> Callable[[], object]:
    return torch.optim.Adam(params, **{"fused": True, **kwargs}).step


def adam_then_sgd(make: Callable[[], Tensors]) -> Callable[[], object]:
    """What a blend of two torch optimizers costs at least."""
    params = make()
    adam = torch.optim.Adam(params, fused=True)
    sgd = torch.optim.SGD(params, lr=1e-2, momentum=0.9, fused=True)

    def step() -> None:
        adam.step()
        sgd.step()

    return step


def test_one_large_shared(side_by_side, device: str) -> None:
    n = 10_000_000 if device == "cpu" else 100_000_000
    side_by_side(
        f"{device} 1 x {n // 10**6}M shared, alpha given",
        DynamicBlend(tensors(1, n, device), alpha=0.5).step,
        {"torch fused Adam": torch_adam(tensors(1, n, device))},
        bytes=28 * n,
        targets={"torch fused Adam": 1.05},
        device=device,
    )


def test_one_large_gate(side_by_side, device: str) -> None:
    """Online meta-learning on, beside the same step with a given alpha."""
    n = 10_000_000 if device == "cpu" else 100_000_000
    side_by_side(
        f"{device} 1 x {n // 10**6}M shared, gate online",
        DynamicBlend(tensors(1, n, device)).step,
        {
            "alpha given": DynamicBlend(tensors(1, n, device), alpha=0.5).step,
            "torch fused Adam": torch_adam(tensors(1, n, device)),
        },
        bytes=28 * n,
        targets={"alpha given": 1.05, "torch fused Adam": 1.05},
        device=device,
    )


def test_one_large_general(side_by_side, device: str) -> None:
    n = 10_000_000 if device == "cpu" else 100_000_000
    side_by_side(
        f"{device} 1 x {n // 10**6}M general",
        DynamicBlend(tensors(1, n, device), alpha=0.5, momentum=0.8).step,
        {
            "torch fused Adam": torch_adam(tensors(1, n, device)),
            "fused Adam then fused SGD": adam_then_sgd(lambda: tensors(1, n, device)),
        },
        bytes=36 * n,
        targets={"torch fused Adam": 1.35, "fused Adam then fused SGD": 0.75},
        device=device,
    )


def test_many_middle(side_by_side, device: str) -> None:
    side_by_side(
        f"{device} 200 x 50k shared",
        DynamicBlend(tensors(200, 50_000, device), alpha=0.5).step,
        {"torch fused Adam": torch_adam(tensors(200, 50_000, device))},
        bytes=28 * 200 * 50_000,
        targets={"torch fused Adam": 0.95},
        device=device,
    )


@pytest.mark.parametrize("gate", [False, True], ids=["alpha given", "gate online"])
def test_many_small(side_by_side, device: str, gate: bool) -> None:
    """The whole step() of 500 small tensors: the host's work."""
    side_by_side(
        f"{device} 500 x 200, {'gate online' if gate else 'alpha given'}",
        DynamicBlend(tensors(500, 200, device), **({} if gate else {"alpha": 0.5})).step,
        {"torch fused Adam": torch_adam(tensors(500, 200, device))},
        targets={"torch fused Adam": 0.15},
        device=device,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_16_bit(side_by_side, device: str, dtype: torch.dtype) -> None:
    n = 10_000_000 if device == "cpu" else 100_000_000
    side_by_side(
        f"{device} 1 x {n // 10**6}M {str(dtype).removeprefix('torch.')}",
        DynamicBlend(tensors(1, n, device, dtype), alpha=0.5).step,
        {"torch fused Adam": torch_adam(tensors(1, n, device, dtype))},
        bytes=14 * n,
        targets={"torch fused Adam": 1.0} if dtype == torch.bfloat16 else {},
        device=device,
    )


@pytest.mark.parametrize(("count", "size"), [(1, 1_000_000), (100, 10_000), (500, 200)])
def test_other_implementations(side_by_side, device: str, count: int, size: int) -> None:
    """The same blend by torch's multi-tensor operations and tensor by tensor, and Adam likewise."""

    def mine(**kwargs: object) -> Callable[[], object]:
        return DynamicBlend(tensors(count, size, device), alpha=0.5, **kwargs).step

    side_by_side(
        f"{device} {count} x {size}, implementations",
        mine(),
        {
            "blend foreach": mine(foreach=True),
            "blend for-loop": mine(fused=False),
            "torch foreach Adam": torch_adam(
                tensors(count, size, device), fused=False, foreach=True
            ),
            "torch for-loop Adam": torch_adam(
                tensors(count, size, device), fused=False, foreach=False
            ),
        },
        device=device,
    )


def test_held_out_meta_step(side_by_side, device: str) -> None:
    """What a held-out hypergradient adds to a step, without the second batch's backward."""
    n = 10_000_000
    optimizer = DynamicBlend(tensors(1, n, device), gate=Gate(mode="held-out"))
    optimizer.step()
    side_by_side(
        f"{device} 1 x 10M meta_step alone",
        optimizer.meta_step,
        {"gate step": DynamicBlend(tensors(1, n, device)).step},
        bytes=16 * n,
        device=device,
    )


@pytest.mark.cuda
def test_cuda_host_time(benchmark) -> None:
    """Host time of step() for 500 small tensors: <= 60 us."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    step = DynamicBlend(tensors(500, 200, "cuda"), alpha=0.5).step
    step()
    benchmark.pedantic(step, setup=torch.cuda.synchronize, rounds=200, iterations=1)
    benchmark.extra_info["target_us"] = 60


@pytest.mark.cuda
def test_cuda_graph_replay(side_by_side) -> None:
    """A captured step, beside the same step launched by the host."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    n = 100_000_000
    optimizer = DynamicBlend(tensors(1, n, "cuda"), capturable=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    side_by_side(
        "cuda graph replay, 1 x 100M",
        graph.replay,
        {"launched": DynamicBlend(tensors(1, n, "cuda")).step},
        bytes=28 * n,
        targets={"launched": 1.05},
        device="cuda",
    )
