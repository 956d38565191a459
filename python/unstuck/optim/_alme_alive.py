"""What a search of :class:`unstuck.optim.ALME` may move: what gradients have moved, and dead units.

An entry whose gradient has always been zero (its ``exp_avg_sq`` is 0) is a masked weight, the
padding row of an embedding, the weight of an input that never comes, or an entry frozen by a hook:
the loss says nothing of it, so it stays what it is. Only units that are dead as a whole, a row of a
weight and its bias, are moved, since nothing else would bring them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME


def movable(optimizer: ALME, params: list[Tensor]) -> list[Tensor]:
    """Return for each parameter which of its entries a search may move (bool, of its shape)."""
    found = {id(p): _stepped(p, optimizer.state.get(p, {})) for p in params}
    for weight, partner, dead in dead_units(optimizer, params):
        found[id(weight)][dead] = True
        found[id(partner)][dead] = True
    return [found[id(p)] for p in params]


def dead_units(optimizer: ALME, params: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return weights [n, ...], their partners [n], and which of the n units are dead (bool [n]).

    The partner of a weight is the next parameter of its group: the bias of the layer, or the weight
    of the norm behind it. A unit is dead where both have been stepped, and no entry of either ever
    had a gradient. Parameters with hooks are left out: who freezes rows does it by hooks.
    """
    known = {id(p) for p in params}
    units = []
    for group in optimizer.param_groups:
        own = [p for p in group["params"] if id(p) in known]
        for weight, partner in zip(own, own[1:], strict=False):
            if weight.ndim < 2 or partner.shape != weight.shape[:1] or not weight.numel():
                continue
            states = [optimizer.state.get(p, {}) for p in (weight, partner)]
            if any("exp_avg_sq" not in s for s in states) or _hooked(weight) or _hooked(partner):
                continue
            first, second = (_stepped(p, s) for p, s in zip((weight, partner), states, strict=True))
            dead = ~(first.flatten(1).any(1) | second.to(first.device))
            if bool(dead.any()):
                units.append((weight, partner, dead))
    return units


def _stepped(p: Tensor, state: Mapping[str, Any]) -> Tensor:
    """Return which entries have had a gradient that was not zero."""
    if "exp_avg_sq" not in state:
        return torch.zeros(p.shape, dtype=torch.bool, device=p.device)
    return state["exp_avg_sq"] != 0  # type: ignore[no-any-return]


def _hooked(p: Tensor) -> bool:
    return bool(p._backward_hooks) or bool(getattr(p, "_post_accumulate_grad_hooks", None))
