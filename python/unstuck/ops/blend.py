"""The blend step as an op: native where it can be, plain torch elsewhere, seen by the compiler.

One call updates all tensors of one parameter group; :class:`Plan` does so for a whole optimizer and
is kept between steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops import reference
from unstuck.ops._blend_library import pack
from unstuck.ops._blend_now import (
    Plan,
    hypergradient_now,
    native_ready,
    plan_for,
    run,
    step_now,
)
from unstuck.ops._blend_rows import Group, Rows

__all__ = [
    "Group",
    "Plan",
    "Rows",
    "finish",
    "hypergradient",
    "native_ready",
    "plan_for",
    "run",
    "step",
]


def step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor],
    directions: list[Tensor],
    steps: list[Tensor],
    units: list[int],
    had_previous: list[bool],
    group: Group,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    finish: bool = True,
) -> None:
    """Step the tensors of one group in place.

    Parameters
    ----------
    params, grads, exp_avgs, exp_avg_sqs : list of Tensor
        One entry a parameter, alike in shape, strides, dtype and device.
    momentum_buffers : list of Tensor
        Empty when the buffer is ``exp_avg / (1 - beta1)``.
    directions : list of Tensor
        The SGD directions of the last step, where a gate learns and the state does not tell them
        (nesterov, or no momentum); else empty.
    steps : list of Tensor
        Step counts, one float32 each, on the parameters' device; raised by one.
    units : list of int
        The unit of the gate that each tensor belongs to.
    had_previous : list of bool
        Whether the last step moved the tensor.
    group : Group
        The rates, and the gate.
    grad_scale, found_inf : Tensor, optional
        One float32 each. Gradients are divided by the former; nothing at all happens where the
        latter is not zero.
    finish : bool
        Whether the gate learns and decides at the end.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit: as :func:`plan_for`, or a rate out of its range, or memory
        that is written and shared. The text names the argument; nothing has been changed.

    Examples
    --------
    >>> w, g, m, v = (torch.full((2,), x) for x in (1.0, 0.5, 0.0, 0.0))
    >>> sgd = Group(lr=1.0, sgd_lr_ratio=0.1, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
    ...             decoupled=False, momentum=0.0, dampening=0.0, nesterov=False, maximize=False,
    ...             alpha=0.0)
    >>> step([w], [g], [m], [v], [], [], [torch.zeros(())], [0], [False], sgd)
    >>> w
    tensor([0.9500, 0.9500])
    """
    rows = Rows(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        momentum_buffers,
        directions,
        steps,
        units,
        had_previous,
    )
    if torch.compiler.is_compiling():
        torch.ops.unstuck.blend_step_(*rows, *pack(group), finish, grad_scale, found_inf)
    else:
        step_now(rows, group, grad_scale, found_inf, finish)


def hypergradient(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor],
    directions: list[Tensor],
    steps: list[Tensor],
    units: list[int],
    had_previous: list[bool],
    group: Group,
    finish: bool = True,
) -> None:
    """Inner product of another batch's gradients with u_adam - u_sgd of the last step.

    Leaves ``g' . g'`` and ``g' . (u_adam - u_sgd)`` in ``group.sums``; the hypergradient of alpha
    is minus the latter. With `finish` the gate learns from it at once. The arguments, and what they
    raise, are those of :func:`step`; besides the sums and the gate nothing is written.
    """
    rows = Rows(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        momentum_buffers,
        directions,
        steps,
        units,
        had_previous,
    )
    if torch.compiler.is_compiling():
        torch.ops.unstuck.blend_hypergradient_(*rows, *pack(group), finish)
    else:
        hypergradient_now(rows, group, finish)


def finish(group: Group, *, meta: bool = False, found_inf: Tensor | None = None) -> None:
    """End a step (with `meta` a held-out one) whose sums were completed elsewhere.

    Sharded parameters need this: their sums are added up over the ranks first. Where `found_inf` is
    not zero the gate stays as it is.
    """
    if meta:
        reference.blend_meta_step(group)
    else:
        reference.blend_finish(group, None if found_inf is None else found_inf != 0)
