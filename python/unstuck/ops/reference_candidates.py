"""Noise and candidates in plain torch: the truth that the kernels are tested against.

Philox4x32 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) in 64-bit
integers, the Box-Muller transform in float64, and sums over chunks of materialised candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "CHUNK",
    "Draw",
    "Moments",
    "Region",
    "chunks",
    "combine",
    "integers",
    "losses",
    "normals",
    "philox",
    "sample",
    "softmax",
    "softmax_pass",
]

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LANES = 16  # blocks beside each other: coordinate c is word (c % 64) // 16 of block
GROUP = 4 * LANES  # 16 (c // 64) + c % 16
CHUNK = 1 << 22  # numbers that are materialised at a time


class Draw(NamedTuple):
    """Which random numbers: the same everywhere for the same draw.

    Parameters
    ----------
    seed : int
        The key, from 0 to 2^64 - 1.
    iteration, stream : int
        Counters from 0 to 2^32 - 1.
    antithetic : bool
        Whether candidates 2k and 2k + 1 get the same numbers with opposite signs.
    rounds : int
        Of Philox: 10, or 7 for speed.
    """

    seed: int
    iteration: int = 0
    stream: int = 0
    antithetic: bool = True
    rounds: int = 10


class Region(NamedTuple):
    """Where candidates lie: ``x_i = bound(mean + sigma_i scale eps_i)``.

    Parameters
    ----------
    mean : Tensor
        The centre [D], float32 or float64.
    sigma : float or Tensor
        The step size, of all candidates or of each [N].
    scale : Tensor, optional
        Of each coordinate [D]; ones where not given.
    low, high : Tensor, optional
        The box [D]; infinite where a coordinate is free.
    bound : str
        What happens to a coordinate outside the box: ``"clip"`` puts it on the border,
        ``"reflect"`` folds it back.
    """

    mean: Tensor
    sigma: float | Tensor
    scale: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    bound: str = "clip"


class Moments(NamedTuple):
    """Weighted sums over candidates: ``sum a_i (x_i - mean)`` and ``sum a_i (x_i - mean)^2``."""

    shift: Tensor
    square: Tensor


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int], rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of Philox4x32 for counters of int64 tensors that hold 32 bits."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(rounds):
        p, q = a * MULTIPLIERS[0], c * MULTIPLIERS[1]  # wraps; the bits are those of uint64
        a, b, c, d = (q >> 32 & MASK) ^ b ^ k0, q & MASK, (p >> 32 & MASK) ^ d ^ k1, p & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return a, b, c, d


def integers(
    seed: int,
    iteration: int,
    stream: int,
    first: int,
    count: int,
    dim: int,
    rounds: int,
    device: torch.device | None,
) -> Tensor:
    """Return the words [count, D] behind the noise of candidates `first`, ..., as int64."""
    groups = -(-dim // GROUP)
    block = torch.arange(groups * LANES, device=device).expand(count, -1)
    candidate = torch.arange(first, first + count, device=device)[:, None].expand_as(block)
    rest = [torch.full_like(block, word) for word in (iteration, stream)]
    words = philox((block, candidate, rest[0], rest[1]), (seed & MASK, seed >> 32), rounds)
    by_word = torch.stack(words, 1).view(count, 4, groups, LANES)
    return by_word.transpose(1, 2).reshape(count, groups * GROUP)[:, :dim]


def normals(words: Tensor) -> Tensor:
    """Return Box-Muller's float32 normals of whole groups of words [..., 64 G]."""
    u = ((words >> 9).double() + 0.5) * 2.0**-23
    pairs = u.view(*u.shape[:-1], u.shape[-1] // GROUP, 2, 2, LANES)  # [..., G, half, 2, lane]
    radius = torch.sqrt(-2 * torch.log(pairs[..., 0, :]))
    angle = 2 * math.pi * pairs[..., 1, :]
    both = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -2)
    return both.float().flatten(-4)


def noise(draw: Draw, first: int, count: int, dim: int, device: torch.device | None) -> Tensor:
    """Return the float32 normals [count, D] of candidates `first`, ..."""
    share = 2 if draw.antithetic else 1
    begin, end = first // share, -(-(first + count) // share)
    whole = -(-dim // GROUP) * GROUP
    eps = normals(
        integers(
            draw.seed, draw.iteration, draw.stream, begin, end - begin, whole, draw.rounds, device
        )
    )[:, :dim]
    if draw.antithetic:
        eps = torch.stack([eps, -eps], 1).flatten(0, 1)
    return eps[first - begin * share :][:count]


def _reflect(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    width = high - low
    turns = (x - low) / width
    turns = turns - 2 * torch.floor(turns / 2)
    folded = low + torch.where(turns > 1, 2 - turns, turns) * width
    once = torch.where(x < low, 2 * low - x, 2 * high - x)  # where only one side has a border
    return torch.where(torch.isfinite(width) & (width > 0), folded, once)


def bounded(x: Tensor, region: Region) -> Tensor:
    """Return the points where the region puts them."""
    if region.low is None and region.high is None:
        return x
    low = torch.full_like(region.mean, -math.inf) if region.low is None else region.low
    high = torch.full_like(region.mean, math.inf) if region.high is None else region.high
    if region.bound == "reflect":
        x = torch.where((x < low) | (x > high), _reflect(x, low, high), x)
    return torch.minimum(torch.maximum(x, low), high)


def sample(region: Region, draw: Draw, first: int, count: int) -> Tensor:
    """Return the candidates [count, D] numbered `first`, ..."""
    mean = region.mean
    eps = noise(draw, first, count, mean.numel(), mean.device).to(mean.dtype)
    sigma = region.sigma
    if isinstance(sigma, Tensor):
        step = sigma[first : first + count, None].to(mean.dtype)
    else:
        step = torch.full_like(eps[:, :1], sigma)
    if region.scale is not None:
        step = step * region.scale
    return bounded(mean + step * eps, region)


def chunks(count: int, dim: int) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of chunks that hold about :data:`CHUNK` numbers."""
    size = max(2, CHUNK // max(dim, 1) // 2 * 2)
    for first in range(0, count, size):
        yield first, min(size, count - first)


def losses(evaluate: Callable[[Tensor], Tensor], region: Region, draw: Draw, count: int) -> Tensor:
    """Return the losses [count], candidates materialised chunk by chunk."""
    parts = [evaluate(sample(region, draw, *chunk)) for chunk in chunks(count, len(region.mean))]
    return torch.cat(parts) if parts else region.mean.new_empty(0)


def combine(region: Region, draw: Draw, weights: Tensor) -> Moments:
    """Return the moments of the candidates, drawn again; weights of 0 leave a candidate out."""
    shift, square = torch.zeros_like(region.mean), torch.zeros_like(region.mean)
    for first, count in chunks(len(weights), len(region.mean)):
        a = weights[first : first + count].to(region.mean.dtype)
        way = sample(region, draw, first, count) - region.mean
        way = torch.where(a[:, None] != 0, way, 0.0)
        shift += a @ way
        square += a @ (way * way)
    return Moments(shift, square)


def softmax(losses: Tensor, beta: float) -> tuple[Tensor, float]:
    """Return ``softmax(-beta L)`` with zeros where L is not finite, and 1 / sum a^2."""
    finite = torch.isfinite(losses)
    if not bool(finite.any()):
        return torch.zeros_like(losses), 0.0
    weights = relative_weights(losses, finite, beta)
    weights = weights / weights.sum()
    return weights.to(losses.dtype), 1 / float(weights.square().sum())


def relative_weights(losses: Tensor, good: Tensor, beta: float) -> Tensor:
    """Return ``exp(-beta (L - min L))`` in float64, over what is good; the rest weighs zero.

    Losses may be so far apart that float64 does not hold their difference.
    """
    half = torch.where(good, 0.5 * losses.double(), math.inf)
    gap = torch.where(good, half - half.min(), 0.0)
    return torch.where(good, torch.exp(-beta * gap).square(), 0.0)


def softmax_pass(
    evaluate: Callable[[Tensor], Tensor], region: Region, draw: Draw, count: int, beta: float
) -> tuple[Tensor, Moments, float]:
    """Return the losses, the moments under ``softmax(-beta L)``, and the effective sample size."""
    values = losses(evaluate, region, draw, count)
    weights, ess = softmax(values, beta)
    return values, combine(region, draw, weights), ess
