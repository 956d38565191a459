"""Escapes of ALME whose candidates do not fit in memory, or whose parameters are in pieces."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from unstuck.ops import adam
from unstuck.optim import ALME
from unstuck.population._memory import Peak

from .alme_model import Model, X, Y
from .runs import assert_same, snapshot


def test_candidates_that_do_not_fit_come_one_after_another_with_the_same_result():
    models = [Model(scales={0.02: 3, 0.05: 3}, memory=memory) for memory in (None, 1)]
    assert [m.optimizer.evaluates_together for m in models] == [True, False]
    for model in models:
        assert model.optimizer.escape(model.closure)
    first, second = (m.optimizer.history[-1] for m in models)
    assert first[:6] == pytest.approx(second[:6], rel=1e-4)
    assert_same(models[0].params, models[1].params, rtol=1e-4, atol=1e-5)
    assert models[1].optimizer.nfev == models[0].optimizer.nfev + 1  # whether the batch comes again


def test_one_after_another_takes_memory_for_a_few_vectors_whatever_their_number():
    """64 bytes a parameter in float32, where 20 candidates together take 12 each and more."""
    peaks = {}
    for name, memory in (("together", 1 << 40), ("in turn", 1)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 400), nn.Tanh(), nn.Linear(400, 400), nn.Linear(400, 1))
        optimizer = ALME(net.parameters(), module=net, scales={1.0: 20}, memory=memory)

        def closure(net: nn.Module = net) -> Tensor:
            return F.mse_loss(net(X[:8]), Y[:8])

        optimizer.step(closure)
        with Peak() as peak:
            optimizer.escape(closure)
        peaks[name] = peak.bytes / sum(p.numel() for p in net.parameters())
    native = adam.native_ready(torch.device("cpu"))  # plain torch has intermediate results
    assert peaks["in turn"] < (64 if native else 96)
    assert peaks["together"] > 20 * 12


def test_candidates_in_turn_are_not_compared_on_different_batches():
    model = Model(together=False)
    before = snapshot(model.optimizer, model.params)
    rows = iter(
        torch.randperm(len(X), generator=torch.Generator().manual_seed(1)).repeat(9).split(8)
    )
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        batch = next(rows)  # not by torch's generators
        return F.mse_loss(model.model(X[batch]), Y[batch])

    nfev = model.optimizer.nfev
    assert not model.optimizer.escape(closure)
    record = model.optimizer.history[-1]
    assert "called again with the same random numbers" in record.reason
    assert model.optimizer.nfev == nfev + calls == nfev + 5
    assert_same([p.detach() for p in model.params], before["params"])


def test_shards_are_not_moved():
    """A parameter that is a piece of a larger one: said by escape, and not tried by steps."""
    from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = DeviceMesh("cpu", [0])
        p = nn.Parameter(distribute_tensor(torch.randn(6, 4), mesh, [Shard(0)]))
        optimizer = ALME([p], mode="plain", grad_norm_window=2, grad_norm_threshold=1e9)

        def closure() -> Tensor:
            loss: Tensor = p.square().mean().full_tensor()
            return loss

        before = p.full_tensor().clone()
        with pytest.raises(TypeError, match=r"cannot step shards \(DTensor\); replicate the model"):
            optimizer.escape(closure)
        assert torch.equal(p.full_tensor(), before)
        for _ in range(60):
            optimizer.step(closure)
        assert optimizer.stagnant
        assert not optimizer.escape_due
        assert optimizer.attempts == 0
        assert not torch.equal(p.full_tensor(), before)
    finally:
        dist.destroy_process_group()
