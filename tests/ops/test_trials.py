"""Learning-rate trials: the losses of points on a line, and the step that they decide on."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from unstuck.ops import (
    _trials_now,
    landscapes,
    objectives,
    reference_objectives,
    reference_trials,
    trials,
)
from unstuck.ops._trials_library import pack
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.landscapes import Landscape
from unstuck.ops.objectives import TwoLayerNet

from .test_objectives import KINDS, make


def setting(kind: str, dtype=torch.float64, count: int = 9):
    objective = make(kind, dtype=dtype)
    w = torch.randn(objective.dim, dtype=dtype)
    d = torch.randn(objective.dim, dtype=dtype)
    rates = torch.linspace(-0.5, 2.0, count, dtype=dtype)
    return objective, w, d, rates


def one_by_one(objective, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    return torch.stack([objectives.value(objective, w - rate * d) for rate in rates])


@pytest.mark.parametrize("count", [1, 16, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_the_points(backend, threads, kind: str, dtype, count: int) -> None:
    objective, w, d, rates = setting(kind, dtype, count)
    tolerance = dict(rtol=3e-5, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-11, atol=0)
    torch.testing.assert_close(
        trials.losses(objective, w, d, rates), one_by_one(objective, w, d, rates), **tolerance
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_softmax_of_its_losses(backend, kind: str) -> None:
    objective, w, d, rates = setting(kind)
    before = w.clone()
    new, losses, p, rate = trials.step(objective, w, d, rates, beta=2.5)
    torch.testing.assert_close(losses, one_by_one(objective, w, d, rates))
    torch.testing.assert_close(p, torch.softmax(-2.5 * losses, 0))
    torch.testing.assert_close(rate, (p * rates).sum())
    torch.testing.assert_close(new, w - rate * d)
    assert torch.equal(w, before)
    best = trials.step(objective, w, d, rates, beta=1e9).rate
    assert best == rates[losses.argmin()]
    assert trials.step(objective, w, d, rates, beta=0.0).rate == pytest.approx(float(rates.mean()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_weighs_nothing(backend, kind: str, bad: float) -> None:
    objective, w, d, rates = setting(kind)
    rates[3] = bad
    new, losses, p, rate = trials.step(objective, w, d, rates, beta=1.0)
    keep = torch.arange(len(rates)) != 3
    assert not losses[3].isfinite() or p[3] == 0
    clean = trials.step(objective, w, d, rates[keep], beta=1.0)
    torch.testing.assert_close(p[keep], clean.p)
    assert p[3] == 0
    torch.testing.assert_close(new, clean.w)
    assert rate.isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_the_point_stays_when_nothing_is_finite(backend, kind: str) -> None:
    objective, w, d, rates = setting(kind)
    d[2] = float("nan")
    new, losses, p, rate = trials.step(objective, w, d, rates, beta=1.0)
    assert not losses.isfinite().any()
    assert torch.equal(new, w)
    assert torch.equal(p, torch.zeros_like(rates))
    assert rate == 0


def test_choose_is_a_softmax_that_survives_large_losses() -> None:
    losses = torch.tensor([1e30, 1e30, float("inf"), 2e30])
    p, rate = reference_trials.choose(losses, torch.tensor([1.0, 2.0, 3.0, 4.0]), beta=1.0)
    assert p.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert rate == 1.5


FLAT = ("eggholder", "gaussian_peaks", "egg_box_bowl", "ravine", "scaled_saddle")
SIZED = [(name, 2) for name in FLAT] + [
    (name, dim) for name in landscapes.NAMES if name not in FLAT for dim in (2, 7, 515, 1100)
]


@pytest.mark.parametrize(("name", "dim"), SIZED)
def test_landscapes(backend, threads, name: str, dim: int, monkeypatch) -> None:
    landscape = Landscape(name, dim)
    w, d = torch.randn(dim, dtype=torch.float64), torch.randn(dim, dtype=torch.float64)
    rates = torch.linspace(0, 1, 19, dtype=torch.float64)
    expected = torch.stack([landscapes.value(landscape, w - rate * d) for rate in rates])
    torch.testing.assert_close(trials.losses(landscape, w, d, rates), expected)
    monkeypatch.setattr(_trials_now, "MEMORY", 1)  # one at a time
    new, losses, p, rate = trials.step(landscape, w, d, rates, 1.0)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(p, torch.softmax(-expected, 0))
    torch.testing.assert_close(new, w - rate * d)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(w=torch.ones(3)), ValueError, r"w must have the shape \[11\], not \[3\]"),
        (dict(d=torch.ones(2, 11)), ValueError, r"d must have the shape \[11\], not \[2, 11\]"),
        (dict(w=torch.ones(11)), TypeError, "w must be torch.float64 as the data"),
        (dict(d=torch.ones(11)), ValueError, "d must have the dtype .*, not torch.float32"),
        (dict(rates=torch.ones(3)), ValueError, "rates must have the dtype .*, not torch.float32"),
        (dict(rates=torch.ones(0)), ValueError, r"at least one rate, not \[0\]"),
        (dict(rates=torch.tensor(1.0)), ValueError, r"at least one rate, not \[\]"),
        (dict(beta=-1.0), ValueError, "beta .* not -1"),
        (dict(beta=float("inf")), ValueError, "beta .* not inf"),
    ],
)
def test_bad_arguments_are_refused(backend, change, error, text) -> None:
    objective, w, d, rates = setting("linear")
    arguments = {"w": w, "d": d, "rates": rates, "beta": 1.0, **change}
    with pytest.raises(error, match=text):
        trials.step(objective, **arguments)


LINES = {
    **{kind: (lambda kind=kind: setting(kind)) for kind in KINDS},
    "landscape": lambda: along(),
}


def along():
    w, d = torch.randn(9), torch.randn(9)
    return Landscape("rastrigin", 9), w, d, torch.linspace(0, 1, 4)


@pytest.mark.parametrize("name", LINES)
def test_opcheck(backend, name: str) -> None:
    """Schema, autograd registration, fake kernel, and AOT compilation with dynamic shapes."""
    objective, *line = LINES[name]()
    for call, arguments in (
        (torch.ops.unstuck.trial_step, (*line, 1.5)),
        (torch.ops.unstuck.trial_losses, tuple(line)),
    ):
        checks = opcheck(call, (*pack(objective), *arguments))
        assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trapped", "cross-entropy", "landscape"])
def test_a_compiled_step_is_the_step(backend, name: str) -> None:
    objective, w, d, rates = LINES[name]()
    torch._dynamo.reset()
    with warnings.catch_warnings():  # compilers warn of their own insides
        warnings.filterwarnings("ignore", module=r"torch\.|sympy|importlib")
        compiled = torch.compile(
            lambda w, d: trials.step(objective, w, d, rates, 1.5),
            backend="aot_eager",
            fullgraph=True,
        )
        given = compiled(w, d)
    for a, b in zip(given, trials.step(objective, w, d, rates, 1.5), strict=True):
        torch.testing.assert_close(a, b)


def test_an_unknown_kind_is_refused() -> None:
    objective, w, d, rates = setting("linear")
    with pytest.raises(ValueError, match="unknown kind of objective 'cubic': known are linear"):
        torch.ops.unstuck.trial_losses("cubic", [objective.X, objective.y], [], [], w, d, rates)


@pytest.mark.parametrize("kind", KINDS)
def test_any_strides(backend, kind: str) -> None:
    """Rows with gaps, columns first, and vectors with gaps give what dense tensors give."""
    objective, w, d, rates = setting(kind)
    expected = trials.step(objective, w, d, rates, 1.0)
    slopes = objectives.value_and_gradient(objective, w)
    n, features = objective.X.shape
    wide = torch.randn(n, 2 * features, dtype=torch.float64)
    wide[:, :features] = objective.X
    gapped = [torch.stack([x, x], 1)[:, 0] for x in (w, d, rates)]
    assert not gapped[0].is_contiguous()
    for X in (wide[:, :features], objective.X.T.contiguous().T):
        other = dataclasses.replace(objective, X=X)
        for a, b in zip(trials.step(other, *gapped, 1.0), expected, strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(objectives.value_and_gradient(other, gapped[0]), slopes, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(1, 1), (3, 2500), (1500, 3), (700, 129)])
@pytest.mark.parametrize("kind", ["trapped", "logistic"])
def test_sizes(backend, threads, kind: str, n: int, dim: int, dtype) -> None:
    """Blocks, lanes and their remainders, for trials and for gradients."""
    objective = make(kind, n, dim, torch.float64)
    w, d = (torch.randn(2, dim, dtype=torch.float64) / dim**0.5).unbind()
    rates = torch.linspace(0, 1, 5, dtype=torch.float64)
    expected = one_by_one(objective, w, d, rates)
    loss, slope = reference_objectives.value_and_gradient(objective, w)
    cast = dataclasses.replace(objective, X=objective.X.to(dtype), y=objective.y.to(dtype))
    tolerance = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-10, atol=0)
    losses = trials.losses(cast, w.to(dtype), d.to(dtype), rates.to(dtype))
    torch.testing.assert_close(losses, expected.to(dtype), **tolerance)
    given, gradient = objectives.value_and_gradient(cast, w.to(dtype))
    torch.testing.assert_close(given, loss.to(dtype), **tolerance)
    tolerance["atol"] = tolerance["rtol"] * float(slope.abs().max())
    torch.testing.assert_close(gradient, slope.to(dtype), **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(kind: str) -> None:
    objective = make(kind, 3000, 60, torch.float32, hidden=20)
    w, d = torch.randn(2, objective.dim).unbind()
    rates = torch.linspace(0, 1, 9)
    torch.set_num_threads(1)
    step, slopes = (
        trials.step(objective, w, d, rates, 1.0),
        objectives.value_and_gradient(objective, w),
    )
    torch.set_num_threads(2)
    if not isinstance(objective, TwoLayerNet):  # whose matrix products are torch's
        for a, b in zip(trials.step(objective, w, d, rates, 1.0), step, strict=True):
            assert torch.equal(a, b)
        for a, b in zip(objectives.value_and_gradient(objective, w), slopes, strict=True):
            assert torch.equal(a, b)


def test_a_class_that_is_not_there_reads_no_memory(native) -> None:
    """Labels can be changed after they have been checked."""
    objective, w, d, rates = setting("cross-entropy")
    objective.y[5] = 10**15
    assert not trials.losses(objective, w, d, rates).isfinite().any()
    region = Region(w, 0.1)
    assert not objectives.candidate_losses(objective, region, Draw(0), 5).isfinite().any()


def test_native_arguments_are_checked(native) -> None:
    objective, w, d, rates = setting("linear")
    losses = torch.empty_like(rates)
    rest = (objective.y, 0.0, 0.0, False, w, d, rates, 1.0)

    def call(X=objective.X, losses=losses, rest=rest):
        native.regression_trials(X, *rest, losses, None, None, None, None, 1)

    call()
    torch.testing.assert_close(losses, one_by_one(objective, w, d, rates))
    with pytest.raises(ValueError, match="shares memory with"):
        call(losses=rates)
    with pytest.raises(ValueError, match="losses must be 9 contiguous numbers"):
        call(losses=losses[:3])
    with pytest.raises(ValueError, match="w must be float64 as the others"):
        call(rest=(*rest[:4], w.float(), *rest[5:]))
    with pytest.raises(ValueError, match="X must be a matrix"):
        call(X=w)
    with pytest.raises(ValueError, match="rows are contiguous"):
        call(X=objective.X.T.contiguous().T)
    with pytest.raises(ValueError, match="beta must be at least 0"):
        call(rest=(*rest[:-1], -1.0))
    with pytest.raises(ValueError, match="y must be 37 contiguous numbers"):
        call(rest=(objective.y[:5], *rest[1:]))
    with pytest.raises(TypeError, match=r"losses must be a torch\.Tensor"):
        call(losses=3)
    with pytest.raises(TypeError, match=r"losses must be float32 or float64, not torch\.int64"):
        call(losses=torch.zeros(9, dtype=torch.int64))


def test_trials_store_no_second_copy_of_the_data() -> None:
    """Beside what it returns, a step on a long landscape needs no vector of its length."""
    dim = 1 << 20
    landscape = Landscape("sphere", dim)
    w, d, rates = torch.ones(dim), torch.ones(dim), torch.linspace(0, 2, 33)
    trials.step(landscape, w, d, rates, 1.0)
    with torch.profiler.profile(profile_memory=True) as profile:
        step = trials.step(landscape, w, d, rates, 1e6)
    used = sum(e.self_cpu_memory_usage for e in profile.events() if e.self_cpu_memory_usage > 0)
    assert step.rate == 1
    if _trials_now.kernels(landscape, w, "landscape_trials"):
        assert used < 4 * dim * 2
