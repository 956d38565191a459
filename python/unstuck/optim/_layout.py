"""Which tensors a kernel can take as they are, and how the others are brought to it.

A kernel takes plain tensors that fill their memory without gaps, all of one row with the same
strides. Complex tensors are seen as pairs, shards (DTensor) as their local part, anything with gaps
as a packed copy that is written back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def is_plain(x: Tensor) -> bool:
    """Whether a kernel can take `x` itself."""
    return (
        type(x) in (Tensor, Parameter)
        and x.layout == torch.strided
        and x.dtype in FLOATS
        and is_dense(x)
    )


def is_dense(x: Tensor) -> bool:
    """Whether the elements fill one block of memory, each exactly once."""
    if x.is_contiguous():
        return True
    if x.numel() <= 1:
        return True
    expected = 1
    dims = sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n != 1)
    for stride, length in dims:
        if stride != expected:
            return False
        expected *= length
    return True


def is_shard(x: Any) -> bool:
    """Whether `x` is a DTensor."""
    return hasattr(x, "to_local") and hasattr(x, "placements")


def local(x: Tensor) -> Tensor:
    """Return the plain real tensor that holds the numbers of `x` on this rank."""
    if is_shard(x):
        x = x.to_local()  # type: ignore[attr-defined]
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    return x


def scalar_on(x: Tensor | None, device: torch.device) -> Tensor | None:
    """Return what a GradScaler says, which has a device of its own, where parameters lie."""
    return None if x is None else x.to(device)


def like(x: Tensor, model: Tensor) -> Tensor:
    """Return `x` itself where its strides are those of `model`, else a copy that has them."""
    if x.stride() == model.stride() and (torch.compiler.is_compiling() or not x.is_neg()):
        return x
    return torch.empty_strided(model.shape, model.stride(), dtype=x.dtype, device=x.device).copy_(x)


def check_parameter(name: str, p: Tensor) -> None:
    """Raise when several elements of a parameter share one place in memory."""
    if is_shard(p) or p.layout != torch.strided:
        return
    if any(stride == 0 and size > 1 for stride, size in zip(p.stride(), p.shape, strict=True)):
        raise ValueError(
            f"{name}: a parameter of shape {tuple(p.shape)} has the strides {p.stride()}: several "
            "elements share one place in memory; pass p.contiguous()"
        )


def check_way(p: Tensor, group: dict[str, Any], why_not: Callable[[torch.device], str]) -> None:
    """Raise when a group's `fused` or `capturable` cannot be had; `why_not` is empty where it can.

    A lazily conjugated or negated view cannot be stepped in any way.
    """
    if p.is_conj() or p.is_neg():
        raise ValueError(
            "a parameter is a lazily conjugated or negated view, which has no memory of its "
            "own; pass p.resolve_conj().resolve_neg()"
        )
    if group["fused"] and not p.is_meta and (reason := why_not(p.device)):
        raise RuntimeError(
            f"fused=True, but {reason}; run `python -m unstuck` for the "
            "remedy, or leave fused unset"
        )
    if group["capturable"] and p.device.type == "cpu":
        raise ValueError(
            "capturable=True, but a parameter is on the CPU, where there is nothing to capture"
        )


def check_gradient(name: str, p: Tensor, grad: Tensor) -> None:
    """Raise when no step can be made from this gradient."""
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"{name} does not support sparse gradients (layout {grad.layout}); use "
            "torch.optim.SparseAdam for this parameter, or a dense embedding (sparse=False)"
        )
    if grad.dtype != p.dtype:
        raise ValueError(
            f"{name}: a parameter of dtype {p.dtype} has a gradient of dtype {grad.dtype}; "
            "cast the gradient first"
        )
    if grad.device != p.device:
        raise ValueError(f"{name}: a parameter on {p.device} has its gradient on {grad.device}")
    if grad.shape != p.shape:
        raise ValueError(
            f"{name}: a parameter of shape {tuple(p.shape)} has a gradient of shape "
            f"{tuple(grad.shape)}"
        )
