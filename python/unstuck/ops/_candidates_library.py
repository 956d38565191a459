"""The ops on candidates as torch.library knows them, for code that is being compiled.

Counters may change from call to call, but a `sigma` or `beta` that is another number is another
graph: a step size that changes is better given as a tensor.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from unstuck.ops._trials_library import OBJECTIVE, pack, unpack
from unstuck.ops._trials_now import Along
from unstuck.ops.reference_candidates import Draw, Moments, Region

_REGION = (
    "Tensor mean, Tensor? sigmas, float sigma, Tensor? scale, Tensor? low, Tensor? high, str bound"
)
_DRAW = "int seed, SymInt iteration, SymInt stream, bool antithetic, int rounds"
_SIGNED = 1 << 63  # what an int of a schema stays below; a seed is a number of 64 bits


def _pack(region: Region, draw: Draw) -> tuple[Any, ...]:
    """Return a region and a draw as the ops take them."""
    sigma = region.sigma
    number, sigmas = (0.0, sigma) if isinstance(sigma, Tensor) else (sigma, None)
    tensors = (region.mean, sigmas, region.scale, region.low, region.high)
    mean, sigmas, scale, low, high = (None if x is None else x.detach() for x in tensors)
    seed = draw.seed if draw.seed < _SIGNED else draw.seed - 2 * _SIGNED
    return mean, sigmas, number, scale, low, high, region.bound, seed, *draw[1:]


def _unpack(packed: tuple[Any, ...]) -> tuple[Region, Draw]:
    mean, sigmas, sigma, scale, low, high, bound, seed, *rest = packed
    region = Region(mean, sigma if sigmas is None else sigmas, scale, low, high, bound)
    return region, Draw(seed % (2 * _SIGNED), *rest)


def losses(objective: Along, region: Region, draw: Draw, count: int) -> Tensor:
    """Call the registered op: losses [count]."""
    packed = (*pack(objective), *_pack(region, draw))
    values: Tensor = torch.ops.unstuck.candidate_losses(*packed, count)
    return values


def combine(region: Region, draw: Draw, weights: Tensor) -> Moments:
    """Call the registered op: moments under `weights`."""
    packed = _pack(region, draw)
    return Moments(*torch.ops.unstuck.candidate_combine(*packed, weights.detach()))


def sample(region: Region, draw: Draw, first: int, count: int) -> Tensor:
    """Call the registered op: candidates [count, D]."""
    points: Tensor = torch.ops.unstuck.candidate_sample(*_pack(region, draw), first, count)
    return points


def softmax_pass(
    objective: Along, region: Region, draw: Draw, count: int, beta: float
) -> tuple[Tensor, Moments, float]:
    """Call the registered op. The effective sample size, a number, ends the graph."""
    packed = (*pack(objective), *_pack(region, draw))
    values, *moments, ess = torch.ops.unstuck.candidate_softmax(*packed, count, beta)
    return values, Moments(*moments), ess.item()


def _eager() -> ModuleType:
    from unstuck.ops import candidates  # which imports this module

    return candidates


def _losses(*args: Any) -> Tensor:
    region, draw = _unpack(args[4:16])
    values: Tensor = _eager().losses(unpack(*args[:4]), region, draw, args[16])
    return values


def _combine(*args: Any) -> tuple[Tensor, Tensor]:
    shift, square = _eager().combine(*_unpack(args[:12]), args[12])
    return shift, square


def _sample(*args: Any) -> Tensor:
    points: Tensor = _eager().sample(*_unpack(args[:12]), *args[12:])
    return points


def _softmax(*args: Any) -> tuple[Tensor, ...]:
    region, draw = _unpack(args[4:16])
    found = _eager().softmax_pass(unpack(*args[:4]), region, draw, *args[16:])
    values, (shift, square), ess = found
    return values, shift, square, torch.tensor(ess, dtype=torch.float64)


def _like(mean: Tensor) -> Tensor:
    return mean.new_empty(mean.shape)


_library = torch.library.Library("unstuck", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name, _schema, _implementation, _fake in (
    (
        "candidate_losses",
        f"({OBJECTIVE}, {_REGION}, {_DRAW}, SymInt count) -> Tensor",
        _losses,
        lambda *args: args[4].new_empty(args[16]),
    ),
    (
        "candidate_combine",
        f"({_REGION}, {_DRAW}, Tensor weights) -> (Tensor, Tensor)",
        _combine,
        lambda *args: (_like(args[0]), _like(args[0])),
    ),
    (
        "candidate_sample",
        f"({_REGION}, {_DRAW}, SymInt first, SymInt count) -> Tensor",
        _sample,
        lambda *args: args[0].new_empty(args[13], args[0].numel()),
    ),
    (
        "candidate_softmax",
        f"({OBJECTIVE}, {_REGION}, {_DRAW}, SymInt count, float beta) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
        _softmax,
        lambda *args: (
            args[4].new_empty(args[16]),
            _like(args[4]),
            _like(args[4]),
            torch.empty((), dtype=torch.float64),
        ),
    ),
):
    _library.define(f"{_name}{_schema}")  # type: ignore[no-untyped-call]
    _library.impl(  # type: ignore[no-untyped-call]
        _name, _implementation, "CompositeExplicitAutograd"
    )
    torch.library.register_fake(f"unstuck::{_name}", _fake, lib=_library)
