"""Adam with gradient norm and stagnation statistics in one pass, as an op.

Native where it can be, plain torch elsewhere, seen by the compiler. One call updates all tensors of
one parameter group; :class:`Plan` does so for a whole optimizer and is kept between steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops._adam_library import pack
from unstuck.ops._adam_now import Plan, plan_for, run, step_now
from unstuck.ops._adam_rows import HEADER, Group, Rows, Stat, Tracking
from unstuck.ops._blend_now import native_ready
from unstuck.ops.reference_adam import track

__all__ = [
    "HEADER",
    "Group",
    "Plan",
    "Rows",
    "Stat",
    "Tracking",
    "native_ready",
    "plan_for",
    "run",
    "step",
    "track",
]


def step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    group: Group,
    stats: Tensor | None = None,
    tracking: Tracking | None = None,
    finish: bool = True,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Step the tensors of one group in place.

    Parameters
    ----------
    params, grads, exp_avgs, exp_avg_sqs : list of Tensor
        One entry a parameter, alike in shape, strides, dtype and device.
    steps : list of Tensor
        Step counts, one float32 each, on the parameters' device; raised by one.
    group : Group
        The rates.
    stats : Tensor, optional
        The statistics vector, float64 ``[tracking.size]`` on the parameters' device.
    tracking : Tracking, optional
        Windows and thresholds; None means ``Tracking()``.
    finish : bool
        Whether the tests of stagnation are made at the end; else the squared gradients are only
        added to ``stats[Stat.GRAD_SQUARES]``.
    grad_scale, found_inf : Tensor, optional
        One float32 each. Gradients are divided by the former; nothing at all happens where the
        latter is not zero.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit: as :func:`plan_for`, or a rate out of its range, or memory
        that is written and shared. The text names the argument; nothing has been changed.

    Examples
    --------
    >>> w, g, m, v = (torch.full((2,), x) for x in (1.0, 0.5, 0.0, 0.0))
    >>> step([w], [g], [m], [v], [torch.zeros(())], Group(lr=0.1))
    >>> w
    tensor([0.9000, 0.9000])
    """
    rows = Rows(params, grads, exp_avgs, exp_avg_sqs, steps)
    tracking = Tracking() if tracking is None else tracking
    if torch.compiler.is_compiling():
        packed = pack(group, stats, tracking, finish)
        torch.ops.unstuck.adam_step_(*rows, *packed, grad_scale, found_inf)
    else:
        step_now(rows, group, stats, tracking, finish, grad_scale, found_inf)
