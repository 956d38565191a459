"""Native plans of optimizers: what has a gradient, and when it may be stepped in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from unstuck.optim import _layout as layout


class Row(NamedTuple):
    """One parameter with a gradient, and the number of its group."""

    p: Tensor
    grad: Tensor
    group: int


class Kept(NamedTuple):
    """A native plan of everything that has a gradient, until something moves."""

    plan: Any  # of unstuck._C or unstuck._cuda
    device: torch.device
    params: list[Tensor]


def collect(optimizer: Optimizer) -> list[Row]:
    """Return the parameters that have a gradient, every gradient checked."""
    name = type(optimizer).__name__
    rows = []
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if p.grad is not None:
                layout.check_parameter(name, p)
                layout.check_gradient(name, p, p.grad)
                rows.append(Row(p, p.grad, index))
    return rows


def build(
    optimizer: Optimizer,
    params: Sequence[Tensor],
    takes: Callable[[torch.device], bool],
    make: Callable[[torch.device], Any],
) -> Kept | None:
    """Return a plan of these parameters, or None when they must go another way.

    Parameters
    ----------
    optimizer : Optimizer
        Whose they are.
    params : sequence of Tensor
        Everything that has a gradient.
    takes : callable
        Whether there are kernels on a device that take them.
    make : callable
        Creates what is missing of their state, and the plan on a device. Where it fails, state
        that it has created is deleted again.
    """
    device = params[0].device if params else torch.device("cpu")
    if any(p.device != device or not layout.is_plain(p) for p in params) or not takes(device):
        return None
    known = set(optimizer.state)
    try:
        plan = make(device)
    except Exception:
        for p in [p for p in optimizer.state if p not in known]:
            del optimizer.state[p]
        raise
    plan.watch(optimizer.param_groups, optimizer.state)
    if not plan.ready(optimizer.param_groups, optimizer.state):
        return None  # a gradient of another layout
    return Kept(plan, device, list(params))


def hold(optimizer: Optimizer, device: torch.device, *used: Any) -> None:
    """Keep what a step has used beside parameters and state, if a CUDA graph has captured it.

    Whatever makes the optimizer drop its plan, a replay goes on working in the plan's memory.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        optimizer.__dict__.setdefault("_captured", []).append(used)
