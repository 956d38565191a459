"""Races on functions: GD stuck and the others out, equal evaluations, no reading ahead."""

from __future__ import annotations

import json

import pytest
import torch

from unstuck import problems
from unstuck.search import Best
from unstuck.training.problem_race import RACERS, Racer, best_rate, race_on


def test_gradient_descent_is_stuck_and_the_others_are_out():
    result = race_on("trapped", budget=1500, seeds=1)
    assert result.methods == list(RACERS)
    stuck = result.final("gd")[0]
    assert stuck > result.minimum + 5
    for method in set(RACERS) - {"gd"}:
        assert result.final(method)[0] < result.minimum + 0.3, method


def test_curves_fall_and_end_at_the_budget():
    result = race_on("sphere", ("gd", "attention", "lr-attention"), dim=3, budget=300, seeds=2)
    assert result.evaluations[-1] == 300
    for run in result.runs:
        assert len(run.best) == len(result.evaluations)
        assert all(a >= b for a, b in zip(run.best, run.best[1:], strict=False))
        assert run.best[-1] < run.best[0]


class Leaping:
    """Finds a loss of 5 - k at the end of its k-th step of 30 losses."""

    nfev = 0
    best = Best(torch.zeros(3), 5.0)

    def step(self, problem):
        self.nfev += 30
        self.best = Best(self.best.x, self.best.f - 1)


def test_a_step_is_not_read_before_its_evaluations(monkeypatch):
    monkeypatch.setitem(RACERS, "leaping", Racer(lambda *_: Leaping(), "for this test"))
    result = race_on("sphere", ("leaping",), dim=3, budget=200, seeds=1)
    curve = dict(zip(result.evaluations, result.runs[0].best, strict=True))
    assert curve[29] > 5
    assert [curve[at] for at in (30, 59, 60, 89, 90, 200)] == [4, 4, 3, 3, 2, -1]


def test_the_same_seeds_give_the_same_race():
    one, two = (race_on("trapped", ("alternating",), budget=400, seeds=[3]) for _ in range(2))
    assert one.runs[0].best == two.runs[0].best


def test_the_rate_is_the_best_of_those_that_converge():
    assert best_rate(problems.get("sphere", 4), 60, rates=(1e-3, 0.4, 10.0)) == 0.4


def test_results_are_json():
    result = race_on("rastrigin", ("gd",), dim=2, budget=50, seeds=1)
    content = json.loads(result.to_json())
    assert content["runs"][0]["best"] == pytest.approx(result.runs[0].best, rel=1e-8)
    assert content["minimum"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "trapt"}, "unknown problem 'trapt'"),
        ({"name": "sphere", "dim": 2, "methods": ["sgd"]}, "unknown method 'sgd'"),
        ({"name": "sphere", "dim": 2, "budget": 0}, "budget=0"),
        ({"name": "sphere", "dim": 2, "seeds": 0}, "seeds=0"),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(ValueError, match=text):
        race_on(**arguments)
