"""Steps of Adam from many points: those of torch, whoever shares the work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from unstuck.ops import _native, candidates, descent, mlp
from unstuck.ops.adam import Group
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.descent import Segment
from unstuck.ops.mlp import Layer, Net

from .test_mlp import build


def without_gaps(net: Net) -> Net:
    """The same net with one layer after the other."""
    layers, at = [], 0
    for layer in net.layers:
        bias = at + layer.inputs * layer.outputs
        layers.append(layer._replace(weight=at, bias=bias if layer.bias >= 0 else -1))
        at = bias + (layer.outputs if layer.bias >= 0 else 0)
    return net._replace(layers=tuple(layers), dim=at)


def by_torch(net: Net, points: Tensor, steps: int, segments: list[Segment]) -> Tensor:
    """The points after so many steps of torch's own optimizers, each by itself."""
    ends = []
    for point in points:
        parts = [Parameter(point[s.begin : s.end].clone()) for s in segments]
        rules = [
            (torch.optim.AdamW if s.group.decoupled else torch.optim.Adam)(
                [part],
                lr=float(s.group.lr),
                betas=(s.group.beta1, s.group.beta2),
                eps=s.group.eps,
                weight_decay=s.group.weight_decay,
                maximize=s.group.maximize,
            )
            for s, part in zip(segments, parts, strict=True)
        ]
        for _ in range(steps):
            now = torch.cat([part.detach() for part in parts])
            gradient = mlp.value_and_gradient(net, now[None])[1][0]
            for s, part, rule in zip(segments, parts, rules, strict=True):
                part.grad = gradient[s.begin : s.end].clone()
                rule.step()
        ends.append(torch.cat([part.detach() for part in parts]))
    return torch.stack(ends)


def settings(net: Net, several: bool) -> list[Segment]:
    first = net.layers[0]
    cut = first.weight + first.inputs * first.outputs
    slow = Group(torch.tensor(0.003), 0.4, 0.9, 1e-6, 0.1, decoupled=True)
    last = Group(0.01, weight_decay=0.02, maximize=True)
    return (
        [Segment(0, cut, slow), Segment(cut, net.dim, last)]
        if several
        else [Segment(0, net.dim, Group(0.01))]
    )


@pytest.mark.parametrize("several", [False, True], ids=["one rate", "two"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_steps_are_those_of_torch(backend, dtype, several):
    for sizes, n, gaps in (
        ([3, 4], 5, False),
        ([40, 33, 9], 70, False),
        ([5, 30, 4], 1100, False),
        ([7, 6, 2], 9, True),
    ):
        net = build(sizes, n, "tanh", "squared", dtype=dtype)
        net = net if gaps else without_gaps(net)
        points = 0.4 * torch.randn(3, net.dim, dtype=dtype)
        segments = settings(net, several)
        expected, losses = by_torch(net, points, 3, segments), mlp.losses(net, points)
        moments = [torch.full_like(points, torch.nan) for _ in range(2)]
        found = descent.descend(net, points, *moments, 1, segments)
        torch.testing.assert_close(found, losses)
        for number in (2, 3):
            descent.descend(net, points, *moments, number, segments)
        close = {"rtol": 1e-4, "atol": 2e-5} if dtype == torch.float32 else {}
        torch.testing.assert_close(points, expected, **close)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_threads_make_no_difference(native, count):
    """Whole points, and one that threads share."""
    net = without_gaps(build([100, 70, 40, 10], 130, dtype=torch.float32))
    start = 0.1 * torch.randn(count, net.dim)
    ends = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        points, m, v = start.clone(), torch.empty_like(start), torch.empty_like(start)
        losses = descent.descend(net, points, m, v, 1, settings(net, True))
        gradients = mlp.value_and_gradient(net, start)[1]
        ends.append((points, m, v, losses, gradients))
    for other in ends[1:]:
        for x, y in zip(ends[0], other, strict=True):
            assert torch.equal(x, y)


def test_written_memory_is_known_to_autograd(native):
    net = without_gaps(build([3, 4], 5))
    points = torch.randn(2, net.dim).double()
    x = points.clone().requires_grad_()
    square = (x * points).sum()
    descent.descend(net, points, *torch.zeros(2, 2, net.dim).double(), 1, settings(net, False))
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        square.backward()


def test_what_the_kernel_does_not_know_is_stepped_too(native, monkeypatch):
    """Coordinates in no layer, layers in two segments, rows with gaps."""
    net = build([3, 4, 2], 6, "tanh")
    called = []
    run = mlp._run
    monkeypatch.setattr(mlp, "_run", lambda *a: called.append(a[1]) or run(*a))
    cut = net.layers[0].weight + 5
    segments = [Segment(0, cut, Group(0.1)), Segment(cut, net.dim, Group(0.1))]
    points = torch.randn(2, net.dim).double()
    expected = by_torch(net, points, 1, segments)
    descent.descend(net, points, *torch.zeros(2, 2, net.dim).double(), 1, segments)
    torch.testing.assert_close(points, expected)
    assert "descend" not in called
    whole = without_gaps(net)
    wide = torch.randn(2, whole.dim).double()
    descent.descend(whole, wide, *torch.zeros(2, 2, whole.dim).double(), 1, settings(whole, True))
    assert called[-1] == "descend"


def test_layers_must_be_held_by_segments(native):
    net = without_gaps(build([3, 4], 5))
    points = torch.randn(2, net.dim).double()
    layers = [(*layer[:4], 0) for layer in net.layers]
    data = (net.X, net.y, layers, 2, 1.0, net.dim)
    m, v = torch.zeros_like(points), torch.zeros_like(points)
    before, losses = points.clone(), torch.empty(2).double()
    for segments, error in (
        ([], r"no segment holds all of layers\[0\]"),
        ([(0, 5, Group(0.1))], r"no segment holds all of layers\[0\]"),
        ([(0, net.dim + 1, Group(0.1))], "segments"),
        ([(0, net.dim, Group(-0.1))], "lr must be at least 0"),
        ([(0, net.dim, Group(0.1)), (3, 5, Group(0.1))], "share coordinates"),
    ):
        with pytest.raises(ValueError, match=error):
            native.mlp_descend(data, points, m, v, 1, segments, losses, 2)
    with pytest.raises(ValueError, match="step"):
        native.mlp_descend(data, points, m, v, 0, [(0, net.dim, Group(0.1))], losses, 2)
    with pytest.raises(ValueError, match="share memory"):
        native.mlp_descend(data, points, points, v, 1, [(0, net.dim, Group(0.1))], losses, 2)
    assert torch.equal(points, before)


def test_candidates_are_written_where_they_are_wanted(backend):
    region, draw = Region(torch.randn(40), torch.rand(6), torch.rand(40)), Draw(3)
    kept = torch.full((5, 40), torch.nan)
    assert candidates.sample(region, draw, 1, 5, kept) is kept
    assert torch.equal(kept, candidates.sample(region, draw, 1, 5))
    for wrong, error in (
        (torch.empty(4, 40), "shape"),
        (torch.empty(5, 40).double(), "float32"),
        (torch.empty(40, 5).t(), "contiguous"),
        (torch.empty(5, 80)[:, ::2], "contiguous"),
    ):
        with pytest.raises(ValueError, match=error):
            candidates.sample(region, draw, 1, 5, wrong)
    with pytest.raises(TypeError, match="out"):
        candidates.sample(region, draw, 1, 5, [1.0])


def test_a_net_of_one_layer_without_bias(native):
    assert _native.cpu is native
    X, y = torch.randn(9, 4), torch.randn(9, 2)
    net = Net(X, y, (Layer(4, 2, 0, -1, "none"),), "squared", 1 / 18, 8)
    points = torch.randn(3, 8)
    expected = by_torch(net, points, 1, [Segment(0, 8, Group(0.1))])
    descent.descend(net, points, *torch.zeros(2, 3, 8), 1, [Segment(0, 8, Group(0.1))])
    torch.testing.assert_close(points, expected)


def test_bad_segments_change_nothing(backend):
    net = without_gaps(build([3, 4], 5))
    good = Segment(0, 5, Group(0.1))
    start = torch.randn(2, net.dim).double()
    for number, rest, error in (
        (1, [Segment(5, net.dim, Group(-0.1))], "lr"),
        (1, [Segment(5, net.dim, Group(0.1, beta2=1.0))], "beta2"),
        (1, [Segment(4, net.dim, Group(0.1))], "share coordinates"),
        (1, [Segment(5, net.dim + 1, Group(0.1))], rf"from 5 to {net.dim + 1}"),
        (0, [Segment(5, net.dim, Group(0.1))], "number must be from 1"),
    ):
        x, m, v = start.clone(), torch.ones_like(start), torch.ones_like(start)
        for call in (
            lambda: descent.step(x, start, m, v, number, [good, *rest]),  # noqa: B023
            lambda: descent.descend(net, x, m, v, number, [good, *rest]),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=error):
                call()
            assert torch.equal(x, start)
            assert torch.equal(m, torch.ones_like(m))
            assert torch.equal(v, torch.ones_like(v))


def test_data_that_no_kernel_reads_is_refused(backend):
    """Losses of a step that was not made would be whatever the memory held."""
    net = without_gaps(build([3, 4], 5))
    x, m, v = torch.randn(3, 2, net.dim).double()
    for X in (net.X.half(), net.X.to("meta")):
        with pytest.raises((TypeError, ValueError), match="X"):
            descent.descend(net._replace(X=X), x, m, v, 1, settings(net, False))

    def sum_of_losses(X: Tensor) -> Tensor:
        return descent.descend(net._replace(X=X), x, m, v, 1, settings(net, False)).sum()

    with pytest.raises(RuntimeError, match="transformed"):
        torch.func.grad(sum_of_losses)(net.X)


def test_leaves_that_want_gradients_are_stepped(backend):
    net = without_gaps(build([3, 4, 2], 5))
    segments = settings(net, True)
    for count in (1, 2):  # the row of one point is a view of the leaf
        start = torch.randn(count, net.dim).double()
        expected, gradients = by_torch(net, start, 1, segments), mlp.value_and_gradient(net, start)
        for by_net in (True, False):
            x, m, v = start.clone().requires_grad_(), *torch.zeros(2, count, net.dim).double()
            if by_net:
                descent.descend(net, x, m, v, 1, segments)
            else:
                descent.step(x, gradients[1], m, v, 1, segments)
            torch.testing.assert_close(x.detach(), expected)


def test_inference_tensors_are_stepped(native):
    net = without_gaps(build([3, 4], 5))
    start = torch.randn(2, net.dim).double()
    expected = by_torch(net, start, 1, settings(net, True))
    with torch.inference_mode():
        x, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
        descent.descend(net, x, m, v, 1, settings(net, True))
    torch.testing.assert_close(x.clone(), expected)
