"""A plan is kept between steps: it must notice every change, and hold on to no gradient."""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from .cases import make_case
from .stand import SHAPES, Stand


@pytest.fixture
def stand(native: ModuleType, reading: str) -> Stand:
    return Stand(native)


def resize(x: Tensor, *shape: int) -> None:
    needs_grad = x.requires_grad
    x.requires_grad_(False).resize_(shape)
    x.requires_grad_(needs_grad)


def set_other(x: Tensor) -> None:
    with torch.no_grad():
        x.set_(x.detach().clone())


def move_storage(x: Tensor) -> None:
    """Other memory behind the same storage, as FSDP does it: freed, and allocated anew."""
    storage = x.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    keep_address_taken.append(torch.empty(size, dtype=torch.uint8))
    storage.resize_(size + 4096)


keep_address_taken: list[Tensor] = []


def with_data(make: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    def edit(x: Tensor) -> None:
        x.data = make(x.data)

    return edit


#: Ways to change one tensor under the plan.
TENSOR_EDITS: dict[str, Callable[[Tensor], None]] = {
    "moved": with_data(torch.clone),
    "other-dtype": with_data(Tensor.double),
    "half-precision": with_data(Tensor.half),
    "longer": with_data(lambda x: torch.zeros(x.numel() + 1)),
    "same-memory-other-shape": with_data(lambda x: x.view(1, *x.shape, 1)),
    "same-memory-shorter": with_data(lambda x: x.flatten()[: max(x.numel() // 2, 0)]),
    "sparse-strides": with_data(lambda x: torch.zeros(*x.shape, 2)[..., 0]),
    "set": set_other,
    "resized": lambda x: resize(x, x.numel() + 1),
    "freed": lambda x: x.untyped_storage().resize_(0),
    "storage-moved": move_storage,
}

#: What leaves one number in its place.
STILL_ONE_NUMBER = {("same-memory-other-shape", "step")}


@pytest.mark.parametrize("edit", TENSOR_EDITS)
@pytest.mark.parametrize("key", ["param", "exp_avg", "exp_avg_sq", "momentum_buffer", "step"])
def test_a_changed_tensor_is_noticed(native: ModuleType, reading: str, key: str, edit: str) -> None:
    for i in range(len(SHAPES)):
        stand = Stand(native)
        assert stand.ready()
        p = stand.params[i]
        x = p if key == "param" else stand.state[p][key]
        if x.numel() == 1 and (edit, key) in STILL_ONE_NUMBER:
            continue
        TENSOR_EDITS[edit](x)
        assert not stand.ready(), f"{key} of tensor {i}"
        with pytest.raises(ValueError, match="no gradients"):
            stand.step()


@pytest.mark.parametrize("key", ["param", "exp_avg", "exp_avg_sq", "momentum_buffer"])
def test_changed_strides_are_noticed(stand: Stand, key: str) -> None:
    p = stand.params[0]
    x = p if key == "param" else stand.state[p][key]
    assert stand.ready()
    x.data = torch.as_strided(x.data, x.shape, (1, 2))
    assert not stand.ready()


def test_a_transposed_pair_is_noticed(native: ModuleType, reading: str) -> None:
    """A square tensor keeps its shape when it is transposed in place."""
    stand = Stand(native)
    assert stand.ready()
    resize(stand.params[0], 3, 2)
    with torch.no_grad():
        stand.params[0].t_()  # (2, 3) again, with other strides
    assert stand.params[0].shape == (2, 3)
    assert not stand.ready()


def replace_param(stand: Stand) -> None:
    stand.groups[1]["params"][1] = Parameter(stand.params[2].detach().clone())
    stand.groups[1]["params"][1].grad = stand.params[2].grad


def swap_params(stand: Stand) -> None:
    a, b = stand.groups[0]["params"], stand.groups[1]["params"]
    a[0], b[1] = b[1], a[0]


def rebuild_dict(stand: Stand) -> None:
    p = stand.params[1]
    stand.state[p] = dict(stand.state[p])


def reorder_state(stand: Stand) -> None:
    first = stand.params[0]
    stand.state[first] = stand.state.pop(first)


def stray_gradient(stand: Stand) -> None:
    stand.groups[1]["params"][0].grad = torch.ones(2)


def set_attribute(name: str, make: Callable[[Any], Any]) -> Callable[[Stand], None]:
    return lambda stand: setattr(stand, name, make(getattr(stand, name)))


#: Ways to change the optimizer around the plan.
OPTIMIZER_EDITS: dict[str, Callable[[Stand], Any]] = {
    **{
        f"{key}-replaced": lambda s, key=key: s.state[s.params[1]].update(
            {key: s.state[s.params[1]][key].clone()}
        )
        for key in ("exp_avg", "exp_avg_sq", "momentum_buffer", "step")
    },
    **{
        f"{key}-{what}": lambda s, key=key, value=value: s.state[s.params[2]].update({key: value})
        for key in ("exp_avg", "exp_avg_sq", "momentum_buffer", "step")
        for what, value in (("none", None), ("number", 3.0))
    },
    **{
        f"{key}-removed": lambda s, key=key: s.state[s.params[3]].pop(key)
        for key in ("exp_avg", "exp_avg_sq", "momentum_buffer", "step")
    },
    "state-entry-replaced": rebuild_dict,
    "state-entry-removed": lambda s: s.state.pop(s.params[1]),
    "state-entry-added": lambda s: s.state[s.groups[1]["params"][0]],
    "state-entry-no-dict": lambda s: s.state.update({s.params[1]: None}),
    "state-reordered": reorder_state,
    "state-cleared": lambda s: s.state.clear(),
    "state-object-replaced": set_attribute("state", lambda x: defaultdict(dict, x)),
    "state-none": set_attribute("state", lambda x: None),
    "groups-object-replaced": set_attribute("groups", list),
    "groups-none": set_attribute("groups", lambda x: None),
    "groups-tuple": set_attribute("groups", tuple),
    "group-added": lambda s: s.groups.append({"params": []}),
    "group-removed": lambda s: s.groups.pop(),
    "group-no-dict": lambda s: s.groups.__setitem__(0, None),
    "group-without-params": lambda s: s.groups[0].pop("params"),
    "params-tuple": lambda s: s.groups[0].update(params=tuple(s.params[:2])),
    "param-added": lambda s: s.groups[0]["params"].append(Parameter(torch.zeros(1))),
    "param-removed": lambda s: s.groups[0]["params"].pop(),
    "param-replaced": replace_param,
    "params-swapped": swap_params,
    "gradient-gone": lambda s: setattr(s.params[1], "grad", None),
    "gradient-more": stray_gradient,
}


@pytest.mark.parametrize("edit", OPTIMIZER_EDITS)
def test_a_changed_optimizer_is_noticed(stand: Stand, edit: str) -> None:
    assert stand.ready()
    OPTIMIZER_EDITS[edit](stand)
    assert not stand.ready()
    with pytest.raises(ValueError, match="no gradients"):
        stand.step()


#: What leaves a plan as it is.
ALLOWED: dict[str, Callable[[Stand], Any]] = {
    "values": lambda s: s.params[0].data.add_(1),
    "settings": lambda s: s.groups[0].update(lr=5.0),
    "other-state": lambda s: s.state[s.params[0]].update(note="kept"),
    "group-copied": lambda s: s.groups.__setitem__(0, dict(s.groups[0])),
    "params-copied": lambda s: s.groups[0].update(params=list(s.groups[0]["params"])),
    "gradient-new": lambda s: setattr(s.params[0], "grad", torch.ones(2, 3)),
    "gradients-new": lambda s: [setattr(p, "grad", torch.ones_like(p)) for p in s.params],
}


@pytest.mark.parametrize("edit", ALLOWED)
def test_what_is_allowed_to_change(stand: Stand, edit: str) -> None:
    for _ in range(3):
        ALLOWED[edit](stand)
        assert stand.ready()
        mine = [p.detach().clone() for p in stand.params]
        stand.step()
        assert all(not torch.equal(a, b) for a, b in zip(mine, stand.params, strict=True))


class Marked(Tensor):
    """Not a plain tensor."""


#: Gradients that the plan cannot take as they are: whoever asked goes another way.
BAD_GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "other-strides": lambda g: torch.zeros(3, 2).t(),
    "gaps": lambda g: torch.zeros(2, 6)[:, ::2],
    "expanded": lambda g: torch.zeros(1).expand(2, 3),
    "negated": lambda g: torch._neg_view(g.clone()),
    "subclass": lambda g: g.as_subclass(Marked),
    "sparse": lambda g: g.to_sparse(),
    "zero-tensor": lambda g: torch._efficientzerotensor((2, 3)),
}


@pytest.mark.parametrize("kind", BAD_GRADIENTS)
def test_gradients_that_do_not_fit(stand: Stand, kind: str) -> None:
    assert stand.ready()
    stand.params[0].grad = BAD_GRADIENTS[kind](stand.params[0].grad)
    assert not stand.ready()
    stand.params[0].grad = torch.ones(2, 3)
    assert stand.ready()


def test_a_negated_gradient_of_one_element_at_a_known_address(stand: Stand) -> None:
    """As z.conj().imag gives: dense, because it is one element."""
    assert stand.ready()
    stand.params[3].grad = torch._neg_view(stand.params[3].grad)
    assert not stand.ready()


def test_gradients_that_share_memory_with_what_is_written(stand: Stand) -> None:
    for other in (stand.params[0].data, stand.state[stand.params[0]]["exp_avg"]):
        stand.params[0].grad = other
        with pytest.raises(ValueError, match=r"grads\[0\] shares memory with .*\[0\]"):
            stand.ready()


def test_two_plans_step_alike(native: ModuleType, reading: str) -> None:
    """A kept plan makes the steps that new plans would make."""
    kept, fresh = Stand(native), Stand(native)
    for step in range(5):
        for stand in (kept, fresh):
            torch.manual_seed(step)
            for p in stand.params:
                p.grad = torch.randn_like(p)
        assert kept.ready()
        kept.step()
        arguments = fresh.case.plan_arguments()
        arguments[-1] = [True] * 4
        plan = native.BlendPlan(*arguments)
        plan.set_gradients([p.grad for p in fresh.params])
        plan.step([fresh.case.group], None, None, True, 1)
        assert kept.case.bytes() == fresh.case.bytes()


# ---------------------------------------------------------------- what watch() takes
def test_watch_wants_the_optimizer_of_the_plan(stand: Stand) -> None:
    other = make_case(SHAPES, count=2, momentum=0.5)
    bad_state = {p: {**entry} for p, entry in stand.state.items()}
    bad_state[stand.params[1]]["exp_avg"] = other.exp_avgs[1]
    no_entry = {p: entry for p, entry in stand.state.items() if p is not stand.params[2]}
    backwards = [stand.groups[1], stand.groups[0]]
    for groups, state, text in (
        (None, stand.state, "param_groups must be a list"),
        ((), stand.state, "param_groups must be a list"),
        (stand.groups, None, "state must be a dict"),
        (stand.groups, [], "state must be a dict"),
        ([], stand.state, r"has 0 parameters with a gradient, but the plan has 4"),
        ([None], stand.state, r"param_groups\[0\] must be a dict"),
        ([{}], stand.state, r"param_groups\[0\] must be a dict with a list"),
        ([{"params": 3}], stand.state, r"param_groups\[0\] must be a dict with a list"),
        ([{"params": [3]}], stand.state, r"param_groups\[0\]\.params\[0\] must be a torch.Tensor"),
        ([{"params": [None]}], stand.state, r"params\[0\] must be a torch.Tensor, not None"),
        (backwards, stand.state, r"not those of the plan, from params\[0\] on"),
        (stand.groups[:1], stand.state, "has 2 parameters with a gradient, but the plan has 4"),
        (stand.groups, no_entry, r"state has no dict for params\[2\]"),
        (stand.groups, {}, r"state has no dict for params\[0\]"),
        (stand.groups, bad_state, r"params\[1\] holds another tensor as 'exp_avg'"),
    ):
        with pytest.raises((ValueError, TypeError), match=text):
            stand.plan.watch(groups, state)
        assert stand.ready()  # still watches what it watched


def test_a_plan_that_watches_nothing_is_never_ready(native: ModuleType) -> None:
    stand = Stand(native, watched=False)
    assert not stand.ready()


# ---------------------------------------------------------------- what a plan keeps alive
def gradients_of(stand: Stand) -> list[weakref.ref[Tensor]]:
    for p in stand.params:
        p.grad = torch.ones_like(p)
    return [weakref.ref(p.grad) for p in stand.params]


def forget(stand: Stand) -> None:
    for p in stand.params:
        p.grad = None
    gc.collect()


def test_no_gradient_is_alive_after_a_step(stand: Stand) -> None:
    grads = gradients_of(stand)
    assert stand.ready()
    stand.step()
    forget(stand)
    assert [g() for g in grads] == [None] * 4


def test_no_gradient_is_alive_after_a_refusal(stand: Stand) -> None:
    for fail in ("ready", "step", "overlap", "set"):
        grads = gradients_of(stand)
        assert stand.ready()
        if fail == "ready":
            stand.params[3].grad = torch._neg_view(torch.ones(()))
            assert not stand.ready()
        elif fail == "overlap":
            stand.params[3].grad = stand.params[3].data
            with pytest.raises(ValueError, match="shares memory"):
                stand.ready()
        elif fail == "set":
            with pytest.raises(ValueError, match=r"grads\[3\]"):
                stand.plan.set_gradients([*(p.grad for p in stand.params[:3]), torch.ones(7)])
        else:
            with pytest.raises(ValueError, match="must have 20 fields"):
                stand.plan.step([()], None, None, True, 1)
        forget(stand)
        assert [g() for g in grads] == [None] * 4, fail


def test_a_plan_that_is_dropped_lets_go_of_everything(native: ModuleType) -> None:
    stand = Stand(native)
    assert stand.ready()
    stand.step()
    tensors = [*stand.params, *stand.case.exp_avgs, *stand.case.steps]
    kept = [weakref.ref(x) for x in tensors]
    groups = weakref.ref(stand.params[0])
    del stand, tensors
    gc.collect()
    assert [x() for x in kept] == [None] * len(kept)
    assert groups() is None
