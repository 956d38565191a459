"""Thousands of random arguments at every entry point: an error that says something and changes
nothing, or the right result; never a crash.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from unstuck.ops import _native

from .cases import Case, assert_close
from .random_arguments import NUMBERS, OBJECTS, any_group, any_list, any_scalar, random_case
from .test_library import step_arguments
from .test_plans import OPTIMIZER_EDITS, TENSOR_EDITS, Stand

ERRORS = (ValueError, TypeError, RuntimeError)


def attempt(call: Callable[[], Any]) -> str:
    """Return the text of the error, or nothing."""
    try:
        call()
    except ERRORS as error:
        kind, text = type(error).__name__, str(error)
    else:
        return ""
    assert text.strip(), f"an empty {kind}"
    return text


def in_plain_torch(call: Callable[[], Any]) -> str:
    kept = _native.cpu, set(_native._warned)
    _native.cpu = None
    _native._warned.update({"cpu", "meta"})
    try:
        return attempt(call)
    finally:
        _native.cpu = kept[0]
        _native._warned.clear()
        _native._warned.update(kept[1])


def duplicate(case: Case) -> Case | None:
    """Copy what can be copied: all that a step would take can, what it only reads once or twice."""
    try:
        return case.copy()
    except Exception:
        return None


def check(native: ModuleType, seed: int, changes: int, call: str, dlpack: bool) -> None:
    native.init(torch, dlpack=dlpack)
    try:
        good, case = random_case(seed, changes)
        before, twin = good.bytes(), duplicate(case)
        text = attempt(getattr(case, call))
        if text:
            assert good.bytes() == before, f"changed something, and then: {text}"
            assert in_plain_torch(getattr(case, call)), (
                f"plain torch took it, not so native: {text}"
            )
            assert good.bytes() == before
            return
        assert twin is not None
        assert not in_plain_torch(getattr(twin, call))
        if isinstance(case.group, type(good.group)):
            assert_close(case, twin, overflow=True)
    finally:
        native.init(torch)


seeds = st.integers(0, 10**9)


@settings(max_examples=1500)
@given(seed=seeds, changes=st.integers(0, 3), dlpack=st.booleans())
def test_step(native: ModuleType, seed: int, changes: int, dlpack: bool) -> None:
    check(native, seed, changes, "step", dlpack)


@settings(max_examples=700)
@given(seed=seeds, changes=st.integers(0, 3), dlpack=st.booleans())
def test_hypergradient(native: ModuleType, seed: int, changes: int, dlpack: bool) -> None:
    check(native, seed, changes, "hypergradient", dlpack)


@settings(max_examples=500)
@given(seed=seeds, changes=st.integers(1, 3), place=st.integers(0, 19))
def test_registered_op(native: ModuleType, seed: int, changes: int, place: int) -> None:
    good, case = random_case(seed, changes)
    before = good.bytes()
    try:
        arguments = list(step_arguments(case))
    except (TypeError, AttributeError, ValueError, OverflowError):
        return  # a group that cannot be packed never gets as far as the op
    choose = random.Random(seed)
    if choose.random() < 0.5:
        known = type(arguments[place]) is list
        arguments[place] = any_list(choose, arguments[place] if known else [])
    try:
        refused = attempt(lambda: torch.ops.unstuck.blend_step_(*arguments))
    except AssertionError as error:
        assert "Please convert all Tensors to FakeTensors" in str(error)  # noqa: PT017
        refused = str(error)  # torch's own, for a fake tensor among real ones
    if refused:
        assert good.bytes() == before


@settings(max_examples=1500)
@given(seed=seeds, dlpack=st.booleans())
def test_plan(native: ModuleType, seed: int, dlpack: bool) -> None:
    """The entry points of the native class, in any order, with anything."""
    choose = random.Random(seed)
    native.init(torch, dlpack=dlpack)
    try:
        good, case = random_case(seed, choose.randrange(3))
        before = good.bytes()
        made: list[Any] = []
        source = case if isinstance(case.params, list) else good
        if attempt(lambda: made.append(native.BlendPlan(*source.plan_arguments()))):
            assert good.bytes() == before
            return
        plan = made[0]
        for _ in range(4):
            use_plan(choose, plan, case, good)
    finally:
        native.init(torch)


def use_plan(choose: random.Random, plan: Any, case: Case, good: Case) -> None:
    before = good.bytes()
    group = any_group(choose, good) if choose.random() < 0.3 else case.group
    groups = choose.choice([[group], [group, good.group], [], choose.choice(OBJECTS), (group,)])
    scalars = [any_scalar(choose, good) if choose.random() < 0.3 else None for _ in range(2)]
    finish = choose.choice([True, False, True, False, *NUMBERS])
    where = choose.choice([1, 2, 1, 2, *NUMBERS])
    junk = choose.choice(OBJECTS)
    calls: list[Callable[[], Any]] = [
        lambda: plan.set_gradients(case.grads),
        lambda: plan.set_gradients(good.grads),
        lambda: plan.set_gradients(any_list(choose, good.grads)),
        lambda: plan.step(groups, *scalars, finish, where),
        lambda: plan.step([good.group], None, None, True, 1),
        lambda: plan.hypergradient(groups, finish, where),
        lambda: plan.watch(junk, {}),
        lambda: plan.watch([{"params": junk}], {}),
        lambda: plan.watch([{"params": good.params}], dict.fromkeys(good.params, junk)),
        lambda: plan.ready(junk, junk),
        lambda: plan.ready([{"params": good.params}], {}),
        lambda: plan.set_workspace(junk),
    ]
    if attempt(choose.choice(calls)):
        assert good.bytes() == before


#: torch itself crashes when it reads a tensor whose storage was freed.
TORCH_SURVIVES = [edit for edit in TENSOR_EDITS if edit != "freed"]


def step_if_ready(stand: Stand, params: list[Any]) -> None:
    ready = False
    with contextlib.suppress(*ERRORS):
        ready = stand.ready()
    if not ready:
        assert "no gradients" in attempt(stand.step)
        return
    before = [p.detach().clone() for p in params]
    assert not attempt(stand.step)
    assert all(not torch.equal(p, b) for p, b in zip(params, before, strict=True))


@settings(max_examples=500)
@given(seed=seeds, dlpack=st.booleans())
def test_watched_optimizer(native: ModuleType, seed: int, dlpack: bool) -> None:
    """Any sequence of edits: a plan that says it is ready steps what is there now."""
    choose = random.Random(seed)
    native.init(torch, dlpack=dlpack)
    try:
        stand = Stand(native)
        kept = [*stand.params]  # edits may drop one
        for _ in range(choose.randrange(4)):
            if choose.random() < 0.5:
                edit = TENSOR_EDITS[choose.choice(TORCH_SURVIVES)]
                x = choose.choice([*kept, *stand.case.exp_avgs, *stand.case.steps])
                attempt(partial(edit, x))
            else:
                # An edit before may have taken away what this one wants.
                with contextlib.suppress(*ERRORS, KeyError, IndexError, AttributeError):
                    OPTIMIZER_EDITS[choose.choice(list(OPTIMIZER_EDITS))](stand)
            step_if_ready(stand, kept)
    finally:
        native.init(torch)


def test_errors_are_told_apart_from_success(native: ModuleType) -> None:
    """Both ends are reached often, or the tests above would say little."""
    outcomes = [0, 0]
    for seed in range(200):
        _, case = random_case(seed, seed % 4)
        outcomes[bool(attempt(case.step))] += 1
    assert min(outcomes) > 30


def test_attempt_wants_a_text() -> None:
    def silent() -> None:
        raise ValueError

    with pytest.raises(AssertionError, match="an empty ValueError"):
        attempt(silent)
