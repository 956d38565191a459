"""Candidates and landscapes at once: by a native plan, where there is one for the device."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import _native
from unstuck.ops import reference_landscapes as formulas
from unstuck.ops._native import on, where
from unstuck.ops.reference_candidates import Draw, Moments, Region

Plan = Any  # unstuck._C.CandidatePlan or unstuck._cuda.CandidatePlan
_NUMBERS = {name: i for i, name in enumerate(formulas.TABLE)}
_kept = threading.local()  # the last plan of this thread, with its scratch memory


def _readable(x: Tensor) -> bool:
    """Whether `x` has memory of its own, which tensors of a function transform have not."""
    try:
        return x.numel() == 0 or x.data_ptr() != x.storage_offset() * x.element_size()
    except RuntimeError:
        return False


def is_traced() -> bool:
    """Whether a call becomes a node of a graph that is compiled.

    Function transforms see plain torch, which they can differentiate and batch.
    """
    return torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


def native_for(x: Tensor) -> Any:
    """Return the native module for a tensor that kernels can read, or None, warned of where due."""
    if torch.compiler.is_compiling() or x.dtype not in (torch.float32, torch.float64):
        return None
    if x.is_meta or not _readable(x):
        return None
    if x.is_cpu and _native.cpu is not None:
        return _native.cpu
    module = _native.module_for(x.device)
    if module is None:
        _native.warn_fallback(x.device)
    return module


def number_of(name: str) -> int:
    """Return the number by which native code knows a landscape."""
    return _NUMBERS[name]


def plan_for(module: Any, dim: int, name: str | None, parameters: Sequence[float] = ()) -> Plan:
    """Return a plan for a landscape, or, without a name, for anything of this dimension.

    The last one of the thread is used again: it remembers noise that need not be drawn twice.
    """
    last: tuple[Any, ...] = getattr(_kept, "plan", (None,))
    if last[:2] == (module, dim) and (name is None or last[2:4] == (name, parameters)):
        return last[4]
    number = -1 if name is None else number_of(name)
    plan = module.CandidatePlan(number, tuple(parameters), dim)
    _kept.plan = (module, dim, name, parameters, plan)
    return plan


def lend(plan: Plan, device: torch.device, count: int, antithetic: bool) -> None:
    """Give the plan scratch memory of the current stream, where it needs any."""
    if size := plan.workspace_size(count, antithetic):
        plan.set_workspace(torch.empty(size, dtype=torch.float64, device=device))


def dense(x: Tensor) -> Tensor:
    """Return a tensor as kernels read it."""
    if x.is_neg():
        x = x.resolve_neg()
    return x if x.is_contiguous() else x.contiguous()


def dense_region(region: Region) -> Region:
    """Return a region as kernels read it: gaps closed, and a border on both sides or none."""
    mean, sigma, scale, low, high, bound = region
    if low is not None and high is None:
        high = torch.full_like(mean, math.inf)
    elif high is not None and low is None:
        low = torch.full_like(mean, -math.inf)
    return Region(
        dense(mean),
        dense(sigma) if isinstance(sigma, Tensor) else sigma,
        None if scale is None else dense(scale),
        None if low is None else dense(low),
        None if high is None else dense(high),
        bound,
    )


def losses(plan: Plan, region: Region, draw: Draw, count: int) -> Tensor:
    """Return the losses [count] of the plan's landscape."""
    mean = region.mean
    out = torch.empty(count, dtype=mean.dtype, device=mean.device)
    with on(mean.device):
        lend(plan, mean.device, count, draw.antithetic)
        plan.losses(dense_region(region), draw, out, where(mean.device))
    return out


def combine(plan: Plan, region: Region, draw: Draw, weights: Tensor) -> Moments:
    """Return the moments under `weights`."""
    mean = region.mean
    shift, square = (
        torch.empty(mean.numel(), dtype=mean.dtype, device=mean.device) for _ in range(2)
    )
    with on(mean.device):
        lend(plan, mean.device, len(weights), draw.antithetic)
        plan.combine(dense_region(region), draw, dense(weights), shift, square, where(mean.device))
    return Moments(shift, square)


def softmax(
    plan: Plan, region: Region, draw: Draw, count: int, beta: float
) -> tuple[Tensor, Moments, float]:
    """Return losses, moments under ``softmax(-beta L)`` and the effective sample size."""
    mean = region.mean
    out, shift, square = (
        torch.empty(size, dtype=mean.dtype, device=mean.device)
        for size in (count, mean.numel(), mean.numel())
    )
    with on(mean.device):
        lend(plan, mean.device, count, draw.antithetic)
        ess = plan.softmax(dense_region(region), draw, beta, out, shift, square, where(mean.device))
    return out, Moments(shift, square), float(ess)


def sample(
    plan: Plan, region: Region, draw: Draw, first: int, count: int, out: Tensor | None = None
) -> Tensor:
    """Return the candidates [count, D], in `out` if given."""
    mean = region.mean
    if out is None:
        out = torch.empty(count, mean.numel(), dtype=mean.dtype, device=mean.device)
    sigma = region.sigma
    if isinstance(sigma, Tensor):
        region = region._replace(sigma=sigma[: first + count])
    with on(mean.device):
        plan.sample(dense_region(region), draw, first, out, where(mean.device))
    return out


def values(module: Any, name: str, parameters: Sequence[float], x: Tensor) -> Tensor:
    """Return the values [...] of a landscape at points [..., D]."""
    dim, flat = x.shape[-1], x.ndim == 2
    points = dense(x.detach() if x.requires_grad else x)
    if not flat:
        points = points.view(-1, dim)
    count, device = points.shape[0], x.device
    out = torch.empty(count, dtype=x.dtype, device=device)
    with on(device):
        plan = plan_for(module, dim, name, parameters)
        lend(plan, device, count, False)
        plan.values(points, out, where(device))
    return out if flat else out.view(x.shape[:-1])


def value_and_gradient(
    module: Any, name: str, parameters: Sequence[float], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the values [...] of a landscape at points [..., D], and its gradients [..., D]."""
    points = dense(x.detach()).view(-1, x.shape[-1])
    out = torch.empty(len(points), dtype=x.dtype, device=x.device)
    gradients = torch.empty_like(points)
    lent: list[Tensor] = []
    if hasattr(module, "landscape_gradients_workspace"):  # on CUDA
        size = module.landscape_gradients_workspace(x.shape[-1], len(points))
        lent.append(torch.empty(size, dtype=torch.float64, device=x.device))
    number, at = number_of(name), where(x.device)
    with on(x.device):
        module.landscape_gradients(number, tuple(parameters), points, out, gradients, at, *lent)
    return out.view(x.shape[:-1]), gradients.view(x.shape)
