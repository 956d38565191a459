"""torch.compile(fullgraph=True) of a whole step."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from unstuck.optim import DynamicBlend, Gate

from .registry import OptimizerInfo, Variant
from .runs import (
    assert_changed,
    assert_same,
    backward,
    derived,
    every_variant,
    make_params,
    record_loss,
)

pytestmark = pytest.mark.filterwarnings("ignore:Profiler record function")
SHAPES = ((7, 5), (5,), (3, 4))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def run_both(ours, params, plain, twins, batches, between=lambda batch: None):
    """Compiled steps of one and eager steps of the other; return the number of compilations."""
    backend = CompileCounterWithBackend("aot_eager")
    step = torch.compile(lambda: ours.step(), fullgraph=True, backend=backend)
    for batch in batches:
        between(batch)
        loss = backward(twins, batch)
        for p, q in zip(params, twins, strict=True):
            p.grad = q.grad.clone()
        for optimizer in (ours, plain):
            record_loss(optimizer, loss)
        step()
        plain.step()
        assert_same(params, twins, rtol=1e-6, atol=1e-7)
        assert_same(derived(ours), derived(plain), rtol=1e-5)
    return backend.frame_count


@every_variant(lambda variant: variant.compiled)
def test_compiled_steps_equal_eager_ones(info: OptimizerInfo, variant: Variant):
    params, twins = make_params(SHAPES), make_params(SHAPES)
    ours, plain = info.make(variant, params), info.make(variant, twins)
    start = [p.detach().clone() for p in params]
    assert run_both(ours, params, plain, twins, range(5)) <= 3
    assert_changed(start, params)
    for p, q in zip(params, twins, strict=True):
        assert_same(ours.state[p], plain.state[q], rtol=1e-5, atol=1e-7)


def test_tensor_rates_need_no_new_compilation():
    """With lr and alpha in tensors a schedule of both costs nothing."""
    params, twins = make_params(SHAPES), make_params(SHAPES)
    lr, alpha = torch.tensor(1e-3), torch.tensor(0.5)
    ours = DynamicBlend(params, lr=lr, alpha=alpha)
    plain = DynamicBlend(twins, lr=lr, alpha=alpha)

    def move(batch):
        lr.fill_(1e-3 / (1 + batch))
        alpha.fill_(1 / (1 + batch))

    assert run_both(ours, params, plain, twins, range(6), move) <= 2


def test_gradients_that_come_and_go():
    params, twins = make_params(SHAPES), make_params(SHAPES)
    ours = DynamicBlend(params, gate=Gate(hidden=4))
    plain = DynamicBlend(twins, gate=Gate(hidden=4))
    backend = "aot_eager"
    step = torch.compile(lambda: ours.step(), fullgraph=True, backend=backend)
    for batch, who in enumerate([(0, 1), (0, 1, 2), (0,), (0, 1, 2), (0, 1, 2)]):
        backward(twins, batch)
        for i, (p, q) in enumerate(zip(params, twins, strict=True)):
            q.grad = q.grad if i in who else None
            p.grad = None if q.grad is None else q.grad.clone()
        step()
        plain.step()
        assert_same(params, twins, rtol=1e-6, atol=1e-7)
        assert_same(ours.hypergradient, plain.hypergradient, rtol=1e-5)


def test_compiled_and_eager_steps_may_take_turns():
    params, twins = make_params(SHAPES), make_params(SHAPES)
    ours, plain = DynamicBlend(params), DynamicBlend(twins)
    run_both(ours, params, plain, twins, range(3))
    for batch in range(3, 6):
        for optimizer, mine in ((ours, params), (plain, twins)):
            record_loss(optimizer, backward(mine, batch))
            optimizer.step()
    run_both(ours, params, plain, twins, range(6, 8))


def test_a_schedule_of_alpha_is_refused():
    params = make_params(SHAPES)
    optimizer = DynamicBlend(params, alpha=lambda step: 1 / (1 + step))
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend="eager")
    backward(params, 0)
    with pytest.raises(Exception, match=r"pass alpha=torch\.tensor"):
        step()
