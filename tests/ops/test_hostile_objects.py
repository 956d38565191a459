"""Arguments whose conversion runs code that frees, resizes or uses what was read before."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unstuck.ops.adam import Group, Tracking

from .cases import make_case
from .stand import Stand

N = 1 << 16  # floats: memory of this size goes back to the system when it is freed
ERRORS = (ValueError, TypeError, RuntimeError)

#: What is done to a tensor. Afterwards its old memory is gone.
DEEDS: dict[str, Callable[[Tensor], Any]] = {
    "shrink": lambda t: t.untyped_storage().resize_(0),
    "grow": lambda t: t.untyped_storage().resize_(16 * N * t.element_size()),
    "set": lambda t: t.set_(torch.zeros(1, dtype=t.dtype)),
    "data": lambda t: setattr(t, "data", torch.zeros(t.shape, dtype=t.dtype)),
}


class Evil:
    """A number whose conversion does something first."""

    def __init__(self, value: Any, deed: Callable[[], Any]) -> None:
        self.value, self.deed = value, deed

    def __float__(self) -> float:
        self.deed()
        return float(self.value)

    def __index__(self) -> int:
        self.deed()
        return int(self.value)


def tensors_in(arguments: Any) -> list[Tensor]:
    if isinstance(arguments, Tensor):
        return [arguments]
    inside = arguments if isinstance(arguments, (list, tuple)) else ()
    return [t for x in inside for t in tensors_in(x)]


def numbers_in(arguments: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Return where the numbers are that may be objects."""
    if isinstance(arguments, (list, tuple)):
        return [p for i, x in enumerate(arguments) for p in numbers_in(x, (*path, i))]
    is_number = isinstance(arguments, (int, float)) and not isinstance(arguments, bool)
    return [path] if is_number else []


def changed(arguments: Any, path: tuple[int, ...], make: Callable[[Any], Any]) -> Any:
    if not path:
        return make(arguments)
    parts = [*arguments]
    parts[path[0]] = changed(parts[path[0]], path[1:], make)
    return tuple(parts) if isinstance(arguments, tuple) else parts


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def region(dim: int = N) -> tuple[Any, ...]:
    return zeros(dim), 1.0, torch.ones(dim), None, None, "clip"


DRAW = (1, 2, 3, False, 10)
Call = tuple[Callable[..., Any], tuple[Any, ...]]


def rates_of(dim: int) -> tuple[Any, ...]:
    return zeros(dim), zeros(dim), zeros(3), 1.0, zeros(3), zeros(3), zeros(dim), zeros(1), None


def adam(native: ModuleType) -> Call:
    columns = [[torch.zeros(N)] for _ in range(4)]
    plan = native.AdamPlan(*columns[:3], [torch.zeros(())], [0])
    tracking, group = Tracking(), Group(torch.tensor(1e-3), 0.9)
    stats = torch.zeros(tracking.size, dtype=torch.float64)

    def step(tensors: Any, *arguments: Any) -> None:
        plan.set_gradients(tensors[3])
        plan.step(*arguments)

    return step, (columns, [tuple(group)], stats, tuple(tracking), True, torch.ones(()), None, 1)


def blend(native: ModuleType, call: str = "step") -> Call:
    case = make_case(((N,), (3,)), gated=True, momentum=0.5)
    plan = native.BlendPlan(*case.plan_arguments())
    tensors = [case.params, case.exp_avgs, case.exp_avg_sqs, case.momentum_buffers, case.grads]

    def step(tensors: Any, *arguments: Any) -> None:
        plan.set_gradients(tensors[-1])
        getattr(plan, call)(*arguments)

    more = (None, None) if call == "step" else ()
    return step, (tensors, [tuple(case.group)], *more, True, 1)


def attention(native: ModuleType) -> Call:
    plan = native.AttentionPlan(0, (), N)
    arguments = (region(), zeros(N), 1.0, 0.5, DRAW, 1, zeros(4), zeros(N), 1.0, 1)
    return lambda *a: plan.steps(None, *a), arguments


CALLS: dict[str, Callable[[ModuleType], Call]] = {
    "adam": adam,
    "blend": blend,
    "hypergradient": lambda n: blend(n, "hypergradient"),
    "attention": attention,
    "losses": lambda n: (n.CandidatePlan(0, (), N).losses, (region(), DRAW, zeros(4), 1)),
    "combine": lambda n: (
        n.CandidatePlan(0, (), N).combine,
        (region(), DRAW, zeros(4), zeros(N), zeros(N), 1),
    ),
    "softmax": lambda n: (
        n.CandidatePlan(0, (), N).softmax,
        (region(), DRAW, 1.0, zeros(4), zeros(N), zeros(N), 1),
    ),
    "sample": lambda n: (n.CandidatePlan(0, (), N).sample, (region(), DRAW, 0, zeros(4, N), 1)),
    "values": lambda n: (n.CandidatePlan(0, (), N).values, (zeros(4, N), zeros(4), 1)),
    "noise words": lambda n: (
        lambda draw, first, out, where: n.noise_words(draw, first, out, "scalar", where),
        (DRAW, 0, torch.zeros(4, N, dtype=torch.float64), 1),
    ),
    "landscape gradients": lambda n: (
        n.landscape_gradients,
        (0, (), zeros(4, N), zeros(4), zeros(4, N), 1),
    ),
    "landscape trials": lambda n: (n.landscape_trials, (0, (), *rates_of(N), 1)),
    "linear candidates": lambda n: (
        n.linear_candidates,
        (zeros(N, 2), zeros(N), 0.1, 1.0, False, region(2), DRAW, zeros(4), 1),
    ),
    "net candidates": lambda n: (
        n.net_candidates,
        (zeros(N, 2), zeros(N), False, 2, 1, region(9), DRAW, zeros(4), 1),
    ),
}


@pytest.mark.parametrize("kind", DEEDS)
@pytest.mark.parametrize("name", CALLS)
def test_numbers_that_change_a_tensor(native: ModuleType, name: str, kind: str) -> None:
    """Nothing is touched that is no longer there, in whatever order the arguments are read."""
    _, good = CALLS[name](native)
    refused = 0
    for i, path in enumerate(numbers_in(good)):
        for which in range(i % 3, len(tensors_in(good)), 3):
            call, arguments = CALLS[name](native)
            victim = tensors_in(arguments)[which]
            deed = functools.partial(DEEDS[kind], victim)
            try:
                call(*changed(arguments, path, lambda v, deed=deed: Evil(v, deed)))
            except ERRORS:
                refused += 1
            # otherwise it was changed before it was read, into something that fits
    assert refused > 0 or (name == "landscape trials" and kind in ("grow", "data"))
    CALLS[name](native)[0](*good)  # nothing else was wrong


def test_numbers_that_free_what_they_stand_beside(native: ModuleType) -> None:
    """A list lets go of a group whose learning rate has been read."""
    step, (columns, groups, *rest) = adam(native)
    lr = groups[0][0]
    groups.append(changed(groups[0], (1,), lambda v: Evil(v, lambda: groups.__delitem__(0))))
    groups[0] = (lr.clone(), *groups[0][1:])
    step(columns, groups, *rest)
    assert torch.isfinite(columns[0][0]).all()


# ---------------------------------------------------------------- between two calls
@pytest.mark.parametrize("kind", DEEDS)
@pytest.mark.parametrize("column", range(4))
def test_a_plan_looks_again_where_it_was_given_the_gradients(
    native: ModuleType, reading: str, kind: str, column: int
) -> None:
    _, (columns, *rest) = adam(native)
    plan = native.AdamPlan(*columns[:3], [torch.zeros(())], [0])
    if column < 3:
        DEEDS[kind](columns[column][0])
        with pytest.raises(ERRORS, match=r"exp_avgs|exp_avg_sqs|params"):
            plan.set_gradients(columns[3])
        return
    plan.set_gradients(columns[3])
    DEEDS[kind](columns[3][0])
    with pytest.raises(ERRORS, match=r"grads\[0\]"):
        plan.step(*rest)


def test_a_function_mode_is_python_too(native: ModuleType) -> None:
    """It answers for every tensor, in the middle of a call."""
    stand = Stand(native)
    assert stand.ready()
    state = stand.state[stand.params[1]]["exp_avg"]

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is Tensor.is_neg:
                state.data = torch.zeros(1)
            return func(*args, **(kwargs or {}))

    with Mode(), pytest.raises(ValueError, match=r"exp_avgs\[1\] has changed"):
        stand.plan.step([stand.case.group._replace(lr=torch.tensor(0.1))], None, None, True, 1)


# ---------------------------------------------------------------- one plan, two calls
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("set_gradients", ([],)),
        ("set_workspace", (torch.zeros(0, dtype=torch.float64),)),
        ("ready", ([], {})),
        ("watch", ([], {})),
    ],
)
def test_a_plan_is_not_used_from_within(
    native: ModuleType, method: str, arguments: tuple[Any, ...]
) -> None:
    """By what the conversion of its own arguments runs."""
    _, (columns, groups, *rest) = adam(native)
    plan = native.AdamPlan(*columns[:3], [torch.zeros(())], [0])
    plan.set_gradients(columns[3])
    seen: list[int] = []

    def deed() -> None:
        with pytest.raises(RuntimeError, match="this plan is in use"):
            getattr(plan, method)(*arguments)
        seen.append(1)

    plan.step(changed(groups, (0, 1), lambda v: Evil(v, deed)), *rest)
    assert seen == [1]


def test_candidates_are_not_lent_other_memory_meanwhile(native: ModuleType) -> None:
    plan = native.CandidatePlan(0, (), N)
    memory = torch.zeros(8, dtype=torch.float64)
    evil = Evil(1.0, lambda: plan.set_workspace(memory))
    with pytest.raises(TypeError, match="sigma must be a number"):  # the refusal, wrapped
        plan.losses(changed(region(), (1,), lambda _: evil), DRAW, zeros(4), 1)
    plan.set_workspace(memory)
    memory.resize_(4)
    with pytest.raises(ValueError, match="workspace has moved since it was lent"):
        plan.losses(region(), DRAW, zeros(4), 1)


def big_adam(native: ModuleType) -> tuple[Any, list[list[Tensor]], tuple[Any, ...]]:
    columns = [[torch.zeros(4_000_000)] for _ in range(4)]
    plan = native.AdamPlan(*columns[:3], [torch.zeros(())], [0])
    return plan, columns, ([tuple(Group(1e-3))], None, None, True, None, None, 1)


def test_two_threads_do_not_step_one_plan(native: ModuleType) -> None:
    """The kernel runs without the interpreter's lock; whoever comes meanwhile is refused."""
    plan, columns, arguments = big_adam(native)
    refused, done = [], []

    def work() -> None:
        for _ in range(20):
            try:
                plan.set_gradients(columns[3])
                plan.step(*arguments)
                done.append(1)
            except (RuntimeError, ValueError) as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done
    expected = ("this plan is in use by another thread", "no gradients")  # the other had them
    assert all(text.startswith(expected) for text in refused)
    assert any(text.startswith(expected[0]) for text in refused)
