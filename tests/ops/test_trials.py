"""Learning-rate trials: the losses of points on a line, and the step that they decide on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unstuck.ops import _trials_now, landscapes, objectives, reference_trials, trials
from unstuck.ops.landscapes import Landscape

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


@pytest.mark.parametrize("name", ["sphere", "rastrigin", "ackley", "rosenbrock"])
def test_landscapes(backend, name: str, monkeypatch) -> None:
    landscape = Landscape(name, 7)
    w, d = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    rates = torch.linspace(0, 1, 5, dtype=torch.float64)
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
