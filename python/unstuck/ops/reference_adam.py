"""Adam and its stagnation statistics in plain torch: what the kernels are compared with.

See ``csrc/math/adam.hpp`` and ``csrc/math/stagnation.hpp`` for the formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops._adam_rows import HEADER, Group, Stat, Tracking
from unstuck.ops.reference import as_scalar, widen

__all__ = ["adam_step", "track"]


def adam_step(
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
    """One step of one parameter group, tensor by tensor; see :func:`unstuck.ops.adam.step`."""
    skip = None if found_inf is None else found_inf.reshape(()) != 0
    if skip is not None and params and not skip.is_cuda:
        if bool(skip):
            return
        skip = None
    lr = as_scalar(group.lr)

    def write(kept: Tensor, new: Tensor) -> None:
        new = new.to(kept.dtype)
        kept.copy_(new if skip is None else torch.where(skip, kept, new))

    for p, grad, exp_avg, exp_avg_sq, count in zip(
        params, grads, exp_avgs, exp_avg_sqs, steps, strict=True
    ):
        w, m, v = widen(p), widen(exp_avg), widen(exp_avg_sq)
        g = -widen(grad) if group.maximize else widen(grad)
        if grad_scale is not None:
            g = g / grad_scale.reshape(()).to(g.dtype)
        if stats is not None:
            squares = stats[Stat.GRAD_SQUARES]
            write(squares, squares + g.double().square().sum().to(stats.device))
        decays = bool(group.weight_decay)
        x = g.add(w, alpha=group.weight_decay) if decays and not group.decoupled else g
        t = (count.reshape(()) + 1).to(torch.float64)
        m = m.lerp(x, 1 - group.beta1)
        v = (v * group.beta2).addcmul(x, x, value=1 - group.beta2)
        root2 = (1 - group.beta2**t).sqrt().to(v.dtype)
        rate = (lr / (1 - group.beta1**t)).to(v.dtype)
        if decays and group.decoupled:
            keep = 1 - lr * group.weight_decay
            w = w * (keep.to(w.dtype) if isinstance(keep, Tensor) else keep)
        w = w + (-rate * m) / (v.sqrt() / root2 + group.eps)
        for kept, new in ((p, w), (exp_avg, m), (exp_avg_sq, v), (count, (count + 1))):
            write(kept, new)
    if stats is not None and tracking is not None and finish and params:
        track(stats, tracking, skip)


def track(stats: Tensor, tracking: Tracking, skip: Tensor | None = None) -> None:
    """Take in the sum of squared gradients and the loss that waits, and make the tests.

    Parameters
    ----------
    stats : Tensor
        The statistics vector, float64.
    tracking : Tracking
        The windows and thresholds.
    skip : Tensor, optional
        A boolean on the device: nothing happens where it is true.
    """
    s = stats.clone()
    norms = s[HEADER : HEADER + tracking.norm_window]
    losses = s[HEADER + tracking.norm_window :]
    norm = s[Stat.GRAD_SQUARES].sqrt()
    seen = s[Stat.SEEN_NORMS].clone()
    norms.scatter_(0, torch.remainder(seen, len(norms)).long().view(1), norm.view(1))
    told = s[Stat.LOSS_WAITS] != 0
    at = torch.remainder(s[Stat.SEEN_LOSSES], len(losses)).long().view(1)
    kept = losses.gather(0, at)
    losses.scatter_(0, at, torch.where(told, s[Stat.LAST_LOSS], kept))
    s[Stat.LAST_NORM] = norm
    s[Stat.SEEN_NORMS] += 1
    s[Stat.SEEN_LOSSES] += told
    s[Stat.LOSS_WAITS] = 0
    s[Stat.GRAD_SQUARES] = 0
    s[Stat.TOTAL_STEPS] += 1
    better = told & ((s[Stat.HAS_BEST] == 0) | (s[Stat.LAST_LOSS] < s[Stat.BEST_LOSS]))
    s[Stat.BEST_LOSS] = torch.where(better, s[Stat.LAST_LOSS], s[Stat.BEST_LOSS])
    s[Stat.HAS_BEST] = torch.where(told, 1.0, s[Stat.HAS_BEST])

    full = s[Stat.SEEN_NORMS] >= len(norms)
    ordered = _ordered(norms, s[Stat.SEEN_NORMS])
    change = ordered.diff().abs().mean()
    s[Stat.NORM_CHANGE] = torch.where(full, change, s[Stat.NORM_CHANGE])
    scale = norms.mean() if tracking.relative else 1.0
    flat = full & (change <= tracking.norm_threshold * scale)
    if tracking.loss_threshold >= 0:
        full = s[Stat.SEEN_LOSSES] >= len(losses)
        ordered = _ordered(losses, s[Stat.SEEN_LOSSES])
        if tracking.relative:
            half = len(losses) // 2
            older, newer = ordered[:half], ordered[half:]
            squares = (older - older.mean()).square().sum() + (newer - newer.mean()).square().sum()
            variance = squares / (len(losses) - 2)
            error = (variance * (1.0 / len(older) + 1.0 / len(newer))).sqrt()
            change = older.mean() - newer.mean() + 2 * error
            flat_loss = change <= tracking.loss_threshold * newer.mean().abs()
            known = s[Stat.SEEN_LOSSES] > 0
            flat = torch.where(full, flat_loss, flat & ~known)
        else:
            change = ordered.diff().abs().mean()
            flat = flat & full & (change <= tracking.loss_threshold)
        s[Stat.LOSS_CHANGE] = torch.where(full, change, s[Stat.LOSS_CHANGE])
    s[Stat.FLAT_STEPS] = torch.where(flat, s[Stat.FLAT_STEPS] + 1, 0.0)
    s[Stat.STAGNANT_STEPS] += s[Stat.FLAT_STEPS] >= tracking.patience
    stats.copy_(s if skip is None else torch.where(skip, stats, s))


def _ordered(ring: Tensor, seen: Tensor) -> Tensor:
    """Return a full ring from its oldest value to its newest."""
    places = torch.arange(len(ring), device=ring.device) + torch.remainder(seen, len(ring)).long()
    return ring[torch.remainder(places, len(ring))]
