"""Multi-layer perceptrons at many vectors: the same natively, in plain torch and by autograd."""

from __future__ import annotations

import random
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unstuck.ops import candidates, mlp
from unstuck.ops.adam import Group
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.mlp import ACTIVATIONS, LOSSES, Layer, Net

from .bad_tensors import KINDS
from .random_arguments import NUMBERS, OBJECTS
from .test_random_arguments import attempt

FUNCTIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def build(
    sizes: list[int],
    n: int,
    activation: str = "relu",
    loss: str = "cross-entropy",
    last: str = "none",
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Net:
    """A net of these widths, with a gap of one number before every layer."""
    layers, dim = [], 0
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = dim + 1
        dim = weight + inputs * outputs + (outputs if bias else 0)
        kind = activation if i < len(sizes) - 2 else last
        layers.append(
            Layer(inputs, outputs, weight, weight + inputs * outputs if bias else -1, kind)
        )
    X = torch.randn(n, sizes[0], dtype=dtype)
    outputs = sizes[-1]
    y = torch.rand(n, outputs, dtype=dtype)
    if loss == "cross-entropy":
        y = torch.randint(outputs, (n,))
    return Net(X, y, tuple(layers), loss, 1 / n, dim)


def plain(net: Net, points: Tensor) -> Tensor:
    """Losses that autograd can differentiate."""
    out = []
    for point in points:
        h = net.X
        for layer in net.layers:
            size = layer.inputs * layer.outputs
            W = point[layer.weight : layer.weight + size].view(layer.outputs, layer.inputs)
            h = h @ W.t()
            if layer.bias >= 0:
                h = h + point[layer.bias : layer.bias + layer.outputs]
            h = FUNCTIONS[layer.activation](h)
        if net.loss == "squared":
            total = (h - net.y).square().sum()
        elif net.loss == "bce":
            total = (F.softplus(h) - net.y * h).sum()
        else:
            total = -torch.log_softmax(h, 1)[torch.arange(len(h)), net.y].sum()
        out.append(total * net.factor)
    return torch.stack(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_losses_and_gradients(backend, activation, loss, dtype):
    last = activation if loss == "squared" else "none"
    for sizes, n, bias in (([3, 4], 5, True), ([7, 30, 5], 33, False), ([40, 33, 25, 9], 70, True)):
        net = build(sizes, n, activation, loss, last, bias, dtype)
        points = 0.4 * torch.randn(3, net.dim, dtype=dtype)
        wide = points.double().requires_grad_()
        exact = plain(
            net._replace(
                X=net.X.double(),
                y=net.y.to(torch.int64 if loss == "cross-entropy" else torch.float64),
            ),
            wide,
        )
        (slopes,) = torch.autograd.grad(exact.sum(), wide)
        close = {"rtol": 2e-5, "atol": 5e-5} if dtype == torch.float32 else {}
        found, gradients = mlp.value_and_gradient(net, points)
        torch.testing.assert_close(found, exact.to(dtype).detach(), **close)
        torch.testing.assert_close(gradients, slopes.to(dtype), **close)
        assert torch.equal(mlp.losses(net, points), found)


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("n", [1, 50, 1100])
def test_candidates_and_lines(backend, threads, n, antithetic):
    net = build([5, 30, 4], n, "tanh")
    w, size = torch.randn(net.dim).double(), torch.rand(net.dim).double()
    sigmas = torch.rand(7).double()
    draw = Draw(3, 1, 2, antithetic)
    for region in (
        Region(w, 0.2),
        Region(w, sigmas, size),
        Region(w, sigmas, size, w - 0.1, w + 0.2),
        Region(w, 0.3, None, w - 0.1, None, "reflect"),
    ):
        points = candidates.sample(region, draw, 0, 7)
        found = mlp.candidate_losses(net, region, draw, 7)
        torch.testing.assert_close(found, plain(net, points), rtol=1e-6, atol=1e-7)
    rates, d = torch.rand(6).double(), torch.randn(net.dim).double()
    along = plain(net, w - rates[:, None] * d)
    torch.testing.assert_close(mlp.line_losses(net, w, d, rates), along)


def test_one_thread_and_two_agree(native):
    net = build([64, 40, 10], 300, dtype=torch.float32)
    w = torch.randn(net.dim)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        region = Region(w, 0.1)
        gradient = mlp.value_and_gradient(net, w.repeat(6, 1))[1]
        found.append((mlp.candidate_losses(net, region, Draw(1), 9), gradient))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_what_is_not_finite_stays_with_its_candidate(backend):
    for loss in LOSSES:
        net = build([5, 6, 3], 10, "relu", loss)
        points = torch.randn(4, net.dim).double()
        good, slopes = mlp.value_and_gradient(net, points)
        bad = points.clone()
        bad[1], bad[2, net.layers[0].weight] = torch.nan, torch.inf
        found, gradients = mlp.value_and_gradient(net, bad)
        assert found[1].isnan()
        assert not found[2].isfinite()
        assert torch.equal(found[[0, 3]], good[[0, 3]])
        assert torch.equal(gradients[[0, 3]], slopes[[0, 3]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_beyond_the_last_leave_gradients_alone(backend, activation):
    """Kernels work on whole panels of rows: here inputs of 0 would end in infinity."""
    layers = (
        Layer(1, 1, 0, 1, "none"),
        Layer(1, 2, 2, 4, activation),
        Layer(2, 1, 6, 8, "none"),
    )
    net = Net(-torch.ones(3, 1).double(), torch.zeros(3, 1).double(), layers, "squared", 1 / 3, 9)
    w = torch.tensor([[*[1e300] * 4, 0.1, 0.2, 0.3, 0.4, 0.5]], dtype=torch.float64)
    wide = w.clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(net, wide).sum(), wide)
    assert expected.isfinite().all()
    torch.testing.assert_close(mlp.value_and_gradient(net, w)[1], expected)


def test_rows_with_gaps_and_targets_with_strides(backend):
    net = build([5, 6, 3], 10, "relu", "squared")
    points = torch.randn(4, net.dim).double()
    wide = torch.zeros(10, 9).double()
    wide[:, 2:7] = net.X
    for X in (wide[:, 2:7], net.X.t().contiguous().t(), torch.neg(-net.X)):
        y = net.y.t().contiguous().t()
        strange = net._replace(X=X, y=y)
        torch.testing.assert_close(mlp.losses(strange, points), plain(net, points))
    spread = torch.stack([points, points], 1)[:, 0]
    torch.testing.assert_close(mlp.losses(net, spread), plain(net, points))


def test_arguments_that_do_not_fit(backend):
    net = build([5, 6, 3], 10)
    points = torch.randn(2, net.dim).double()
    first, second = net.layers
    wrong: list[tuple[Net, type[Exception], str]] = [
        (net._replace(loss="huber"), ValueError, "'huber'"),
        (net._replace(X=net.X.half()), TypeError, "float16"),
        (net._replace(X=net.X[0]), ValueError, r"shape \[5\]"),
        (net._replace(layers=()), ValueError, "0 layers"),
        (net._replace(layers=(second,)), ValueError, r"layers\[0\] does not fit 5"),
        (net._replace(layers=(first, first)), ValueError, r"layers\[1\] does not fit 6"),
        (net._replace(layers=(first, second._replace(activation="elu"))), ValueError, "'elu'"),
        (net._replace(layers=(first, second._replace(bias=10**9))), ValueError, "does not fit"),
        (net._replace(layers=(first, second._replace(weight=-5))), ValueError, "does not fit"),
        (net._replace(dim=net.dim - 1), ValueError, "does not fit"),
        (net._replace(layers=(first, second._replace(outputs=0))), ValueError, "does not fit"),
        (
            net._replace(layers=(first, second._replace(weight=first.bias))),
            ValueError,
            r"layers\[0\] and layers\[1\] share parameters",
        ),
        (net._replace(y=net.y[1:]), ValueError, r"y must have the shape \[10\]"),
        (net._replace(y=net.y.double()), ValueError, "int64"),
    ]
    for bad, kind, text in wrong:
        with pytest.raises(kind, match=text):
            mlp.losses(bad, points)
    with pytest.raises(ValueError, match="points must have the shape"):
        mlp.losses(net, points[:, 1:])
    with pytest.raises(ValueError, match="float32"):
        mlp.value_and_gradient(net, points.float())
    with pytest.raises(ValueError, match=r"region\.mean must have the shape"):
        mlp.candidate_losses(net, Region(points[0, 1:], 0.1), Draw(0), 2)
    with pytest.raises(ValueError, match="d must have the shape"):
        mlp.line_losses(net, points[0], points[0, 1:], torch.ones(2).double())


def test_labels_that_do_not_exist_have_no_loss(native):
    net = build([5, 6, 3], 10)
    net.y[4] = 3
    assert mlp.losses(net, torch.randn(2, net.dim).double()).isnan().all()


def test_layers_that_share_parameters_are_refused(native):
    """The gradient of each would be written over that of the other."""
    net = build([3, 3, 3], 5, loss="squared")
    tied = [(3, 3, 0, bias, 0) for bias in (9, -1)]
    points, losses = torch.randn(1, net.dim).double(), torch.empty(1).double()
    for layers in (tied, [tied[0], (3, 3, 11, -1, 0)]):
        data = (net.X, net.y, layers, LOSSES.index("squared"), 1.0, net.dim)
        with pytest.raises(ValueError, match="layers share parameters"):
            native.mlp_points(data, points, losses, torch.empty_like(points), 1)


# ---------------------------------------------------------------- the entry points themselves
def good(choose: random.Random, call: str) -> list[Any]:
    """Return arguments that fit."""
    dtype = choose.choice([torch.float32, torch.float64])
    net = build(
        choose.choice([[3, 4], [5, 30, 2]]),
        choose.choice([1, 40]),
        loss=choose.choice(LOSSES),
        dtype=dtype,
    )
    layers = [(*layer[:4], ACTIVATIONS.index(layer.activation)) for layer in net.layers]
    data = (net.X, net.y, layers, LOSSES.index(net.loss), net.factor, net.dim)
    w, losses = torch.rand(net.dim, dtype=dtype), torch.empty(3, dtype=dtype)
    points = torch.rand(3, net.dim, dtype=dtype)
    return {
        "mlp_points": [data, points, losses, choose.choice([None, torch.empty_like(points)]), 2],
        "mlp_candidates": [data, tuple(Region(w, 0.1)), tuple(Draw(1)), losses, 2],
        "mlp_line": [data, w, torch.rand_like(w), torch.rand_like(losses), losses, 2],
        "mlp_descend": [
            *(data, points, torch.zeros_like(points), torch.zeros_like(points)),
            *(1, [(0, net.dim, tuple(Group(0.1)))], losses, 2),
        ],
    }[call]


def spoiled(choose: random.Random, value: Any) -> Any:
    """Return something to stand where `value` stood."""
    if isinstance(value, (tuple, list)) and value and choose.random() < 0.8:
        items = list(value)
        place = choose.randrange(len(items))
        items[place] = spoiled(choose, items[place])
        return type(value)(items)
    if isinstance(value, Tensor) and choose.random() < 0.7:
        try:
            return choose.choice(list(KINDS.values()))(value)
        except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
            return None
    if isinstance(value, int) and choose.random() < 0.7:
        return choose.choice([value + 1, value - 1, -1, 2**31, 2**62, 2**63, 0])
    return choose.choice([*NUMBERS, *OBJECTS])


def content(arguments: list[Any]) -> list[bytes]:
    """The memory of all good tensors among the arguments."""
    inner = [x for a in arguments for x in (a if isinstance(a, tuple) else [a])]
    return [x.numpy().tobytes() for x in inner if type(x) is Tensor]


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("call", ["mlp_points", "mlp_candidates", "mlp_line", "mlp_descend"])
def test_random_arguments_are_answered_or_refused(native: ModuleType, reading: str, call: str):
    outcomes = [0, 0]
    for seed in range(500):
        choose = random.Random(seed)
        fit = good(choose, call)
        arguments, before = [*fit], content(fit)
        for _ in range(seed % 3):
            place = choose.randrange(len(arguments) - 1)
            arguments[place] = spoiled(choose, arguments[place])
        text = attempt(lambda: getattr(native, call)(*arguments))  # noqa: B023
        assert not text or content(fit) == before, text
        outcomes[bool(text)] += 1
    assert min(outcomes) > 50
