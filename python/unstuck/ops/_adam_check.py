"""The checks that plain torch makes before an Adam step: the rules of the native modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unstuck.ops._adam_rows import Group, Rows, Tracking
from unstuck.ops._blend_check import (
    check_cell,
    check_flag,
    check_integer,
    check_memory,
    check_number,
    check_scalar,
    check_vector,
)
from unstuck.ops._blend_rows import shown

__all__ = ["check"]

MOST = 2**20


def check(
    rows: Rows,
    group: Group,
    stats: Tensor | None,
    tracking: Tracking,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> Group:
    """Raise ValueError or TypeError for what the native modules would refuse.

    Returns the group with plain numbers in place of whatever stood for them.
    """
    device = rows.device()
    for name in ("eps", "weight_decay"):
        check_number(f"group.{name}", getattr(group, name), low=0)
    for name in ("beta1", "beta2"):
        if not 0 <= check_number(f"group.{name}", getattr(group, name)) < 1:
            raise ValueError(f"group.{name} must be in [0, 1), not {shown(getattr(group, name))}")
    for name in ("decoupled", "maximize"):
        check_flag(f"group.{name}", getattr(group, name))
    for name in rows._fields:
        column: list[Any] = getattr(rows, name)
        if len(column) != len(rows.params):
            raise ValueError(f"{name} has {len(column)} entries, but params has {len(rows.params)}")
        for i, x in enumerate(column):
            check_cell(f"{name}[{i}]", x, rows.params[i], scalar=name == "steps")
    scalars: list[tuple[str, Tensor]] = []
    for label, y in (("grad_scale", grad_scale), ("found_inf", found_inf)):
        if y is not None:
            check_scalar(label, y, device, (torch.float32,))
            scalars.append((label, y))
    plain: dict[str, Any] = {
        "beta1": float(group.beta1),
        "beta2": float(group.beta2),
        "eps": float(group.eps),
        "weight_decay": float(group.weight_decay),
        "decoupled": bool(group.decoupled),
        "maximize": bool(group.maximize),
    }
    if isinstance(group.lr, Tensor):
        check_scalar("group.lr", group.lr, device, (torch.float32, torch.float64))
        scalars.append(("group.lr", group.lr))
    else:
        plain["lr"] = check_number("group.lr", group.lr, low=0)
    if stats is not None:
        _check_tracking(tracking)
        check_vector("stats", stats, tracking.size)
        if stats.device != device:
            raise ValueError(f"stats must be on the device of the parameters, not {stats.device}")
    read = [(f"grads[{i}]", grad) for i, grad in enumerate(rows.grads)]
    check_memory(list(rows.written(stats)), read + scalars)
    return group._replace(**plain)


def _check_tracking(tracking: Tracking) -> None:
    for name, least in (("norm_window", 2), ("loss_window", 4), ("patience", 1)):
        check_integer(f"tracking.{name}", getattr(tracking, name), least, MOST)
    check_number("tracking.norm_threshold", tracking.norm_threshold, low=0)
    check_number("tracking.loss_threshold", tracking.loss_threshold)
    check_flag("tracking.relative", tracking.relative)
