"""Whitening of gradients as matrices: means of G G^T and G^T G, and their inverse roots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unstuck.learned._moments import widened
from unstuck.ops import learned

SIDES = ("rows", "columns")
ROOTS = ("rows_root", "columns_root")
NAMES = SIDES + ROOTS
LARGEST = 64  # a longer side is left as it is
LOOK = 10  # steps between two looks at the gradient
RENEW = 20  # looks between two roots
EARLY = (1, 2, 4, 8, 16)  # looks that make one, too
KEEP = 0.88  # of what earlier looks have seen
DAMPING = 1e-5
SCHEDULE = LOOK, KEEP, RENEW, EARLY


class Due(NamedTuple):
    """What a step does, as truth values and a number, or as tensors."""

    look: Any
    renew: Any
    weight: Any  # of this look in the mean


def due(t: int) -> Due:
    """Return what step `t`, from 1, does."""
    looks, look = (t - 1) // LOOK + 1, (t - 1) % LOOK == 0
    renew = looks % RENEW == 0 or looks in EARLY
    return Due(look, look and renew, max(1 - KEEP, 1 / looks))


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
    """Return of each side that is whitened a mean and a root ``[n, n]``, before the first step.

    A root is the identity until one has been made, so that a state from elsewhere goes on.
    """
    sides = [n if 2 <= n <= LARGEST and p.numel() else 0 for n in matrix(p.shape)]
    means = {key: p.new_zeros(n, n) for key, n in zip(SIDES, sides, strict=True)}
    ones = [torch.eye(n, dtype=p.dtype, device=p.device) for n in sides]
    roots = {key: p.new_zeros(len(x), len(x)) + x for key, x in zip(ROOTS, ones, strict=True)}
    return means | roots


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
            mean = torch.where(now.look, seen, mean).to(memory[side].dtype)
            by = torch.where(now.renew, _inverse_root(widened(mean), power), before)
            kept[side], kept[root] = mean, by.to(mean.dtype)
            by = widened(kept[root])
            out = by @ out if side == SIDES[0] else out @ by
    return out.reshape(g.shape).to(g.dtype), kept


class Entry(NamedTuple):
    """A matrix whose gradient is whitened outside autograd: where it stands, and what is kept."""

    place: int
    shape: tuple[int, ...]  # of its gradient as a matrix, with leading axes
    step: Tensor
    sides: dict[str, tuple[Tensor, Tensor]]  # mean and root of those that are whitened
    out: Tensor | None  # where it is whitened natively: what comes out, like the gradient

    def renew(self, power: float) -> None:
        """Make the roots anew."""
        for mean, root in self.sides.values():
            root.copy_(_inverse_root(widened(mean), power))


def entries(
    state: Mapping[str, Sequence[Tensor]], shapes: Sequence[Sequence[int]], *, native: bool
) -> list[Entry]:
    """Return what :func:`whiten_` needs of a state whose tensors stay where they are.

    Parameters
    ----------
    state : mapping of str to sequence of Tensor
        Of the rule, with or without leading axes.
    shapes : sequence of sequence of int
        Of the parameters, without them.
    native : bool
        Use the native step for all that is contiguous float32.
    """
    found = []
    for place, shape in enumerate(shapes):
        step = state["step"][place]
        sides = {
            side: (mean, state[root][place])
            for side, root in zip(SIDES, ROOTS, strict=True)
            if (mean := state[side][place]).numel()
        }
        if sides:
            kept = [step, *(x for side in sides.values() for x in side)]
            fits = native and all(x.dtype == torch.float32 and x.is_contiguous() for x in kept)
            out = kept[-1].new_empty(*step.shape, *shape) if fits else None
            found.append(Entry(place, (*step.shape, *matrix(shape)), step, sides, out))
    return found


def whiten_(gradients: Sequence[Tensor], among: Sequence[Entry], power: float) -> list[Tensor]:
    """Return gradients, whitened where there is an entry, and write what is kept of them.

    What is not due at a step is not computed.
    """
    found, native = list(gradients), []
    # Read at once, for on a GPU that waits; students have made as many steps as the first.
    counts = torch.stack([one.step.reshape(-1)[0] for one in among]).tolist() if among else []
    for one, count in zip(among, counts, strict=True):
        g, now = found[one.place], due(int(count) + 1)
        if one.out is None:
            found[one.place] = _whitened_by_torch(g, one, now, power)
            continue
        found[one.place] = one.out
        kept = (x for side in SIDES for x in one.sides.get(side, (None, None)))
        rows, rows_root, columns, columns_root = kept
        students, (r, c) = math.prod(one.shape[:-2]), one.shape[-2:]
        g = g.reshape(students, r * c) if students > 1 else g.contiguous()
        weight = now.weight if now.look else 0.0
        matrix = learned.Matrix(
            g, one.out, rows, rows_root, columns, columns_root, weight, (students, r, c)
        )
        if now.renew:
            learned.whiten([matrix._replace(out=None)])
            one.renew(power)
            matrix = matrix._replace(weight=0.0)
        native.append(matrix)
    if native:
        learned.whiten(native)
    return found


def _whitened_by_torch(g: Tensor, one: Entry, now: Due, power: float) -> Tensor:
    flat = widened(g).reshape(one.shape)
    if now.look:
        for side, (mean, _) in one.sides.items():
            mean.copy_(_merged(widened(mean), _turned(flat, side), now.weight))
    if now.renew:
        one.renew(power)
    for side, (_, root) in one.sides.items():
        by = widened(root)
        flat = by @ flat if side == SIDES[0] else flat @ by
    return flat.reshape(g.shape).to(g.dtype)


def _turned(g: Tensor, side: str) -> Tensor:
    return g if side == SIDES[0] else g.mT


def _merged(old: Tensor, x: Tensor, weight: float | Tensor) -> Tensor:
    """Return the mean of x x^T over time, without an x that would spoil it."""
    new = torch.lerp(old, x @ x.mT, weight)
    size = _trace(new)  # the sum of all squares: not finite where one of them is not
    return torch.where(size.isfinite(), new, old)


def _trace(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def _inverse_root(mean: Tensor, power: float) -> Tensor:
    """Return a matrix, its mean eigenvalue brought to 1, and damped, to the power -p."""
    try:
        values, vectors = torch.linalg.eigh(mean)
    except RuntimeError:  # LinAlgError: in single precision LAPACK at times does not converge
        values, vectors = (x.to(mean.dtype) for x in torch.linalg.eigh(mean.double()))
    level = values.mean(-1, keepdim=True)
    values = torch.where(level > 0, (values / level).clamp(min=0), 1)
    values = (values + DAMPING * mean.shape[-1]) ** -power
    root: Tensor = (vectors * values[..., None, :]) @ vectors.mT
    return root
