"""The ops on candidates and landscapes under torch.library and torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck

from unstuck.ops import candidates, landscapes, objectives
from unstuck.ops._candidates_library import _pack
from unstuck.ops._trials_library import pack
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.landscapes import Landscape
from unstuck.ops.objectives import TwoLayerNet

OPS = torch.ops.unstuck
COUNT = 6
NAMES = (
    *("candidate_losses", "candidate_combine", "candidate_sample", "candidate_softmax"),
    *("landscape_value", "landscape_value_and_gradient"),
)


@pytest.fixture(autouse=True)
def _quiet_compiler() -> Iterator[None]:
    """Compilers warn of their own insides."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.|sympy|importlib")
        yield
    torch._dynamo.reset()


def net() -> TwoLayerNet:
    return TwoLayerNet(torch.randn(7, 2), torch.arange(7) % 3, 4, "cross-entropy")


def landscape() -> Landscape:
    return Landscape("ravine", 2, (3.0, 5.0))


def around(objective: Any, kind: str) -> tuple[Region, Draw]:
    """Return the least of a region and a draw, or all there is to one."""
    dim = objective.dim
    if kind == "plain":
        return Region(torch.randn(dim), 0.5), Draw(3)
    low = torch.full((dim,), -0.5)
    region = Region(torch.rand(dim), torch.rand(COUNT), torch.rand(dim), low, -low, "reflect")
    return region, Draw(2**64 - 3, 2**32 - 1, 7, False, 7)


def calls(make: Callable[[], Any], kind: str) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """For every op its arguments, and what the public function returns."""
    objective = make()
    region, draw = around(objective, kind)
    place, weights, x = _pack(region, draw), torch.rand(COUNT), torch.randn(2, 3, 2)
    losses, moments, ess = candidates.softmax_pass(objective, region, draw, COUNT, 2.0)
    found = {
        "candidate_losses": (
            (*pack(objective), *place, COUNT),
            candidates.losses(objective, region, draw, COUNT),
        ),
        "candidate_combine": ((*place, weights), candidates.combine(region, draw, weights)),
        "candidate_sample": ((*place, 1, 3), candidates.sample(region, draw, 1, 3)),
        "candidate_softmax": (
            (*pack(objective), *place, COUNT, 2.0),
            (losses, *moments, torch.tensor(ess, dtype=torch.float64)),
        ),
    }
    if make is landscape:
        named = (objective.name, list(objective.parameters), x)
        found["landscape_value"] = (named, landscapes.value(objective, x))
        found["landscape_value_and_gradient"] = (
            named,
            landscapes.value_and_gradient(objective, x),
        )
    return found


@pytest.mark.parametrize("kind", ["plain", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(backend: str, name: str, kind: str) -> None:
    """Schema, autograd registration, fake kernel, and AOT compilation with dynamic shapes."""
    for make in (landscape, net):
        if name not in (made := calls(make, kind)):
            continue
        checks = opcheck(getattr(OPS, name), made[name][0])
        assert set(checks.values()) == {"SUCCESS"}
        assert len(checks) == 4


@pytest.mark.parametrize("make", [landscape, net])
@pytest.mark.parametrize("kind", ["plain", "all"])
def test_the_registered_op_is_the_function(backend: str, make: Any, kind: str) -> None:
    for name, (arguments, expected) in calls(make, kind).items():
        torch.testing.assert_close(
            getattr(OPS, name)(*arguments), expected, rtol=0, atol=0, check_device=True
        )


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("make", [landscape, net])
def test_compiled_into_one_graph(backend: str, make: Any, dynamic: bool | None) -> None:
    """Iterations are counted in the graph: the second may be compiled again, no later one."""
    objective = make()

    def work(mean: Tensor, iteration: int) -> tuple[Any, ...]:
        region, draw = Region(mean.sin(), 0.5), Draw(2**63 + 1, iteration)
        losses = candidates.losses(objective, region, draw, COUNT)
        moments = candidates.combine(region, draw, losses.softmax(0))
        points = candidates.sample(region, draw, 2, 3)
        if not isinstance(objective, Landscape):
            return objectives.candidate_losses(objective, region, draw, COUNT), moments, points
        return (
            *(losses, moments, points, landscapes.value(objective, points)),
            *landscapes.value_and_gradient(objective, moments.shift),
        )

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(work, fullgraph=True, backend=counter, dynamic=dynamic)
    for iteration in range(4):
        mean = torch.randn(objective.dim)
        torch.testing.assert_close(compiled(mean, iteration), work(mean, iteration))
    assert counter.frame_count <= 2
    names = {str(node.target) for graph in counter.graphs for node in graph.graph.nodes}
    expected = {f"unstuck.candidate_{name}" for name in ("losses", "combine", "sample")}
    if isinstance(objective, Landscape):
        expected |= {"unstuck.landscape_value", "unstuck.landscape_value_and_gradient"}
    assert {name for name in names if name.startswith("unstuck.")} == expected


def test_a_number_of_the_host_is_captured_where_torch_is_told_to(backend: str) -> None:
    region, draw = around(landscape(), "all")

    def work(mean: Tensor) -> tuple[Tensor, float]:
        here = region._replace(mean=mean)
        _, moments, ess = candidates.softmax_pass(landscape(), here, draw, COUNT, 2.0)
        return mean + moments.shift, ess

    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        moved, ess = torch.compile(work, backend="aot_eager", fullgraph=True)(region.mean)
    expected = work(region.mean)
    torch.testing.assert_close(moved, expected[0])
    assert ess == pytest.approx(expected[1], rel=1e-12)
    assert isinstance(ess, float)


TRANSFORMS = {
    "vmap": lambda f: torch.func.vmap(f),
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum()),
    "both": lambda f: torch.func.vmap(torch.func.grad(f)),
    "jacobian": lambda f: torch.func.jacrev(f),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled_transforms_see_the_formula(backend: str, name: str) -> None:
    transformed = TRANSFORMS[name](lambda x: landscapes.value(Landscape("levy", 4), x))
    x = torch.randn(3, 4, dtype=torch.float64)
    whole = torch.compile(transformed, backend="aot_eager", fullgraph=True)(x)
    assert whole.abs().max() > 0
    torch.testing.assert_close(whole, transformed(x))


def test_compiled_values_are_differentiated(backend: str) -> None:
    f = Landscape("ackley", 4)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    torch.compile(lambda y: landscapes.value(f, y).sum(), backend="aot_eager")(x).backward()
    torch.testing.assert_close(x.grad, landscapes.value_and_gradient(f, x)[1])


def test_what_the_ops_refuse(backend: str) -> None:
    arguments = {name: list(call[0]) for name, call in calls(landscape, "plain").items()}
    for name, place, junk, text in (
        ("candidate_losses", 0, "landscape spheer", "unknown landscape 'spheer'"),
        ("candidate_losses", 0, "tangle", "unknown kind of objective 'tangle'"),
        ("candidate_losses", 3, [3], "ravine must be 2"),
        ("candidate_losses", 16, -1, "count must be from 0"),
        ("candidate_combine", 6, "bounce", "bound must be 'clip' or 'reflect'"),
        ("candidate_combine", 12, torch.ones(2, 2), "weights must have one dimension"),
        ("candidate_sample", 0, torch.ones(2, 2), "mean must have one dimension"),
        ("candidate_sample", 8, -1, "iteration must be from 0"),
        ("candidate_softmax", 17, -1.0, "beta must be finite and at least 0"),
        ("landscape_value", 0, "spheer", "unknown landscape 'spheer'"),
        ("landscape_value", 1, [], ""),
        ("landscape_value_and_gradient", 1, [1.0], "ravine has 2 parameters"),
        ("landscape_value_and_gradient", 2, torch.ones(2, 3), "ravine must be 2"),
    ):
        bad = [*arguments[name]]
        bad[place] = junk
        if not text:  # the usual parameters
            assert getattr(OPS, name)(*bad).isfinite().all()
            continue
        with pytest.raises(ValueError, match=text):
            getattr(OPS, name)(*bad)
