"""An Adam step at once: by a native plan, or in plain torch where there is no native module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unstuck.ops import _native
from unstuck.ops import reference_adam as reference
from unstuck.ops._adam_check import check
from unstuck.ops._adam_rows import Group, Rows, Tracking, as_tuple
from unstuck.ops._blend_now import native_ready
from unstuck.ops._native import lend, on, where

Plan = Any  # unstuck._C.AdamPlan or unstuck._cuda.AdamPlan


def plan_for(
    device: torch.device,
    params: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    groups: list[int],
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
    return lend(module.AdamPlan(params, exp_avgs, exp_avg_sqs, steps, groups), device)


def run(
    plan: Plan,
    device: torch.device,
    groups: list[Group],
    stats: Tensor | None,
    tracking: Tracking,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    finish: bool = True,
) -> None:
    """Step everything in `plan`, whose gradients have been read."""
    with on(device):
        plan.step(groups, stats, tracking, finish, grad_scale, found_inf, where(device))


def step_now(
    rows: Rows,
    group: Group,
    stats: Tensor | None,
    tracking: Tracking,
    finish: bool,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Step the rows, and tell autograd what has been written."""
    group, tracking = as_tuple(Group, "group", group), as_tuple(Tracking, "tracking", tracking)
    device = rows.device()
    if device is None:
        return
    if native_ready(device):
        plan = plan_for(
            device,
            rows.params,
            rows.exp_avgs,
            rows.exp_avg_sqs,
            rows.steps,
            [0] * len(rows.params),
        )
        plan.set_gradients(rows.grads)
        run(plan, device, [group], stats, tracking, grad_scale, found_inf, finish)
        torch.autograd.graph.increment_version(
            [x for _, x in rows.written(stats) if not x.is_inference()]
        )
        return
    group = check(rows, group, stats, tracking, grad_scale, found_inf)
    _native.warn_fallback(device)
    with torch.no_grad():
        reference.adam_step(*rows, group, stats, tracking, finish, grad_scale, found_inf)
