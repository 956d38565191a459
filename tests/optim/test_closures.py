"""Optimizers that step by a closure: every form of it, its errors, and what it is counted as."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unstuck.optim import ALME, DynamicBlend

from .registry import OptimizerInfo, Variant
from .runs import assert_changed, assert_same, every_hybrid, loss_of, make_params, snapshot, train


@every_hybrid()
def test_a_closure_may_call_backward_or_leave_it(info: OptimizerInfo, variant: Variant):
    params, twins = make_params(), make_params()
    ours, other = info.make(variant, params), info.make(variant, twins)

    def with_backward(batch):
        other.zero_grad()
        loss = loss_of(twins, batch)
        loss.backward()
        return loss

    for batch in range(6):
        plain = ours.step(lambda batch=batch: loss_of(params, batch))
        called = other.step(lambda batch=batch: with_backward(batch))
        assert plain == called
        assert all(p.grad is None for p in params)
    assert_same(snapshot(ours, params), snapshot(other, twins))
    assert (ours.nfev, ours.ngev) == (other.nfev, other.ngev)


@every_hybrid()
def test_every_evaluation_is_counted(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params)
    losses = gradients = 0

    def closure():
        nonlocal losses, gradients
        losses += 1
        gradients += torch.is_grad_enabled()
        return loss_of(params, 0)

    for _ in range(7):
        optimizer.step(closure)
    assert (optimizer.nfev, optimizer.ngev) == (losses, gradients)
    assert losses > gradients > 0
    assert len(optimizer.history) == 7


@every_hybrid(lambda v: v.name != "lbfgs")  # which makes one vector of one dtype
def test_memory_stays_and_versions_rise(info: OptimizerInfo, variant: Variant):
    params = [
        *make_params(),
        nn.Parameter(make_params([(4, 3)])[0].detach().t()),
        nn.Parameter(torch.randn(3, dtype=torch.complex64)),
        *make_params([(5,)], dtype=torch.bfloat16),
    ]
    optimizer = info.make(variant, params)
    start = [p.detach().clone() for p in params]
    addresses = [(p.data_ptr(), p.stride()) for p in params]
    for batch in range(6):
        versions = [p._version for p in params]
        train(optimizer, params, [batch])
        assert all(p._version > v for p, v in zip(params, versions, strict=True))
    assert [(p.data_ptr(), p.stride()) for p in params] == addresses
    assert_changed(start, params)


@every_hybrid()
def test_without_a_closure_it_says_what_to_pass(info: OptimizerInfo, variant: Variant):
    optimizer = info.make(variant, make_params())
    with pytest.raises(TypeError, match=r"step needs a closure that returns the loss: optimizer"):
        optimizer.step()


@every_hybrid()
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (None, TypeError, "must return the loss, a number or a tensor, not None"),
        (torch.ones(2), ValueError, r"one real number, not torch.float32 of shape \(2,\)"),
        (torch.ones((), dtype=torch.complex64), ValueError, "one real number, not torch.complex64"),
    ],
    ids=["none", "vector", "complex"],
)
def test_a_closure_that_returns_no_loss(info, variant, value, error, text):
    optimizer = info.make(variant, params := make_params())
    before = snapshot(optimizer, params)
    with pytest.raises(error, match=text):
        optimizer.step(lambda: value)
    assert_same(snapshot(optimizer, params), before)


@every_hybrid()
def test_an_error_at_any_evaluation_leaves_the_parameters(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params)
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        if calls == fail:
            raise KeyError("no batch left")
        return loss_of(params, 0)

    train(optimizer, params, range(2))
    for late in (1, 2, 4) if variant.name != "lbfgs" else (1,):
        calls, fail, failed = 0, late, False
        while not failed:
            before = [p.detach().clone() for p in params]
            try:
                optimizer.step(closure)
            except KeyError:
                failed = True
        assert_same([p.detach() for p in params], before)


@every_hybrid()
def test_sparse_gradients_change_nothing(info: OptimizerInfo, variant: Variant):
    layer = nn.Embedding(5, 3, sparse=True)
    optimizer = info.make(variant, layer.parameters())
    before = snapshot(optimizer, [layer.weight])
    with pytest.raises(RuntimeError, match=r"sparse gradients .*torch\.sparse_coo"):
        optimizer.step(lambda: layer(torch.tensor([1, 2])).sum())
    after = snapshot(optimizer, [layer.weight])
    assert_same(after["params"], before["params"])
    assert_same(after["optimizer"]["state"], before["optimizer"]["state"])


@pytest.mark.parametrize("kind", [ALME, DynamicBlend])
def test_an_interrupted_backward_does_not_pass_for_the_closures_own(kind):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = kind(model.parameters(), lr=0.01)
    x = torch.randn(8, 3)

    def interrupt(_):
        raise KeyboardInterrupt

    hook = model[0].weight.register_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(lambda: model(x).square().mean())
    assert all(p.grad is None for p in model.parameters())
    hook.remove()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(lambda: model(x).square().mean())
    assert_changed(before, list(model.parameters()))
