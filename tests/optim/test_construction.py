"""What constructors take and refuse, parameter groups, names, and the text form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from .registry import REGISTRY, OptimizerInfo, Variant
from .runs import (
    assert_changed,
    assert_same,
    backward,
    every_class,
    every_optimizer,
    every_variant,
    make_params,
    record_loss,
    snapshot,
    train,
)

REFUSED = [
    pytest.param(info, *row, id=f"{info.cls.__name__}-{i}-{'-'.join(row[0])}")
    for info in REGISTRY
    for i, row in enumerate(info.refused)
]
BAD_GROUPS = [
    pytest.param(info, *row, id=f"{info.cls.__name__}-{'-'.join(row[0])}")
    for info in REGISTRY
    for row in info.bad_groups
]


@pytest.mark.parametrize(("info", "kwargs", "error", "text"), REFUSED)
def test_bad_arguments_name_value_and_remedy(info, kwargs, error, text):
    with pytest.raises(error, match=text):
        info.cls(make_params(), **kwargs)


@every_class(closures=True)
def test_params_of_a_wrong_kind(info: OptimizerInfo):
    with pytest.raises(TypeError, match="iterable"):
        info.cls(torch.zeros(3))
    with pytest.raises(ValueError, match="empty parameter list"):
        info.cls([])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        info.cls([1.0])
    with pytest.raises(ValueError, match="non-leaf"):
        info.cls([make_params()[0] * 2])
    with pytest.raises(TypeError, match=r"dtype torch\.int64"):
        info.cls([torch.zeros(3, dtype=torch.int64)])
    p = make_params()[0]
    with pytest.raises(ValueError, match="more than one parameter group"):
        info.cls([{"params": [p]}, {"params": [p]}])


@every_class(closures=True)
def test_groups_of_a_wrong_kind(info: OptimizerInfo):
    optimizer = info.cls(params := make_params())
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group(make_params())
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": params[:1]})
    assert len(optimizer.param_groups) == 1


@every_class(closures=True)
def test_a_dictionary_of_a_group_can_be_used_again(info: OptimizerInfo):
    groups = [{"params": make_params(), "lr": 0.02}]
    first, second = info.cls(groups), info.cls(groups)
    for entry in info.rate_entries:
        assert first.param_groups[0][entry] == second.param_groups[0][entry]
    assert groups[0].keys() == {"params", "lr"}


@pytest.mark.parametrize(("info", "settings", "error", "text"), BAD_GROUPS)
def test_a_refused_group_leaves_the_optimizer_as_it_was(info, settings, error, text):
    params, late = make_params(), make_params(seed=1)
    optimizer, twin = info.cls(params), info.cls(twins := make_params())
    train(optimizer, params, range(2))
    train(twin, twins, range(2))
    with pytest.raises(error, match=text):
        optimizer.add_param_group({"params": late, **settings})
    assert len(optimizer.param_groups) == 1
    train(optimizer, params, range(2, 4))
    train(twin, twins, range(2, 4))
    assert_same(snapshot(optimizer, params), snapshot(twin, twins))


@every_optimizer()
def test_named_parameters_step_alike(info: OptimizerInfo, variant: Variant):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    torch.manual_seed(1)
    twin = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    named = info.make(variant, model.named_parameters())
    plain = info.make(variant, twin.parameters())
    assert named.param_groups[0]["param_names"] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    start = [p.detach().clone() for p in model.parameters()]
    train(named, list(model.parameters()), range(3))
    train(plain, list(twin.parameters()), range(3))
    assert_changed(start, list(model.parameters()))
    assert_same(list(model.parameters()), list(twin.parameters()))


@every_variant()
def test_groups_have_their_own_settings(info: OptimizerInfo, variant: Variant):
    """A group with other rates goes exactly as it would go in an optimizer of its own."""
    first, second = make_params(), make_params(seed=1)
    grouped = info.make(
        variant, [{"params": first}, {"params": second, "lr": 0.02, "weight_decay": 0.3}]
    )
    alone1, alone2 = make_params(), make_params(seed=1)
    parts = [
        info.make(variant, alone1),
        info.make(variant, alone2, lr=0.02, weight_decay=0.3),
    ]
    train(grouped, first, range(5))  # a group whose gradients are all missing stays as it is
    assert_same([p.detach() for p in second], [p.detach() for p in make_params(seed=1)])
    train(parts[0], alone1, range(5))
    grouped.zero_grad()
    train(grouped, second, range(5))
    train(parts[1], alone2, range(5))
    assert_same(first, alone1)
    assert_same(second, alone2)
    for entry in info.rate_entries:
        assert grouped.param_groups[0][entry] == parts[0].param_groups[0][entry]
        assert grouped.param_groups[1][entry] == parts[1].param_groups[0][entry]


@every_variant()
def test_groups_step_together(info: OptimizerInfo, variant: Variant):
    first, second = make_params(), make_params(seed=1)
    both = [{"params": first, "lr": 0.004}, {"params": second, **info.settings}]
    grouped = info.make(variant, both)
    alone = [make_params(), make_params(seed=1)]
    parts = [info.make(variant, alone[0], lr=0.004), info.make(variant, alone[1], **info.settings)]
    for batch in range(5):
        loss = backward([*first, *second], batch)
        for mine, theirs in zip([*first, *second], [*alone[0], *alone[1]], strict=True):
            theirs.grad = mine.grad.clone()
        for optimizer in (grouped, *parts):
            record_loss(optimizer, loss)
            optimizer.step()
    assert_same([*first, *second], [*alone[0], *alone[1]])


@every_variant()
def test_a_group_added_later_starts_afresh(info: OptimizerInfo, variant: Variant):
    params, late = make_params(), make_params(seed=1)
    optimizer = info.make(variant, params)
    train(optimizer, params, range(3))
    optimizer.add_param_group({"params": late, "lr": 0.01})
    optimizer.zero_grad()
    start = [p.detach().clone() for p in late]
    train(optimizer, late, range(4))
    assert_changed(start, late)
    fresh = info.make(variant, twins := make_params(seed=1), lr=0.01)
    train(fresh, twins, range(4))
    assert_same(late, twins)


@every_optimizer()
def test_text_form_shows_the_settings(info: OptimizerInfo, variant: Variant):
    text = repr(info.make(variant, make_params(), lr=0.0123))
    assert info.cls.__name__ in text
    assert "lr: 0.0123" in text


@every_optimizer()
def test_parameters_that_are_on_the_meta_device_at_first(info: OptimizerInfo, variant: Variant):
    meta = [nn.Parameter(torch.empty(p.shape, device="meta")) for p in make_params()]
    optimizer = info.make(variant, meta)
    twin = info.make(variant, twins := make_params())
    for p, real in zip(meta, make_params(), strict=True):
        torch.utils.swap_tensors(p, real)
    train(optimizer, meta, range(3))
    train(twin, twins, range(3))
    assert_same(snapshot(optimizer, meta), snapshot(twin, twins))
