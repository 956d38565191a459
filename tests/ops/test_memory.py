"""Nothing leaks: not over many steps, not over many plans, not over many errors."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from .bad_tensors import KINDS
from .cases import make_case
from .test_plans import Stand

STATM = Path("/proc/self/statm")


def resident_kilobytes() -> int:
    return int(STATM.read_text().split()[1]) * 4


def growth(work: Callable[[], None], repeats: int) -> tuple[int, int]:
    """Return the Python blocks and the bytes traced that are more after the repeats."""
    gc.collect()
    tracemalloc.start()
    before, blocks = tracemalloc.take_snapshot(), sys.getallocatedblocks()
    for _ in range(repeats):
        work()
    gc.collect()
    more = sys.getallocatedblocks() - blocks
    after = tracemalloc.take_snapshot()
    tracemalloc.stop()
    return more, sum(d.size_diff for d in after.compare_to(before, "filename"))


def assert_no_growth(work: Callable[[], None], repeats: int, calls: float = 1) -> None:
    """A cache fills once, a leak grows in every round: the least of three rounds counts.

    Each repeat makes `calls` calls of one kind, of which none may leave even half a block.
    """
    work()
    resident = resident_kilobytes() if STATM.exists() else 0
    rounds = [growth(work, repeats) for _ in range(3)]
    blocks, traced = (min(column) for column in zip(*rounds, strict=True))
    assert blocks < calls * repeats / 2, f"{blocks} blocks in {repeats} repeats"
    assert traced < 48 * calls * repeats, f"{traced} bytes of Python in {repeats} repeats"
    if STATM.exists():
        assert resident_kilobytes() - resident < 8192, "the process grew by more than 8 MB"


def test_steps_of_a_kept_plan(native: ModuleType, reading: str) -> None:
    stand = Stand(native, gated=True)

    def work() -> None:
        for p in stand.params:
            p.grad = torch.ones_like(p)
        assert stand.ready()
        stand.step()
        for p in stand.params:
            p.grad = None

    assert_no_growth(work, 1000)


def test_plans_that_come_and_go(native: ModuleType, reading: str) -> None:
    case = make_case([(64, 64), (4,), ()], gated=True, momentum=0.5)

    def work() -> None:
        case.step()
        case.hypergradient()

    assert_no_growth(work, 200)


def test_plans_that_watch(native: ModuleType, reading: str) -> None:
    stand = Stand(native)

    def work() -> None:
        plan = native.BlendPlan(*stand.case.plan_arguments())
        plan.watch(stand.groups, stand.state)
        plan.watch(stand.groups, stand.state)
        assert plan.ready(stand.groups, stand.state)

    assert_no_growth(work, 200)


def test_errors(native: ModuleType, reading: str) -> None:
    """A refused argument is let go of, however it was refused."""
    case = make_case([(2, 3), (2, 3)], momentum=0.5)
    # Those run Python code, which fills its caches.
    python = {"none", "fake", "fake-view", "wrapper", "jagged"}
    made = [make(case.params[1]) for kind, make in KINDS.items() if kind not in python]
    tensors = [x for x in made if isinstance(x, torch.Tensor)]
    counts = [sys.getrefcount(x) for x in tensors]

    def refused(call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except (ValueError, TypeError, RuntimeError):
            return
        raise AssertionError("no error")

    def work() -> None:
        for bad in made:
            for place in (0, 1, 2, 3, 5):
                arguments = case.plan_arguments()
                arguments[place] = [arguments[place][0], bad]
                refused(native.BlendPlan, *arguments)
            plan = native.BlendPlan(*case.plan_arguments())
            refused(plan.set_gradients, [case.grads[0], bad])
            plan.set_gradients(case.grads)
            refused(plan.step, [case.group._replace(beta1=bad)], None, None, True, 1)

    assert_no_growth(work, 20, calls=7)
    gc.collect()
    assert [sys.getrefcount(x) for x in tensors] == counts


def test_reference_counts_of_all_that_is_given(native: ModuleType, reading: str) -> None:
    stand = Stand(native)
    things = [*stand.params, *stand.case.exp_avgs, *stand.case.steps, stand.groups, stand.state]
    things += [*stand.groups, *stand.state.values(), *stand.case.grads]
    stand.ready()
    stand.step()
    gc.collect()
    counts = [sys.getrefcount(x) for x in things]
    for _ in range(200):
        assert stand.ready()
        stand.step()
    gc.collect()
    assert [sys.getrefcount(x) for x in things] == counts
