"""The Adam op: torch's bits, errors before anything is written, torch.library, the fallback."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

from unstuck.ops import _native, adam
from unstuck.ops._adam_library import pack
from unstuck.ops.adam import Group, Stat, Tracking

NAN, INF = math.nan, math.inf
SIZES = ((1000,), (17, 3), (), (16_385,), (0,))
PAIRS = {
    "adam": (torch.optim.Adam, {}, {}),
    "l2": (torch.optim.Adam, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    "adamw": (
        torch.optim.AdamW,
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled": True},
    ),
    "rates": (
        torch.optim.Adam,
        {"betas": (0.3, 0.5), "eps": 1e-3, "maximize": True},
        {"beta1": 0.3, "beta2": 0.5, "eps": 1e-3, "maximize": True},
    ),
}


def make(sizes: Any = SIZES, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def normal() -> list[Tensor]:
        return [torch.randn(s, generator=generator).to(dtype) for s in sizes]

    tracking = Tracking(4, 0.1, 6, 0.1, 2, relative=True)
    return dict(
        params=normal(),
        grads=normal(),
        exp_avgs=[torch.zeros(s, dtype=dtype) for s in sizes],
        exp_avg_sqs=[torch.zeros(s, dtype=dtype) for s in sizes],
        steps=[torch.zeros(()) for _ in sizes],
        group=Group(lr=0.01),
        stats=torch.zeros(tracking.size, dtype=torch.float64),
        tracking=tracking,
    )


def copied(x: Any) -> Any:
    if isinstance(x, list):
        return [copied(y) for y in x]
    return x.clone() if isinstance(x, Tensor) else x


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_bits_are_those_of_torchs_fused_step(name: str, dtype: torch.dtype) -> None:
    """But for the last elements of a tensor, less than a register, which torch rounds otherwise."""
    if _native.cpu is None or _native.cpu.instruction_set() == "baseline":
        pytest.skip("needs fused multiply-adds, which torch's own kernels use")
    cls, kwargs, ours = PAIRS[name]
    case = make(dtype=dtype)
    twins = [nn.Parameter(p.clone()) for p in case["params"]]
    theirs = cls(twins, lr=0.01, fused=True, **kwargs)
    case["group"] = Group(lr=0.01, **ours)
    for t in range(20):
        case["grads"] = [torch.randn_like(p) * 10.0 ** (t % 4 - 2) for p in case["params"]]
        for p, g in zip(twins, case["grads"], strict=True):
            p.grad = g
        adam.step(**case)
        theirs.step()
    few = dict(rtol=3e-6, atol=3e-6) if dtype == torch.float32 else dict(rtol=1e-14, atol=1e-14)
    for i, p in enumerate(twins):
        state = theirs.state[p]
        for mine, other in (
            (case["params"][i], p.detach()),
            (case["exp_avgs"][i], state["exp_avg"]),
            (case["exp_avg_sqs"][i], state["exp_avg_sq"]),
        ):
            whole = mine.numel() // 16 * 16
            assert torch.equal(mine.flatten()[:whole], other.flatten()[:whole])
            torch.testing.assert_close(mine, other, **few)


def test_the_norm_is_that_of_all_gradients(way: str) -> None:
    case = make()
    case["group"], scale = Group(lr=0.01, maximize=True), torch.tensor(8.0)
    adam.step(**case, grad_scale=scale)
    norm = torch.cat([g.flatten() for g in case["grads"]]).double().norm() / 8
    torch.testing.assert_close(case["stats"][Stat.LAST_NORM], norm, rtol=1e-6, atol=0.0)


def test_versions_rise(way: str) -> None:
    case = make()
    written = [*case["params"], *case["exp_avgs"], *case["exp_avg_sqs"], *case["steps"]]
    written.append(case["stats"])
    before = [x._version for x in written]
    adam.step(**case)
    assert all(x._version > v for x, v in zip(written, before, strict=True))


def test_steps_in_two_parts_are_tracked_as_one(way: str) -> None:
    whole, parts = make(), make()
    lists = ("params", "grads", "exp_avgs", "exp_avg_sqs", "steps")
    for _ in range(5):
        adam.step(**whole)
        for chosen, finish in ((slice(0, 2), False), (slice(2, None), True)):
            some = {name: parts[name][chosen] for name in lists}
            rest = {name: parts[name] for name in parts.keys() - set(lists)}
            adam.step(**some, **rest, finish=finish)
    torch.testing.assert_close(whole["stats"], parts["stats"], rtol=1e-12, atol=0.0)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "lr": ({"group": Group(lr=-1.0)}, r"\.lr must be .*at least 0, not -1\.0"),
    "lr nan": ({"group": Group(lr=NAN)}, r"\.lr must be finite.*, not nan"),
    "beta1": ({"group": Group(0.1, beta1=1.0)}, r"\.beta1 must be in \[0, 1\), not 1\.0"),
    "eps": ({"group": Group(0.1, eps=INF)}, r"\.eps must be finite.*, not inf"),
    "weight_decay": ({"group": Group(0.1, weight_decay=-2)}, r"\.weight_decay .* not -2"),
    "window": ({"tracking": Tracking(1)}, r"tracking\.norm_window must be from 2 to .*, not 1"),
    "losses": ({"tracking": Tracking(loss_window=3)}, r"loss_window must be from 4 to .*, not 3"),
    "threshold": ({"tracking": Tracking(norm_threshold=NAN)}, "norm_threshold must be finite"),
    "patience": ({"tracking": Tracking(patience=0)}, "patience must be from 1 to .*, not 0"),
    "stats": ({"stats": torch.zeros(3, dtype=torch.float64)}, "stats must be a contiguous float64"),
    "stats dtype": ({"stats": torch.zeros(23)}, "stats must be a contiguous float64"),
    "too few": ({"steps": [torch.zeros(())]}, "steps has 1 entries, but params has 5"),
    "steps": ({"steps": [torch.zeros(2) for _ in SIZES]}, r"steps\[0\] must be one"),
    "shape": (
        {"exp_avgs": [torch.zeros(2) for _ in SIZES]},
        r"exp_avgs\[0\] must agree with .*param",
    ),
    "found_inf": ({"found_inf": torch.zeros(2)}, "found_inf must be one"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_changes_nothing(way: str, name: str) -> None:
    change, text = BAD[name]
    case = {**make(), **change}
    before = copied(list(case.values()))
    with pytest.raises((ValueError, TypeError), match=text):
        adam.step(**case)
    for x, y in zip(case.values(), before, strict=True):
        for a, b in zip(x, y, strict=True) if isinstance(x, list) else ():
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("first", "second"),
    [("params", "exp_avgs"), ("params", "grads"), ("exp_avg_sqs", "grads"), ("stats", "grads")],
)
def test_memory_that_is_written_and_shared(way: str, first: str, second: str) -> None:
    case = make([(50,)], torch.float64)
    whole = torch.zeros(200, dtype=torch.float64)
    case["stats"] = whole[:23]
    for name in ("params", "exp_avg_sqs", first):
        if name != "stats":
            case[name] = [whole[60:110]] if name == first else case[name]
    case[second] = [whole[10:60]] if first == "stats" else [whole[70:120]]
    with pytest.raises(ValueError, match=r"shares? memory"):
        adam.step(**case)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize("tracked", [False, True])
def test_opcheck(backend: str, lr: float | Tensor, tracked: bool) -> None:
    case = make([(4,), (0,), (3, 2)])
    stats = case["stats"] if tracked else None
    lists = [case[n] for n in ("params", "grads", "exp_avgs", "exp_avg_sqs", "steps")]
    packed = pack(Group(lr=lr, weight_decay=0.1), stats, case["tracking"], True)
    checks = opcheck(torch.ops.unstuck.adam_step_, (*lists, *packed, torch.tensor(2.0), None))
    assert set(checks.values()) == {"SUCCESS"}
    assert len(checks) == 4


def test_python_and_the_kernels_have_one_layout() -> None:
    if _native.cpu is None:
        pytest.skip(f"no CPU module: {_native.cpu_missing}")
    assert _native.cpu.stagnation_header() == adam.HEADER


# ---------------------------------------------------------------- plans
def plan_of(case: dict[str, Any], groups: list[int] | None = None) -> Any:
    if _native.cpu is None:
        pytest.skip(f"no CPU module: {_native.cpu_missing}")
    numbers = [0] * len(case["params"]) if groups is None else groups
    names = ("params", "exp_avgs", "exp_avg_sqs", "steps")
    return adam.plan_for(torch.device("cpu"), *(case[n] for n in names), numbers)


def step_of(plan: Any, case: dict[str, Any], **changed: Any) -> None:
    every = {"groups": [case["group"]], "stats": case["stats"], "tracking": case["tracking"]}
    every |= {"finish": True, "grad_scale": None, "found_inf": None, "where": 1, **changed}
    plan.step(*every.values())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no groups": ({"groups": []}, r"params\[0\] belongs to groups\[0\], but 0 groups"),
    "group": ({"groups": [0.1]}, r"groups\[0\] must be a tuple, not 0\.1"),
    "short group": ({"groups": [(0.1, 0.9)]}, r"groups\[0\] must have 7 fields, not 2"),
    "tracking": ({"tracking": None}, "tracking must be a tuple, not None"),
    "short tracking": ({"tracking": (1, 2)}, "tracking must have 6 fields, not 2"),
    "windows": ({"tracking": (2**21, 0.1, 6, 0.1, 2, True)}, r"norm_window must be .*1048576"),
    "other windows": ({"tracking": (5, 0.1, 6, 0.1, 2, True)}, "float64 vector of 24 numbers"),
    "finish": ({"finish": "yes"}, "finish must be True or False, not 'yes'"),
    "where": ({"where": -1}, "where must be from 0"),
    "scale": ({"grad_scale": torch.ones(1, dtype=torch.float64)}, "grad_scale must be one float32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_plan_refuses_what_does_not_fit(name: str) -> None:
    changed, text = WRONG[name]
    case = make()
    plan = plan_of(case)
    before = copied(list(case.values()))
    plan.set_gradients(case["grads"])
    with pytest.raises((ValueError, TypeError), match=text):
        step_of(plan, case, **changed)
    for x, y in zip(case.values(), before, strict=True):
        for a, b in zip(x, y, strict=True) if isinstance(x, list) else ():
            assert torch.equal(a, b)
    with pytest.raises(ValueError, match="no gradients: call ready"):
        step_of(plan, case)  # those of a step that failed are let go
    plan.set_gradients(case["grads"])
    step_of(plan, case)
    assert len(plan) == len(SIZES)
    assert plan.launches() == 1


@pytest.mark.parametrize("groups", [[0], [-1] * 5, [2**31] * 5, [0.5] * 5, None.__class__])
def test_a_plan_refuses_bad_group_numbers(groups: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"groups"):
        plan_of(make(), groups)


def test_the_threads_do_not_change_the_result() -> None:
    results = []
    for threads in (1, 2, 3):
        case = make([(300_000,), (7,), (50_000,)])
        plan = plan_of(case)
        for _ in range(3):
            plan.set_gradients(case["grads"])
            step_of(plan, case, where=threads)
        results.append([*case["params"], *case["exp_avg_sqs"], case["stats"]])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
