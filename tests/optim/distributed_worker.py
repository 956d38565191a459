"""One of two processes that train together; run by ``test_distributed.py``.

Usage: python distributed_worker.py ROOT STORE RESULTS RANK
Every case is compared with the same training in one process. Results are {case: "" or what failed}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, sys.argv[1])

from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from optim.registry import REGISTRY, OptimizerInfo, Variant
from optim.runs import assert_changed, assert_same, derived, record_loss

WORLD = 2


def make_model() -> nn.Sequential:
    """Sizes that two ranks cannot halve: 5 rows, and 1 row, of which one rank has nothing."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    return x, x.sum(1, keepdim=True).sin()


def train(
    info: OptimizerInfo, model: Any, optimizer: Any, steps: range, rank: int | None = None
) -> None:
    """Train; a `rank` takes its half of every batch."""
    held_out = any((g.get("gate") or {}).get("mode") == "held-out" for g in optimizer.param_groups)

    def backward(step: int) -> Tensor:
        x, y = batch_of(step)
        if rank is not None:
            x, y = x.chunk(WORLD)[rank], y.chunk(WORLD)[rank]
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss.detach()

    for step in steps:
        loss = backward(step)
        if rank is not None:
            dist.all_reduce(loss)
            loss = loss / WORLD
        record_loss(optimizer, loss)
        optimizer.step()
        if held_out:
            backward(1000 + step)
            optimizer.meta_step()


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def compare(model: Any, optimizer: Any, reference: Any, reference_optimizer: Any) -> None:
    params, wanted = list(model.parameters()), list(reference.parameters())
    assert_changed([p.detach() for p in make_model().parameters()], wanted)
    assert_same([whole(p.detach()) for p in params], wanted, rtol=1e-9, atol=1e-11)
    assert_same(derived(optimizer), derived(reference_optimizer), rtol=1e-7)
    for p, q in zip(params, wanted, strict=True):
        for key, value in optimizer.state[p].items():
            exact = reference_optimizer.state[q][key]
            assert_same(whole(value), exact, key, rtol=1e-8, atol=1e-11)
    for mine in derived(optimizer):
        everywhere = [torch.empty_like(mine) for _ in range(WORLD)]
        dist.all_gather(everywhere, mine)
        assert torch.equal(everywhere[0], everywhere[1]), "the ranks have different alphas or norms"


def run_ddp(info: OptimizerInfo, variant: Variant, rank: int) -> None:
    model = nn.parallel.DistributedDataParallel(make_model())
    reference = make_model()
    ours = info.make(variant, model.parameters())
    alone = info.make(variant, reference.parameters())
    train(info, model, ours, range(5), rank)
    train(info, reference, alone, range(5))
    compare(model.module, ours, reference, alone)


def sharded_model() -> Any:
    model = make_model()
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def run_fsdp(info: OptimizerInfo, variant: Variant, rank: int) -> None:
    model, reference = sharded_model(), make_model()
    ours = info.make(variant, model.parameters())
    alone = info.make(variant, reference.parameters())
    assert all(isinstance(p, DTensor) for p in model.parameters())
    train(info, model, ours, range(5), rank)
    train(info, reference, alone, range(5))
    compare(model, ours, reference, alone)


def run_fsdp_checkpoint(info: OptimizerInfo, variant: Variant, rank: int) -> None:
    """Save and load through torch.distributed.checkpoint's state dictionaries."""
    model = sharded_model()
    ours = info.make(variant, model.parameters())
    train(info, model, ours, range(3), rank)
    saved = deepcopy(get_optimizer_state_dict(model, ours))
    weights = [p.detach().to_local().clone() for p in model.parameters()]
    train(info, model, ours, range(3, 6), rank)

    resumed = sharded_model()
    with torch.no_grad():
        for p, w in zip(resumed.parameters(), weights, strict=True):
            p.to_local().copy_(w)
    again = info.make(variant, resumed.parameters())
    set_optimizer_state_dict(resumed, again, saved)
    train(info, resumed, again, range(3, 6), rank)
    for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
        assert_same(p.to_local(), q.to_local())
    assert_same(derived(ours), derived(again))


def run_placements(info: OptimizerInfo, variant: Variant, rank: int) -> None:
    """Replicated, and sharded along the second dimension; gradients placed in other ways."""
    mesh = init_device_mesh("cpu", (WORLD,))
    for placement in (Replicate(), Shard(1)):
        torch.manual_seed(2)
        values = [torch.randn(3, 5, dtype=torch.float64) for _ in range(2)]
        params = [nn.Parameter(distribute_tensor(v, mesh, [placement])) for v in values]
        twins = [nn.Parameter(v.clone()) for v in values]
        ours, alone = info.make(variant, params), info.make(variant, twins)
        for step in range(4):
            for i, (p, q) in enumerate(zip(params, twins, strict=True)):
                q.grad = torch.randn(3, 5, dtype=torch.float64)
                kinds = [Replicate(), Shard(0), Shard(1)]
                p.grad = distribute_tensor(q.grad, mesh, [kinds[(step + i) % 3]])
            ours.step()
            alone.step()
            if "held-out" in str(variant.kwargs):
                ours.meta_step()
                alone.meta_step()
        for p, q in zip(params, twins, strict=True):
            assert p.placements == (placement,)
            assert_same(whole(p.detach()), q.detach(), rtol=1e-9, atol=1e-11)
        assert_same(derived(ours), derived(alone), rtol=1e-7)


def run_mixed_placements(info: OptimizerInfo, variant: Variant, rank: int) -> None:
    """A gate cannot add up over differently sharded parameters: refused, nothing changed."""
    mesh = init_device_mesh("cpu", (WORLD,))
    values = [torch.ones(4, 4, dtype=torch.float64) for _ in range(2)]
    kinds = [Shard(0), Shard(1)]
    params = [
        nn.Parameter(distribute_tensor(v, mesh, [k])) for v, k in zip(values, kinds, strict=True)
    ]
    optimizer = info.make(variant, params)
    for p in params:
        p.grad = distribute_tensor(torch.ones(4, 4, dtype=torch.float64), mesh, [Shard(0)])
    if optimizer.param_groups[0].get("gate_state") is None:
        optimizer.step()
        assert all((whole(p.detach()) != 1).all() for p in params)
        return
    try:
        optimizer.step()
    except ValueError as error:
        assert "parameter group of its own, or pass alpha=" in str(error)  # noqa: PT017
    else:
        raise AssertionError("not refused")
    assert all((whole(p.detach()) == 1).all() for p in params)


def run_overflow(info: OptimizerInfo, variant: Variant, rank: int) -> None:
    model = sharded_model()
    optimizer = info.make(variant, model.parameters())
    train(info, model, optimizer, range(2), rank)
    before = deepcopy(optimizer.state_dict())
    weights = [p.detach().to_local().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad.to_local().fill_(float("inf"))
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.full((), 2.0)
    optimizer.step()
    assert_same([p.detach().to_local() for p in model.parameters()], weights)
    after = optimizer.state_dict()
    for key in before["state"]:
        for name, value in before["state"][key].items():
            local = [
                x.to_local() if isinstance(x, DTensor) else x
                for x in (value, after["state"][key][name])
            ]
            assert_same(*local)
    assert_same(after["param_groups"], before["param_groups"])


def cases() -> Iterator[tuple[str, Callable[..., None], OptimizerInfo, Variant]]:
    for info in (row for row in REGISTRY if not row.closure):
        for variant in info.variants:
            name = f"{info.cls.__name__}-{variant.name}"
            yield f"ddp-{name}", run_ddp, info, variant
            if variant.sharded:
                yield f"fsdp-{name}", run_fsdp, info, variant
                yield f"checkpoint-{name}", run_fsdp_checkpoint, info, variant
                yield f"placements-{name}", run_placements, info, variant
                yield f"mixed-{name}", run_mixed_placements, info, variant
                if variant.amp:
                    yield f"overflow-{name}", run_overflow, info, variant


def main() -> None:
    _, _, store, results, rank = sys.argv
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=WORLD)
    outcome = {}
    for name, run, info, variant in cases():
        failed = ""
        try:
            run(info, variant, int(rank))
        except Exception:
            failed = traceback.format_exc()
        outcome[name] = failed
        flag = torch.tensor(bool(failed), dtype=torch.int32)
        dist.all_reduce(flag)  # a rank that failed early must not leave the other one waiting
    Path(results + rank).write_text(json.dumps(outcome))
    dist.barrier()
    # Past torch's teardown, where a thread of gloo that still runs aborts the process now and then.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
