"""The ops under torch.library and torch.compile: native and in plain torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from unstuck.ops import blend
from unstuck.ops._blend_library import FLAGS, NUMBERS, pack
from unstuck.ops.blend import Group

from .cases import Case, assert_close, make_case, with_group

OPS = torch.ops.unstuck
CASES: dict[str, Callable[[], Case]] = {
    "shared": lambda: make_case(),
    "general": lambda: make_case(momentum=0.5, weight_decay=0.1),
    "gate": lambda: make_case(gated=True),
    "gate-per-tensor": lambda: make_case(gated=True, per_tensor=True, momentum=0.5),
    "gate-directions": lambda: make_case(gated=True, nesterov=True, maximize=True),
    "tensor-rates": lambda: with_group(
        make_case(), lr=torch.tensor(0.02), alpha=torch.tensor(0.7, dtype=torch.float64)
    ),
    "scaled": lambda: scaled(make_case(gated=True), 0.0),
    "overflow": lambda: scaled(make_case(gated=True), 1.0),
    "float64": lambda: make_case(dtypes=torch.float64, layout="transposed", momentum=0.5),
    "bfloat16": lambda: make_case(dtypes=torch.bfloat16, decoupled=True, weight_decay=0.1),
    "one": lambda: make_case([(7,)]),
    "empty-ones": lambda: make_case([(0,), (3,), (2, 0)], momentum=0.5),
}


def scaled(case: Case, overflow: float) -> Case:
    case.grad_scale, case.found_inf = torch.tensor(4.0), torch.tensor(overflow)
    return case


def step_arguments(case: Case) -> tuple[Any, ...]:
    return (*case.rows, *pack(case.group), case.finish, case.grad_scale, case.found_inf)


def hypergradient_arguments(case: Case) -> tuple[Any, ...]:
    return (*case.rows, *pack(case.group), case.finish)


@pytest.fixture(autouse=True)
def _quiet_compiler() -> Iterator[None]:
    """Compilers warn of their own insides."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.|sympy|importlib")
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CASES)
def test_opcheck_step(backend: str, name: str) -> None:
    """Schema, autograd registration, fake kernel, and AOT compilation with dynamic shapes."""
    checks = opcheck(OPS.blend_step_, step_arguments(CASES[name]()))
    assert set(checks.values()) == {"SUCCESS"}
    assert len(checks) == 4


@pytest.mark.parametrize("name", ["shared", "gate-directions"])
def test_opcheck_parameters_that_require_grad(backend: str, name: str) -> None:
    case = CASES[name]()
    case.params = [p.requires_grad_() for p in case.params]
    with torch.no_grad():
        checks = opcheck(OPS.blend_step_, step_arguments(case))
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("name", ["gate", "gate-per-tensor", "gate-directions"])
def test_opcheck_hypergradient(backend: str, name: str, finish: bool) -> None:
    case = CASES[name]()
    case.finish = finish
    checks = opcheck(OPS.blend_hypergradient_, hypergradient_arguments(case))
    assert set(checks.values()) == {"SUCCESS"}
    assert len(checks) == 4


@pytest.mark.parametrize("name", CASES)
def test_the_registered_op_is_the_same_step(backend: str, name: str) -> None:
    direct, through = CASES[name](), CASES[name]()
    direct.step()
    OPS.blend_step_(*step_arguments(through))
    assert direct.keep_storages().bytes() == through.keep_storages().bytes()


def test_fake_kernels_compute_nothing() -> None:
    case = make_case(gated=True)
    before = case.bytes()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = Case(
            *[[mode.from_tensor(x) for x in column] for column in case.rows[:7]],
            case.units,
            case.had_previous,
            case.group._replace(
                gate=mode.from_tensor(case.group.gate), sums=mode.from_tensor(case.group.sums)
            ),
        )
        assert OPS.blend_step_(*step_arguments(fake)) is None
        assert OPS.blend_hypergradient_(*hypergradient_arguments(fake)) is None
    assert case.bytes() == before


def test_group_survives_packing() -> None:
    group = make_case(gated=True, nesterov=True, weight_decay=0.25).group
    assert set(NUMBERS) | set(FLAGS) | {"gate", "sums", "hidden", "units"} == set(Group._fields)
    from unstuck.ops._blend_library import _unpack

    assert _unpack(*pack(group)) == group
    with_tensors = group._replace(lr=torch.tensor(0.5), alpha=torch.tensor(0.25))
    again = _unpack(*pack(with_tensors))
    assert again.lr is with_tensors.lr
    assert again.alpha is with_tensors.alpha


def test_packed_groups_of_another_size_are_refused(backend: str) -> None:
    case = make_case(gated=True)
    before = case.bytes()
    good = list(step_arguments(case))
    at = {"gate": 9, "sums": 10, "numbers": 13, "flags": 14}
    for name, text in (
        ("numbers", r"numbers must be the 11 of .*, not 10"),
        ("flags", r"flags must be the 5 of .*, not 4"),
    ):
        bad = [*good]
        bad[at[name]] = good[at[name]][:-1]
        with pytest.raises(ValueError, match=text):
            OPS.blend_step_(*bad)
    for name in ("gate", "sums"):
        bad = [*good]
        bad[at[name]] = good[at[name]] * 2
        with pytest.raises(ValueError, match="at most one gate and sums"):
            OPS.blend_step_(*bad)
    for place in range(len(good)):
        for value in ("text", object()):
            bad = [*good]
            bad[place] = value
            with pytest.raises((RuntimeError, TypeError, ValueError), match=r"\w"):
                OPS.blend_step_(*bad)
    assert case.bytes() == before


def compiled_and_eager(case: Case, work: Callable[..., Any], **options: Any) -> tuple[Case, Case]:
    """Run `work` on two copies: compiled into one graph, and as it is."""
    eager = case.copy()
    torch.compile(work, fullgraph=True, **options)(case)
    work(eager)
    return case, eager


def step_of(case: Case) -> None:
    blend.step(*case.rows, case.group, case.grad_scale, case.found_inf)


@pytest.mark.parametrize("name", CASES)
def test_compiled_into_one_graph(backend: str, name: str) -> None:
    mine, eager = compiled_and_eager(CASES[name](), step_of, backend="aot_eager")
    assert_close(mine, eager)


@pytest.mark.parametrize("name", ["tensor-rates", "gate-directions"])
def test_compiled_for_dynamic_shapes(backend: str, name: str) -> None:
    mine, eager = compiled_and_eager(CASES[name](), step_of, backend="aot_eager", dynamic=True)
    assert_close(mine, eager)


@pytest.mark.parametrize("finish", [False, True])
def test_compiled_steps_end_as_told(backend: str, finish: bool) -> None:
    """`finish` is not lost on the way, nor what a hypergradient leaves."""

    def work(case: Case) -> None:
        blend.step(*case.rows, case.group, finish=finish)
        blend.hypergradient(*case.rows, case.group, finish=finish)

    mine, eager = compiled_and_eager(make_case(gated=True), work, backend="aot_eager")
    assert_close(mine, eager)
    assert mine.group.gate[0] == 5 + finish  # steps taken


@pytest.mark.slow
@pytest.mark.parametrize("name", ["general", "gate-directions"])
def test_compiled_with_other_work_around_it(native: Any, name: str) -> None:
    """Inductor: what is read before the step and after it, and written between."""

    def work(case: Case) -> list[Tensor]:
        before = [p * 2 for p in case.params]
        grads = [g.sin() for g in case.grads]
        blend.step(case.params, grads, *case.rows[2:], case.group)
        after = [p * 3 for p in case.params]
        case.exp_avgs[0].add_(1)
        return [*before, *after]

    # No 0-d parameter: of those on the CPU, torch 2.13's Inductor reads the new value for the old
    # one around any op that writes in place.
    gated = name == "gate-directions"
    case = make_case([(2, 3), (4,)], gated=gated, nesterov=gated, momentum=0.5)
    eager = case.copy()
    compiled = torch.compile(work, fullgraph=True)
    for _ in range(2):
        for mine, theirs in zip(compiled(case), work(eager), strict=True):
            torch.testing.assert_close(mine, theirs)
    assert_close(case, eager)


def test_version_counters_rise(backend: str) -> None:
    """Autograd must notice raw writes, through every door."""
    for call in ("step", "op", "hypergradient", "hypergradient-op"):
        case = make_case(gated=True, nesterov=True, momentum=0.5, count=2)
        versions = {name: x._version for name, x in case.named()}
        if call == "step":
            case.step()
        elif call == "op":
            OPS.blend_step_(*step_arguments(case))
        elif call == "hypergradient":
            case.hypergradient()
        else:
            OPS.blend_hypergradient_(*hypergradient_arguments(case))
        for name, x in case.named():
            only_gate = call.startswith("hyper") and name not in ("gate", "sums")
            kept = name.startswith("grads") or only_gate
            assert (x._version == versions[name]) == kept, f"{call}: {name}"


def test_autograd_refuses_a_graph_whose_input_was_stepped(backend: str) -> None:
    case = make_case([(3,)])
    p = case.params[0].requires_grad_()
    loss = (p * p).sum()
    case.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensors_are_stepped(backend: str) -> None:
    """They have no version to raise."""
    with torch.inference_mode():
        case = make_case(gated=True)
        plain = make_case(gated=True)
        case.step()
        plain.reference_step()
        assert_close(case, plain)
