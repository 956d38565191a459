"""The ops in plain torch: the truth that every kernel is compared with, and the fallback.

Slow and short on purpose. See ``csrc/math/blend.hpp`` for the formulas in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unstuck.ops import gate as gate_ops
from unstuck.ops.gate import Header, Sum, Unit

if TYPE_CHECKING:
    from unstuck.ops._blend_rows import Group

__all__ = ["blend_foreach", "blend_hypergradient", "blend_step"]


def widen(x: Tensor) -> Tensor:
    """16-bit numbers are computed in float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def as_scalar(x: Tensor | float) -> Tensor | float:
    """Rates are computed in float64, as the kernels do."""
    return x.double().reshape(()) if isinstance(x, Tensor) else x


def _rates(group: Group) -> tuple[Tensor | float, Tensor | float]:
    lr = as_scalar(group.lr)
    return lr, lr * group.sgd_lr_ratio


def _alpha(group: Group, unit: int) -> Tensor | float:
    if group.gate is None:
        return as_scalar(group.alpha)
    return gate_ops.units_of(group.gate, group.hidden)[unit, Unit.ALPHA]


def _previous_difference(
    group: Group,
    unit: int,
    had_previous: bool,
    w: Tensor,
    m: Tensor,
    v: Tensor,
    d: Tensor,
    t: Tensor,
) -> Tensor:
    """Return u_adam - u_sgd of the previous step, from the state it left; `t` its step count."""
    gate = group.gate
    assert gate is not None
    if not had_previous:
        return torch.zeros_like(w)
    header = gate[: gate_ops.HEADER]
    lr, sgd_lr, beta1, beta2, eps, decay = header[Header.PREV_LR : Header.PREV_DECAY + 1].unbind()
    alpha = gate_ops.units_of(gate, group.hidden)[unit, Unit.ALPHA_PREV]
    t = t.to(torch.float64).reshape(())
    adam_rate = lr / (1 - beta1**t)
    keep = 1 - decay * (alpha * lr + (1 - alpha) * sgd_lr)
    shrink = decay * (lr - sgd_lr) / keep
    a = m / (v.sqrt() * (1 - beta2**t).rsqrt().to(v.dtype) + eps.to(v.dtype))
    difference = (
        (adam_rate * (1 + shrink * alpha)).to(w.dtype) * a
        - (sgd_lr * (1 - shrink * (1 - alpha))).to(w.dtype) * d
        + torch.where(shrink != 0, shrink.to(w.dtype) * w, 0.0)  # w may be infinite
    )
    valid = (gate[Header.PREV_VALID] != 0) & (t > 0)
    return torch.where(valid, difference, 0.0)


def _kept_direction(
    group: Group, m: Tensor, buffer: Tensor | None, direction: Tensor | None
) -> Tensor:
    """Return the SGD direction of the previous step, from wherever the state tells it."""
    if direction is not None:
        return widen(direction)
    return m / (1 - group.beta1) if buffer is None else buffer


def _sums(group: Group) -> Tensor:
    """Return the sums as a matrix [units, SUMS]."""
    assert group.sums is not None
    return group.sums.view(-1, gate_ops.SUMS)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dtype=torch.float64)


def blend_step(
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
    """One step of one parameter group, tensor by tensor; see :func:`unstuck.ops.blend.step`."""
    skip = None if found_inf is None else found_inf.reshape(()) != 0
    if skip is not None and params and not skip.is_cuda:
        if bool(skip):
            return
        skip = None
    lr, sgd_lr = _rates(group)
    if group.sums is not None:
        group.sums.zero_()

    def write(kept: Tensor, new: Tensor) -> None:
        new = new.to(kept.dtype)
        kept.copy_(new if skip is None else torch.where(skip, kept, new))

    for i, (p, grad, exp_avg, exp_avg_sq, count) in enumerate(
        zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)
    ):
        buffer = momentum_buffers[i] if momentum_buffers else None
        direction = directions[i] if directions else None
        w, m, v = widen(p), widen(exp_avg), widen(exp_avg_sq)
        if torch.is_grad_enabled():
            w = w.clone()  # autograd may need it after p has been written
        b = None if buffer is None else widen(buffer)
        alpha = _alpha(group, units[i])
        g = -widen(grad) if group.maximize else widen(grad)
        if grad_scale is not None:
            g = g / grad_scale.reshape(()).to(g.dtype)
        t = count.reshape(()) + 1
        difference = None
        if group.gate is not None:
            kept = _kept_direction(group, m, b, direction)
            difference = _previous_difference(
                group, units[i], had_previous[i], w, m, v, kept, count
            )

        x = g + group.weight_decay * w if group.weight_decay and not group.decoupled else g
        m = m + (1 - group.beta1) * (x - m)
        v = group.beta2 * v + (1 - group.beta2) * (x * x)
        t64 = t.to(torch.float64)
        correction1, correction2 = 1 - group.beta1**t64, 1 - group.beta2**t64
        a = m / (v.sqrt() / correction2.sqrt().to(v.dtype) + group.eps) / correction1.to(v.dtype)
        if b is None:
            d = m / (1 - group.beta1)
        else:
            fresh = (1.0 - group.dampening * (t64 != 1).double()).to(x.dtype)
            b = group.momentum * b + fresh * x
            d = b
        if group.momentum == 0:
            d = x
        elif group.nesterov:
            d = x + group.momentum * d
        rate = alpha * lr, (1 - alpha) * sgd_lr
        if group.weight_decay and group.decoupled:
            w = w * (1 - group.weight_decay * (rate[0] + rate[1]))
        w = w - (rate[0] * a + rate[1] * d)

        if difference is not None and group.sums is not None:
            row = _sums(group)[units[i]]
            for k, (left, right) in {
                Sum.GG: (g, g),
                Sum.DD: (d, d),
                Sum.AA: (a, a),
                Sum.GD: (g, d),
                Sum.GA: (g, a),
                Sum.DA: (d, a),
                Sum.HYPER: (g, difference),
            }.items():
                row[k] += _dot(left, right)
        write(p, w)
        write(exp_avg, m)
        write(exp_avg_sq, v)
        if buffer is not None and b is not None:
            write(buffer, b)
        if direction is not None and group.gate is not None:
            write(direction, d)
        write(count, t)

    if group.gate is not None and group.sums is not None and finish:
        blend_finish(group, skip)


def blend_finish(group: Group, skip: Tensor | None = None) -> None:
    """End a step whose sums are complete; see :func:`unstuck.ops.blend.finish`."""
    assert group.gate is not None
    lr, sgd_lr = _rates(group)
    new = group.gate.clone()
    gate_ops.finish(
        new,
        group.hidden,
        _sums(group),
        lr=lr,
        sgd_lr=sgd_lr,
        beta1=group.beta1,
        beta2=group.beta2,
        eps=group.eps,
        decay=group.weight_decay if group.decoupled else 0.0,
        momentum=group.momentum,
        learning=group.learn,
        normalize=group.normalize,
        meta_lr=group.meta_lr,
        total_steps=group.total_steps,
    )
    group.gate.copy_(new if skip is None else torch.where(skip, group.gate, new))


def blend_hypergradient(
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
    """Sums of another batch's gradients against the last update."""
    assert group.gate is not None
    assert group.sums is not None
    group.sums.zero_()
    for i, (p, grad, exp_avg, exp_avg_sq, count) in enumerate(
        zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)
    ):
        g = -widen(grad) if group.maximize else widen(grad)
        w, m, v = widen(p), widen(exp_avg), widen(exp_avg_sq)
        buffer = momentum_buffers[i] if momentum_buffers else None
        buffer = None if buffer is None else widen(buffer)
        kept = _kept_direction(group, m, buffer, directions[i] if directions else None)
        difference = _previous_difference(group, units[i], had_previous[i], w, m, v, kept, count)
        row = _sums(group)[units[i]]
        row[Sum.GG] += _dot(g, g)
        row[Sum.HYPER] += _dot(g, difference)
    if finish:
        blend_meta_step(group)


def blend_meta_step(group: Group) -> None:
    """Learn from sums that are complete (held-out mode)."""
    assert group.gate is not None
    gate_ops.meta_step(
        group.gate,
        group.hidden,
        _sums(group),
        learning=group.learn,
        normalize=group.normalize,
        meta_lr=group.meta_lr,
    )


def blend_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor],
    steps: list[Tensor],
    group: Group,
) -> None:
    """One step with a given alpha by torch's multi-tensor operations (``foreach=True``)."""
    if not params:
        return
    lr, sgd_lr = _rates(group)
    alpha = group.alpha
    if group.maximize:
        grads = list(torch._foreach_neg(grads))
    if group.weight_decay and not group.decoupled:
        grads = list(torch._foreach_add(grads, params, alpha=group.weight_decay))
    torch._foreach_add_(steps, 1.0)
    torch._foreach_lerp_(exp_avgs, grads, 1 - group.beta1)
    torch._foreach_mul_(exp_avg_sqs, group.beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - group.beta2)
    counts = [float(s) for s in steps]
    root2 = [(1 - group.beta2**t) ** 0.5 for t in counts]
    denominators = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_div_(denominators, root2)
    torch._foreach_add_(denominators, group.eps)
    if not momentum_buffers:
        directions = list(torch._foreach_div(exp_avgs, 1 - group.beta1))
    else:
        torch._foreach_mul_(momentum_buffers, group.momentum)
        fresh = [1.0 if t == 1 else 1.0 - group.dampening for t in counts]
        torch._foreach_add_(momentum_buffers, torch._foreach_mul(grads, fresh))
        directions = momentum_buffers
    if group.momentum == 0:
        directions = grads
    elif group.nesterov:
        directions = list(torch._foreach_add(grads, directions, alpha=group.momentum))
    adam_rate, sgd_rate = float(alpha * lr), float((1 - alpha) * sgd_lr)
    if group.weight_decay and group.decoupled:
        torch._foreach_mul_(params, 1 - group.weight_decay * (adam_rate + sgd_rate))
    torch._foreach_addcdiv_(
        params, exp_avgs, denominators, [-adam_rate / (1 - group.beta1**t) for t in counts]
    )
    torch._foreach_add_(params, directions, alpha=-sgd_rate)
