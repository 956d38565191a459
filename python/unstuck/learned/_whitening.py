"""Whitening of gradients as matrices: means of G G^T and G^T G, and their inverse roots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unstuck.learned._moments import widened

SIDES = ("rows", "columns")
ROOTS = ("rows_root", "columns_root")
NAMES = SIDES + ROOTS
LARGEST = 256  # a longer side is left as it is
LOOK = 4  # steps between two looks at the gradient
RENEW = 10  # looks between two roots
EARLY = (1, 2, 4, 8)  # looks that make one, too
KEEP = 0.95  # of what earlier looks have seen
DAMPING = 1e-5


class Due(NamedTuple):
    """What a step does, as truth values and a number, or as tensors."""

    look: Any
    renew: Any
    weight: Any  # of this look in the mean


def due(t: int) -> Due:
    """Return what step `t`, from 1, does."""
    looks, look = (t - 1) // LOOK + 1, (t - 1) % LOOK == 0
    return Due(look, look and (looks % RENEW == 0 or looks in EARLY), max(1 - KEEP, 1 / looks))


def due_on(t: Tensor) -> Due:
    """Return the same for a count on a tensor."""
    looks, look = torch.floor((t - 1) / LOOK) + 1, (t - 1) % LOOK == 0
    renew = looks % RENEW == 0
    for early in EARLY:
        renew = renew | (looks == early)
    return Due(look, look & renew, (1 / looks).clamp(min=1 - KEEP))


def matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of a tensor as a matrix; of a vector, (1, 1)."""
    if len(shape) < 2:
        return 1, 1
    return shape[0], math.prod(shape[1:])


def memory(p: Tensor) -> dict[str, Tensor]:
    """Return of each side that is whitened a mean and a root ``[n, n]``, before the first step."""
    sides = [n if 2 <= n <= LARGEST and p.numel() else 0 for n in matrix(p.shape)]
    return {key: p.new_zeros(n, n) for key, n in zip(NAMES, 2 * sides, strict=True)}


def whitened(
    g: Tensor, memory: Mapping[str, Tensor], t: Tensor, power: float, shape: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a whitened gradient, and what is kept of it.

    Autograd and ``vmap`` run through: everything is computed at every step. Roots count as
    constants.

    Parameters
    ----------
    g : Tensor
        ``[*shape]``.
    memory : mapping of str to Tensor
        From :func:`memory`, or from the step before.
    t : Tensor
        The step's number, from 1.
    power : float
        p.
    shape : sequence of int
        Of the parameter.
    """
    now, kept = due_on(t.to(widened(g).dtype)), {key: memory[key] for key in NAMES}
    if not any(x.numel() for x in kept.values()):
        return g, kept
    out = flat = widened(g).reshape(matrix(shape))
    for side, root in zip(SIDES, ROOTS, strict=True):
        if memory[side].numel():
            mean, before = widened(memory[side]), widened(memory[root])
            seen = _merged(mean, _turned(flat, side).detach(), now.weight)
            mean = torch.where(now.look, seen, mean)
            by = torch.where(now.renew, _inverse_root(mean, power), before)
            kept[side], kept[root] = mean, by
            out = by @ out if side == SIDES[0] else out @ by
    return out.reshape(g.shape).to(g.dtype), kept


def whiten_(
    gradients: Sequence[Tensor],
    state: Mapping[str, Sequence[Tensor]],
    power: float,
    sizes: Sequence[Sequence[int]],
) -> list[Tensor]:
    """Return whitened gradients and write their memory: what is not due is not computed.

    See :meth:`unstuck.learned.WhitenedMLP.whiten_`.
    """
    found = list(gradients)
    mine = [
        i for i, g in enumerate(found) if state[SIDES[0]][i].numel() + state[SIDES[1]][i].numel()
    ]
    steps = [state["step"][i] for i in mine]
    firsts = [x if x.ndim == 0 else x.reshape(-1)[0] for x in steps]
    counts = torch.stack(firsts).tolist() if firsts else []
    for i, count in zip(mine, counts, strict=True):
        g, now = found[i], due(int(count) + 1)
        out = flat = widened(g).reshape(*g.shape[: g.ndim - len(sizes[i])], *matrix(sizes[i]))
        for side, root in zip(SIDES, ROOTS, strict=True):
            mean, by = state[side][i], state[root][i]
            if not mean.numel():
                continue
            if now.look:
                mean.copy_(_merged(widened(mean), _turned(flat, side), now.weight))
            if now.renew:
                by.copy_(_inverse_root(widened(mean), power))
            by = widened(by)
            out = by @ out if side == SIDES[0] else out @ by
        found[i] = out.reshape(g.shape).to(g.dtype)
    return found


def _turned(g: Tensor, side: str) -> Tensor:
    return g if side == SIDES[0] else g.mT


def _merged(old: Tensor, x: Tensor, weight: float | Tensor) -> Tensor:
    """Return the mean of x x^T over time, without an x that would spoil it."""
    new = torch.lerp(old, x @ x.mT, weight)
    return torch.where(new.sum((-2, -1), keepdim=True).isfinite(), new, old)


def _inverse_root(mean: Tensor, power: float) -> Tensor:
    """Return a matrix, its mean eigenvalue brought to 1, to the power -p."""
    values, vectors = torch.linalg.eigh(mean)
    values = values.clamp(min=0)
    level = values.mean(-1, keepdim=True)
    values = torch.where(level > 0, values / torch.where(level > 0, level, 1), 1)
    values = values + DAMPING * values.shape[-1]
    root: Tensor = (vectors * values[..., None, :] ** -power) @ vectors.mT
    return root
