"""The blend step for what a kept plan cannot take: complex and sharded parameters, gaps in memory,
gradients of another layout, several devices, plain torch, and code that is being compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstuck.ops import blend, reference
from unstuck.ops import gate as gate_ops
from unstuck.optim import _blend_state as blend_state
from unstuck.optim import _gradient_gate as gradient_gate
from unstuck.optim import _layout as layout

if TYPE_CHECKING:
    from unstuck.optim.blend import DynamicBlend


@dataclass
class Row:
    """One parameter with a gradient, and where it belongs."""

    p: Tensor
    grad: Tensor
    group: int
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
            layout.check_gradient("DynamicBlend", p, grad)
            unit = position if group["per_tensor"] and group["gate_state"] is not None else 0
            rows.append(Row(p, grad, index, unit))
    return rows


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
    written: list[Tensor]

    @property
    def tensors(self) -> tuple[Any, ...]:
        return (
            self.params,
            self.grads,
            self.exp_avgs,
            self.exp_avg_sqs,
            self.momentum_buffers,
            self.directions,
            self.steps,
        )


def _batch(optimizer: DynamicBlend, rows: list[Row], mode: tuple[bool, bool]) -> _Batch:
    out = _Batch([], [], [], [], [], [], [], [], [], [], [])
    columns = [(out.exp_avgs, "exp_avg"), (out.exp_avg_sqs, "exp_avg_sq")]
    columns += [(out.momentum_buffers, "momentum_buffer")] if mode[0] else []
    columns += [(out.directions, "sgd_direction")] if mode[1] else []
    moved = optimizer._moved
    for row in rows:
        group = optimizer.param_groups[row.group]
        state = blend_state.prepare(optimizer, row.p, group, mode)
        w = layout.local(row.p)
        grad = row.grad
        if layout.is_shard(row.p) and grad.placements != row.p.placements:  # type: ignore[attr-defined]
            grad = grad.redistribute(row.p.device_mesh, row.p.placements)  # type: ignore[attr-defined]
        if not optimizer.defaults["differentiable"]:
            w, grad = w.detach(), grad.detach()
            if not layout.is_dense(w):
                packed = w.contiguous()
                out.copies.append((w, packed))
                w = packed
            grad = layout.like(layout.local(grad), w)
        out.params.append(w)
        out.grads.append(grad)
        for column, key in columns:
            kept = layout.local(state[key])
            fit = kept if optimizer.defaults["differentiable"] else layout.like(kept, w)
            if fit is not kept:
                out.copies.append((kept, fit))
            column.append(fit)
        out.steps.append(state["step"])
        out.units.append(row.unit)
        compiling = torch.compiler.is_compiling()
        out.had_previous.append(compiling or moved is None or id(row.p) in moved)
        out.written.append(row.p)
    return out


def _batches(
    optimizer: DynamicBlend, rows: list[Row]
) -> list[tuple[int, tuple[bool, bool], _Batch]]:
    modes = [blend_state.resolve_mode(optimizer, g) for g in optimizer.param_groups]
    result = []
    for index in range(len(modes)):
        mine = [row for row in rows if row.group == index]
        for device in dict.fromkeys(row.p.device for row in mine):
            here = [row for row in mine if row.p.device == device]
            result.append((index, modes[index], _batch(optimizer, here, modes[index])))
    return result


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)


def step(optimizer: DynamicBlend, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
    """One step of everything, group by group and device by device."""
    rows = collect(optimizer)
    defaults = optimizer.defaults
    plain = defaults["differentiable"] or defaults["fused"] is False
    modes = [blend_state.resolve_mode(optimizer, g) for g in optimizer.param_groups]
    gradient_gated = [g for g in optimizer.param_groups if blend_state.uses_gradient_gate(g)]
    if optimizer._wants_plain_torch() or torch.compiler.is_compiling():
        for group in gradient_gated:
            gradient_gate.decide(group)
    for index, _, batch in _batches(optimizer, rows):
        settings = optimizer._settings(index, modes)
        device = batch.params[0].device
        scale, inf = _to(grad_scale, device), _to(found_inf, device)
        sharded = layout.is_shard(batch.written[0]) and settings.gate is not None
        common = (batch.units, batch.had_previous, settings)
        if defaults["foreach"]:
            reference.blend_foreach(*batch.tensors[:5], batch.steps, settings)
        elif plain:
            reference.blend_step(*batch.tensors, *common[:2], blend._with_matrix(settings), scale, inf)
        else:
            blend.step(*batch.tensors, *common, scale, inf, finish=not sharded)
            if sharded:
                _finish_sharded(batch, settings, meta=False)
            if not torch.compiler.is_compiling():
                torch.autograd.graph.increment_version(batch.params)
        for kept, packed in batch.copies:
            kept.copy_(packed)
    if not torch.compiler.is_compiling():
        optimizer._moved = {id(row.p) for row in rows}
        optimizer._plan = None
    if optimizer._wants_plain_torch() or torch.compiler.is_compiling():
        for group in gradient_gated:
            gradient_gate.learn(group, found_inf)


def meta_step(optimizer: DynamicBlend, grads: list[Tensor | None] | None) -> None:
    """Let the gates in held-out mode learn from another batch's gradients."""
    count = sum(len(g["params"]) for g in optimizer.param_groups)
    if grads is not None and len(grads) != count:
        raise ValueError(f"meta_step() got {len(grads)} gradients for {count} parameters")
    rows = collect(optimizer, grads)
    modes = [blend_state.resolve_mode(optimizer, g) for g in optimizer.param_groups]
    for index, _, batch in _batches(optimizer, rows):
        group = optimizer.param_groups[index]
        if group["gate"] is None or group["gate"]["mode"] != "held-out":
            continue
        settings = optimizer._settings(index, modes)._replace(learn=True)
        sharded = layout.is_shard(batch.written[0])
        blend.hypergradient(
            *batch.tensors, batch.units, batch.had_previous, settings, finish=not sharded
        )
        if sharded:
            _finish_sharded(batch, settings, meta=True)
        if blend_state.uses_gradient_gate(group):
            gradient_gate.learn(group, meta=True)


def _finish_sharded(batch: _Batch, settings: blend.Group, *, meta: bool) -> None:
    """Add the shards' sums up over the ranks, so that every rank sets the same alpha."""
    import torch.distributed as dist

    first: Any = batch.written[0]
    mesh, placements = first.device_mesh, first.placements
    for p in batch.written:
        other: Any = p
        if other.device_mesh != mesh or other.placements != placements:
            raise ValueError(
                "a gate over parameters that are sharded in different ways; give each kind a "
                "parameter group of its own, or pass alpha="
            )
    assert settings.sums is not None
    for dim, placement in enumerate(placements):
        if placement.is_shard():
            dist.all_reduce(settings.sums, group=mesh.get_group(dim))
    blend.finish(settings, meta=meta)


def gate_state_size(group: dict[str, Any]) -> int:
    """Return the number of values the group's gate keeps."""
    return 0 if group["gate_state"] is None else gate_ops.size(blend_state.hidden_of(group), 1)
