"""Losses of many parameter vectors of one model, beside ``vmap`` of ``functional_call`` on vectors
that are all there, and beside one after the other.

The perceptron is 784-128-64-10 with a batch of 128 rows.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unstuck.ops.candidates import Draw, Region
from unstuck.population import PopulationLoss

HERE = Path(__file__).parent
SIGMA, COUNT, RATES = 0.01, 256, 16
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


class Task:
    """A model with a batch, and what a user would write without this package."""

    def __init__(
        self,
        model: nn.Module | None = None,
        shape: tuple[int, ...] = (128, 784),
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(0)
        model = model or nn.Sequential(
            nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )
        self.model = model.to(device)
        self.x, self.y = torch.randn(shape).to(device), torch.randint(10, shape[:1]).to(device)
        self.params = dict(self.model.named_parameters())
        self.population = PopulationLoss(self.model, self.closure)
        self.general = PopulationLoss(self.model, lambda: self.closure() * 1.0)  # not plain
        self.w = self.population.point()
        self.d = SIGMA * torch.randn_like(self.w)
        self.rates = torch.linspace(0, 1, RATES, device=device)
        self.region = Region(self.w, SIGMA)

    def closure(self) -> Tensor:
        return F.cross_entropy(self.model(self.x), self.y)

    def loss(self, values: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(self.model, values, self.x), self.y)

    def stacked(self, points: Tensor) -> dict[str, Tensor]:
        parts = torch.split(points, [p.numel() for p in self.params.values()], -1)
        named = zip(self.params.items(), parts, strict=True)
        return {name: part.view(-1, *p.shape) for (name, p), part in named}

    @torch.no_grad()
    def vmap(self, points: Tensor) -> Tensor:
        return torch.vmap(self.loss)(self.stacked(points))

    def vmap_candidates(self) -> Tensor:
        return self.vmap(self.w + SIGMA * torch.randn(COUNT, len(self.w), device=self.w.device))

    def vmap_line(self) -> Tensor:
        ways = self.stacked(self.d)
        with torch.no_grad():
            stack = {
                name: p - self.rates.view(-1, *[1] * p.ndim) * ways[name]
                for name, p in self.params.items()
            }
            return torch.vmap(self.loss)(stack)

    def vmap_gradients(self, points: Tensor) -> object:
        return torch.vmap(torch.func.grad_and_value(self.loss))(self.stacked(points))

    def gradients_in_turn(self, points: Tensor) -> None:
        for point in points:
            torch.nn.utils.vector_to_parameters(point, self.model.parameters())
            torch.autograd.grad(self.closure(), list(self.model.parameters()))

    def forwards(self, times: int) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            for _ in range(times):
                self.closure()

        return run


def test_candidates(side_by_side, device: str) -> None:
    task, draw = Task(device=device), Draw(0)
    side_by_side(
        f"{device} losses of {COUNT} candidates",
        lambda: task.population.candidates(task.region, draw, COUNT),
        {
            "vmap, materialised": task.vmap_candidates,
            "ours by vmap": lambda: task.general.candidates(task.region, draw, COUNT),
        },
        targets={"vmap, materialised": 0.5},
        device=device,
    )
    assert task.population.is_plain


def test_candidates_by_vmap(side_by_side) -> None:
    """What any closure gets, whose model is no plain perceptron."""
    task, draw = Task(), Draw(0)
    side_by_side(
        f"losses of {COUNT} candidates, any closure",
        lambda: task.general.candidates(task.region, draw, COUNT),
        {"vmap, materialised": task.vmap_candidates},
        targets={"vmap, materialised": 0.5},
    )


def test_line(side_by_side, device: str) -> None:
    task = Task(device=device)
    side_by_side(
        f"{device} losses at {RATES} rates",
        lambda: task.population.line(task.d, task.rates),
        {
            "vmap, materialised": task.vmap_line,
            "ours by vmap": lambda: task.general.line(task.d, task.rates),
        },
        targets={"vmap, materialised": 1 / 3},
        device=device,
    )
    assert task.population.is_plain


def test_gradients(side_by_side, device: str) -> None:
    task = Task(device=device)
    points = task.w + SIGMA * torch.randn(10, len(task.w), device=device)
    side_by_side(
        f"{device} gradients at 10 points",
        lambda: task.population.value_and_gradient(points),
        {
            "one after the other": lambda: task.gradients_in_turn(points),
            "vmap of grad": lambda: task.vmap_gradients(points),
            "ours by vmap": lambda: task.general.value_and_gradient(points),
        },
        device=device,
    )
    assert task.population.is_plain


def test_convolutions(side_by_side) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)),
    )
    task, draw = Task(model, (64, 1, 28, 28)), Draw(0)
    side_by_side(
        "convolutions: losses at 16 candidates",
        lambda: task.population.candidates(task.region, draw, 16),
        {
            "vmap, materialised": lambda: task.vmap(task.w + SIGMA * torch.randn(16, len(task.w))),
            "16 forwards": task.forwards(16),
            "ours along a line": lambda: task.population.line(task.d, task.rates),
            "ours of low rank": lambda: task.population.low_rank(draw, SIGMA, 16),
        },
    )


def large() -> Task:
    """100 million parameters."""
    model = nn.Sequential(
        nn.Linear(4096, 8192), nn.ReLU(), nn.Linear(8192, 8192), nn.ReLU(), nn.Linear(8192, 10)
    )
    task = Task.__new__(Task)
    torch.manual_seed(0)
    task.model, task.x, task.y = model, torch.randn(32, 4096), torch.randint(10, (32,))
    task.population = PopulationLoss(model, task.closure)
    return task


def test_low_rank(side_by_side, request) -> None:
    request.config.option.rounds = min(request.config.option.rounds, 7)
    task = large()
    assert task.population.dim > 100_000_000
    side_by_side(
        "low rank, 16 candidates of 100M parameters",
        lambda: task.population.low_rank(Draw(0), 1e-3, 16),
        {"16 forwards": task.forwards(16)},
        targets={"16 forwards": 1.3},
    )


MEMORY = """
import pathlib, sys, torch
sys.path.insert(0, {here!r})
from test_population import *
torch.set_num_threads(2)
def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) * 1024
task = {task}
task.closure()
with torch.no_grad(): torch.vmap(lambda a: (torch.relu(a @ a)).sum())(torch.ones(2, 4, 4))
{warm}
before = peak()
for _ in range(2): {step}
print(peak() - {start})
"""


def memory(step: str, task: str = "Task()", warm: str = "", start: str = "before") -> int:
    """Peak memory of a step in a process of its own, in bytes."""
    code = MEMORY.format(here=str(HERE), task=task, step=step, warm=warm, start=start)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def say(request: pytest.FixtureRequest, text: str) -> None:
    """Print a line beside pytest's own."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    reporter.ensure_newline()
    reporter.write_line(text)


@pytest.mark.parametrize(
    ("name", "ours", "peer", "share"),
    [
        (
            f"{COUNT} candidates",
            "task.{}.candidates(task.region, Draw(0), COUNT)",
            "task.vmap_candidates()",
            1 / 10,
        ),
        (f"{RATES} rates", "task.{}.line(task.d, task.rates)", "task.vmap_line()", 1 / 4),
    ],
)
def test_memory(request, name: str, ours: str, peer: str, share: float) -> None:
    theirs = memory(peer)
    for way in ("population", "general"):
        # the same on few candidates first: libraries load, and the probe is made
        warm = ours.format(way).replace("COUNT", "2").replace("task.rates", "task.rates[:2]")
        mine = memory(ours.format(way), warm=warm)
        say(
            request,
            f"memory, {name}, {way}: {mine / 2**20:.1f} MiB; vmap, materialised: "
            f"{theirs / 2**20:.1f} MiB ({mine / theirs:.3f}, target {share:.3f})",
        )
        assert mine < share * theirs or way == "general"


def test_memory_of_low_rank(request) -> None:
    """The whole process, with 0.4 GB of weights in it."""
    whole = memory("task.population.low_rank(Draw(0), 1e-3, 16)", "large()", start="0")
    say(request, f"memory, low rank, 16 candidates of 100M parameters: {whole / 2**30:.2f} GiB")
    assert whole < 4 * 2**30
