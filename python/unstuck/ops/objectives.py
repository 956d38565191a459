"""Losses of small models on data, as specifications that the fused operations understand.

An objective holds its data and says how many parameters it takes; the functions of this module
evaluate it, and :mod:`unstuck.ops.trials` and :mod:`unstuck.ops.candidates` look around a point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops import candidates, reference_objectives
from unstuck.ops._candidates_now import dense, dense_region, is_traced
from unstuck.ops._native import on, where
from unstuck.ops._objective_kinds import (
    LinearRegression,
    LogisticRegression,
    Objective,
    Trapped,
    TwoLayerNet,
)
from unstuck.ops._trials_now import kernel_data, kernels, workspace_for
from unstuck.ops.candidates import Draw, Region

__all__ = [
    "LinearRegression",
    "LogisticRegression",
    "Objective",
    "Trapped",
    "TwoLayerNet",
    "candidate_losses",
    "value",
    "value_and_gradient",
]

FUSED = 1 << 17  # coordinates on the CPU: sixteen candidates beside each other take 16 MB a thread
MEMORY = 1 << 23  # bytes of candidates and activations at a time: they stay in the last-level cache


def check_point(objective: Objective, w: Tensor, name: str = "w", batch: bool = True) -> None:
    """Refuse points that do not fit the objective."""
    if w.shape[-1:] != (objective.dim,) or (w.ndim > 1 and not batch):
        shape = f"[..., {objective.dim}]" if batch else f"[{objective.dim}]"
        raise ValueError(f"{name} must have the shape {shape}, not {[*w.shape]}")
    if w.dtype != objective.X.dtype:
        raise TypeError(f"{name} must be {objective.X.dtype} as the data, not {w.dtype}")
    if w.device != objective.X.device:
        raise ValueError(f"{name} is on {w.device}, but the data is on {objective.X.device}")


def _at_once(objective: Objective) -> int:
    """How many points are evaluated together."""
    n = len(objective.y)
    work = n
    if isinstance(objective, TwoLayerNet):
        work = n * (objective.hidden + objective.outputs)
    return max(1, MEMORY // ((work + objective.dim) * objective.X.element_size()))


def value(objective: Objective, w: Tensor) -> Tensor:
    """Evaluate an objective at one point or at many, in chunks of bounded memory.

    Parameters
    ----------
    objective : Objective
        What to evaluate.
    w : Tensor
        Points, ``[..., D]``, in the dtype and on the device of the data.

    Returns
    -------
    Tensor
        The losses ``[...]``; they can be differentiated.

    Raises
    ------
    ValueError, TypeError
        When `w` does not fit the objective.

    Examples
    --------
    >>> line = LinearRegression(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0]))
    >>> value(line, torch.tensor([[0.0], [1.0]]))
    tensor([2.5000, 0.0000])
    """
    check_point(objective, w)
    points, many = w.reshape(-1, objective.dim), _at_once(objective)
    if len(points) <= many:
        return reference_objectives.value(objective, w)
    losses = [reference_objectives.value(objective, part) for part in torch.split(points, many)]
    return torch.cat(losses).reshape(w.shape[:-1])


def value_and_gradient(objective: Objective, w: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate an objective and its gradient at one point or at many.

    Parameters
    ----------
    objective : Objective
        What to evaluate.
    w : Tensor
        Points, ``[..., D]``, in the dtype and on the device of the data.

    Returns
    -------
    tuple of Tensor
        The losses ``[...]`` and the gradients ``[..., D]``, neither of which is differentiated.

    Raises
    ------
    ValueError, TypeError
        When `w` does not fit the objective.

    Examples
    --------
    >>> line = LinearRegression(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0]))
    >>> value_and_gradient(line, torch.zeros(1))
    (tensor(2.5000), tensor([-5.]))
    """
    check_point(objective, w)
    w = w.detach()
    regression = not isinstance(objective, TwoLayerNet) and w.ndim == 1
    if regression and (module := kernels(objective, w, "regression_gradient")):
        w = dense(w)
        loss, gradient = w.new_empty(()), torch.empty_like(w)
        lent = workspace_for(module, "regression_gradient", w.device, *objective.X.shape)
        with on(w.device):
            module.regression_gradient(
                *kernel_data(objective), w, loss, gradient, where(w.device), lent
            )
        return loss, gradient
    with torch.no_grad():
        return reference_objectives.value_and_gradient(objective, w)


def candidate_losses(objective: Objective, region: Region, draw: Draw, count: int) -> Tensor:
    """Evaluate an objective at candidates around a point, in chunks of bounded memory.

    Parameters
    ----------
    objective : Objective
        What to evaluate.
    region : Region
        Where the candidates lie.
    draw : Draw
        Which candidates they are.
    count : int
        How many of them.

    Returns
    -------
    Tensor
        The losses ``[count]``.

    Raises
    ------
    ValueError, TypeError
        When the region does not fit the objective.

    Examples
    --------
    >>> from unstuck.ops.candidates import Draw, Region
    >>> line = LinearRegression(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0]))
    >>> candidate_losses(line, Region(torch.ones(1), sigma=0.0), Draw(seed=0), 3)
    tensor([0., 0., 0.])
    """
    check_point(objective, region.mean, "region.mean", batch=False)
    candidates.check(region, draw, count)
    if is_traced():
        return candidates.losses(objective, region, draw, count)
    losses = region.mean.new_empty(count)
    if (losses.is_cuda or objective.dim <= FUSED) and _fused(objective, region, draw, losses):
        return losses
    many = max(2, _at_once(objective) // 2 * 2)  # antithetic pairs stay together
    with torch.no_grad():
        for first in range(0, count, many):
            points = candidates.sample(region, draw, first, min(many, count - first))
            losses[first : first + len(points)] = reference_objectives.value(objective, points)
    return losses


def _fused(objective: Objective, region: Region, draw: Draw, losses: Tensor) -> bool:
    """Let a kernel draw and evaluate; False where there is none for this."""
    net, region = isinstance(objective, TwoLayerNet), dense_region(region)
    if not net and region.low is not None:  # bounds are not linear
        return False
    what = "net_candidates" if net else "linear_candidates"
    module = kernels(objective, region.mean, what)
    if module is None:
        return False
    sizes = [len(objective.y), len(losses)] + ([] if net else [draw.antithetic])
    lent = workspace_for(module, what, losses.device, *sizes)
    with on(losses.device):
        kernel = getattr(module, what)
        kernel(*kernel_data(objective), region, draw, losses, where(losses.device), lent)
    return True
