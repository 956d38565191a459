"""Hooks of steps, profiles, and zero_grad: as with torch.optim, though nothing is paid for them."""

from __future__ import annotations

import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from unstuck.optim import DynamicBlend, Learned

from .registry import OptimizerInfo
from .runs import every_class, make_params, train


@every_class(closures=True)
def test_hooks_of_a_step_are_called_once_and_in_torchs_order(info: OptimizerInfo):
    optimizer = info.cls(params := make_params())
    calls: list[str] = []

    def note(what):
        return lambda one, args, kwargs: calls.append(what) if one is optimizer else None

    handles = [
        register_optimizer_step_pre_hook(note("every pre")),
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_post_hook(note("post")),
        register_optimizer_step_post_hook(note("every post")),
    ]
    try:
        train(optimizer, params, range(2))
        assert calls == ["every pre", "pre", "post", "every post"] * 2
    finally:
        for handle in handles:
            handle.remove()
    train(optimizer, params, range(1))
    assert len(calls) == 8


def test_a_hook_may_change_the_arguments():
    optimizer = DynamicBlend(params := make_params())
    heard = []
    optimizer.register_step_pre_hook(lambda *_: ((optimizer, lambda: heard.append(1)), {}))
    train(optimizer, params, range(1))
    assert heard == [1]


def test_hooks_are_called_once_where_a_subclass_calls_the_step():
    class Counting(Learned):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            return super().step(closure)

    optimizer = Counting(params := make_params())
    calls: list[int] = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    train(optimizer, params, range(3))
    assert optimizer.steps == len(calls) == 3


@every_class(closures=True)
def test_a_profile_names_the_step_and_zero_grad(info: OptimizerInfo):
    optimizer = info.cls(params := make_params())
    with torch.profiler.profile() as profile:
        train(optimizer, params, range(1))
        optimizer.zero_grad()
    names = [event.name for event in profile.events()]
    assert names.count(f"Optimizer.step#{info.cls.__name__}.step") == 1
    assert f"Optimizer.zero_grad#{info.cls.__name__}.zero_grad" in names


def test_nothing_is_recorded_without_a_profile(monkeypatch):
    optimizer = Learned(params := make_params())

    def refuse(name):
        pytest.fail(f"{name} was recorded")

    monkeypatch.setattr(torch.autograd.profiler, "record_function", refuse)
    train(optimizer, params, range(2))
    optimizer.zero_grad()


@every_class(closures=True)
def test_zero_grad_forgets_or_fills(info: OptimizerInfo):
    optimizer = info.cls(params := make_params())
    train(optimizer, params, range(1))
    for p in params:
        p.grad = torch.ones_like(p)
    kept = [p.grad for p in params]
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is g and not g.any() for p, g in zip(params, kept, strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
