"""The native step against the reference: random shapes, strides, dtypes and modes."""

from __future__ import annotations

from types import ModuleType

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from .cases import LAYOUTS, assert_close, make_case

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MODES = {
    "shared": {},
    "general": {"momentum": 0.8},
    "dampened": {"dampening": 0.3},
    "no-momentum": {"momentum": 0.0},
    "nesterov": {"nesterov": True},
    "nesterov-general": {"nesterov": True, "momentum": 0.5},
    "l2": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled": True},
    "maximize": {"maximize": True, "weight_decay": 0.1},
}
GATES = {
    "given": {},
    "gate": {"gated": True},
    "gate-per-tensor": {"gated": True, "per_tensor": True},
    "gate-without-network": {"gated": True, "hidden": 0, "normalize": False},
}

shapes = st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), min_size=1, max_size=6)


@settings(max_examples=400)
@given(
    shapes=shapes,
    dtypes=st.lists(st.sampled_from(FLOATS), min_size=6, max_size=6),
    layout=st.sampled_from(LAYOUTS),
    mode=st.sampled_from(sorted(MODES)),
    gating=st.sampled_from(sorted(GATES)),
    scale=st.sampled_from([None, 2.0, 0.125]),
    finish=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_random_steps(native, shapes, dtypes, layout, mode, gating, scale, finish, seed):
    mine = make_case(
        shapes, dtypes[: len(shapes)], layout=layout, seed=seed, **MODES[mode], **GATES[gating]
    )
    mine.grad_scale = None if scale is None else torch.tensor(scale)
    mine.finish = finish
    theirs = mine.copy()
    mine.step()
    theirs.reference_step()
    assert_close(mine, theirs)
    if mine.group.gate is not None and finish:
        mine.hypergradient()
        theirs.reference_hypergradient()
        assert_close(mine, theirs)


@pytest.mark.parametrize("gating", GATES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_tensors(native: ModuleType, threads: int, dtype, mode: str, gating: str) -> None:
    """Several chunks, with ends that fill neither a chunk nor a vector."""
    shapes = [(40001,), (7, 16384), (16385,), (3,)]
    mine = make_case(shapes, dtype, **MODES[mode], **GATES[gating])
    theirs = mine.copy()
    mine.step()
    theirs.reference_step()
    assert_close(mine, theirs)


ODD = [(0,), (), (3, 0, 2), (5,), (2, 2)]


@pytest.mark.parametrize("gating", GATES)
@pytest.mark.parametrize("length", [1, 300])
def test_lists_with_odd_tensors_everywhere(native, threads: int, length: int, gating: str) -> None:
    """Empty and 0-d tensors in every position of a round, and at both ends of the list."""
    for first in range(len(ODD)):
        shapes = [ODD[(first + i) % len(ODD)] for i in range(length)]
        mine = make_case(shapes, seed=first, momentum=0.5, **GATES[gating])
        theirs = mine.copy()
        mine.step()
        theirs.reference_step()
        assert_close(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("gating", ["given", "gate-per-tensor"])
def test_five_thousand_tensors(native: ModuleType, threads: int, gating: str) -> None:
    mine = make_case([ODD[i % len(ODD)] for i in range(5000)], momentum=0.5, **GATES[gating])
    theirs = mine.copy()
    mine.step()
    theirs.reference_step()
    assert_close(mine, theirs)


@pytest.mark.parametrize("gating", GATES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_number_of_threads_is_not_in_the_bits(native: ModuleType, dtype, gating: str) -> None:
    shapes = [(50000,), (), (16384, 3), (0,), (129,)]
    first = make_case(shapes, dtype, momentum=0.5, nesterov=True, **GATES[gating])
    copies = [first.copy() for _ in range(4)]
    torch.set_num_threads(1)
    first.step()
    for threads, case in zip((1, 2, 3, 8), copies, strict=True):
        torch.set_num_threads(threads)
        case.step()
        assert case.bytes() == first.bytes(), f"{threads} threads"


def test_absurd_numbers_of_threads_are_survived(native: ModuleType) -> None:
    first = make_case([(100000,)])
    plain = first.copy()
    plain.step()
    for threads in (0, 1, 10**6, 2**62):
        case = first.copy()
        plan = native.BlendPlan(*case.plan_arguments())
        plan.set_gradients(case.grads)
        plan.step([case.group], None, None, True, threads)
        assert case.bytes() == plain.bytes()


def test_gaps_between_tensors_are_left_alone(native: ModuleType) -> None:
    """Neighbours in one allocation keep their bytes; unaligned starts are taken as they are."""
    for start in range(4):
        arena = torch.arange(200, dtype=torch.float32)
        case = make_case([(37,)])
        case.params = [arena[start : start + 37].copy_(case.params[0])]
        case.exp_avgs = [arena[start + 40 : start + 77].copy_(case.exp_avgs[0])]
        case.exp_avg_sqs = [arena[start + 80 : start + 117].copy_(case.exp_avg_sqs[0])]
        before, theirs = arena.clone(), case.copy()
        case.step()
        theirs.reference_step()
        assert_close(case, theirs)
        outside = torch.ones(200, dtype=torch.bool)
        for at in (0, 40, 80):
            outside[start + at : start + at + 37] = False
        assert torch.equal(arena[outside], before[outside])
