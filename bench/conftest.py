"""Benchmarks side by side: peers are timed in the same rounds, between ours, and the end of the run
prints medians as ratios and as distance from a floor measured in that run: of memory, or of
arithmetic.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import pytest
import torch

from unstuck.ops import mlp

RESULTS: list[Case] = []


@dataclass
class Case:
    """One row of the table: medians in milliseconds."""

    name: str
    ours: float
    peers: dict[str, float]
    bytes: int = 0
    targets: dict[str, float] = field(default_factory=dict)
    floor: float = 0.0
    flops: int = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.addoption("--rounds", type=int, default=30, help="rounds of a case (default 30)")
    parser.addoption("--save", type=Path, help="write the table as JSON, with machine and commit")


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    yield
    torch.set_num_threads(before)


def _timer(device: str) -> Callable[[Callable[[], object]], float]:
    """Return a function that runs a step and says how many milliseconds it took."""
    if device == "cpu":

        def on_cpu(step: Callable[[], object]) -> float:
            start = time.perf_counter()
            step()
            return (time.perf_counter() - start) * 1e3

        return on_cpu

    def on_cuda(step: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    return on_cuda


class _Stream:
    """Reads two arrays and writes one in place, as an update does: 12 bytes an element."""

    def __init__(self, device: str) -> None:
        n = 10_000_000 if device == "cpu" else 200_000_000
        self.x, self.y = torch.zeros(n, device=device), torch.ones(n, device=device)
        self.bytes = 12 * n

    def __call__(self) -> None:
        self.x.add_(self.y)


class _Products:
    """Multiplies large matrices: the highest rate that our products reach on this machine."""

    def __init__(self) -> None:
        count, rows, inputs, outputs = 8, 512, 768, 240
        layer = mlp.Layer(inputs, outputs, 0, -1, "none")
        X, y = torch.rand(rows, inputs), torch.rand(rows, outputs)
        self.net = mlp.Net(X, y, (layer,), "squared", 1.0, inputs * outputs)
        self.points = torch.rand(count, self.net.dim)
        self.flops = 2 * count * rows * self.net.dim

    def __call__(self) -> None:
        mlp.losses(self.net, self.points)


def _nothing() -> None:
    """Stand in for a floor where there is none."""


@pytest.fixture
def side_by_side(benchmark, request: pytest.FixtureRequest):
    """Time ours through pytest-benchmark and the peers between its rounds."""

    def run(
        name: str,
        ours: Callable[[], object],
        peers: dict[str, Callable[[], object]],
        *,
        bytes: int = 0,
        flops: int = 0,
        targets: dict[str, float] | None = None,
        device: str = "cpu",
    ) -> None:
        timed, share = _timer(device), 0.0
        floor: Callable[[], None] = _nothing
        if bytes:
            stream = _Stream(device)
            floor, share = stream, bytes / stream.bytes
        elif flops and device == "cpu":
            products = _Products()
            floor, share = products, flops / products.flops
        for step in (ours, ours, *peers.values(), *peers.values()):
            step()
        times: dict[str, list[float]] = {peer: [] for peer in peers}
        mine: list[float] = []
        floors: list[float] = []

        def between() -> None:
            for peer, step in peers.items():
                times[peer].append(timed(step))
            if share:
                floors.append(timed(floor))

        rounds = request.config.getoption("--rounds")
        benchmark.pedantic(
            lambda: mine.append(timed(ours)), setup=between, rounds=rounds, iterations=1
        )
        medians = {peer: statistics.median(t) for peer, t in times.items() if t}
        case = Case(name, statistics.median(mine), medians, bytes, targets or {}, flops=flops)
        if floors:
            case.floor = statistics.median(floors) * share
        benchmark.extra_info.update(asdict(case))
        RESULTS.append(case)

    return run


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _machine(threads: int) -> dict[str, object]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [x for x in info.read_text().splitlines() if "model name" in x]
        cpu = lines[0].split(":")[1].strip() if lines else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "threads": threads,
        "date": date.today().isoformat(),
        "commit": _commit(),
    }


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not RESULTS:
        return
    write = terminalreporter.write_line
    terminalreporter.section("side by side, medians of interleaved rounds")
    write(f"{'case':34} {'ours ms':>9} {'x floor':>8}   ours / peer (target)")
    for case in RESULTS:
        floor = f"{case.ours / case.floor:8.2f}" if case.floor else f"{'':8}"
        parts = []
        for peer, ms in case.peers.items():
            target = case.targets.get(peer)
            aim = "" if target is None else f" (<= {target:g})"
            parts.append(f"{peer} {case.ours / ms:.3f}{aim}")
        write(f"{case.name:34} {case.ours:9.3f} {floor}   {'; '.join(parts)}")
    write("x floor: time over (bytes moved / streaming bandwidth), or over (operations / rate of")
    write("large products), both measured between the rounds")
    if path := config.getoption("--save"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {**_machine(config.getoption("--threads")), "cases": [asdict(c) for c in RESULTS]},
                indent=1,
            )
            + "\n"
        )
        write(f"saved {path}")
