"""Adam from many points at once: a step of each, with moments of its own.

For a multi-layer perceptron a native kernel does so while a point's gradient is in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unstuck.ops import _adam_check, _native, adam, mlp
from unstuck.ops._blend_check import check_integer
from unstuck.ops.adam import Group, Rows, Tracking

__all__ = ["Segment", "descend", "step"]


MOST = 2**53


class Segment(NamedTuple):
    """Which coordinates have which settings: those from `begin` to before `end`."""

    begin: int
    end: int
    group: Group


def step(
    points: Tensor,
    gradients: Tensor,
    exp_avgs: Tensor,
    exp_avg_sqs: Tensor,
    number: int,
    segments: Sequence[Segment],
) -> None:
    """Step all points by their gradients, in place.

    Parameters
    ----------
    points, gradients, exp_avgs, exp_avg_sqs : Tensor
        [K, P], without gaps.
    number : int
        Of the step, from 1. At the first one the moments are 0, whatever is there.
    segments : sequence of Segment
        Which of the P coordinates have which settings, each at most once. Others stay as they are.

    Raises
    ------
    ValueError, TypeError
        As :func:`unstuck.ops.adam.step` raises them, before anything has been written.

    Examples
    --------
    >>> x, m, v = torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)
    >>> step(x, torch.full((2, 3), 5.0), m, v, 1, [Segment(0, 3, Group(0.25))])
    >>> x[0]
    tensor([0.7500, 0.7500, 0.7500])
    """
    _check_segments(points, number, segments)
    count = torch.full((), number - 1, dtype=torch.float32, device=points.device)
    if not torch.compiler.is_compiling():
        rows = Rows([points], [gradients], [exp_avgs], [exp_avg_sqs], [count])
        for segment in segments:
            _adam_check.check(rows, segment.group, None, Tracking())
    with torch.no_grad():
        if number == 1:
            exp_avgs.zero_()
            exp_avg_sqs.zero_()
        moved = (points, exp_avgs, exp_avg_sqs)
        for begin, end, group in segments:
            whole = (begin, end) == (0, points.shape[1])
            w, m, v = moved if whole else (x[:, begin:end].contiguous() for x in moved)
            g = gradients if whole else gradients[:, begin:end].contiguous()
            adam.step([w], [g], [m], [v], [count.clone()], group)
            if not whole:
                for x, part in zip(moved, (w, m, v), strict=True):
                    x[:, begin:end] = part


def _check_segments(points: Tensor, number: int, segments: Sequence[Segment]) -> None:
    """Refuse segments of other coordinates, or that share some, and steps without a number."""
    check_integer("number", number, 1, MOST)
    if points.ndim != 2:
        raise ValueError(f"points must have the shape [K, P], not {[*points.shape]}")
    dim = points.shape[1]
    for i, (begin, end, _) in enumerate(segments):
        if not 0 <= begin <= end <= dim:
            raise ValueError(f"segments[{i}] is from {begin} to {end}, but P is {dim}")
    for a, b in pairwise(sorted((s.begin, s.end) for s in segments)):
        if b[0] < a[1]:
            raise ValueError(f"segments {a} and {b} share coordinates: give each one group")


def descend(
    net: mlp.Net,
    points: Tensor,
    exp_avgs: Tensor,
    exp_avg_sqs: Tensor,
    number: int,
    segments: Sequence[Segment],
) -> Tensor:
    """Step parameter vectors of a net by the gradients there, in place.

    Parameters
    ----------
    net : Net
        Its loss is lowered.
    points, exp_avgs, exp_avg_sqs : Tensor
        [K, P], without gaps.
    number : int
        Of the step, from 1. At the first one the moments are 0, whatever is there.
    segments : sequence of Segment
        Which coordinates have which settings, each at most once. Others stay as they are.

    Returns
    -------
    Tensor
        [K], the losses before the step.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> X, y = torch.ones(4, 2), torch.zeros(4, 1)
    >>> net = mlp.Net(X, y, (mlp.Layer(2, 1, 0, 2, "none"),), "squared", 1 / 4, 3)
    >>> x, m, v = torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(1, 3)
    >>> descend(net, x, m, v, 1, [Segment(0, 3, Group(0.25))])
    tensor([9.])
    >>> x
    tensor([[0.7500, 0.7500, 0.7500]])
    """
    _check_segments(points, number, segments)
    if _native_ready(net, points, exp_avgs, exp_avg_sqs, segments):
        settings = [(s.begin, s.end, _numbers(s.group)) for s in segments]
        losses, written = points.new_empty(len(points)), (points, exp_avgs, exp_avg_sqs)
        if mlp._run(net, "descend", (*written, number, settings, losses), losses):
            torch.autograd.graph.increment_version([x for x in written if not x.is_inference()])
            return losses
    losses, gradients = mlp.value_and_gradient(net, points)
    step(points, gradients, exp_avgs, exp_avg_sqs, number, segments)
    return losses


def _native_ready(
    net: mlp.Net,
    points: Tensor,
    exp_avgs: Tensor,
    exp_avg_sqs: Tensor,
    segments: Sequence[Segment],
) -> bool:
    """Whether the kernel does all of the step: it knows no coordinates but those of layers."""
    if not hasattr(_native.module_for(points.device), "mlp_descend"):
        return False
    used = sum(x.outputs * (x.inputs + (x.bias >= 0)) for x in net.layers)
    ends = [
        (at, at + size)
        for x in net.layers
        for at, size in ((x.weight, x.inputs * x.outputs), (x.bias, x.outputs))
        if at >= 0
    ]
    return (
        used == net.dim
        and all(any(s.begin <= a and b <= s.end for s in segments) for a, b in ends)
        and all(x.is_contiguous() for x in (points, exp_avgs, exp_avg_sqs))
        and not torch.compiler.is_compiling()
    )


def _numbers(group: Group) -> Group:
    """Return settings without tensors."""
    return group._replace(lr=float(group.lr)) if isinstance(group.lr, Tensor) else group
