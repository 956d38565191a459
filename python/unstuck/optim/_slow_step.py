"""The blend step for what a kept plan cannot take.

Complex and sharded parameters, gaps in memory, gradients of another layout, several devices, plain
torch, and code that is being compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstuck.ops import blend, reference
from unstuck.optim import _blend_state as blend_state
from unstuck.optim import _gradient_gate as gradient_gate
from unstuck.optim import _layout as layout
from unstuck.optim import _moments as moments

if TYPE_CHECKING:
    from unstuck.optim.blend import DynamicBlend


@dataclass
class Row:
    """One parameter with a gradient, and where it belongs."""

    p: Tensor
    grad: Tensor
    group: int
    position: int  # in its group
    unit: int


def collect(optimizer: DynamicBlend, grads: list[Tensor | None] | None = None) -> list[Row]:
    """Return the parameters that have a gradient, every gradient checked."""
    rows: list[Row] = []
    at = 0
    for index, group in enumerate(optimizer.param_groups):
        for position, p in enumerate(group["params"]):
            grad = p.grad if grads is None else grads[at]
            at += 1
            if grad is None:
                continue
            layout.check_parameter("DynamicBlend", p)
            layout.check_gradient("DynamicBlend", p, grad)
            unit = position if group["per_tensor"] and group["gate_state"] is not None else 0
            rows.append(Row(p, grad, index, position, unit))
        blend_state.check_gate_units(group)
    return rows


def had_previous(optimizer: DynamicBlend, rows: list[Row]) -> list[bool]:
    """Return which of them the last step of their group moved."""
    idle = [set(group["idle"]) for group in optimizer.param_groups]
    return [row.position not in idle[row.group] for row in rows]


def remember_idle(optimizer: DynamicBlend, rows: list[Row]) -> None:
    """Note what this step leaves alone: its last update is then not that of the group's alpha."""
    moved: dict[int, set[int]] = {}
    for row in rows:
        moved.setdefault(row.group, set()).add(row.position)
    for index, positions in moved.items():
        group = optimizer.param_groups[index]
        group["idle"] = [i for i in range(len(group["params"])) if i not in positions]


@dataclass
class _Batch:
    """What one call of the op takes, and what must be copied back after it."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    momentum_buffers: list[Tensor]
    directions: list[Tensor]
    steps: list[Tensor]
    units: list[int]
    had_previous: list[bool]
    copies: list[tuple[Tensor, Tensor]]
    sharding: tuple[Any, Any] | None = None  # where a gate needs the sums of all ranks

    def rows(self) -> blend.Rows:
        return blend.Rows(
            self.params,
            self.grads,
            self.exp_avgs,
            self.exp_avg_sqs,
            self.momentum_buffers,
            self.directions,
            self.steps,
            self.units,
            self.had_previous,
        )


def _batch(optimizer: DynamicBlend, rows: list[Row], mode: tuple[bool, bool]) -> _Batch:
    moved = had_previous(optimizer, rows)
    out = _Batch([], [], [], [], [], [], [], [], moved, [])
    columns = [(out.exp_avgs, "exp_avg"), (out.exp_avg_sqs, "exp_avg_sq")]
    columns += [(out.momentum_buffers, "momentum_buffer")] if mode[0] else []
    columns += [(out.directions, "sgd_direction")] if mode[1] else []
    for row in rows:
        group = optimizer.param_groups[row.group]
        state = blend_state.prepare(optimizer, row.p, group, mode)
        kept = [state[key] for _, key in columns]
        if optimizer.defaults["differentiable"]:
            packed = [layout.local(x) for x in (row.p, row.grad, *kept)]
        else:
            packed, copies = moments.pack(row.p, row.grad, kept)
            out.copies += copies
        out.params.append(packed[0])
        out.grads.append(packed[1])
        for (column, _), x in zip(columns, packed[2:], strict=True):
            column.append(x)
        out.steps.append(state["step"])
        out.units.append(row.unit)
    return out


def _batches(optimizer: DynamicBlend, rows: list[Row]) -> list[tuple[int, _Batch]]:
    """Return one batch for each group and device."""
    modes = [blend_state.resolve_mode(optimizer, g) for g in optimizer.param_groups]
    shardings = [  # of those groups whose gates need the sums of all ranks
        None if g["gate_state"] is None else _sharding([r for r in rows if r.group == i])
        for i, g in enumerate(optimizer.param_groups)
    ]
    result = []
    for index in range(len(modes)):
        mine = [row for row in rows if row.group == index]
        for device in dict.fromkeys(row.p.device for row in mine):
            here = [row for row in mine if row.p.device == device]
            batch = _batch(optimizer, here, modes[index])
            batch.sharding = shardings[index]
            result.append((index, batch))
    return result


def step(optimizer: DynamicBlend, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
    """One step of everything, group by group and device by device."""
    rows = collect(optimizer)
    defaults = optimizer.defaults
    plain = defaults["differentiable"] or defaults["fused"] is False
    active = {row.group for row in rows}
    gated = blend_state.gradient_gated(optimizer, active)
    for group in gated:
        gradient_gate.decide(group, grad_scale, found_inf)
    batches = _batches(optimizer, rows)
    settings_of = {index: optimizer._settings(index) for index in active}
    for index, batch in batches:
        settings = settings_of[index]
        device = batch.params[0].device
        scale, inf = (layout.scalar_on(x, device) for x in (grad_scale, found_inf))
        sharded = batch.sharding is not None
        tensors = batch.rows()
        if defaults["foreach"]:
            reference.blend_foreach(*tensors[:5], batch.steps, settings)
        elif plain:
            reference.blend_step(*tensors, settings, scale, inf, finish=not sharded)
        else:
            blend.step(*tensors, settings, scale, inf, finish=not sharded)
            if not torch.compiler.is_compiling():
                torch.autograd.graph.increment_version(batch.params)
        if sharded:
            _finish_sharded(batch, settings, meta=False, found_inf=inf)
        for kept, packed in batch.copies:
            kept.copy_(packed)
    if not torch.compiler.is_compiling():
        optimizer._plan = None
    remember_idle(optimizer, rows)
    optimizer._advance(active)
    for group in gated:
        gradient_gate.learn(group, found_inf)


def meta_step(optimizer: DynamicBlend, grads: list[Tensor | None] | None) -> None:
    """Let the gates in held-out mode learn from another batch's gradients."""
    count = sum(len(g["params"]) for g in optimizer.param_groups)
    if grads is not None and len(grads) != count:
        raise ValueError(f"meta_step() got {len(grads)} gradients for {count} parameters")
    rows = collect(optimizer, grads)
    for index, batch in _batches(optimizer, rows):
        group = optimizer.param_groups[index]
        if group["gate"] is None or group["gate"]["mode"] != "held-out":
            continue
        settings = optimizer._settings(index)._replace(learn=True)
        sharded = batch.sharding is not None
        if optimizer.defaults["fused"] is False:
            reference.blend_hypergradient(*batch.rows(), settings, not sharded)
        else:
            blend.hypergradient(*batch.rows(), settings, finish=not sharded)
        if sharded:
            _finish_sharded(batch, settings, meta=True)
        if blend_state.uses_gradient_gate(group):
            gradient_gate.learn(group, meta=True)


def _sharding(rows: list[Row]) -> tuple[Any, Any] | None:
    """Return the mesh and the placements that these parameters share; None of plain ones."""
    kinds: set[Any] = {
        (row.p.device_mesh, row.p.placements) if layout.is_shard(row.p) else None  # type: ignore[attr-defined]
        for row in rows
    }
    if len(kinds) > 1:
        raise ValueError(
            "a gate over parameters that are sharded in different ways; give each kind a parameter "
            "group of its own, or pass alpha="
        )
    return kinds.pop() if kinds else None


def _finish_sharded(
    batch: _Batch, settings: blend.Group, *, meta: bool, found_inf: Tensor | None = None
) -> None:
    """Add the shards' sums up over the ranks, so that every rank sets the same alpha."""
    import torch.distributed as dist

    assert batch.sharding is not None
    mesh, placements = batch.sharding
    for dim, placement in enumerate(placements):
        if placement.is_shard():
            dist.all_reduce(settings.sums, group=mesh.get_group(dim))
    blend.finish(settings, meta=meta, found_inf=found_inf)
