"""The arguments of ``minimize``, read and checked: each error has the value and the remedy."""

from __future__ import annotations

import inspect
import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstuck.minimize.function import Form
from unstuck.minimize.result import OptimizeResult

FLOATS = (torch.float32, torch.float64)
MOST_SEED = 2**64 - 1

Box = tuple[Tensor, Tensor]
Callback = Callable[[OptimizeResult], bool]


def read_x0(x0: Any, device: torch.device | str | None) -> tuple[Tensor, Form]:
    """Return the start as a vector ``[D]`` in float32 or float64, and what it looked like."""
    if isinstance(x0, Tensor):
        x = x0.detach()
        if not x.is_floating_point() and not x.is_complex():
            x = x.to(torch.get_default_dtype())
    else:
        try:
            array = np.asarray(x0)
            whole = array.dtype.kind in "iub"
            x = torch.tensor(array.astype(np.float64) if whole else array)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"x0 must be a tensor, an array or a sequence of numbers, not {x0!r}"
            ) from error
    if x.dtype not in FLOATS:
        raise TypeError(f"x0 must be float32 or float64, not {x.dtype}: convert it")
    if x.numel() == 0:
        raise ValueError(f"x0 is empty, of shape {[*x.shape]}: give at least one coordinate")
    shape = tuple(x.shape) or (1,)
    flat = x.reshape(-1).to(device=device, copy=True)
    if not all(bool(end.isfinite()) for end in flat.aminmax()):
        at = int((~flat.isfinite()).nonzero()[0])
        raise ValueError(f"x0 must be finite, but its coordinate {at} is {float(flat[at])}")
    return flat, Form(shape, array=not isinstance(x0, Tensor))


def read_bounds(bounds: Any, dim: int | None) -> tuple[Box, bool]:
    """Return ``(low [D], high [D])`` in float64, and whether they came as tensors.

    Infinite where there is none. Without `dim`, the bounds decide it.
    """
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):  # scipy.optimize.Bounds
        sides: Any = (bounds.lb, bounds.ub)
    else:
        try:
            count = len(bounds)
        except TypeError:
            raise TypeError(
                "bounds must be pairs (low, high), one a coordinate, or a pair of tensors, or "
                f"scipy.optimize.Bounds, not {bounds!r}"
            ) from None
        sides = bounds if count == 2 and all(map(_is_side, bounds)) else _pairs(bounds, dim)
    low, high = (_side(name, side) for name, side in zip(("low", "high"), sides, strict=True))
    width = dim if dim is not None else max(low.numel(), high.numel())
    both = []
    for name, side in (("low", low), ("high", high)):
        if side.numel() not in (1, width):
            raise ValueError(
                f"the {name} bound has {side.numel()} numbers for {width} coordinates: "
                "give one number a coordinate, or one for all"
            )
        both.append(side.expand(width) if side.numel() == 1 else side)
    wrong = (~(both[0] < both[1])).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"the bounds of coordinate {at} are {float(both[0][at])} and {float(both[1][at])}: "
            "low must be below high"
        )
    return (both[0], both[1]), any(isinstance(side, Tensor) for side in sides)


def _is_side(entry: Any) -> bool:
    """Say whether this is one side of a box; an array of two is a pair, as in SciPy."""
    if isinstance(entry, np.ndarray):
        return entry.size != 2
    return isinstance(entry, (int, float, np.number, Tensor))


def _pairs(bounds: Any, dim: int | None) -> tuple[list[float], list[float]]:
    """Return low and high of D pairs, as SciPy takes them."""
    if dim is not None and len(bounds) != dim:
        raise ValueError(
            f"bounds has {len(bounds)} entries for {dim} coordinates: give a pair (low, high) for "
            "each, or one pair of numbers or tensors for all"
        )
    low, high = [], []
    for at, pair in enumerate(bounds):
        try:
            least, most = pair
        except (TypeError, ValueError):
            raise ValueError(
                f"the bound of coordinate {at} is {pair!r}: it must be a pair (low, high), with "
                "None where there is none"
            ) from None
        low.append(-math.inf if least is None else float(least))
        high.append(math.inf if most is None else float(most))
    return low, high


def _side(name: str, side: Any) -> Tensor:
    tensor = torch.as_tensor(side, dtype=torch.float64).detach().cpu()
    if tensor.ndim > 1 or tensor.numel() == 0:
        raise ValueError(
            f"the {name} bound has shape {[*tensor.shape]}: give one number a coordinate"
        )
    return tensor.reshape(-1)


def fit_bounds(box: Box, start: Tensor) -> Box:
    """Return a box like the start; refuse a start outside of it."""
    low, high = (side.to(start) for side in box)
    if bool((start < low).any()) or bool((start > high).any()):
        at = int(((start < low) | (start > high)).nonzero()[0])
        raise ValueError(
            f"coordinate {at} of x0 is {float(start[at])}, outside of its bounds "
            f"[{float(low[at])}, {float(high[at])}]: move it inside"
        )
    return low, high


def draw_start(box: Box, seed: int, dtype: torch.dtype, device: Any) -> Tensor:
    """Return a point ``[D]`` drawn uniformly from a box."""
    low, high = (side.to("cpu", torch.float64) for side in box)
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise ValueError("without x0 every coordinate needs two finite bounds: give x0 or bounds")
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    drawn = torch.rand(len(low), generator=generator, dtype=torch.float64)
    return torch.lerp(low, high, drawn).to(device, dtype)


def read_budget(budget: Any, dim: int) -> int:
    """Return the evaluations that are allowed: by default 1000 a coordinate, at least 10,000."""
    if budget is None:
        return max(10_000, 1000 * dim)
    return read_count("budget", budget)


def read_count(name: str, value: Any) -> int:
    """Return a whole number of at least 1, which may be written as 1e6."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if isinstance(value, bool) or count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    return count


def check_device(device: torch.device | str | None) -> None:
    """Refuse a device that torch cannot use here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device={device!s} cannot be used here: {error}") from error


def read_seed(seed: Any) -> int:
    """Return the seed; without one, a number from torch's global generator."""
    if seed is None:
        return int(torch.randint(2**62, ()))
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number or None, not {seed!r}") from None
    if not 0 <= number <= MOST_SEED:
        raise ValueError(f"seed must be from 0 to 2^64 - 1, not {number}")
    return number


def read_tol(tol: Any) -> float | None:
    """Return the tolerance, a finite number of at least 0, or None."""
    if tol is None:
        return None
    if isinstance(tol, bool) or not isinstance(tol, numbers.Real):
        raise TypeError(f"tol must be a number or None, not {tol!r}")
    number = float(tol)
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"tol must be finite and at least 0, not {tol}")
    return number


def read_callback(callback: Any) -> Callback | None:
    """Return a function of the intermediate result that says whether to stop.

    As in SciPy: a callback whose only parameter is named ``intermediate_result`` is given the
    result so far, any other is given the best point.
    """
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    try:
        wants_result = set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except ValueError:  # written in C, without a signature
        wants_result = False

    def call(now: OptimizeResult) -> bool:
        try:
            answer = callback(intermediate_result=now) if wants_result else callback(now.x)
        except StopIteration:
            return True
        return isinstance(answer, (bool, np.bool_)) and bool(answer)

    return call


def refuse_unknown(options: Sequence[str], known: Sequence[str], method: str) -> None:
    """Raise for the first option that the method does not know."""
    for name in options:
        if name not in known:
            raise ValueError(
                f"unknown option {name!r} of the method {method!r}: known are "
                f"{', '.join(sorted(known))}"
            )
