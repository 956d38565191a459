"""Whole iterations of adaptive attention search, in one native call where that can be.

The rule is that of :mod:`unstuck.ops.reference_attention`; the candidates are those of
:mod:`unstuck.ops.candidates`.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unstuck.ops import _candidates_now as now
from unstuck.ops import _native, candidates, objectives
from unstuck.ops import reference_attention as rule
from unstuck.ops._trials_now import kernel_data, kernels
from unstuck.ops.candidates import Draw, Region
from unstuck.ops.landscapes import Landscape
from unstuck.ops.objectives import TwoLayerNet
from unstuck.ops.reference_attention import SHARE, State

__all__ = ["Report", "State", "run"]

_kept = threading.local()  # the last plan of this thread, with its scratch memory


class Report(NamedTuple):
    """What iterations came to.

    Parameters
    ----------
    steps : int
        How many were made: fewer than wanted when one had nothing to go by.
    losses : Tensor
        Of the last one [N].
    ess : float
        Effective sample size of the last one; 0 when its losses did not differ.
    finite : int
        How many of its losses were finite.
    best : float
        The lowest loss, of these iterations or before.
    x : Tensor or None
        Its candidate [D] when it is new.
    """

    steps: int
    losses: Tensor
    ess: float
    finite: int
    best: float
    x: Tensor | None


def run(
    objective: Any,
    state: State,
    draw: Draw,
    count: int,
    *,
    low: Tensor | None = None,
    high: Tensor | None = None,
    bound: str = "clip",
    share: float = SHARE,
    steps: int = 1,
    best: float = math.inf,
) -> Report:
    """Make iterations of adaptive attention search; `state` is changed in place.

    Parameters
    ----------
    objective : Landscape or an objective of :mod:`unstuck.ops.objectives`
        What is minimised. All of it is one native call (but for a regression in a box) in memory
        of a few N and a few D, never N D; on CUDA the host waits once, at its end.
    state : State
        Mean, path and scales [D], step size and temperature.
    draw : Draw
        The noise of the first iteration; the others count on from it.
    count : int
        N, candidates an iteration.
    low, high : Tensor, optional
        The box [D].
    bound : {"clip", "reflect"}
        What happens to a coordinate outside the box.
    share : float
        Wanted effective sample size over N, in (0, 1).
    steps : int
        How many iterations.
    best : float
        The lowest loss before.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the text names it.

    Examples
    --------
    >>> state = State(torch.ones(8), torch.zeros(8), torch.ones(8), sigma=0.5)
    >>> report = run(Landscape("sphere", 8), state, Draw(seed=0), 32, steps=100)
    >>> report.steps, report.best < 1e-3
    (100, True)
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not 0 < share < 1:
        raise ValueError(f"share must lie strictly between 0 and 1, not {share}")
    region = Region(state.mean, state.sigma, state.scale, low, high, bound)
    if isinstance(state.mean, Tensor) and count >= 0:
        module = _module_for(objective, region)
        if module is not None:
            plan, data = _plan_for(module, objective)
            return _run_native(plan, data, state, region, draw, count, share, steps, best)
    candidates.check(region, draw, count)
    x, done = None, 0
    while done < steps:
        done += 1
        report = _step(objective, state, region, draw, count, share, best)
        best, x = report.best, x if report.x is None else report.x
        if not report.ess:
            break
        region = region._replace(mean=state.mean, sigma=state.sigma, scale=state.scale)
        draw = draw._replace(iteration=draw.iteration + 1)
    return report._replace(steps=done, x=x)


def _module_for(objective: Any, region: Region) -> Any:
    """Return the module whose iterations take this objective in this region, or None."""
    if isinstance(objective, Landscape):
        module = now.native_for(region.mean)
        return module if hasattr(module, "AttentionPlan") else None
    objectives.check_point(objective, region.mean, "region.mean", batch=False)
    boxed = region.low is not None or region.high is not None
    if objective.dim > objectives.FUSED or (boxed and not isinstance(objective, TwoLayerNet)):
        return None
    return kernels(objective, region.mean, "AttentionPlan")


def _plan_for(module: Any, objective: Any) -> tuple[Any, Any]:
    """Return a plan and what it is to be told of data, which it does not keep."""
    named, dim = isinstance(objective, Landscape), objective.dim
    key = (module, objective if named else dim)
    last = getattr(_kept, "plan", None)
    if last is None or last[0] != key:
        number = now.number_of(objective.name) if named else -1
        plan = module.AttentionPlan(number, tuple(objective.parameters) if named else (), dim)
        _kept.plan = last = (key, plan)
    if named:
        return last[1], None
    kind = "net" if isinstance(objective, TwoLayerNet) else "regression"
    return last[1], (kind, *kernel_data(objective))


def _run_native(
    plan: Any,
    data: Any,
    state: State,
    region: Region,
    draw: Draw,
    count: int,
    share: float,
    steps: int,
    best: float,
) -> Report:
    mean, low, high = state.mean, region.low, region.high
    losses, x = mean.new_empty(count), torch.empty_like(mean)
    if low is not None or high is not None:  # mean and scale are written, and never copied
        low = torch.full_like(mean, -math.inf) if low is None else now.dense(low)
        high = torch.full_like(mean, math.inf) if high is None else now.dense(high)
        region = region._replace(low=low, high=high)
    with _native.on(mean.device):
        if size := plan.workspace_size(count, draw.antithetic, data):
            plan.set_workspace(mean.new_empty(size, dtype=torch.float64))
        done, state.sigma, state.beta, ess, finite, best, improved = plan.steps(
            data,
            region,
            state.path,
            state.beta,
            share,
            draw,
            steps,
            losses,
            x,
            best,
            _native.where(mean.device),
        )
    return Report(done, losses, ess, finite, best, x if improved else None)


def _step(
    objective: Any,
    state: State,
    region: Region,
    draw: Draw,
    count: int,
    share: float,
    best: float,
) -> Report:
    losses = candidates.losses(objective, region, draw, count)
    wide = losses.double()
    finite = torch.isfinite(wide)
    low, index = torch.where(finite, wide, math.inf).min(0)
    x = None
    if float(low) < best:
        best, x = float(low), candidates.sample(region, draw, int(index), 1)[0]
    weights, ess, beta = rule.temper(wide, state.beta, share)
    if ess:
        moments = candidates.combine(region, draw, weights.to(losses))
        rule.adapt(state, moments.shift, moments.square, ess, beta)
    return Report(1, losses, ess, int(finite.sum()), best, x)
