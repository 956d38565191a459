"""The native plan of a :class:`unstuck.optim.DynamicBlend`: what its fast step works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unstuck.ops import blend
from unstuck.optim import _blend_state as blend_state
from unstuck.optim import _plans as plans
from unstuck.optim import _slow_step as slow_step

if TYPE_CHECKING:
    from unstuck.optim.blend import DynamicBlend


def build(
    optimizer: DynamicBlend, rows: list[slow_step.Row], modes: list[tuple[bool, bool]]
) -> blend.Plan | None:
    """Return a plan of everything that has a gradient, or None when the slow way must do."""
    optimizer._plan = None
    kept = plans.build(
        optimizer,
        [row.p for row in rows],
        blend.native_ready,
        lambda device: _plan_of(optimizer, rows, modes, device),
    )
    if kept is None:
        return None
    optimizer._plan, optimizer._plan_device, optimizer._plan_params = kept
    optimizer._plan_modes = modes
    optimizer._plan_groups = {row.group for row in rows}
    slow_step.remember_idle(optimizer, rows)
    return optimizer._plan


def _plan_of(
    optimizer: DynamicBlend,
    rows: list[slow_step.Row],
    modes: list[tuple[bool, bool]],
    device: torch.device,
) -> blend.Plan:
    for row in rows:
        blend_state.prepare(optimizer, row.p, optimizer.param_groups[row.group], modes[row.group])
    states = [optimizer.state[row.p] for row in rows]
    buffered = [modes[row.group][0] for row in rows]
    directed = [modes[row.group][1] for row in rows]
    return blend.plan_for(
        device,
        [row.p for row in rows],
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        [s["momentum_buffer"] if b else None for s, b in zip(states, buffered, strict=True)],
        [s["sgd_direction"] if d else None for s, d in zip(states, directed, strict=True)],
        [s["step"] for s in states],
        [row.group for row in rows],
        [row.unit for row in rows],
        slow_step.had_previous(optimizer, rows),
    )
