"""The four hybrids on functions: out of traps, exact counts, exact resume, refused arguments."""

from __future__ import annotations

import math

import pytest
import torch

from unstuck import problems
from unstuck.search._temperature import weigh
from unstuck.search.hybrids import (
    Alternating,
    AttentionRestart,
    LearningRateAttention,
    ReactiveEscape,
)

ALL = (ReactiveEscape, Alternating, AttentionRestart, LearningRateAttention)
BASES = ("gd", "momentum", "adam", "lbfgs")


class Counting:
    """A problem that counts what it is asked, and fails when it is told to."""

    def __init__(self, name="rastrigin", dim=3):
        self.problem = problems.get(name, dim=dim, dtype=torch.float64)
        self.nfev = self.ngev = 0
        self.lowest = math.inf
        self.bad = False

    def __call__(self, x):
        self.nfev += len(x)
        values = self.problem(x)
        self.lowest = min(self.lowest, float(values.min()))
        return torch.full_like(values, math.nan) if self.bad else values

    def value_and_gradient(self, x):
        self.nfev += 1
        self.ngev += 1
        value, gradient = self.problem.value_and_gradient(x)
        self.lowest = min(self.lowest, float(value))
        return value, gradient


def start(dim=3):
    return torch.linspace(2.1, 3.9, dim, dtype=torch.float64)


@pytest.mark.parametrize("cls", ALL)
def test_out_of_the_trap_that_holds_gradient_descent(cls):
    problem = problems.get("trapped", dtype=torch.float64)
    x0 = torch.full((problem.dim,), 0.2, dtype=torch.float64)
    w = x0.clone()
    for _ in range(1000):
        w -= 1e-3 * problem.value_and_gradient(w)[1]
    stuck = float(problem(w))
    assert stuck > problem.minimum + 5
    search = cls(x0, 1.0, seed=2, base="gd", lr=None if cls is LearningRateAttention else 1e-3)
    while search.nfev < 2500:
        search.step(problem)
    assert search.best.f < problem.minimum + 0.5
    assert float(problem(search.best.x)) == pytest.approx(search.best.f, rel=1e-12)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("bounds", [None, (-1.0, 4.0)], ids=["free", "bounds"])
def test_what_is_counted_is_what_was_asked(cls, base, bounds):
    asked = Counting()
    search = cls(start(), 0.5, seed=1, base=base, lr=1e-3, bounds=bounds)
    for _ in range(12):
        search.step(asked)
    assert (search.nfev, search.ngev, search.nit) == (asked.nfev, asked.ngev, 12)
    assert search.best.f == asked.lowest
    assert len(search.history) == 12
    assert search.history[-1].nfev == search.nfev
    if bounds:
        assert bool(((search.center >= -1) & (search.center <= 4)).all())


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("after", [1, 12])
def test_resumed_bit_for_bit(cls, base, after):
    problem = problems.get("rastrigin", dim=3, dtype=torch.float64)

    def fresh():
        return cls(start(), 0.5, seed=7, base=base)

    search, other = fresh(), fresh()
    for _ in range(after):
        search.step(problem)
    other.load_state_dict(search.state_dict())
    for _ in range(8):
        assert other.step(problem) == search.step(problem)
    assert torch.equal(other.center, search.center)
    assert torch.equal(other.best.x, search.best.x)


@pytest.mark.parametrize("cls", [ReactiveEscape, Alternating, AttentionRestart])
def test_a_look_around_is_undone_unless_it_is_better(cls):
    problem = problems.get("sphere", dim=3, dtype=torch.float64)
    search = cls(torch.zeros(3, dtype=torch.float64), 0.5, base="gd")
    for _ in range(12):
        search.step(problem)
    assert search.attempts > 0
    assert search.escapes == 0
    assert not search.center.any()


@pytest.mark.parametrize("cls", ALL)
def test_where_nothing_is_finite_the_point_stays(cls):
    asked = Counting()
    asked.bad = True
    search = cls(start(), 0.5, base="gd", lr=0.0)
    for _ in range(30):
        search.step(asked)
    assert torch.equal(search.center, start())
    assert search.escapes == 0


def test_rates_in_one_pass_are_those_one_by_one():
    problem = problems.get("trapped", dtype=torch.float64)
    x0 = torch.full((problem.dim,), 1.0, dtype=torch.float64)
    asked = Counting()
    asked.problem = problem
    fused, single = LearningRateAttention(x0, 1.0, lr=1e-2), LearningRateAttention(x0, 1.0, lr=1e-2)
    for _ in range(10):
        assert fused.step(problem).rate == pytest.approx(single.step(asked).rate, rel=1e-6)


def test_rates_are_so_many_or_those_given():
    x0 = torch.ones(1, dtype=torch.float64)
    slope = Counting()
    slope.value_and_gradient = lambda x: (x.sum(), torch.ones_like(x))

    for more, wanted in (
        ({"lr": 0.5, "rates": 2}, [0.5 / 4096, 4.0]),
        ({"lr": 0.5, "rates": (0.25, 0.5)}, [0.25, 0.5]),
        ({"rates": (0.25, 0.5)}, [0.25, 0.5]),  # nothing is measured
        ({"rates": 2}, [1 / 4096, 8.0]),
    ):
        asked = []
        slope.problem = lambda points, asked=asked: asked.append(points) or points.sum(-1)
        LearningRateAttention(x0, 1.0, **more).step(slope)
        assert (x0 - asked[0]).flatten().tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"base": "newton"}, ValueError, "unknown base 'newton': known are lbfgs|known are gd"),
        ({"base": 3}, TypeError, "base must be one of gd, .* not 3"),
        ({"seed": -1}, ValueError, "seed must be between 0"),
        ({"bounds": (5.0, 6.0)}, ValueError, "x0 lies outside the bounds"),
    ],
)
def test_bad_arguments(cls, more, error, text):
    with pytest.raises(error, match=text):
        cls(start(), 0.5, **more)
    with pytest.raises(ValueError, match="sigma0 must be finite and above 0, not 0"):
        cls(start(), 0)


@pytest.mark.parametrize(
    ("cls", "more", "text"),
    [
        (ReactiveEscape, {"window": 0}, "window must be at least 1, not 0"),
        (ReactiveEscape, {"tol": -1.0}, "tol must be finite and at least 0"),
        (Alternating, {"attention_steps": 0}, "attention_steps must be at least 1"),
        (AttentionRestart, {"growth": 0.5}, "growth must be finite and at least 1"),
        (LearningRateAttention, {"rates": ()}, "rates is empty"),
        (LearningRateAttention, {"rates": -1}, "rates must be at least 1, not -1"),
        (LearningRateAttention, {"rates": [0.1], "lr": 0.0}, "multiples of lr, which is 0"),
        (LearningRateAttention, {"share": 0.0}, r"share must be in \(0, 1\]"),
        (LearningRateAttention, {"beta": -1.0}, "beta must be finite"),
    ],
)
def test_bad_settings(cls, more, text):
    with pytest.raises(ValueError, match=text):
        cls(start(), 0.5, **more)


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="state of 'Alternating', not of 'LearningRateAttention'"):
        LearningRateAttention(start(), 1.0).load_state_dict(Alternating(start(), 1.0).state_dict())
    with pytest.raises(ValueError, match="the state is of 4 coordinates, this search of 3"):
        Alternating(start(), 1.0).load_state_dict(Alternating(start(4), 1.0).state_dict())


def test_weights_have_the_wanted_effective_number_and_no_scale():
    losses = torch.rand(50, dtype=torch.float64)
    weights = weigh(losses, None, 0.3)
    assert float(1 / weights.square().sum()) == pytest.approx(15, rel=1e-6)
    torch.testing.assert_close(weigh(1e6 * losses - 3e5, None, 0.3), weights, rtol=1e-6, atol=0)
    losses[3], losses[5], losses[7] = math.nan, math.inf, -math.inf
    weights = weigh(losses, 2.0, 0.3)
    assert weights[[3, 5, 7]].tolist() == [0, 0, 0]
    good = torch.isfinite(losses)
    torch.testing.assert_close(weights[good], torch.softmax(-2 * losses[good], 0))
    assert not weigh(losses[[3, 5, 7]], None, 0.3).any()
    assert weigh(torch.ones(4).double(), None, 0.3).tolist() == [0.25] * 4
