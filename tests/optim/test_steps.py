"""What one step reads and writes: gradients, storage, versions, closures, hooks."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from .registry import OptimizerInfo, Variant
from .runs import (
    assert_changed,
    assert_same,
    backward,
    derived,
    every_class,
    every_optimizer,
    every_variant,
    has_gate,
    loss_of,
    make_params,
    record_loss,
    snapshot,
    stepped,
    train,
)


@every_variant()
def test_goes_in_the_right_direction(info: OptimizerInfo, variant: Variant):
    p = nn.Parameter(torch.full((6, 5), 1.0))
    sign = -1.0 if variant.kwargs.get("maximize") else 1.0
    optimizer = info.make(variant, [p], lr=0.02 * info.lr_unit)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sign * (p * torch.linspace(0.5, 2, 5) - 0.3).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(abs(loss.item()))
    assert losses[-1] < 0.2 * losses[0]


@every_variant()
def test_memory_stays_versions_rise_and_gradients_are_only_read(
    info: OptimizerInfo, variant: Variant
):
    params = [
        *make_params(),
        nn.Parameter(make_params([(4, 3)])[0].detach().t()),
        nn.Parameter(torch.randn(4, 6)[:, ::2]),
        nn.Parameter(torch.randn(3, dtype=torch.complex64)),
        make_params([(5,)], dtype=torch.bfloat16)[0],
    ]
    optimizer = info.make(variant, params)
    for batch in range(3):
        backward(params, batch)
        grads = [p.grad for p in params]
        values = [g.clone() for g in grads]
        grad_versions = [g._version for g in grads]
        addresses = [p.data_ptr() for p in params]
        versions = [p._version for p in params]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert_same(grads, values)
        assert [g._version for g in grads] == grad_versions
        assert [p.data_ptr() for p in params] == addresses
        assert all(p._version > v for p, v in zip(params, versions, strict=True))
        assert all(p.requires_grad and p.is_leaf for p in params)


@every_variant()
def test_autograd_notices_that_a_parameter_was_stepped(info: OptimizerInfo, variant: Variant):
    p = make_params([(4,)])[0]
    optimizer = info.make(variant, [p])
    train(optimizer, [p], range(2))
    kept = (p * p).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


@every_optimizer()
def test_views_of_a_parameter_see_the_step(info: OptimizerInfo, variant: Variant):
    flat = torch.randn(12)
    params = [nn.Parameter(flat[:6].view(2, 3)), nn.Parameter(flat[6:])]
    before = flat.clone()
    train(info.make(variant, params), params, range(2))
    assert not (flat == before).any()
    assert_same(flat[:6].view(2, 3), params[0].detach())


@every_variant()
def test_no_gradients_no_step(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params)
    before = snapshot(optimizer, params)
    optimizer.step()
    assert_same(snapshot(optimizer, params)["params"], before["params"])
    assert not optimizer.state
    train(optimizer, params, range(2))
    optimizer.zero_grad()
    before = snapshot(optimizer, params)
    for _ in range(2):
        optimizer.step()
    assert_same(snapshot(optimizer, params), before)


@every_variant(lambda variant: variant.still)
def test_zero_gradients_move_nothing_at_first(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params, weight_decay=0)
    for p in params:
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        optimizer.step()
    assert_same([p.detach() for p in params], [p.detach() for p in make_params()])


@every_variant()
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(info: OptimizerInfo, variant: Variant, set_to_none: bool):
    params = make_params()
    optimizer = info.make(variant, params)
    train(optimizer, params, range(2))
    optimizer.zero_grad(set_to_none=set_to_none)
    for p in params:
        assert p.grad is None if set_to_none else not p.grad.any()
    before = [p.detach().clone() for p in params]
    optimizer.step()
    if set_to_none:
        assert_same([p.detach() for p in params], before)
    else:  # momentum goes on
        no_momentum = not variant.kwargs.get("momentum", 0.9) and variant.name == "sgd"
        assert no_momentum or not torch.equal(params[0], before[0])


@every_variant(lambda v: not has_gate(v))
def test_a_parameter_that_comes_late_starts_as_if_alone(info: OptimizerInfo, variant: Variant):
    early, late = make_params([(6,)])[0], make_params([(4, 2)], seed=1)[0]
    twin = deepcopy(late)
    together, alone = info.make(variant, [early, late]), info.make(variant, [twin])
    if variant.name == "alpha-schedule":
        pytest.skip("a schedule counts the steps of the group, not those of one parameter")
    for batch in range(8):
        early.grad = torch.ones_like(early) * batch
        if batch in (3, 4, 6, 7):
            late.grad = torch.full_like(late, batch - 5.0)
            twin.grad = late.grad.clone()
            alone.step()
        else:
            late.grad = None
        together.step()
    assert together.state[late]["step"] == 4
    assert_same(late, twin)


@every_variant()
def test_gradients_that_come_and_go_native_as_in_plain_torch(info: OptimizerInfo, variant: Variant):
    present = [(0,), (0, 1), (1,), (0, 1, 2, 3), (3,), (), (0, 1, 2, 3), (0, 2)]
    params, twins = make_params(dtype=torch.float64), make_params(dtype=torch.float64)
    ours = info.make(variant, params)
    plain = info.cls(twins, **{**variant.kwargs, "fused": False, "foreach": None})
    for batch, who in enumerate(present):
        loss = backward(twins, batch)
        for i, (p, q) in enumerate(zip(params, twins, strict=True)):
            q.grad = q.grad if i in who else None
            p.grad = None if q.grad is None else q.grad.clone()
        for optimizer in (ours, plain):
            record_loss(optimizer, loss)
            optimizer.step()
            if "held-out" in str(variant.kwargs) and who:
                optimizer.meta_step()
    assert_same(params, twins, rtol=1e-9, atol=1e-12)
    assert_same(derived(ours), derived(plain), rtol=1e-9)


@every_variant()
def test_closure_that_calls_backward(info: OptimizerInfo, variant: Variant):
    params, twins = make_params(), make_params()
    ours, plain = info.make(variant, params), info.make(variant, twins)
    for batch in range(3):

        def closure(batch=batch):
            assert torch.is_grad_enabled()
            ours.zero_grad()
            loss = loss_of(params, batch)
            loss.backward()
            return loss

        with torch.no_grad():
            loss = ours.step(closure)
        assert loss.requires_grad
        record_loss(plain, backward(twins, batch))
        plain.step()
        assert all(p.grad is not None for p in params)
    assert_same(stepped(ours, params), stepped(plain, twins))


@every_variant()
def test_closure_that_leaves_backward_to_the_optimizer(info: OptimizerInfo, variant: Variant):
    params, twins = make_params(), make_params()
    ours, plain = info.make(variant, params), info.make(variant, twins)
    for batch in range(3):
        loss = ours.step(lambda batch=batch: loss_of(params, batch))
        reference = backward(twins, batch)
        record_loss(plain, reference)
        plain.step()
        assert loss == reference
        assert all(p.grad is None for p in params)
    assert_same(stepped(ours, params), stepped(plain, twins))


@every_class()
def test_closure_may_return_anything(info: OptimizerInfo):
    params = make_params()
    optimizer = info.cls(params)
    backward(params, 0)
    for value in (1.5, 2, None, torch.tensor(3.0), {"loss": 1}):
        start = [p.detach().clone() for p in params]
        assert optimizer.step(lambda value=value: value) is value
        assert_changed(start, params)


@every_class()
def test_closure_of_gradients_computed_before(info: OptimizerInfo):
    """Like torch: `loss.backward(); step(lambda: loss)` is one step with those gradients."""
    params, twins = make_params(), make_params()
    ours, plain = info.cls(params), info.cls(twins)
    loss = backward(params, 0)
    ours.step(lambda: loss)
    record_loss(plain, backward(twins, 0))
    plain.step()
    assert_same(stepped(ours, params), stepped(plain, twins))


@every_class(closures=True)
def test_error_in_a_closure_changes_nothing(info: OptimizerInfo):
    params = make_params()
    optimizer = info.cls(params)
    train(optimizer, params, range(2))
    before = snapshot(optimizer, params)

    def closure():
        raise KeyError("no batch left")

    with pytest.raises(KeyError):
        optimizer.step(closure)
    assert_same(snapshot(optimizer, params), before)


@every_variant()
def test_step_hooks(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params)
    calls: list[str] = []
    start = [p.detach().clone() for p in params]

    def before(opt, args, kwargs):
        assert_same([p.detach() for p in params], start)
        calls.append("pre")

    def after(opt, args, kwargs):
        assert_changed(start, params)
        calls.append("post")

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
        register_optimizer_step_pre_hook(lambda *_: calls.append("all-pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("all-post")),
    ]
    train(optimizer, params, [0])
    assert calls == ["all-pre", "pre", "post", "all-post"]
    for handle in handles:
        handle.remove()
    train(optimizer, params, [1])
    assert len(calls) == 4


@every_variant()
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_gradients_spoil_only_their_own_elements(
    info: OptimizerInfo, variant: Variant, bad: float
):
    """As in torch.optim: no check, no repair, and nothing spreads through alpha."""
    params = make_params([(4,), (3,)])
    optimizer = info.make(variant, params)
    train(optimizer, params, range(2))
    backward(params, 2)
    params[0].grad[1] = bad
    optimizer.step()
    train(optimizer, params, range(3, 6))
    spoiled = ~torch.isfinite(params[0].detach())
    # SGD alone goes to infinity and stays there; Adam's inf / inf is NaN.
    assert spoiled.tolist() == [False, True, False, False]
    assert torch.isfinite(params[1].detach()).all()
    if hasattr(optimizer, "alpha"):
        assert all(torch.isfinite(a).all() for a in optimizer.alpha)
