"""Per-parameter state: a step count, and tensors that are like the parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unstuck.optim import _layout as layout


def prepare(
    state: dict[str, Any], p: Tensor, wanted: Sequence[str], known: Sequence[str]
) -> list[str]:
    """Create a parameter's state, or bring it to the parameter's dtype, device and layout.

    Parameters
    ----------
    state : dict
        The state of `p`, changed in place.
    p : Tensor
        The parameter.
    wanted : sequence of str
        Tensors like `p` that must be there, zero at first.
    known : sequence of str
        Those that follow `p` where they are there.

    Returns
    -------
    list of str
        Those of `wanted` that were created.

    Raises
    ------
    ValueError
        When a tensor of the state has another shape than the parameter.
    """
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
    elif not isinstance(state["step"], Tensor):
        state["step"] = torch.tensor(float(state["step"]), dtype=torch.float32, device=p.device)
    elif state["step"].dtype != torch.float32 or state["step"].device != p.device:
        state["step"] = state["step"].to(device=p.device, dtype=torch.float32)
    created = [key for key in wanted if state.get(key) is None]
    for key in created:
        form = (
            torch.preserve_format
            if layout.is_shard(p) or layout.is_dense(p)
            else torch.contiguous_format
        )
        state[key] = torch.zeros_like(p, memory_format=form).detach()
    for key in known:
        if (x := state.get(key)) is None:
            continue
        if x.shape != p.shape:
            raise ValueError(
                f"the loaded state {key!r} has shape {tuple(x.shape)}, but its parameter has "
                f"{tuple(p.shape)}"
            )
        if x.dtype != p.dtype or x.device != p.device:
            x = state[key] = x.to(device=p.device, dtype=p.dtype)
        if layout.is_plain(p) and x.stride() != p.stride():
            state[key] = layout.like(x, p)
    return created


def pack(
    p: Tensor, grad: Tensor, kept: Sequence[Tensor]
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Return a parameter, its gradient and its state as a kernel can take them.

    Returns
    -------
    list of Tensor
        Parameter, gradient and state: plain, local, without gaps, all of the same strides.
    list of (Tensor, Tensor)
        Where parameter and state lie, and the copy that must be written back after the step.
    """
    if layout.is_shard(p) and grad.placements != p.placements:  # type: ignore[attr-defined]
        grad = grad.redistribute(p.device_mesh, p.placements)  # type: ignore[attr-defined]
    w = layout.local(p).detach()
    home = [w, *(layout.local(x) for x in kept)]
    if not layout.is_dense(w):
        w = w.contiguous()
    fits = [w, *(layout.like(x, w) for x in home[1:])]
    copies = [(x, y) for x, y in zip(home, fits, strict=True) if x is not y]
    return [w, layout.like(layout.local(grad).detach(), w), *fits[1:]], copies
