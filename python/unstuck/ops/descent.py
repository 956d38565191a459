"""Adam from many points at once: a step of each, with moments of its own.

For a multi-layer perceptron a native kernel does so while a point's gradient is in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unstuck.ops import _native, adam, mlp
from unstuck.ops.adam import Group

__all__ = ["Segment", "descend", "step"]


class Segment(NamedTuple):
    """Which coordinates have which settings: those from `begin` to `end`."""

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
        [K, P].
    number : int
        Of the step, from 1. At the first one the moments are 0, whatever is there.
    segments : sequence of Segment
        Which of the P coordinates have which settings. Others stay as they are.

    Raises
    ------
    ValueError, TypeError
        As :func:`unstuck.ops.adam.step` raises them.

    Examples
    --------
    >>> x, m, v = torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)
    >>> step(x, torch.full((2, 3), 5.0), m, v, 1, [Segment(0, 3, Group(0.25))])
    >>> x[0]
    tensor([0.7500, 0.7500, 0.7500])
    """
    every = (points, gradients, exp_avgs, exp_avg_sqs)
    if number == 1:
        exp_avgs.zero_()
        exp_avg_sqs.zero_()
    for begin, end, group in segments:
        whole = (begin, end) == (0, points.shape[1])
        parts = every if whole else tuple(x[:, begin:end].contiguous() for x in every)
        w, g, m, v = parts
        count = torch.full((), number - 1, dtype=torch.float32, device=points.device)
        adam.step([w], [g], [m], [v], [count], group)
        if not whole:
            for x, part in zip(every, parts, strict=True):
                x[:, begin:end] = part


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
        [K, P].
    number : int
        Of the step, from 1. At the first one the moments are 0, whatever is there.
    segments : sequence of Segment
        Which coordinates have which settings. Others stay as they are.

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
    if _native_ready(net, points, exp_avgs, exp_avg_sqs, segments):
        settings = [(s.begin, s.end, _numbers(s.group)) for s in segments]
        losses = points.new_empty(len(points))
        mlp._run(net, "descend", (points, exp_avgs, exp_avg_sqs, number, settings, losses), losses)
        torch.autograd.graph.increment_version([points, exp_avgs, exp_avg_sqs])
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
