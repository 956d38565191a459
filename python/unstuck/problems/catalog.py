"""Every named problem, by name."""

from __future__ import annotations

from typing import Any

import torch

from unstuck.problems._registry import lookup
from unstuck.problems.landscapes import LANDSCAPES
from unstuck.problems.objectives import OBJECTIVES
from unstuck.problems.problem import Entry, Problem

PROBLEMS: dict[str, Entry] = {**LANDSCAPES, **OBJECTIVES}

DTYPES = (torch.float32, torch.float64)


def names() -> list[str]:
    """Return the names that :func:`get` knows.

    Examples
    --------
    >>> names()[:3]
    ['sphere', 'rastrigin', 'ackley']
    """
    return list(PROBLEMS)


def get(
    name: str,
    dim: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    **parameters: Any,
) -> Problem:
    """Make a named problem: a function to minimise, its gradient, box and known minimum.

    Parameters
    ----------
    name : str
        One of :func:`names`.
    dim : int, optional
        Number of coordinates; may be left out where the name or the data decide it.
    dtype : torch.dtype
        Floating type of the points, float32 or float64.
    device : torch.device or str, optional
        Where the points live; the CPU by default.
    **parameters
        What the problem takes beside: ``ravine`` takes ``a`` and ``b``.

    Returns
    -------
    Problem
        Maps points ``[D]`` to a value and ``[N, D]`` to ``[N]``.

    Raises
    ------
    ValueError
        For an unknown name, a dimension in which the problem is not defined, an unknown or
        impossible parameter, or a dtype other than float32 and float64.

    Examples
    --------
    >>> problem = get("rastrigin", dim=1000)
    >>> problem.minimum, problem.bounds[1][0]
    (0.0, tensor(5.1200))
    >>> get("ravine", a=10.0, b=1.0)(torch.tensor([1.0, 2.0]))
    tensor(14.)
    """
    entry = lookup(PROBLEMS, name, "problem")
    unknown = sorted(set(parameters) - set(entry.parameters))
    if unknown:
        known = ", ".join(entry.parameters) or "none beside dim, dtype and device"
        raise ValueError(f"{name} has no parameter {unknown[0]!r}: known are {known}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be torch.float32 or torch.float64, not {dtype}")
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int) or dim < 1):
        raise ValueError(f"dim must be a whole number of at least 1, not {dim!r}")
    settings = {**entry.parameters, **parameters}
    return entry.make(dim, dtype, torch.device(device or "cpu"), **settings)
