"""The objectives with data: values, gradients, candidates, refusals."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import Tensor, nn

from unstuck.ops import candidates, objectives, reference_objectives
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.objectives import (
    LinearRegression,
    LogisticRegression,
    Objective,
    Trapped,
    TwoLayerNet,
    value,
    value_and_gradient,
)

KINDS = ["linear", "trapped", "logistic", "bce", "cross-entropy"]


def make(kind: str, n: int = 37, features: int = 11, dtype=torch.float64, hidden: int = 6):
    X = torch.randn(n, features, dtype=dtype)
    X[:, -1] = 1
    y = torch.randn(n, dtype=dtype)
    labels = (torch.rand(n) < 0.5).to(dtype)
    if kind == "linear":
        return LinearRegression(X, y)
    if kind == "trapped":
        return Trapped(X, y, lam=0.7, kappa=3.0)
    if kind == "logistic":
        return LogisticRegression(X, labels)
    if kind == "bce":
        return TwoLayerNet(X, labels, hidden)
    return TwoLayerNet(X, torch.arange(n) % 4, hidden, loss="cross-entropy")


def by_torch(objective: Objective, w: Tensor) -> Tensor:
    """The loss as a user of torch writes it."""
    X, y = objective.X, objective.y
    if isinstance(objective, TwoLayerNet):
        features = X.shape[1]
        net = nn.Sequential(
            nn.Linear(features, objective.hidden),
            nn.ReLU(),
            nn.Linear(objective.hidden, objective.outputs),
        ).to(X.dtype)
        names = [name for name, _ in net.named_parameters()]
        sizes = [p.numel() for p in net.parameters()]
        shapes = [p.shape for p in net.parameters()]
        parts = [x.view(s) for x, s in zip(w.split(sizes), shapes, strict=True)]
        z = torch.func.functional_call(net, dict(zip(names, parts, strict=True)), (X,))
        if objective.loss == "bce":
            return nn.functional.binary_cross_entropy_with_logits(z[:, 0], y)
        return nn.functional.cross_entropy(z, y)
    if isinstance(objective, LogisticRegression):
        return nn.functional.binary_cross_entropy_with_logits(X @ w, y)
    loss = nn.functional.mse_loss(X @ w, y)
    if isinstance(objective, Trapped):
        loss = loss + objective.lam * torch.sin(objective.kappa * w.norm() ** 2)
    return loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_torchs(backend: str, threads: int, kind: str, dtype) -> None:
    objective = make(kind, dtype=dtype)
    w = torch.randn(objective.dim, dtype=dtype, requires_grad=True)
    expected = by_torch(objective, w)
    (slope,) = torch.autograd.grad(expected, w)
    tolerance = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-12, atol=0)
    loss, gradient = value_and_gradient(objective, w)
    assert loss.dtype == gradient.dtype == dtype
    assert loss.shape == ()
    assert not gradient.requires_grad
    torch.testing.assert_close(loss, expected.detach(), **tolerance)
    torch.testing.assert_close(gradient, slope, **{**tolerance, "atol": 1e-5 * slope.abs().max()})
    torch.testing.assert_close(value(objective, w), expected, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_slopes(kind: str) -> None:
    torch.set_num_threads(1)
    objective = make(kind)
    w = torch.randn(objective.dim, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: value(objective, x), w)


def make_double(objective: Objective) -> Objective:
    y = objective.y if objective.y.dtype == torch.int64 else objective.y.double()
    return dataclasses.replace(objective, X=objective.X.double(), y=y)


@pytest.mark.parametrize("kind", KINDS)
def test_many_points_are_evaluated_as_one_is(backend: str, kind: str, monkeypatch) -> None:
    objective = make(kind)
    w = torch.randn(3, 5, objective.dim, dtype=torch.float64)
    one_by_one = [value_and_gradient(objective, x) for x in w.reshape(15, -1)]
    losses = torch.stack([loss for loss, _ in one_by_one]).reshape(3, 5)
    gradients = torch.stack([gradient for _, gradient in one_by_one]).reshape(w.shape)
    torch.testing.assert_close(value(objective, w), losses)
    for given, expected in zip(value_and_gradient(objective, w), (losses, gradients), strict=True):
        torch.testing.assert_close(given, expected)
    monkeypatch.setattr(objectives, "MEMORY", 1)  # one at a time
    torch.testing.assert_close(value(objective, w), losses)
    assert value(objective, w[:0]).shape == (0, 5)


@pytest.mark.parametrize("kind", ["logistic", "bce", "cross-entropy"])
def test_no_overflow_far_out(backend: str, kind: str) -> None:
    objective = make(kind, dtype=torch.float32)
    w = 1e4 * torch.randn(objective.dim)
    loss, gradient = value_and_gradient(objective, w)
    double = make_double(objective)
    expected, slope = reference_objectives.value_and_gradient(double, w.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-4 * slope.abs().max())


def test_vmap_and_grad_see_through() -> None:
    objective = make("cross-entropy")
    w = torch.randn(4, objective.dim, dtype=torch.float64)
    slopes = torch.func.vmap(torch.func.grad(lambda x: reference_objectives.value(objective, x)))(w)
    torch.testing.assert_close(slopes, value_and_gradient(objective, w)[1])


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_evaluated_as_points_are(
    backend: str, threads: int, kind: str, dtype, antithetic: bool, monkeypatch
) -> None:
    objective = make(kind, dtype=dtype)
    mean = torch.randn(objective.dim, dtype=dtype)
    draw = Draw(seed=3, iteration=2, antithetic=antithetic)
    for count, region in (
        (21, Region(mean, 0.3)),
        (6, Region(mean, torch.rand(6, dtype=dtype), torch.rand_like(mean))),
        (8, Region(mean, 0.3, None, mean - 0.1, mean + 0.2)),
        (8, Region(mean, 0.9, None, mean - 0.1, mean + 0.2, "reflect")),
        (0, Region(mean, 0.3)),
    ):
        expected = value(objective, candidates.sample(region, draw, 0, count))
        given = objectives.candidate_losses(objective, region, draw, count)
        assert given.dtype == dtype
        torch.testing.assert_close(given, expected)
        torch.testing.assert_close(candidates.losses(objective, region, draw, count), expected)
    monkeypatch.setattr(objectives, "MEMORY", 1)  # in small chunks
    torch.testing.assert_close(
        objectives.candidate_losses(objective, Region(mean, 0.3), draw, 7),
        value(objective, candidates.sample(Region(mean, 0.3), draw, 0, 7)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "features", "count"), [(1, 1, 1), (6, 2, 33), (133, 70, 40), (9, 1200, 7), (700, 3, 200)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_of_candidates(threads, kind: str, n: int, features: int, count: int, dtype) -> None:
    """Tiles, blocks of rows and their remainders; one candidate of an antithetic pair left out."""
    objective = make(kind, n, features, dtype, hidden=5)
    scale = torch.rand(objective.dim, dtype=dtype) / features**0.5
    region = Region(scale - 0.5 * scale.mean(), torch.rand(count, dtype=dtype), scale)
    for antithetic in (True, False):
        draw = Draw(seed=7, stream=1, antithetic=antithetic)
        points = candidates.sample(region, draw, 0, count)
        expected = reference_objectives.value(objective, points)
        given = objectives.candidate_losses(objective, region, draw, count)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(given, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_that_are_not_finite_have_no_finite_loss(backend: str, kind: str) -> None:
    """And the others keep theirs."""
    objective = make(kind)
    region = Region(torch.zeros(objective.dim, dtype=torch.float64), torch.ones(12).double())
    draw = Draw(seed=1)
    expected = objectives.candidate_losses(objective, region, draw, 12)
    region.sigma[[2, 7]] = float("inf")
    given = objectives.candidate_losses(objective, region, draw, 12)
    bad = torch.arange(12).unsqueeze(1).eq(torch.tensor([2, 7])).any(1)
    assert not given[bad].isfinite().any()
    torch.testing.assert_close(given[~bad], expected[~bad])


def test_bounds_are_not_for_the_linear_kernel(native) -> None:
    objective = make("linear")
    mean, losses = torch.zeros(11).double(), torch.empty(4).double()
    region = (mean, 1.0, None, mean - 1, mean + 1, "clip")
    with pytest.raises(ValueError, match="low must be None"):
        native.linear_candidates(
            objective.X, objective.y, 0.0, 0.0, False, region, Draw(0), losses, 1
        )


def test_a_region_that_does_not_fit_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match=re.escape("region.mean must have the shape [11]")):
        objectives.candidate_losses(make("linear"), Region(torch.ones(3), 1.0), Draw(0), 2)
    mean = torch.zeros(11, dtype=torch.float64)
    with pytest.raises(ValueError, match="sigma must be finite, not nan"):
        objectives.candidate_losses(make("linear"), Region(mean, float("nan")), Draw(0), 2)


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: LinearRegression(torch.ones(3), torch.ones(3)), ValueError, r"\[n, D\].*\[3\]"),
        (lambda: LinearRegression(torch.ones(0, 2), torch.ones(0)), ValueError, r"not \[0, 2\]"),
        (
            lambda: LinearRegression(torch.ones(3, 2), torch.ones(2)),
            ValueError,
            r"\[3\], not \[2\]",
        ),
        (lambda: LinearRegression(torch.ones(3, 2).half(), torch.ones(3)), TypeError, "float16"),
        (lambda: LogisticRegression(torch.ones(3, 2), torch.ones(3).int()), TypeError, "int32"),
        (
            lambda: LinearRegression(torch.ones(3, 2), torch.ones(3, device="meta")),
            ValueError,
            "y is on meta",
        ),
        (
            lambda: Trapped(torch.ones(3, 2), torch.ones(3), float("nan"), 1.0),
            ValueError,
            "lam must be a finite number, not nan",
        ),
        (lambda: TwoLayerNet(torch.ones(3, 2), torch.ones(3), 0), ValueError, "hidden .*not 0"),
        (lambda: TwoLayerNet(torch.ones(3, 2), torch.ones(3), 1, "mse"), ValueError, "not 'mse'"),
        (
            lambda: TwoLayerNet(torch.ones(3, 2), torch.ones(3), 1, "bce", 2),
            ValueError,
            "classes=2 is for 'cross-entropy'",
        ),
        (
            lambda: TwoLayerNet(torch.ones(3, 2), torch.ones(3), 1, "cross-entropy"),
            TypeError,
            "int64",
        ),
        (
            lambda: TwoLayerNet(torch.ones(2, 2), torch.tensor([1, 3]), 1, "cross-entropy", 3),
            ValueError,
            "classes from 1 to 3, not from 0 to 2",
        ),
    ],
)
def test_bad_data_is_refused(build, error, text) -> None:
    with pytest.raises(error, match=text):
        build()


@pytest.mark.parametrize("call", [value, value_and_gradient])
def test_bad_points_are_refused(call) -> None:
    objective = make("linear")
    with pytest.raises(ValueError, match=re.escape("[..., 11], not [2, 3]")):
        call(objective, torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"must be torch\.float64 as the data, not"):
        call(objective, torch.ones(11))
    with pytest.raises(ValueError, match="w is on meta"):
        call(objective, torch.ones(11, dtype=torch.float64, device="meta"))
