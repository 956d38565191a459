"""Noise as a function of (seed, iteration, stream, candidate, coordinate), never a state.

Philox4x32 with the seed as key and (block, candidate, iteration, stream) as counter. Coordinate c
is word ``(c % 64) // 16`` of block ``16 (c // 64) + c % 16``, so that sixteen lanes write sixteen
neighbours. Box-Muller turns words 0 and 1 of a block into the normals of its first two coordinates,
words 2 and 3 into those of the others::

    u = ((word >> 9) + 1/2) / 2^23       # exact in float32, never 0 or 1
    r = sqrt(-2 log u_0),  normals r cos(2 pi u_1) and r sin(2 pi u_1)

Normals are float32 numbers whatever the dtype they are handed out in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops import _candidates_now as now
from unstuck.ops import _native
from unstuck.ops import reference_candidates as reference
from unstuck.ops.reference_candidates import Draw, Region

__all__ = ["check_draw", "integers", "normals"]

_WORD = 1 << 32


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")
    return value


def check_draw(draw: Draw) -> None:
    """Refuse a draw that no counter can hold, by ``ValueError`` or ``TypeError``."""
    seed, iteration, stream, _, rounds = draw
    if type(seed) is type(iteration) is type(stream) is type(rounds) is int:
        fits = 0 <= seed < _WORD**2 and 0 <= iteration < _WORD and 0 <= stream < _WORD
        if fits and rounds in (7, 10):
            return
    _integer("seed", draw.seed, 0, _WORD**2 - 1)
    _integer("iteration", draw.iteration, 0, _WORD - 1)
    _integer("stream", draw.stream, 0, _WORD - 1)
    if _integer("rounds", draw.rounds, 7, 10) not in (7, 10):
        raise ValueError(f"rounds must be 7 or 10, not {draw.rounds}")


def check_range(first: int, count: int, dim: int) -> None:
    """Refuse candidates or coordinates that no counter can hold."""
    plain = type(first) is type(count) is type(dim) is int
    if plain and 0 <= first < _WORD and 0 <= count <= _WORD - first and 0 <= dim <= 1 << 34:
        return
    _integer("first", first, 0, _WORD - 1)
    _integer("count", count, 0, _WORD - first)
    _integer("dim", dim, 0, 1 << 34)


def integers(
    seed: int,
    iteration: int,
    stream: int,
    first: int,
    count: int,
    dim: int,
    *,
    rounds: int = 10,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the random words behind the noise.

    Parameters
    ----------
    seed : int
        The key, from 0 to 2^64 - 1.
    iteration, stream : int
        Counters from 0 to 2^32 - 1.
    first, count : int
        The candidates are `first`, ..., ``first + count - 1``.
    dim : int
        The number D of coordinates.
    rounds : int
        Of Philox: 10, or 7 for speed.
    device : torch.device or str, optional
        Where the numbers are made; the same numbers everywhere.

    Returns
    -------
    Tensor
        int64 [count, D], from 0 to 2^32 - 1.

    Raises
    ------
    ValueError, TypeError
        When an argument is not an integer, or out of its range.

    Examples
    --------
    >>> integers(0, 0, 0, 0, 1, 2)
    tensor([[1713891541, 4175744164]])
    """
    check_draw(Draw(seed, iteration, stream, False, rounds))
    check_range(first, count, dim)
    where = torch.device("cpu" if device is None else device)
    if where.type == "cpu":
        words = torch.empty(count, dim, dtype=torch.float64)
        if module := now.native_for(words):
            draw = Draw(seed, iteration, stream, False, rounds)
            module.noise_words(draw, first, words, module.noise_forms()[-1], _native.where(where))
            return words.long()
    return reference.integers(seed, iteration, stream, first, count, dim, rounds, where)


def normals(
    seed: int,
    iteration: int,
    stream: int,
    first: int,
    count: int,
    dim: int,
    *,
    rounds: int = 10,
    device: torch.device | str | None = None,
    antithetic: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the standard normal noise of candidates `first`, ...

    Parameters
    ----------
    seed, iteration, stream, first, count, dim, rounds, device
        As for :func:`integers`.
    antithetic : bool
        Whether candidates 2k and 2k + 1 share the numbers of candidate k, with opposite signs.
    dtype : torch.dtype
        float32 or float64; the numbers are float32 numbers either way.

    Returns
    -------
    Tensor
        [count, D].

    Raises
    ------
    ValueError, TypeError
        As :func:`integers`, or for another dtype.

    Examples
    --------
    >>> eps = normals(0, 0, 0, 0, 4, 1000, antithetic=True)
    >>> bool((eps[2] == -eps[3]).all()), abs(float(eps[0].mean())) < 0.1
    (True, True)
    """
    draw = Draw(seed, iteration, stream, antithetic, rounds)
    check_draw(draw)
    check_range(first, count, dim)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, not {dtype}")
    where = torch.device("cpu" if device is None else device)
    zero = torch.zeros(dim, dtype=dtype, device=where)
    if module := now.native_for(zero):
        return now.sample(now.plan_for(module, dim, None), Region(zero, 1.0), draw, first, count)
    return reference.noise(draw, first, count, dim, where).to(dtype)
