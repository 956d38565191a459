"""Numbers at the ends of their range, and memory that is not there."""

from __future__ import annotations

import math
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from unstuck import _build_info
from unstuck.ops import attention, mlp, trials
from unstuck.ops.candidates import Draw
from unstuck.ops.landscapes import Landscape
from unstuck.ops.objectives import Trapped
from unstuck.search._temperature import weigh

from .test_mlp import build, plain

HUGE = 1.5e308


def far_apart() -> tuple[Trapped, torch.Tensor]:
    """Return an objective with losses of +-1.5e308, and where they are."""
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    # lam sin(kappa w^2): the sine is 1 and -1
    points = torch.tensor([math.pi / 2, 3 * math.pi / 2], dtype=torch.float64).sqrt()
    return Trapped(x, y, lam=HUGE, kappa=1.0), points


@pytest.mark.parametrize("beta", [0.0, 1e-308, 1.0, 1e9])
def test_losses_whose_difference_no_number_holds(backend: str, beta: float) -> None:
    objective, points = far_apart()
    w, d = torch.zeros(1, dtype=torch.float64), -torch.ones(1, dtype=torch.float64)
    step = trials.step(objective, w, d, points, beta)
    assert step.losses.tolist() == [HUGE, -HUGE]
    first = math.exp(-beta * HUGE) ** 2 if beta < 1 else 0.0
    wanted = [first / (1 + first), 1 / (1 + first)]
    torch.testing.assert_close(step.p, step.p.new_tensor(wanted))


def test_weights_of_such_losses() -> None:
    losses = torch.tensor([HUGE, -HUGE, math.nan, 0.0], dtype=torch.float64)
    assert weigh(losses, 0.0, 0.5).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    assert weigh(losses, None, 0.4).argmax() == 1
    assert bool(torch.isfinite(weigh(losses, None, 0.4)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_with_steps_whose_square_is_too_small(backend: str, dtype: torch.dtype) -> None:
    state = attention.State(
        torch.full((8,), 1e-18, dtype=dtype),
        torch.zeros(8, dtype=dtype),
        torch.ones(8, dtype=dtype),
        1e-22,
    )
    attention.run(Landscape("sphere", 8), state, Draw(0), 32, steps=3)
    assert torch.isfinite(state.scale).all()
    assert torch.isfinite(state.path).all()
    assert 0 < state.sigma < 1e-20  # it grows by a factor of e a step at most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_of_infinity(backend: str, dtype: torch.dtype) -> None:
    net = build([2, 5, 1], 4, "sigmoid", "squared", "none", True, dtype)
    net.X[0, 1] = math.inf
    points = torch.randn(3, net.dim, dtype=dtype)
    losses = plain(net, points)
    assert torch.isfinite(losses).all()
    torch.testing.assert_close(mlp.losses(net, points), losses)


MEMORY = """
import resource, torch
from unstuck.ops import _native
torch.set_num_threads(2)
hidden = 6_000_000
dim = hidden * 2 + hidden + 1
x, y = torch.zeros(64, 1), torch.zeros(64)
region = (torch.empty(dim), 1.0, None, None, None, "clip")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
for threads in (1, 2):
    try:
        _native.cpu.net_candidates(
            x, y, False, hidden, 1, region, (1, 0, 0, False, 10), torch.empty(64), threads)
    except MemoryError:
        print("MemoryError")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_no_memory_in_a_thread_is_an_error(native: ModuleType) -> None:
    """An exception that left a thread would end the process."""
    if _build_info.sanitized:
        pytest.skip("AddressSanitizer ends the process when memory runs out")
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.stdout.split() == ["MemoryError"] * 2, done.stderr
