"""Losses and weighted sums of many candidates around a point, none of which is stored.

Candidates are ``x_i = bound(mean + sigma_i scale eps_i)``; the noise is that of
:mod:`unstuck.ops.noise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import _candidates_library as library
from unstuck.ops import _candidates_now as now
from unstuck.ops import landscapes
from unstuck.ops import reference_candidates as reference
from unstuck.ops.landscapes import Landscape
from unstuck.ops.noise import check_draw, check_range
from unstuck.ops.reference_candidates import Draw, Moments, Region

__all__ = ["Draw", "Moments", "Region", "combine", "losses", "sample", "softmax_pass"]


def _refuse_unlike(name: str, x: object, mean: Tensor, shape: tuple[int, ...]) -> None:
    """Raise for what is no tensor of this shape with the dtype and the device of mean."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(x).__name__}")
    if x.shape != shape or x.dtype is not mean.dtype or x.device != mean.device:
        raise ValueError(
            f"{name} must be like mean, of shape {shape}, {mean.dtype}, {mean.device}, "
            f"not {tuple(x.shape)}, {x.dtype}, {x.device}"
        )


def check(region: Region, draw: Draw, count: int) -> None:
    """Refuse arguments that do not fit, by ``ValueError`` or ``TypeError``."""
    mean, sigma, scale, low, high, bound = region
    if not isinstance(mean, Tensor):
        raise TypeError(f"mean must be a torch.Tensor, not {type(mean).__name__}")
    if mean.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"mean must be float32 or float64, not {mean.dtype}")
    if mean.ndim != 1:
        raise ValueError(f"mean must have one dimension, not the shape {tuple(mean.shape)}")
    for name, x in (("scale", scale), ("low", low), ("high", high)):
        if x is not None:
            _refuse_unlike(name, x, mean, tuple(mean.shape))
    if isinstance(sigma, Tensor):
        _refuse_unlike("sigma", sigma, mean, (count,))
    elif not abs(sigma) < math.inf:  # NaN is not
        raise ValueError(f"sigma must be finite, not {sigma}")
    if bound not in ("clip", "reflect"):
        raise ValueError(f"bound must be 'clip' or 'reflect', not {bound!r}")
    check_draw(draw)
    check_range(0, count, mean.numel())


def _plan(module: Any, region: Region, objective: Landscape | None = None) -> Any:
    """Return the native plan for a landscape, or for candidates alone."""
    if objective is None:
        return now.plan_for(module, region.mean.numel(), None)
    return now.plan_for(module, objective.dim, objective.name, objective.parameters)


def sample(region: Region, draw: Draw, first: int, count: int, out: Tensor | None = None) -> Tensor:
    """Return candidates as a tensor.

    Parameters
    ----------
    region, draw
        Where they lie, and their noise. A `sigma` tensor has an entry for every candidate from 0
        on.
    first, count : int
        Which of them: `first`, ..., ``first + count - 1``.
    out : Tensor, optional
        Contiguous memory [count, D] to write them to, like the region's mean.

    Returns
    -------
    Tensor
        [count, D], `out` if given.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> x = sample(Region(torch.zeros(3), 0.1), Draw(seed=1), 0, 4)
    >>> x.shape, bool((x[0] == -x[1]).all())
    (torch.Size([4, 3]), True)
    """
    check_range(first, count, 0)
    total = len(region.sigma) if isinstance(region.sigma, Tensor) else first + count
    check(region, draw, total)
    if first + count > total:
        raise ValueError(f"sigma has {total} entries, but candidate {first + count - 1} is wanted")
    if out is not None:
        _check_out(out, region.mean, count)
    if not now.is_traced() and (module := now.native_for(region.mean)):
        if out is not None and not out.is_inference():
            torch.autograd.graph.increment_version(out)
        return now.sample(_plan(module, region), region, draw, first, count, out)
    with torch.no_grad():
        kind = library if now.is_traced() else reference
        found = kind.sample(region, draw, first, count)
        return found if out is None else out.copy_(found)


def _check_out(out: Tensor, mean: Tensor, count: int) -> None:
    """Refuse memory that candidates do not fit."""
    shape = (count, mean.numel())
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a torch.Tensor, not {type(out).__name__}")
    if out.shape != shape or out.dtype != mean.dtype or out.device != mean.device:
        raise ValueError(
            f"out must have the shape {[*shape]} and be {mean.dtype} on {mean.device}, not "
            f"{[*out.shape]}, {out.dtype} on {out.device}"
        )
    if not out.is_contiguous():
        raise ValueError("out must be contiguous: pass out.contiguous() and copy it back")


def _evaluation(objective: Any, region: Region) -> Callable[[Tensor], Tensor]:
    """Return the objective as a function of materialised candidates."""
    if objective.dim != region.mean.numel():
        raise ValueError(
            f"the objective has {objective.dim} coordinates, but mean has {region.mean.numel()}"
        )
    if isinstance(objective, Landscape):
        return lambda x: landscapes.value(objective, x)
    from unstuck.ops import objectives

    return lambda x: objectives.value(objective, x)


def losses(objective: Any, region: Region, draw: Draw, count: int) -> Tensor:
    """Return the losses of candidates 0, ..., ``count - 1``.

    Parameters
    ----------
    objective : Landscape or an objective of :mod:`unstuck.ops.objectives`
        What is evaluated.
    region : Region
        Where the candidates lie.
    draw : Draw
        Their noise.
    count : int
        How many.

    Returns
    -------
    Tensor
        [count], in the dtype of ``region.mean``.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> losses(Landscape("sphere", 2), Region(torch.ones(2), 0.0), Draw(seed=0), 3)
    tensor([2., 2., 2.])
    """
    check(region, draw, count)
    evaluate = _evaluation(objective, region)
    if now.is_traced():
        return library.losses(objective, region, draw, count)
    if not isinstance(objective, Landscape):
        from unstuck.ops import objectives

        return objectives.candidate_losses(objective, region, draw, count)
    if module := now.native_for(region.mean):
        return now.losses(_plan(module, region, objective), region, draw, count)
    with torch.no_grad():
        return reference.losses(evaluate, region, draw, count)


def combine(region: Region, draw: Draw, weights: Tensor) -> Moments:
    """Return weighted sums over candidates, drawn again.

    ``shift = sum a_i (x_i - mean)`` and ``square = sum a_i (x_i - mean)^2``.

    Parameters
    ----------
    region, draw
        Where the candidates lie, and their noise.
    weights : Tensor
        a [N], of any sign and sum. A candidate of weight 0 is left out, wherever it lies.

    Returns
    -------
    Moments
        `shift` and `square` [D].

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> region, draw = Region(torch.zeros(2), 0.1), Draw(seed=1)
    >>> moments = combine(region, draw, torch.tensor([0.5, 0.5]))
    >>> moments.shift  # a pair of opposite candidates
    tensor([0., 0.])
    """
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a torch.Tensor, not {type(weights).__name__}")
    if weights.ndim != 1:
        raise ValueError(f"weights must have one dimension, not the shape {tuple(weights.shape)}")
    check(region, draw, len(weights))
    _refuse_unlike("weights", weights, region.mean, tuple(weights.shape))
    if now.is_traced():
        return library.combine(region, draw, weights)
    if module := now.native_for(region.mean):
        return now.combine(_plan(module, region), region, draw, weights)
    with torch.no_grad():
        return reference.combine(region, draw, weights)


def softmax_pass(
    objective: Any, region: Region, draw: Draw, count: int, beta: float
) -> tuple[Tensor, Moments, float]:
    """Return losses and the moments under ``a = softmax(-beta L)``, from one pass.

    The weights are rescaled as better candidates turn up, as in flash attention.

    Parameters
    ----------
    objective, region, draw, count
        As for :func:`losses`.
    beta : float
        The inverse temperature, at least 0.

    Returns
    -------
    losses : Tensor
        [count].
    moments : Moments
        Under the weights a, which sum to 1. A candidate whose loss is NaN or infinite has none;
        when all are, the moments are 0.
    ess : float
        The effective sample size ``1 / sum a_i^2``, and 0 when no loss is finite.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> region = Region(torch.ones(2), 0.5)
    >>> values, moments, ess = softmax_pass(Landscape("sphere", 2), region, Draw(seed=0), 64, 1.0)
    >>> bool((moments.shift < 0).all()), 1 <= ess <= 64
    (True, True)
    """
    check(region, draw, count)
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and at least 0, not {beta}")
    evaluate = _evaluation(objective, region)
    if now.is_traced():
        return library.softmax_pass(objective, region, draw, count, beta)
    if not isinstance(objective, Landscape):
        values = losses(objective, region, draw, count)
        weights, ess = reference.softmax(values, beta)
        return values, combine(region, draw, weights), ess
    if module := now.native_for(region.mean):
        return now.softmax(_plan(module, region, objective), region, draw, count, beta)
    with torch.no_grad():
        return reference.softmax_pass(evaluate, region, draw, count, beta)
