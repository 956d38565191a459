"""A blend step at once: by a native plan, or in plain torch where there is no native module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unstuck.ops import _native, reference
from unstuck.ops._blend_check import check
from unstuck.ops._blend_rows import Group, Rows, as_group
from unstuck.ops._native import lend, on, where

Plan = Any  # unstuck._C.BlendPlan or unstuck._cuda.BlendPlan


def native_ready(device: torch.device) -> bool:
    """Whether a compiled kernel can run on `device`."""
    return _native.module_for(device) is not None


def plan_for(
    device: torch.device,
    params: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor | None],
    directions: list[Tensor | None],
    steps: list[Tensor],
    groups: list[int],
    units: list[int],
    had_previous: list[bool],
) -> Plan:
    """Check the tensors once and return the native plan that steps them.

    Raises
    ------
    ValueError
        When a tensor does not fit: another device, shape or strides than its parameter, gaps in its
        memory, memory shared with another, no memory at all. The text names the tensor.
    TypeError
        When something is not a tensor, or has a dtype that is not computed.
    RuntimeError
        When there is no native module for `device`.
    """
    module = _native.module_for(device)
    if module is None:
        raise RuntimeError(_native.missing_for(device))
    plan = module.BlendPlan(
        params,
        exp_avgs,
        exp_avg_sqs,
        momentum_buffers,
        directions,
        steps,
        groups,
        units,
        had_previous,
    )
    return lend(plan, device)


def run(
    plan: Plan,
    device: torch.device,
    groups: list[Group],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Step everything in `plan`, whose gradients have been read."""
    with on(device):
        plan.step(groups, grad_scale, found_inf, True, where(device))


def _native_call(rows: Rows, device: torch.device, group: Group, call: str, *args: Any) -> None:
    """Make a plan for one call, and call it."""
    nothing: list[Tensor | None] = [None] * len(rows.params)
    plan = plan_for(
        device,
        rows.params,
        rows.exp_avgs,
        rows.exp_avg_sqs,
        [*rows.momentum_buffers] or nothing,
        [*rows.directions] or nothing,
        rows.steps,
        [0] * len(rows.params),
        rows.units,
        rows.had_previous,
    )
    plan.set_gradients(rows.grads)
    with on(device):
        getattr(plan, call)([group], *args, where(device))


def step_now(
    rows: Rows,
    group: Group,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    finish: bool,
) -> None:
    """Step the rows, and tell autograd what has been written."""
    group, device = as_group(group), rows.device()
    if device is None:
        return
    if native_ready(device):
        _native_call(rows, device, group, "step", grad_scale, found_inf, finish)
        torch.autograd.graph.increment_version(
            [x for _, x in rows.written(group) if not x.is_inference()]
        )
        return
    rows, group = check(rows, group, grad_scale, found_inf)
    _native.warn_fallback(device)
    with torch.no_grad():
        reference.blend_step(*rows, group, grad_scale, found_inf, finish)


def hypergradient_now(rows: Rows, group: Group, finish: bool) -> None:
    """Leave the sums of another batch's gradients, and tell autograd."""
    group, device = as_group(group), rows.device()
    if device is None:
        return
    if native_ready(device):
        _native_call(rows, device, group, "hypergradient", finish)
        written = [x for x in (group.gate, group.sums) if x is not None and not x.is_inference()]
        torch.autograd.graph.increment_version(written)
        return
    rows, group = check(rows, group, needs_gate=True)
    _native.warn_fallback(device)
    with torch.no_grad():
        reference.blend_hypergradient(*rows, group, finish)
