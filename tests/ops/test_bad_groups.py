"""A bad setting raises an error that names it and shows it, before anything has been written."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from unstuck.ops import gate

from .cases import make_case
from .test_bad_tensors import assert_refused, case_with_everything

NAN, INF = math.nan, math.inf
NO_NUMBER = ["0.1", b"1", None, (0.1,), [], {}, 1j, object(), float, 10**400, np.zeros(2)]
NO_FLAG = ["yes", None, 1.0, NAN, (), torch.tensor(True), object()]
RATES = ("sgd_lr_ratio", "eps", "weight_decay", "momentum", "meta_lr", "total_steps")
BAD: dict[str, list[Any]] = {
    **{name: [NAN, INF, -INF, -1.0, -1e-300, -1, *NO_NUMBER] for name in RATES},
    "lr": [NAN, INF, -INF, -1.0, -1e-300, *NO_NUMBER],
    "beta1": [NAN, INF, -0.1, 1.0, 1, 1.5, -INF, *NO_NUMBER],
    "beta2": [NAN, INF, -0.1, 1.0, 1, 1.5, -INF, *NO_NUMBER],
    "dampening": [NAN, INF, -INF, *NO_NUMBER],
    **dict.fromkeys(("decoupled", "nesterov", "maximize", "learn", "normalize"), NO_FLAG),
    "hidden": [-1, 2, 4, 4097, 2**31, 2**63, 10**30, 3.0, "3", None, NAN],
    "units": [0, -1, 2, 2**31, 2**62, 10**30, 1.0, "1", None, NAN],
}


@pytest.mark.parametrize("call", ["step", "hypergradient"])
@pytest.mark.parametrize("name", BAD)
def test_settings(way: str, name: str, call: str) -> None:
    case = case_with_everything()
    # With another size of the gate it is the vector that does not fit.
    names = r"\.(gate|hidden|units)\b" if name in ("hidden", "units") else rf"\.{name}\b"
    for value in BAD[name]:
        bad = replace(case, group=case.group._replace(**{name: value}))
        text = assert_refused(case, bad, call, names)
        if type(value) in (int, float, str) and name not in ("hidden", "units"):
            assert (repr(value) in text) or len(repr(value)) > 80


@pytest.mark.parametrize("value", [NAN, INF, -0.01, 1.01, 2, -1, *NO_NUMBER], ids=repr)
def test_alpha(way: str, value: Any) -> None:
    case = make_case()
    bad = replace(case, group=case.group._replace(alpha=value))
    assert_refused(case, bad, "step", r"\.alpha\b")


def test_rates_that_overflow_together(way: str) -> None:
    case = make_case()
    bad = replace(case, group=case.group._replace(lr=1e308, sgd_lr_ratio=100.0))
    assert_refused(case, bad, "step", r"\.sgd_lr_ratio times lr must be finite.* 100.0 and 1e\+308")


def test_sums_are_for_a_gate(way: str) -> None:
    case = make_case()
    bad = replace(case, group=case.group._replace(sums=torch.zeros(7, dtype=torch.float64)))
    assert_refused(case, bad, "step", r"\.sums are for a gate, but the group has none")


def test_a_hypergradient_needs_a_gate(way: str) -> None:
    case = make_case()
    assert_refused(case, case, "hypergradient", r"\.gate is None, but a hypergradient needs")


def test_gate_and_sums_have_their_sizes(way: str) -> None:
    case = case_with_everything()
    good, sums = case.group.gate, case.group.sums
    longer = torch.zeros(good.numel() + 1, dtype=torch.float64)
    for other in (good[:-1], longer, good[None], good.repeat_interleave(2)[::2], sums):
        bad = replace(case, group=case.group._replace(gate=other))
        assert_refused(case, bad, "step", rf"\.gate must be a contiguous.* {good.numel()} numbers")
    for other in (sums[:-1], longer, sums[None], sums.repeat_interleave(2)[::2]):
        bad = replace(case, group=case.group._replace(sums=other))
        assert_refused(case, bad, "step", rf"\.sums must be a contiguous.* {sums.numel()} numbers")


def test_units_of_the_gate(way: str) -> None:
    case = make_case(gated=True, per_tensor=True)
    for units in ([0, 3, 1], [0, 1, 2**31 - 1], [-1, 0, 0]):
        assert_refused(case, replace(case, units=units), "step", r"units?\b")


@pytest.mark.parametrize("group", [None, 5, "group", [], {}, torch.zeros(3)], ids=repr)
def test_groups_that_are_none(way: str, group: Any) -> None:
    case = make_case()
    assert_refused(case, replace(case, group=group), "step", "group.* must be a")


def test_groups_of_another_length(way: str) -> None:
    case = make_case()
    full = tuple(case.group)
    for group in ((), full[:-1], (*full, 0.0), (full,)):
        assert_refused(case, replace(case, group=group), "step", "must have 20 fields, not")
    replace(case, group=full).step()  # a plain tuple will do


def test_numbers_that_are_no_floats(way: str) -> None:
    """Whatever stands for a number is taken as one: numpy's, integers, booleans."""
    case, plain = make_case(momentum=0.5), make_case(momentum=0.5)
    case.group = case.group._replace(
        lr=np.float32(0.5),
        sgd_lr_ratio=np.int64(2),
        eps=np.float64(1.0),
        beta1=0,
        momentum=np.array(0.5),
        weight_decay=True,
        decoupled=np.True_,
        nesterov=1,
        alpha=1,
    )
    plain.group = plain.group._replace(
        lr=0.5,
        sgd_lr_ratio=2.0,
        eps=1.0,
        beta1=0.0,
        momentum=0.5,
        weight_decay=1.0,
        decoupled=True,
        nesterov=True,
        alpha=1.0,
    )
    case.step()
    plain.step()
    assert case.bytes() == plain.bytes()


# ---------------------------------------------------------------- entry points of the module alone
def test_plan_arguments_that_only_the_module_takes(native: ModuleType, reading: str) -> None:
    case = case_with_everything()
    for groups in ([-1, 0, 0, 0], [2**31, 0, 0, 0], ["0", 0, 0, 0], [0.0] * 4, [None] * 4):
        arguments = case.plan_arguments()
        arguments[6] = groups
        with pytest.raises((ValueError, TypeError), match=r"groups\[0\] must be"):
            native.BlendPlan(*arguments)
    for groups in (None, [0], 3, "0000"):
        arguments = case.plan_arguments()
        arguments[6] = groups
        with pytest.raises((ValueError, TypeError), match=r"groups"):
            native.BlendPlan(*arguments)
    with pytest.raises(TypeError):
        native.BlendPlan()


def test_step_arguments_that_only_the_module_takes(native: ModuleType, reading: str) -> None:
    case = case_with_everything()
    plan = native.BlendPlan(*case.plan_arguments())
    before, group = case.bytes(), case.group

    def refused(error: Any, match: str, *arguments: Any, call: str = "step") -> None:
        plan.set_gradients(case.grads)
        with pytest.raises(error, match=match):
            getattr(plan, call)(*arguments)
        assert case.bytes() == before

    for groups in (None, 3, group, "group", {0: group}):
        error = (TypeError, ValueError)  # a group is itself a tuple
        refused(error, r"^groups", groups, None, None, True, 1)
        refused(error, r"^groups", groups, True, 1, call="hypergradient")
    refused(ValueError, r"belongs to groups\[0\], but 0 groups", [], None, None, True, 1)
    refused(ValueError, r"^groups\[1\]\.lr", [group, group._replace(lr=-1.0)], None, None, True, 1)
    for finish in (None, "yes", 0.5, ()):
        refused(TypeError, r"^finish must be", [group], None, None, finish, 1)
        refused(TypeError, r"^finish must be", [group], finish, 1, call="hypergradient")
    for where in (-1, 2**63, 10**30, 1.0, "1", None):
        refused((TypeError, ValueError), r"^where must be", [group], None, None, True, where)
        refused(
            (TypeError, ValueError), r"^where must be", [group], True, where, call="hypergradient"
        )


def test_no_step_without_gradients(native: ModuleType) -> None:
    case = case_with_everything()
    plan = native.BlendPlan(*case.plan_arguments())
    before = case.bytes()
    for _ in range(2):
        with pytest.raises(ValueError, match="no gradients: call ready"):
            plan.step([case.group], None, None, True, 1)
    assert case.bytes() == before
    plan.set_gradients(case.grads)
    plan.step([case.group], None, None, True, 1)
    with pytest.raises(ValueError, match="no gradients"):  # each is used once
        plan.step([case.group], None, None, True, 1)


def test_gate_size(native: ModuleType) -> None:
    for hidden in (-1, 4097, 2**31, 1.0, "3", None):
        with pytest.raises((TypeError, ValueError), match=r"^hidden must be"):
            native.gate_size(hidden, 1)
    for units in (-1, 2**31, 2.0, "3", None):
        with pytest.raises((TypeError, ValueError), match=r"^units must be"):
            native.gate_size(1, units)
    assert native.gate_size(4096, 2**31 - 1) == gate.size(4096, 2**31 - 1)
