"""A bad tensor anywhere raises an error that names it, before anything has been written."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from .bad_tensors import KINDS, OBJECTS, STRIDES
from .cases import COLUMNS, Case, make_case

ERRORS = (ValueError, TypeError, RuntimeError)
SHAPES_OF_CASE = ((4,), (2, 3), (2, 2), ())


def case_with_everything() -> Case:
    """Return a case in which every optional tensor is given."""
    case = make_case(SHAPES_OF_CASE, gated=True, nesterov=True, momentum=0.5, count=2)
    assert all(getattr(case, name) for name in COLUMNS)
    case.grad_scale, case.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    return case.keep_storages()


def replaced(case: Case, name: str, index: int, x: Any) -> Case:
    """Return the case with another `name[index]`, on the same memory elsewhere."""
    column = [*getattr(case, name)]
    column[index] = x
    return replace(case, **{name: column})


def assert_refused(case: Case, bad: Case, call: str, names: str) -> str:
    """`bad` raises an error that matches `names`, and the memory of `case` keeps its bytes."""
    before = case.bytes()
    with pytest.raises(ERRORS) as caught:
        getattr(bad, call)()
    text = str(caught.value)
    assert re.search(names, text), f"{text!r} does not name {names!r}"
    assert case.bytes() == before
    return text


@pytest.mark.parametrize("call", ["step", "hypergradient"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_every_list(way: str, kind: str, call: str) -> None:
    case = case_with_everything()
    good = case_with_everything()
    for name in COLUMNS:
        model = getattr(case, name)[1]
        if (kind in STRIDES and model.numel() < 2) or (name == "steps" and kind == "float32"):
            continue
        if kind == "none" and name in ("momentum_buffers", "directions"):
            continue  # a tensor may lack either
        bad = replaced(case, name, 1, KINDS[kind](model))
        # Parameters are the measure: a shape that only differs is told of the others.
        names = r"\[1\]" if name == "params" else rf"{name}\[1\]"
        assert_refused(case, bad, call, names)
    getattr(good, call)()  # nothing else was wrong with it


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(STRIDES) - {"2^62-in-many-dims"}))
def test_in_every_scalar_and_vector(way: str, kind: str) -> None:
    case = case_with_everything()
    fields: dict[str, Tensor] = {"lr": torch.tensor(1e-2), "gate": case.group.gate}
    fields["sums"] = case.group.sums
    for name, model in fields.items():
        if name == "lr" and kind in ("number", "numpy", "float64"):
            continue  # which is what lr may be
        if name == "gate" and kind in ("none", "float64"):
            continue  # no gate is another case; float64 is the right one
        if name == "sums" and kind == "float64":
            continue
        bad = replace(case, group=case.group._replace(**{name: KINDS[kind](model)}))
        assert_refused(case, bad, "step", rf"groups?(\[0\])?\.{name}\b")
    for name in ("grad_scale", "found_inf"):
        if kind != "none":
            bad = replace(case, **{name: KINDS[kind](torch.tensor(1.0))})
            assert_refused(case, bad, "step", name)
    given = replace(case, group=case.group._replace(gate=None, sums=None, alpha=torch.tensor(0.5)))
    if kind not in ("number", "numpy", "float64"):
        bad = replace(given, group=given.group._replace(alpha=KINDS[kind](torch.tensor(0.5))))
        assert_refused(case, bad, "step", r"groups?(\[0\])?\.alpha")


@pytest.mark.parametrize("call", ["step", "hypergradient"])
def test_lists_that_are_none(way: str, call: str) -> None:
    case = case_with_everything()
    others: list[Any] = [None, 3, "abc", torch.zeros(4, 2), {0: 1}, iter(()), object()]
    for name in (*COLUMNS, "units", "had_previous"):
        for other in others:
            assert_refused(case, replace(case, **{name: other}), call, rf"^{name}\b.* must be")


@pytest.mark.parametrize("call", ["step", "hypergradient"])
def test_lists_of_other_lengths(way: str, call: str) -> None:
    case = case_with_everything()
    for name in (*COLUMNS, "units", "had_previous"):
        column = getattr(case, name)
        for other in (column[:-1], [*column, column[0]], column[:1]):
            assert_refused(case, replace(case, **{name: other}), call, r"has \d+ entries, but")
        if name not in ("params", "momentum_buffers", "directions"):
            assert_refused(case, replace(case, **{name: []}), call, f"^{name} has 0 entries")
    assert_refused(case, replace(case, params=[]), call, r"has 4 entries, but params has 0")


def test_other_numbers_in_the_lists(way: str) -> None:
    case = case_with_everything()
    units = [-1, 1, 2**31, 2**40, 10**30, 1.0, "0", None, torch.tensor(0.5), (0,)]
    for other in units:
        assert_refused(case, replaced(case, "units", 1, other), "step", r"units?\b")
    for other in (None, "yes", 1.0, (True,), torch.tensor(True), object()):
        bad = replaced(case, "had_previous", 1, other)
        assert_refused(case, bad, "step", r"had_previous\[1\] must be True or False")


def test_one_group_for_tensors_on_two_devices(way: str) -> None:
    case = case_with_everything()
    moved = replace(case, **{name: [x.to("meta") for x in getattr(case, name)] for name in COLUMNS})
    assert_refused(case, moved, "step", r"params\[0\].*meta")


def overlapping(case: Case) -> dict[str, Case]:
    """Return cases in which something that is written shares memory with something else."""
    p = torch.zeros(100)
    row = p[10:16].view(2, 3)
    out = {
        f"{first} and {second}": replaced(case, second, 1, getattr(case, first)[1])
        for i, first in enumerate(COLUMNS[:-1])
        for second in COLUMNS[i + 1 : -1]
    }
    for name in COLUMNS[:-1]:
        if name != "grads":
            with_part = replaced(replaced(case, name, 1, row), "params", 2, p[12:16].view(2, 2))
            out[f"part of {name} and params"] = with_part
            out[f"gradient in {name}"] = replaced(
                replaced(case, name, 1, row), "grads", 2, p[15:19].view(2, 2)
            )
    out["a tensor twice"] = replaced(case, "params", 2, case.params[1].flatten()[:4].view(2, 2))
    out["step count in a moment"] = replaced(case, "steps", 0, case.exp_avgs[1][1, 2])
    out["one step count for two"] = replaced(case, "steps", 0, case.steps[1])
    group = case.group
    memory = torch.zeros(group.gate.numel() + 50, dtype=torch.float64)
    gate = memory[: group.gate.numel()].copy_(group.gate)
    sums = group.sums.numel()
    seen = memory.view(torch.float32)
    several = {
        "gate and sums": group._replace(gate=gate, sums=memory[gate.numel() - 1 :][:sums]),
        "lr in a parameter": group._replace(lr=case.params[1][0, 0]),
        "lr in the gate": group._replace(lr=group.gate[0]),
        "lr in the sums": group._replace(lr=group.sums[-1]),
    }
    out |= {name: replace(case, group=other) for name, other in several.items()}
    mine = replace(case, group=group._replace(gate=gate))
    out["gate and param"] = replaced(mine, "params", 1, seen[7:13].view(2, 3))
    out["gate and gradient"] = replaced(mine, "grads", 1, seen[7:13].view(2, 3))
    out["gate and step count"] = replaced(mine, "steps", 1, seen[7])
    out["scale in a parameter"] = replace(case, grad_scale=case.params[1][0, 0])
    out["found_inf in a moment"] = replace(case, found_inf=case.exp_avgs[1][0, 0])
    return out


@pytest.mark.parametrize("name", overlapping(case_with_everything()))
def test_shared_memory(way: str, name: str) -> None:
    case = case_with_everything()
    bad = overlapping(case)[name].keep_storages()
    case.storages += bad.storages
    text = assert_refused(case, bad, "step", "share")
    assert re.search(r"\[\d\]|gate|sums", text)


def test_what_may_share_memory(way: str) -> None:
    """Whatever is only read: one gradient for all, one scalar for all."""
    case = case_with_everything()
    case.grads[0] = case.grads[1].flatten()[:4]
    case.found_inf = torch.tensor(0.0)
    case.group = case.group._replace(lr=torch.tensor(0.01))
    case.grad_scale = case.grads[1][0, 0].abs()
    case.step()


def test_groups_share_no_gate(native: Any, reading: str) -> None:
    """Two groups of one plan: their gates and sums must be their own."""
    case = case_with_everything()
    group = case.group
    own = group._replace(gate=group.gate.clone(), sums=group.sums.clone())
    arguments = case.plan_arguments()
    arguments[6] = [0, 1, 0, 1]
    for second in (own._replace(gate=group.gate), own._replace(sums=group.sums), group):
        plan = native.BlendPlan(*arguments)
        plan.set_gradients(case.grads)
        before = case.bytes()
        with pytest.raises(ValueError, match=r"groups\[\d\].* and groups\[\d\].* share memory"):
            plan.step([group, second], None, None, True, 1)
        assert case.bytes() == before
    plan = native.BlendPlan(*arguments)
    plan.set_gradients(case.grads)
    plan.step([group, own], None, None, True, 1)


def test_no_objects_are_accepted_as_lists_of_nothing(way: str) -> None:
    """Without parameters nothing is done, but nothing else may be given either."""
    case = make_case(())
    case.step()
    full = case_with_everything()
    bad = replace(case, grads=full.grads)
    assert_refused(full, bad, "step", "grads has 4 entries, but params has 0")


def test_kinds_are_what_they_say() -> None:
    good = torch.arange(6.0).view(2, 3)
    made = {name: make(good) for name, make in KINDS.items()}
    assert all(isinstance(x, Tensor) == (name not in OBJECTS) for name, x in made.items())
    assert made["negated"].is_neg()
    assert made["conjugated"].is_conj()
    assert made["2^62-elements"].numel() == made["2^62-in-many-dims"].numel() == 2**62
