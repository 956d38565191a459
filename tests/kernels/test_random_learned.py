"""Bad and random arguments at the plans of learned rules: an error that names what is wrong and
changes nothing, or a step that writes its tensors and nothing around them; never a crash.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from unstuck.learned import LSTM, MLP
from unstuck.learned.mlp import shape_inputs
from unstuck.ops.learned import Group

from ..ops.bad_tensors import KINDS, STRIDES
from ..ops.random_arguments import NUMBERS, OBJECTS, any_list
from ..ops.test_random_arguments import attempt
from ..ops.test_random_candidates import anything
from .conftest import Backend

pytestmark = pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
SHAPES = [(3, 5), (2, 2), (), (0,)]
PLANS = {"mlp": "LearnedPlan", "lstm": "LstmPlan"}
COLUMNS = {
    "mlp": ("params", "exp_avgs", "exp_avgs_slow", "exp_avg_sqs", "stats", "steps"),
    "lstm": ("params", "exp_avgs", "exp_avg_sqs", "hidden", "cells", "steps"),
}
MARGIN = 8  # elements before and behind each tensor


@dataclass
class Call:
    """What a plan, its gradients and its step are given, and all memory that they may touch."""

    kind: str
    plan: list[Any]
    grads: Any
    step: list[Any]
    tensors: list[Tensor]
    storages: list[Tensor]

    def run(self, native: ModuleType) -> None:
        if self.kind == "students":
            lent = None
            if hasattr(native, "learned_students_workspace"):
                lent = torch.zeros(1000, dtype=torch.float64)
            native.learned_students(*self.plan, self.grads, *self.step, lent)
            return
        plan = getattr(native, PLANS[self.kind])(*self.plan)
        if size := plan.workspace_size():
            plan.set_workspace(torch.zeros(size, dtype=torch.float64))
        plan.set_gradients(self.grads)
        plan.step(*self.step)

    def bytes(self) -> list[bytes]:
        return [x.view(torch.uint8).numpy().tobytes() for x in self.storages]

    def margins(self) -> list[bytes]:
        edges = [x for s in self.storages for x in (s[:MARGIN], s[-MARGIN:])]
        return [x.view(torch.uint8).numpy().tobytes() for x in edges]


def good(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Call:
    """Return a call that fits, every tensor with a margin around it."""
    generator = torch.Generator().manual_seed(seed)
    tensors: list[Tensor] = []
    storages: list[Tensor] = []

    def new(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        drawn = torch.rand(size, generator=generator).to(dtype)
        storages.append(torch.full((drawn.numel() + 2 * MARGIN,), 7.0, dtype=dtype))
        end = MARGIN + drawn.numel()
        tensors.append(storages[-1][MARGIN:end].view(size).copy_(drawn))
        return tensors[-1]

    def number() -> Tensor:
        return new(dtype=torch.float32)

    rule = LSTM("rich", 3) if kind == "lstm" else MLP(2, 3)
    size = sum(p.numel() for p in rule.parameters())
    options = [torch.ones(()), torch.zeros(()), number()]  # grad_scale, found_inf, lr
    groups = [tuple(Group()), tuple(Group(options[2], 0.1, 9.0, True))]
    numels = [torch.Size(s).numel() for s in SHAPES]
    traits = [shape_inputs(s) for s in SHAPES]
    likes = [[new(*s) for s in SHAPES] for _ in range(4 if kind == "mlp" else 3)]
    if kind == "mlp":
        columns = [*likes, [new(7) for _ in SHAPES], [number() for _ in SHAPES]]
        net: list[Any] = [new(size, dtype=torch.float32), 2, 3]
        plan = [*columns, [0, 1, 0, 1], traits]
    elif kind == "lstm":
        wide = [[new(3, n) for n in numels] for _ in range(2)]
        plan = [*likes, *wide, [number() for _ in SHAPES], [0, 1, 0, 1], 3]
        net = [new(size, dtype=torch.float32), 2, True, 0.5]
    else:
        points = [new(4, sum(numels)) for _ in range(2)]
        states = [[new(4, n) for n in numels] for _ in range(3)]
        stats, steps = [new(4, 7) for _ in numels], [new(4) for _ in numels]
        plan = [*points, *states, stats, steps, numels]
        return Call(kind, plan, traits, [new(4, size), 2, 3, 0.5, 9, 1], tensors, storages)
    grads = [new(*s) for s in SHAPES]
    return Call(kind, plan, grads, [groups, *net, *options[:2], 1], tensors, storages)


def change(choose: random.Random, call: Call) -> None:
    """Put something else in one place."""
    arguments = choose.choice([call.plan, call.plan, call.step])
    place = choose.randrange(len(arguments) + 1)
    if place == len(arguments):
        call.grads = changed(choose, call.grads, call.tensors)
    else:
        arguments[place] = changed(choose, arguments[place], call.tensors)


def changed(choose: random.Random, value: Any, others: list[Tensor]) -> Any:
    if not isinstance(value, (list, tuple)) or not value:
        return anything(choose, value, others)
    if choose.random() < 0.2:
        return any_list(choose, list(value))
    items = list(value)
    i = choose.randrange(len(items))
    items[i] = changed(choose, items[i], others)
    return type(value)(items)


@pytest.mark.parametrize("dlpack", [True, False], ids=["dlpack", "slow"])
@pytest.mark.parametrize("kind", ["mlp", "lstm", "students"])
def test_random_arguments(backend: Backend, kind: str, dlpack: bool) -> None:
    native, outcomes = backend.module, [0, 0]
    native.init(torch, dlpack=dlpack)
    try:
        for seed in range(500):
            choose = random.Random(seed)
            call = good(kind, seed)
            before, margins = call.bytes(), call.margins()
            for _ in range(choose.randrange(3)):
                change(choose, call)
            text = attempt(lambda: call.run(native))  # noqa: B023
            assert call.margins() == margins
            assert not text or call.bytes() == before, text
            outcomes[bool(text)] += 1
    finally:
        native.init(torch)
    assert min(outcomes) > 100


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
@pytest.mark.parametrize("what", KINDS)
def test_bad_tensors_in_every_list(backend: Backend, kind: str, what: str) -> None:
    for place, name in enumerate((*COLUMNS[kind], "grads")):
        call = good(kind)
        column = call.grads if name == "grads" else call.plan[place]
        if what in STRIDES and column[1].dim() != 2:
            continue
        if what == "float32":
            continue
        column[1] = KINDS[what](column[1])
        before = call.bytes()
        text = attempt(lambda: call.run(backend.module))  # noqa: B023
        # Parameters are the measure: a shape that only differs is told of the others.
        expected = r"\[1\]" if name == "params" else rf"{name}\[1\]"
        assert re.search(expected, text), f"{name}: {text!r}"
        assert call.bytes() == before
    good(kind).run(backend.module)  # nothing else was wrong with it


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_no_two_share_memory(backend: Backend, kind: str) -> None:
    columns = range(len(COLUMNS[kind]))
    for first in columns:
        for second in (*columns, "grads"):
            call = good(kind)
            other = call.grads if second == "grads" else call.plan[second]
            if second == first:
                other[1] = other[0].flatten()[: other[1].numel()].view(other[1].shape)
            else:
                at = call.plan[first][1].flatten()
                if other[1].numel() > at.numel():
                    continue
                other[1] = at[: other[1].numel()].view(other[1].shape)
            before = call.bytes()
            assert "share" in attempt(lambda: call.run(backend.module))  # noqa: B023
            assert call.bytes() == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_types_write_nothing_around_them(backend: Backend, dtype: torch.dtype) -> None:
    call = good("mlp", dtype=dtype)
    before, margins = call.bytes(), call.margins()
    call.run(backend.module)
    assert call.margins() == margins
    assert call.bytes() != before


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_numbers_of_groups_and_networks(backend: Backend, kind: str) -> None:
    """Any object in the place of any number."""
    outcomes = [0, 0]
    for place in range(5 if kind == "lstm" else 3):
        for junk in (*NUMBERS, *OBJECTS):
            call = good(kind)
            if place == 0:
                call.step[0][0] = (1.0, junk, None, False)
            else:
                call.step[1 + place % (len(call.step) - 4)] = junk
            before, margins = call.bytes(), call.margins()
            text = attempt(lambda: call.run(backend.module))  # noqa: B023
            assert not text or call.bytes() == before
            assert call.margins() == margins
            outcomes[bool(text)] += 1
    assert min(outcomes) > 5
