"""What a search of :class:`unstuck.optim.ALME` may move: what gradients have moved, and dead units.

An entry whose gradient has always been zero (its ``exp_avg_sq`` is 0) is a masked weight, the
padding row of an embedding, the weight of an input that never comes, or an entry frozen by a hook:
the loss says nothing of it, so it stays what it is. Only units that are dead as a whole are moved,
since nothing else would bring them back: a row of a weight, its bias, and what goes out from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME


def movable(optimizer: ALME, params: list[Tensor]) -> list[Tensor]:
    """Return for each parameter which of its entries a search may move (bool, of its shape).

    Those that have had a gradient which was not zero, and those of dead units. Unit i of a weight
    [n, ...] is dead where all of its row, and entry i of the next parameter [n] of the group (the
    bias of the layer, or the weight of the norm behind it), never had one. With it goes its column
    in the weight [m, n, ...] or [m, n k] that comes next, if that had none either. Parameters with
    hooks have no dead units: who freezes rows does it by hooks.
    """
    found = {id(p): _stepped(p, optimizer.state.get(p, {})) for p in params}
    stepped = {key: mask.clone() for key, mask in found.items()}
    for group in optimizer.param_groups:
        own = [p for p in group["params"] if id(p) in found and _can_die(p, optimizer.state)]
        for i, weight in enumerate(own[:-1]):
            partner = own[i + 1]
            if weight.ndim < 2 or partner.shape != weight.shape[:1] or not weight.numel():
                continue
            alive = stepped[id(weight)].flatten(1).any(1)
            dead = ~(alive | stepped[id(partner)].to(alive.device))
            found[id(weight)][dead] = True
            found[id(partner)][dead.to(partner.device)] = True
            after = next((p for p in own[i + 2 :] if p.ndim > 1), None)
            if after is None or not after.numel() or after.shape[1] % len(dead):
                continue
            columns = stepped[id(after)].reshape(len(after), len(dead), -1)
            silent = dead.to(after.device) & ~columns.any(2).any(0)
            found[id(after)].view(columns.shape)[:, silent] = True
    return [found[id(p)] for p in params]


def _stepped(p: Tensor, state: Mapping[str, Any]) -> Tensor:
    """Return which entries have had a gradient that was not zero."""
    if "exp_avg_sq" not in state:
        return torch.zeros(p.shape, dtype=torch.bool, device=p.device)
    moved: Tensor = state["exp_avg_sq"] != 0
    return moved.contiguous()


def _can_die(p: Tensor, state: Mapping[Tensor, Mapping[str, Any]]) -> bool:
    """Whether an entry that has no gradient may be one of a dead unit."""
    hooked = p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)
    return not hooked and "exp_avg_sq" in state.get(p, {})
