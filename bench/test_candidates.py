"""Whole iterations of attention search on Rastrigin's function, beside those of other packages.

An iteration draws N candidates, evaluates them and updates the search distribution. Peers are taken
where they are installed (extra `peers`); all get the same D, N and threads, and as many iterations
a round as ours.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unstuck.ops import candidates, landscapes
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.landscapes import Landscape
from unstuck.search import AttentionSearch

Step = Callable[[], object]
SIZES = [(10, 1024), (100, 1024), (1000, 1024), (10_000, 64), (10_000, 1024)]
START, SIGMA = 2.0, 0.5
TWO_PI = 2 * math.pi


def rastrigin(x: Tensor) -> Tensor:
    return 10 * x.shape[-1] + (x * x - 10 * torch.cos(TWO_PI * x)).sum(-1)


def ours(dim: int, popsize: int) -> Step:
    """Iterations of a search that starts again before it has converged, and has less to do."""
    landscape = Landscape("rastrigin", dim)

    def fresh() -> AttentionSearch:
        start = torch.full((dim,), START)
        return AttentionSearch(start, SIGMA, popsize=popsize, seed=0, covariance="diagonal")

    held = [fresh()]

    def step() -> None:
        if held[0].nit == 50:
            held[0] = fresh()
        held[0].step(landscape)

    return step


def compiled_attention(dim: int, popsize: int) -> Step:
    """Attention search as the source states it, with the temperature scaled by the losses."""

    def iteration(w: Tensor) -> Tensor:
        x = w + SIGMA * torch.randn(popsize, dim)
        losses = rastrigin(x)
        return torch.softmax(-(losses - losses.min()) / losses.std(), 0) @ x

    compiled = torch.compile(iteration)
    w = [torch.full((dim,), START)]

    def step() -> None:
        w[0] = compiled(w[0])

    return step


def evotorch_snes(dim: int, popsize: int) -> Step:
    import logging

    logging.getLogger("evotorch").setLevel(logging.ERROR)
    from evotorch import Problem
    from evotorch.algorithms import SNES
    from evotorch.decorators import vectorized

    problem = Problem(
        "min", vectorized(rastrigin), solution_length=dim, initial_bounds=(START, START)
    )
    return SNES(problem, stdev_init=SIGMA, popsize=popsize).step


def evox_openes(dim: int, popsize: int) -> Step:
    from evox.algorithms import OpenES
    from evox.problems.numerical import Rastrigin
    from evox.workflows import StdWorkflow

    search = OpenES(popsize, torch.full((dim,), START), 0.05, SIGMA, optimizer="adam")
    workflow = StdWorkflow(search, Rastrigin())
    workflow.init_step()
    return torch.compile(workflow.step)


def evosax_openes(dim: int, popsize: int) -> Step:
    import jax
    import jax.numpy as jnp
    from evosax.algorithms import Open_ES

    strategy = Open_ES(population_size=popsize, solution=jnp.zeros(dim))
    settings = strategy.default_params

    @jax.jit
    def iteration(key, state):
        key, draw, told = jax.random.split(key, 3)
        x, state = strategy.ask(draw, state, settings)
        fitness = 10 * dim + (x * x - 10 * jnp.cos(TWO_PI * x)).sum(-1)
        return key, strategy.tell(told, x, fitness, state, settings)[0]

    key = jax.random.key(0)
    held = [key, strategy.init(key, jnp.full((dim,), START), settings)]

    def step() -> None:
        held[0], held[1] = jax.block_until_ready(iteration(held[0], held[1]))

    return step


PEERS = {
    "EvoTorch SNES": ("evotorch", evotorch_snes),
    "EvoX OpenES": ("evox", evox_openes),
    "evosax OpenES": ("evosax", evosax_openes),
}


def repeated(step: Step, times: int) -> Step:
    def run() -> None:
        for _ in range(times):
            step()

    return run


@pytest.mark.parametrize(("dim", "popsize"), SIZES, ids=lambda n: str(n))
@pytest.mark.filterwarnings("ignore")  # of the peers
def test_iterations(side_by_side, request, dim: int, popsize: int) -> None:
    times = max(1, 2_000_000 // (dim * popsize))
    found = {
        name: make(dim, popsize)
        for name, (module, make) in PEERS.items()
        if importlib.util.find_spec(module)
    }
    found["torch.compile attention"] = compiled_attention(dim, popsize)
    targets = dict.fromkeys(found, 0.1 if dim >= 1000 else 0.2)
    targets["torch.compile attention"] = 0.25
    gc.collect()
    gc.freeze()  # what the peers' imports have made is not to be walked through in between
    side_by_side(
        f"rastrigin {dim} x {popsize}, {times} iterations",
        repeated(ours(dim, popsize), times),
        {name: repeated(step, times) for name, step in found.items()},
        targets=targets,
    )
    missing = [name for name in PEERS if name not in found]
    if missing:
        say(request, f"not installed: {', '.join(missing)} (pip install 'unstuck[peers]')")


@pytest.mark.parametrize(
    ("dim", "popsize"), [(1000, 1024), (10_000, 64), (10_000, 1024), (100_000, 256)]
)
def test_passes(side_by_side, dim: int, popsize: int) -> None:
    """Losses and moments from one pass over the noise, and the moments after all the losses.

    The latter find their noise in memory where it is at most 4 MB, and draw it again elsewhere.
    """
    times = max(1, 1_000_000 // (dim * popsize))
    landscape, place = Landscape("rastrigin", dim), Region(torch.full((dim,), START), SIGMA)
    beta = 1 / float(candidates.losses(landscape, place, Draw(0), popsize).std())
    drawn = itertools.count()

    def fresh() -> Draw:
        return Draw(0, next(drawn))

    def once() -> None:
        candidates.softmax_pass(landscape, place, fresh(), popsize, beta)

    def losses() -> None:
        candidates.losses(landscape, place, fresh(), popsize)

    def twice() -> None:
        draw = fresh()
        losses = candidates.losses(landscape, place, draw, popsize)
        candidates.combine(place, draw, torch.softmax(-beta * losses, 0))

    side_by_side(
        f"one pass {dim} x {popsize}, {times} times",
        repeated(once, times),
        {"losses, then moments": repeated(twice, times), "losses alone": repeated(losses, times)},
    )


def say(request: pytest.FixtureRequest, text: str) -> None:
    """Print a line beside pytest's own."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    reporter.ensure_newline()
    reporter.write_line(text)


def nanoseconds(step: Step, elements: int, rounds: int = 15) -> float:
    """The best time of some rounds, an element."""
    best = math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return best / elements * 1e9


def test_floor(request) -> None:
    """What drawing and evaluating must cost, and what iterations cost, on one thread."""
    torch.set_num_threads(1)
    dim, count = 10_000, 64
    landscape, place = Landscape("rastrigin", dim), Region(torch.zeros(dim), SIGMA)
    x = torch.randn(200, 1000)
    small = Landscape("rastrigin", 1000)
    draw, ones = Draw(0, 1, antithetic=False), torch.ones(count)
    candidates.losses(landscape, place, draw, count)  # leaves its noise
    kept, drawn = (
        nanoseconds(lambda d=d: candidates.combine(place, d, ones), dim * count)
        for d in (draw, Draw(0, 2, antithetic=False))
    )
    parts = {
        "Philox and Box-Muller": drawn - kept,
        "evaluation": nanoseconds(lambda: landscapes.value(small, x), x.numel()),
    }
    floor = parts["Philox and Box-Muller"] / 2 + parts["evaluation"]
    losses = nanoseconds(lambda: candidates.losses(landscape, place, Draw(0), count), dim * count)
    whole = nanoseconds(ours(dim, count), dim * count)
    text = ", ".join(f"{name} {t:.3f}" for name, t in parts.items())
    say(request, f"ns an element, 1 thread: {text}; floor {floor:.3f} (a normal serves two)")
    say(
        request,
        f"losses {losses:.3f} = {losses / floor:.2f} x floor; "
        f"iteration {whole:.3f} = {whole / floor:.2f} x floor",
    )
    assert losses > 0.5 * floor  # or it is not the floor


MEMORY = """
import pathlib, torch
from unstuck.ops.landscapes import Landscape
from unstuck.search import AttentionSearch
torch.set_num_threads(2)
def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) * 1024
warm = AttentionSearch(torch.full((1000,), 2.0), 0.5, popsize={n}, seed=0)
warm.step(Landscape("rastrigin", 1000))
x0 = torch.full(({dim},), 2.0)
before = peak()
search = AttentionSearch(x0, 0.5, popsize={n}, seed=0)
for _ in range(2): search.step(Landscape("rastrigin", {dim}))
print((peak() - before) / (4 * {dim}))
"""


@pytest.mark.parametrize(("dim", "popsize"), [(10**6, 256), (10**7, 64)])
def test_memory(request, dim: int, popsize: int) -> None:
    """Peak memory of a search beside its start, in vectors of D floats: below 10."""
    code = MEMORY.format(dim=dim, n=popsize)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    vectors = float(done.stdout)
    say(request, f"memory at D = {dim:.0e}, N = {popsize}: {vectors:.1f} vectors of D floats")
    assert vectors < 10
