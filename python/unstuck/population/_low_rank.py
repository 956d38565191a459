"""Matrices that differ by products of low rank, and layers that make use of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unstuck.ops import candidates
from unstuck.ops.candidates import Draw, Region
from unstuck.population._along import renormalises, three
from unstuck.population._closure import Function
from unstuck.population._flat import Flat
from unstuck.population._swap import Replace

Change = tuple[Tensor, Tensor] | Tensor
CONVOLUTIONS: dict[Function, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class LowRank(Replace):
    """Matrices ``w + a b^T``, where layers compute ``f(h, w) + (h b) a^T``, and tensors ``w + e``.

    Parameters
    ----------
    params : sequence of Tensor
        w.
    changes : sequence
        For each parameter (a [out, r], b [in, r]), or e like it.
    """

    def __init__(self, params: Sequence[Tensor], changes: Sequence[Change]) -> None:
        super().__init__((), ())
        self._changes = {id(p): c for p, c in zip(params, changes, strict=True)}

    def value(self, tensor: Tensor) -> Tensor | None:
        """Return the whole perturbed tensor."""
        change = self._changes.get(id(tensor))
        return super().value(tensor) if change is None else perturbed(tensor, change)

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a layer with the shared weight and add what is its own; others with values."""
        if func is F.linear or func in CONVOLUTIONS:
            h, w, b, rest, named = three(args, kwargs)
            change = self._changes.get(id(w))
            if isinstance(change, tuple):
                h = self.put(h)
                if func is F.linear:
                    shared = func(h, w, self.put(b), *rest, **named)
                    return shared + (h @ change[1]) @ change[0].mT
                groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
                if groups == 1 and w.numel() > h.numel():  # else whole weights take less
                    shared = func(h, w, self.put(b), *rest, **named)
                    thin = change[1].mT.reshape(-1, *w.shape[1:])
                    inner = func(h, thin, None, *rest, **named)
                    dims = CONVOLUTIONS[func]
                    return shared + torch.tensordot(
                        inner, change[0], dims=([inner.ndim - dims - 1], [1])
                    ).movedim(-1, inner.ndim - dims - 1)
        elif func is F.embedding and len(args) >= 2:
            change = self._changes.get(id(args[1]))
            if isinstance(change, tuple) and not renormalises(args, kwargs):
                shared = func(*args, **kwargs)
                return shared + F.embedding(args[0], change[0]) @ change[1].mT
        return super().call(func, args, kwargs)


def perturbed(w: Tensor, change: Change) -> Tensor:
    """Return ``w + a b^T``, or ``w + e``."""
    if isinstance(change, tuple):
        return w + (change[0] @ change[1].mT).reshape(w.shape)
    return w + change


class Thin:
    """How noise is laid out for matrices of low rank: ``w + sigma / sqrt(r) a b^T``.

    A tensor [out, ...] of more numbers than ``r (out + in)`` gets a [out, r] and b [in, r], where
    `in` is all but the first dimension; any other gets noise of its own for every number.

    Parameters
    ----------
    params : sequence of Tensor
        w.
    rank : int
        r.
    """

    def __init__(self, params: Sequence[Tensor], rank: int) -> None:
        self._params, self._rank = params, rank
        self._sizes: list[tuple[int, ...]] = []
        for p in params:
            rows = p.shape[0] if p.ndim > 1 and not p.is_complex() else 0
            columns = p.numel() // rows if rows else 0
            thin = rank * (rows + columns)
            whole = p.numel() * (2 if p.is_complex() else 1)
            self._sizes.append((rank * rows, rank * columns) if 0 < thin < whole else (whole,))
        self.dim = sum(map(sum, self._sizes))

    def changes(self, noise: Tensor, sigma: Tensor, signs: Tensor | float) -> list[Change]:
        """Return the changes of each parameter.

        Parameters
        ----------
        noise : Tensor
            [K, dim].
        sigma : Tensor
            Of each candidate [K].
        signs : Tensor
            [K]; -1 where the noise is that of another candidate with the opposite sign, which b
            then keeps, so that the product has that sign.
        """
        out: list[Change] = []
        flat = [size for sizes in self._sizes for size in sizes]
        parts = iter(torch.split(noise, flat, -1))
        for p, sizes in zip(self._params, self._sizes, strict=True):
            first = next(parts) * sigma[:, None]
            if len(sizes) == 1:
                whole = first.to(p.device).reshape(len(noise), *p.shape, *(2,) * p.is_complex())
                whole = torch.view_as_complex(whole.clone()) if p.is_complex() else whole
                out.append(whole.to(p.dtype))
                continue
            a = first.to(p.device, p.dtype) * self._rank**-0.5
            b = (next(parts) * signs).to(p.device, p.dtype)
            shape = (len(noise), -1, self._rank)
            out.append((a.reshape(shape), b.reshape(shape)))
        return out


class Noise:
    """The changes of candidates.

    Parameters
    ----------
    flat : Flat
        The parameters.
    draw : Draw
        The random numbers.
    sigma : float or Tensor
        The step size, of all candidates or of each.
    count : int
        How many there are.
    rank : int
        r.
    """

    def __init__(
        self, flat: Flat, draw: Draw, sigma: float | Tensor, count: int, rank: int
    ) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank must be an integer of at least 1, not {rank!r}")
        self._flat, self._draw, self._thin = flat, draw, Thin(flat.params, rank)
        zero = torch.zeros((), dtype=flat.dtype, device=flat.device)
        if isinstance(sigma, Tensor) and len(sigma) > count:
            sigma = sigma[:count]
        self._region = Region(zero.expand(self._thin.dim), 1.0)
        candidates.check(self._region._replace(sigma=sigma), draw, count)
        self._steps = sigma if isinstance(sigma, Tensor) else zero.new_full((count,), sigma)

    @property
    def bytes(self) -> int:
        """Memory of one candidate, with the numbers that it is made of."""
        return 2 * self._thin.dim * self._steps.element_size()

    def changes(self, first: int, n: int) -> list[Change]:
        """Return the changes of each parameter, of candidates `first`, ..., stacked."""
        eps = candidates.sample(self._region, self._draw, first, n)
        index = torch.arange(first, first + n, device=eps.device)
        signs = (1 - 2 * (index % 2) * int(self._draw.antithetic)).to(eps.dtype)
        return self._thin.changes(eps, self._steps[first : first + n], signs[:, None])

    def point(self, index: int) -> Tensor:
        """Return one candidate as a flat vector."""
        out = []
        for p, change in zip(self._flat.params, self.changes(index, 1), strict=True):
            one = (change[0][0], change[1][0]) if isinstance(change, tuple) else change[0]
            out.append(perturbed(p.detach(), one))
        return self._flat.gather(out)
