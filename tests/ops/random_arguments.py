"""Random changes to the arguments of a step: some harmless, most not."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstuck.ops.blend import Group

from .bad_tensors import KINDS
from .cases import COLUMNS, Case, make_case

MODES = (
    {},
    {"momentum": 0.5},
    {"momentum": 0.0},
    {"gated": True},
    {"gated": True, "nesterov": True, "momentum": 0.5},
    {"gated": True, "per_tensor": True},
    {"gated": True, "hidden": 0},
)
OBJECTS = (None, True, 1.5, -1, "text", b"", (), [], {}, object(), np.zeros(3), torch.float32)
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 0.5, 0.9, 1.0, 1e-8, 1e300, -0.25, 2**31, 2**62, 2**63, 10**400),
    *(math.nan, math.inf, -math.inf, True, False, None, "0.5", b"1", (), [0.5], 1j),
    *(np.float32(0.25), np.int64(1), np.float64(math.nan), np.array(0.5), np.ones(2), np.True_),
)


class Marked(Tensor):
    """A subclass with memory."""


def any_tensor(choose: random.Random, case: Case, model: Tensor) -> Any:
    """Return something to stand where `model` stood."""
    others = [x for _, x in case.named()]
    other = choose.choice(others)
    makers = (
        lambda: KINDS[choose.choice(list(KINDS))](model),
        lambda: other,
        lambda: other.detach().flatten()[:1].view(model.shape) if model.numel() == 1 else other,
        lambda: model.clone(),
        lambda: torch.nn.Parameter(model.clone()),
        lambda: model.clone().as_subclass(Marked),
        lambda: model[:],
        lambda: torch.empty(0, dtype=model.dtype).expand(0),
        lambda: KINDS[choose.choice(list(KINDS))](other),
        lambda: choose.choice(OBJECTS),
    )
    try:
        return choose.choice(makers)()
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
        return choose.choice(OBJECTS)  # torch cannot make that of this tensor


def any_list(choose: random.Random, column: list[Any]) -> Any:
    return choose.choice(
        (
            lambda: choose.choice(OBJECTS),
            lambda: column[:-1],
            lambda: column[1:],
            lambda: column * 2,
            lambda: column[::-1],
            lambda: tuple(column),
            lambda: [column],
            lambda: [*column, None],
            lambda: [choose.choice(OBJECTS)] * len(column),
            lambda: iter(column),
            lambda: dict(enumerate(column)),
            list,
        )
    )()


def any_scalar(choose: random.Random, case: Case) -> Any:
    return choose.choice(
        (
            lambda: None,
            lambda: torch.tensor(choose.choice([1.0, 0.0, 0.5])),
            lambda: torch.tensor([choose.choice([1.0, 0.0, 2.0])]),
            lambda: torch.tensor(1.0, dtype=choose.choice([torch.float64, torch.int32])),
            lambda: any_tensor(choose, case, torch.tensor(1.0)),
            lambda: choose.choice(NUMBERS),
        )
    )()


def any_group(choose: random.Random, case: Case) -> Any:
    group = case.group
    name = choose.choice(Group._fields)
    if name in ("gate", "sums") or (name in ("lr", "alpha") and choose.random() < 0.5):
        model = getattr(group, name)
        model = model if isinstance(model, Tensor) else torch.tensor(0.5)
        value = any_tensor(choose, case, model)
    else:
        value = choose.choice(NUMBERS)
    changed = group._replace(**{name: value})
    whole = (
        lambda: changed,
        lambda: changed,
        lambda: changed,
        lambda: changed,
        lambda: tuple(changed),
        lambda: tuple(changed)[:-1],
        lambda: [*changed],
        lambda: choose.choice(OBJECTS),
    )
    return choose.choice(whole)()


def change(choose: random.Random, case: Case) -> Case:
    """Return the case with one argument changed, or with one tensor in one list."""
    place = choose.choice(
        (*COLUMNS, *COLUMNS, "units", "had_previous", "group", "group", "grad_scale", "found_inf")
    )
    if place == "group":
        return replace(case, group=any_group(choose, case)) if is_group(case) else case
    if place in ("grad_scale", "found_inf"):
        return replace(case, **{place: any_scalar(choose, case) if is_group(case) else None})
    column = getattr(case, place)
    if not isinstance(column, list) or not is_group(case) or choose.random() < 0.15:
        return replace(case, **{place: any_list(choose, column if type(column) is list else [])})
    column = [*column]
    for i in range(len(column)):
        if choose.random() < 0.5:
            continue
        if isinstance(column[i], Tensor):
            column[i] = any_tensor(choose, case, column[i])
        else:
            column[i] = choose.choice(NUMBERS)
        break
    return replace(case, **{place: column})


def is_group(case: Case) -> bool:
    """Whether the case is still whole enough to list its tensors."""
    lists = all(isinstance(getattr(case, name), list) for name in COLUMNS)
    return lists and isinstance(case.group, Group) and all_tensors(case)


def all_tensors(case: Case) -> bool:
    return all(isinstance(x, Tensor) for name in COLUMNS for x in getattr(case, name))


def random_case(seed: int, changes: int) -> tuple[Case, Case]:
    """Return a good case, and one made of it by this number of changes."""
    choose = random.Random(seed)
    shapes = choose.choice([[(2, 3), (4,)], [(), (0,), (3, 3)], [(1,)], [(2, 2), (2, 2), ()]])
    dtype = choose.choice([torch.float32, torch.float64, torch.bfloat16, torch.float16])
    good = make_case(
        shapes, dtype, seed=seed % 50, count=choose.choice([None, 0, 2]), **choose.choice(MODES)
    )
    bad = good
    for _ in range(changes):
        bad = change(choose, bad)
    return good, bad
