"""The step of :class:`unstuck.optim.ALME`: by a kept plan, or one group and device at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstuck.ops import adam, reference_adam
from unstuck.optim import _alme_groups as groups
from unstuck.optim import _layout as layout
from unstuck.optim import _moments as moments
from unstuck.optim import _plans as plans

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME

MOMENTS = ("exp_avg", "exp_avg_sq")


def step(optimizer: ALME) -> None:
    """Make one step of everything that has a gradient, and track it."""
    grad_scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    plain = torch.compiler.is_compiling() or optimizer.defaults["fused"] is False
    kept = None if plain else optimizer._plan
    ready = kept is not None and kept.plan.ready(optimizer.param_groups, optimizer.state)
    if found_inf is not None:
        on_host = found_inf.device.type == "cpu"
        if (on_host or not (ready or plain)) and bool(found_inf):
            return  # an overflow: nothing is even created (a ready plan asks the device alone)
    if not ready:
        rows = plans.collect(optimizer)  # raises before anything has changed
        if not rows:
            return
        kept = None if plain else _keep(optimizer, rows)
    if kept is None:
        _step_slowly(optimizer, rows, grad_scale, found_inf)
    else:
        settings = [groups.settings(group) for group in optimizer.param_groups]
        stats = groups.stats_on(optimizer, kept.device)
        tracking = optimizer._tracking
        scale, inf = (layout.scalar_on(x, kept.device) for x in (grad_scale, found_inf))
        adam.run(kept.plan, kept.device, settings, stats, tracking, scale, inf)
        plans.hold(optimizer, kept.device, kept.plan)
        torch.autograd.graph.increment_version(kept.params)
    if not torch.compiler.is_compiling():
        optimizer._search["steps"] += 1


def _keep(optimizer: ALME, rows: list[plans.Row]) -> plans.Kept | None:
    """Make and keep a plan of these rows; None when they must go one by one."""
    params = [row.p for row in rows]

    def make(device: torch.device) -> adam.Plan:
        states = [_state(optimizer, p) for p in params]
        m, v, steps = ([s[key] for s in states] for key in (*MOMENTS, "step"))
        return adam.plan_for(device, params, m, v, steps, [row.group for row in rows])

    optimizer._plan = None
    optimizer._plan = plans.build(optimizer, params, adam.native_ready, make)
    return optimizer._plan


def _state(optimizer: ALME, p: Tensor) -> dict[str, Any]:
    state: dict[str, Any] = optimizer.state[p]
    moments.prepare(state, p, MOMENTS, MOMENTS)
    return state


def _step_slowly(
    optimizer: ALME, rows: list[plans.Row], grad_scale: Tensor | None, found_inf: Tensor | None
) -> None:
    """Complex and sharded parameters, gaps, several devices, plain torch, code being compiled."""
    tracking = optimizer._tracking
    stats = groups.stats_on(optimizer, rows[0].p.device)
    plain = optimizer.defaults["fused"] is False
    kinds = {id(row.p): (row.group, row.p.device, _sharding(row.p)) for row in rows}
    batches = dict.fromkeys(kinds.values())
    alone = len(batches) == 1 and next(iter(batches))[2] is None
    for kind in batches:
        index, device, sharding = kind
        w: list[Tensor] = []
        g: list[Tensor] = []
        m: list[Tensor] = []
        v: list[Tensor] = []
        copies: list[tuple[Tensor, Tensor]] = []
        steps = []
        for row in rows:
            if kinds[id(row.p)] != kind:
                continue
            state = _state(optimizer, row.p)
            packed, back = moments.pack(row.p, row.grad, [state[key] for key in MOMENTS])
            copies += back
            steps.append(state["step"])
            for column, x in zip((w, g, m, v), packed, strict=True):
                column.append(x)
        scale, inf = (layout.scalar_on(x, device) for x in (grad_scale, found_inf))
        settings = groups.settings(optimizer.param_groups[index])
        here = stats if alone else torch.zeros_like(stats, device=device)
        call = reference_adam.adam_step if plain else adam.step
        call(w, g, m, v, steps, settings, here, tracking, alone, scale, inf)
        if not torch.compiler.is_compiling():
            torch.autograd.graph.increment_version(w)
        for kept, written in copies:
            kept.copy_(written)
        if not alone:
            squares = here[adam.Stat.GRAD_SQUARES].clone()
            stats[adam.Stat.GRAD_SQUARES] += _over_ranks(squares, sharding).to(stats.device)
    if not alone:
        skip = None if found_inf is None else found_inf.to(stats.device).reshape(()) != 0
        adam.track(stats, tracking, skip)
    if not torch.compiler.is_compiling():
        optimizer._plan = None


def _sharding(p: Any) -> tuple[Any, Any] | None:
    """Return where the shards of a parameter lie; None of a plain one."""
    return (p.device_mesh, p.placements) if layout.is_shard(p) else None


def _over_ranks(squares: Tensor, sharding: tuple[Any, Any] | None) -> Tensor:
    """Add the sums of the shards up, so that every rank sees the same gradient norm."""
    if sharding is not None:
        import torch.distributed as dist

        mesh, placements = sharding
        for dim, placement in enumerate(placements):
            if placement.is_shard():
                dist.all_reduce(squares, group=mesh.get_group(dim))
    return squares
