"""What only a GPU can show of the kernels: streams, another device, more than 2^31 elements."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from unstuck.ops import _native, candidates
from unstuck.ops.landscapes import Landscape
from unstuck.optim import DynamicBlend
from unstuck.population import PopulationLoss

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available() or _native.cuda is None,
        reason="needs a CUDA device and a CUDA build",
    ),
]


def tensors(count: int = 5, size: int = 1000) -> list[Parameter]:
    params = [Parameter(torch.randn(size, device="cuda")) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def test_kernel_runs_on_the_current_stream() -> None:
    params = tensors(1, 10_000_000)
    optimizer = DynamicBlend(params, alpha=0.5)
    optimizer.step()
    torch.cuda.synchronize()
    expected = [p.detach().clone() for p in params]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        optimizer.step()
        after = params[0].detach().clone()
    assert not stream.query()  # the host did not wait
    stream.synchronize()
    assert not torch.equal(after, expected[0])


def test_kernel_on_another_device_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    p = Parameter(torch.ones(100, device="cuda:1"))
    p.grad = torch.ones_like(p)
    DynamicBlend([p]).step()
    assert torch.cuda.current_device() == 0
    assert not torch.equal(p.detach(), torch.ones_like(p))


def test_kernel_beyond_2_to_the_31_elements() -> None:
    n = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 5 * 2 * n:
        pytest.skip("needs 22 GB of GPU memory")
    p = Parameter(torch.ones(n, device="cuda", dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    DynamicBlend([p], lr=0.25, alpha=1.0).step()
    assert torch.equal(p[-8:].float(), torch.full((8,), 0.75, device="cuda"))
    assert torch.equal(p[:8].float(), torch.full((8,), 0.75, device="cuda"))


def test_candidates_are_evaluated_on_the_current_stream() -> None:
    region = candidates.Region(torch.ones(1000, device="cuda"), 0.1)
    draw, sphere = candidates.Draw(seed=1), Landscape("sphere", 1000)
    expected = candidates.losses(sphere, region, draw, 64)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        region.mean.mul_(2)
        losses = candidates.losses(sphere, region, draw, 64)
        moments = candidates.combine(region, draw, torch.ones_like(losses))
    assert not stream.query()  # the host did not wait
    stream.synchronize()
    assert bool((losses > expected).all())
    assert bool((moments.square > 0).all())


@pytest.mark.parametrize("gradient", [False, True])
def test_plain_nets_run_on_the_current_stream(gradient: bool) -> None:
    X, y = torch.randn(300, 20, device="cuda"), torch.randn(300, 3, device="cuda")
    model = nn.Sequential(nn.Linear(20, 70), nn.GELU(), nn.Linear(70, 3)).cuda()
    population = PopulationLoss(model, lambda: F.mse_loss(model(X), y))
    general = PopulationLoss(model, lambda: F.mse_loss(model(X), y) * 1.0)

    def evaluate(of: PopulationLoss, points: Tensor) -> tuple[Tensor, ...]:
        return of.value_and_gradient(points) if gradient else (of.losses(points),)

    points = population.point() + 0.1 * torch.randn(5, population.dim, device="cuda")
    expected = evaluate(general, 2 * points)
    evaluate(population, points)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        points.mul_(2)
        found = evaluate(population, points)
    assert not stream.query()  # the host did not wait
    stream.synchronize()
    assert population.is_plain
    assert not general.is_plain
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_sample_beyond_2_to_the_31_elements() -> None:
    count, dim = 2**16 + 2, 2**15
    if torch.cuda.mem_get_info()[0] < 5 * count * dim:
        pytest.skip("needs 11 GB of GPU memory")
    region, draw = candidates.Region(torch.zeros(dim, device="cuda"), 1.0), candidates.Draw(seed=1)
    x = candidates.sample(region, draw, 0, count)
    last = candidates.sample(region, draw, count - 2, 2)
    assert torch.equal(x[-2:], last)
    assert torch.equal(last[0], -last[1])
