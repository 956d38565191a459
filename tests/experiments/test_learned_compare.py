"""Differences paired by seed, what is called below or level, and what a family has."""

from __future__ import annotations

import math

import pytest

from unstuck.experiments.learned_compare import Chosen, Comparison, Difference, average, families


@pytest.mark.parametrize(
    ("left", "right", "verdict"),
    [
        ([1.0, 2.0, 3.0], [2.0, 3.1, 4.0], "below"),
        ([2.0, 3.1, 4.0], [1.0, 2.0, 3.0], "above"),
        ([1.0, 2.0, 3.0], [2.0, 0.0, 4.0], "level"),
        ([1.0, 1.0], [1.0, 1.0], "level"),
        ([1.0], [1.5], "below"),
        ([1.0, None], [9.0, 9.0], "above"),
        ([9.0, 9.0], [1.0, None], "below"),
        ([1.0, None], [None, 1.0], "level"),
    ],
)
def test_verdicts(left, right, verdict):
    assert Difference.of(left, right).verdict == verdict


def test_differences_are_paired():
    found = Difference.of([10.0, 20.0, 30.0], [11.0, 21.0, 32.0])
    assert found.mean == pytest.approx(-4 / 3)
    assert found.error == pytest.approx(math.sqrt(1 / 3) / math.sqrt(3))


def cell(train, validation):
    return {"train": {"loss": train}, "validation": {"loss": validation}}


def test_the_lowest_mean_is_chosen_and_what_diverged_is_not():
    cells = {"a": cell([1.0, 3.0], [0.0, 0.1]), "b": cell([1.5, 1.6], [9.0, None])}
    assert average([1.0, None]) == math.inf
    assert Chosen.of(cells, "train").name == "b"
    assert Chosen.of(cells, "validation").name == "a"


def comparison(family, train, validation, strict):
    rule = Chosen("x 1", cell([1.0, 1.0], [1.0, 1.0]))
    best = Chosen("a", cell([1.0 - train] * 2, [1.0 - validation] * 2))
    tuned = Chosen("b", cell([9.0] * 2, [1.0 - strict] * 2))
    return Comparison("task", family, rule, rule, best, tuned, (rule,))


def test_both_are_tuned_by_validation_loss_too():
    rules = {"x 0.1": cell([2.0, 2.1], [1.0, 1.1]), "x 1": cell([0.1, 0.2], [5.0, 5.1])}
    others = {"a": cell([3.0, 3.2], [1.1, 1.1]), "b": cell([0.3, 0.3], [9.0, 9.0])}
    one = Comparison.of("task", "family", rules, others)
    assert (one.rule.name, one.rule_by_validation.name) == ("x 1", "x 0.1")
    assert (one.by_training.name, one.by_validation.name) == ("b", "a")
    assert one.trains_below
    assert one.validates
    assert not one.validates_strictly
    assert one.tuned("train").mean == pytest.approx(-1.05)
    assert one.tuned("validation").mean == pytest.approx(-0.05)
    assert one.tuned_trains_below
    assert one.tuned_validates
    worse = Comparison.of("task", "family", {"x 1": rules["x 1"]}, others)
    assert worse.tuned_trains_below
    assert not worse.tuned_validates
    assert not families([one, worse])["family"]["tuned_both"]


def test_a_multiplier_may_do_both_that_has_not_the_lowest_training_loss():
    rules = {"x 0.1": cell([2.0, 2.1], [1.0, 1.1]), "x 1": cell([0.1, 0.2], [5.0, 5.1])}
    one = Comparison.of("task", "family", rules, {"a": cell([3.0, 3.2], [1.1, 1.1])})
    assert one.rule.name == "x 1"
    assert not one.validates
    assert one.doing_both == ["x 0.1"]
    assert families([one])["family"]["one_does_both"]
    other = Comparison.of("task", "family", rules, {"a": cell([1.0, 1.2], [1.1, 1.1])})
    assert not other.one_does_both


def test_a_family_has_what_all_its_tasks_have():
    below, level, above = -0.5, 0.0, 0.5
    found = families(
        [
            comparison("good", below, level, below),
            comparison("good", below, below, level),
            comparison("half", below, level, above),
            comparison("half", level, level, level),
            comparison("strict", below, above, level),
        ]
    )
    assert found["good"] == dict.fromkeys(found["good"], True)
    assert found["half"] == {
        "trains_below": False,
        "validates": True,
        "validates_strictly": False,
        "both": False,
        "one_does_both": False,
        "both_strictly": False,
        "tuned_trains_below": True,
        "tuned_validates": False,
        "tuned_both": False,
    }
    assert found["strict"]["both_strictly"]
    assert not found["strict"]["both"]
