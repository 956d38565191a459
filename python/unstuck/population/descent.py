"""Steps of Adam from many parameter vectors of one model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unstuck.ops import descent as ops
from unstuck.population.loss import PopulationLoss


def descend(
    population: PopulationLoss,
    points: Tensor,
    exp_avgs: Tensor,
    exp_avg_sqs: Tensor,
    number: int,
    segments: Sequence[ops.Segment],
) -> Tensor:
    """Make a step of Adam from each of flat parameter vectors, in place.

    Parameters
    ----------
    population : PopulationLoss
        Whose loss is lowered.
    points, exp_avgs, exp_avg_sqs : Tensor
        [K, P], in the dtype and on the device of ``population.point()``.
    number : int
        Of the step, from 1. At the first one the moments are 0, whatever is there.
    segments : sequence of Segment
        Which of the P numbers have which settings; see :mod:`unstuck.ops.descent`.

    Returns
    -------
    Tensor
        [K], the losses before the step.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit, or the closure does not return one real number.

    Examples
    --------
    >>> import torch
    >>> from unstuck.ops.adam import Group
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> population = PopulationLoss(model, lambda: model(torch.ones(1, 2)).sum())
    >>> x, m, v = torch.ones(3, 2), torch.zeros(3, 2), torch.zeros(3, 2)
    >>> descend(population, x, m, v, 1, [ops.Segment(0, 2, Group(0.25))])
    tensor([2., 2., 2.])
    >>> x[0]
    tensor([0.7500, 0.7500])
    """
    population._flat.check(points)
    if (net := population._evaluator.net(gradient=True)) is not None:
        return ops.descend(net, points, exp_avgs, exp_avg_sqs, number, segments)
    losses, gradients = population.value_and_gradient(points)
    ops.step(points, gradients, exp_avgs, exp_avg_sqs, number, segments)
    return losses
