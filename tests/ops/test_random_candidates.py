"""Thousands of random arguments at the native plan: a result, or an error that says something and
has written nothing; never a crash.
"""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from unstuck.ops.candidates import Draw, Region

from .bad_tensors import KINDS
from .random_arguments import NUMBERS, OBJECTS, Marked
from .test_random_arguments import attempt

CALLS = ("losses", "combine", "softmax", "sample", "values", "steps")


def good(choose: random.Random, call: str) -> list[Any]:
    """Return arguments that fit."""
    dim, count = choose.choice([(2, 5), (130, 3), (20, 40)])
    dtype = choose.choice([torch.float32, torch.float64])

    def vector(*size: int) -> Tensor:
        return torch.rand(*size, dtype=dtype)

    region = Region(
        vector(dim),
        0.5 if call == "steps" else choose.choice([0.5, vector(count + (call == "sample") * 2)]),
        vector(dim) if call == "steps" else choose.choice([None, vector(dim)]),
        *choose.choice([(None, None), (vector(dim) - 2, vector(dim) + 2)]),
        choose.choice(["clip", "reflect"]),
    )
    line = ("regression", vector(4, dim), vector(4), 0.1, 1.0, region.bound == "clip")
    net = ("net", vector(4, 41), torch.ones(4, dtype=torch.int64), True, 3, 1)
    data = choose.choice([None, line if region.low is None else None, net if dim == 130 else None])
    written = (vector(count), vector(dim))
    draw = Draw(choose.randrange(2**64), 1, 2, choose.choice([True, False]), 10)
    return [
        dim,
        {
            "losses": [region, draw, vector(count), 2],
            "combine": [region, draw, vector(count), vector(dim), vector(dim), 2],
            "softmax": [region, draw, 1.5, vector(count), vector(dim), vector(dim), 2],
            "sample": [region, draw, 2, vector(count, dim), 2],
            "values": [vector(count, dim), vector(count), 2],
            "steps": [data, region, vector(dim), 0.3, 0.5, draw, *written, 9.0, 2],
        }[call],
    ]


def anything(choose: random.Random, model: Any, others: list[Tensor]) -> Any:
    """Return something to stand where `model` stood."""
    if isinstance(model, Tensor) and choose.random() < 0.7:
        makers = (
            lambda: KINDS[choose.choice(list(KINDS))](model),
            lambda: choose.choice(others),
            lambda: model[:-1],
            lambda: model.clone().as_subclass(Marked),
            lambda: model.double() if model.dtype == torch.float32 else model.float(),
            lambda: model[None],
        )
        try:
            return choose.choice(makers)()
        except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
            return None
    return choose.choice([*NUMBERS, *OBJECTS])


def tensors(arguments: list[Any]) -> list[Tensor]:
    inner = [x for a in arguments for x in (a if isinstance(a, tuple) else [a])]
    return [x for x in inner if type(x) is Tensor and x.device.type == "cpu"]


def change(choose: random.Random, arguments: list[Any]) -> list[Any]:
    arguments, others = [*arguments], tensors(arguments)
    place = choose.randrange(len(arguments))
    if isinstance(arguments[place], tuple) and arguments[place] and choose.random() < 0.8:
        fields = list(arguments[place])
        inner = choose.randrange(len(fields))
        fields[inner] = anything(choose, fields[inner], others)
        if choose.random() < 0.1:
            fields = fields[:-1]
        arguments[place] = tuple(fields)
    else:
        arguments[place] = anything(choose, arguments[place], others)
    return arguments


def content(xs: list[Tensor]) -> list[bytes]:
    return [x.detach().clone().numpy().tobytes() for x in xs]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dlpack", [True, False], ids=["dlpack", "slow"])
def test_calls(native: ModuleType, call: str, dlpack: bool) -> None:
    native.init(torch, dlpack=dlpack)
    outcomes = [0, 0]
    try:
        for seed in range(700):
            choose = random.Random(seed)
            dim, arguments = good(choose, call)
            number = choose.choice([0, 1, 3, 11])
            if call == "steps":
                steps = native.AttentionPlan(number, (), dim).steps
                run = lambda *a, steps=steps: steps(*a[:6], 2, *a[6:])  # noqa: E731 not for ever
            else:
                run = getattr(native.CandidatePlan(number, (), dim), call)
            kept = tensors(arguments)
            before = content(kept)
            for _ in range(seed % 3):
                arguments = change(choose, arguments)
            text = attempt(lambda: run(*arguments))  # noqa: B023
            assert not text or content(kept) == before, text
            outcomes[bool(text)] += 1
    finally:
        native.init(torch)
    assert min(outcomes) > 100


def test_plans_are_checked(native: ModuleType) -> None:
    for arguments in ((-2, (), 3), (15, (), 3), (0, (), 0), (0, (1, 2, 3), 3), (0, [None], 3)):
        with pytest.raises((ValueError, TypeError)):
            native.CandidatePlan(*arguments)
    for junk in (*NUMBERS, *OBJECTS):
        for place in range(3):
            arguments: list[Any] = [0, (), 3]
            arguments[place] = junk
            attempt(lambda: native.CandidatePlan(*arguments))  # noqa: B023


def test_overlapping_memory_is_refused(native: ModuleType) -> None:
    plan = native.CandidatePlan(0, (), 4)
    memory = torch.zeros(12)
    region, draw = Region(memory[:4], 1.0), Draw(0)
    with pytest.raises(ValueError, match="shares memory"):
        plan.losses(region, draw, memory[2:6], 1)
    with pytest.raises(ValueError, match="share memory"):
        plan.combine(region, draw, torch.zeros(3), memory[4:8], memory[7:11], 1)
    with pytest.raises(ValueError, match="no objective"):
        native.CandidatePlan(-1, (), 4).losses(region, draw, torch.zeros(3), 1)
