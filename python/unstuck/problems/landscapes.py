"""The landscapes: usual box, dimensions, and the lowest value in the box with a point that has it.

Formulas and gradients stand in :mod:`unstuck.ops.landscapes`. The minima are those that the
literature gives (Jamil and Yang 2013, "A literature survey of benchmark functions for global
optimization problems", and Surjanovic and Bingham's "Virtual library of simulation experiments"),
to the last digit of float64 where the literature rounds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unstuck.ops import landscapes
from unstuck.ops.reference_landscapes import TABLE
from unstuck.problems.problem import Entry, Problem

Minimizer = Callable[[int], Tensor]  # D to a point [D] in float64

MICHALEWICZ_POWER = 20  # 2 m, m = 10


@dataclass(frozen=True)
class Facts:
    """What is known about a landscape.

    Attributes
    ----------
    about : str
        One line.
    low, high : float
        The box, the same for every coordinate.
    minimizer : callable
        Gives a point ``[D]`` of lowest value, in float64.
    minimum : callable
        Gives that value, from D.
    parameters : tuple of str
        Names of the numbers in its formula that may be chosen, each above 0.
    """

    about: str
    low: float
    high: float
    minimizer: Minimizer
    minimum: Callable[[int], float]
    parameters: tuple[str, ...] = ()


def _everywhere(value: float) -> Minimizer:
    return lambda dim: torch.full((dim,), value, dtype=torch.float64)


def _at(*coordinates: float) -> Minimizer:
    return lambda dim: torch.tensor(coordinates[:dim], dtype=torch.float64)


def _each(value: float) -> Callable[[int], float]:
    return lambda dim: value * dim


def _michalewicz_minimizer(dim: int) -> Tensor:
    """Return the minimiser [D] of -sum sin(x_i) sin(i x_i^2 / pi)^20 in [0, pi].

    Every coordinate is on its own. ``sin(i x^2 / pi)^20`` is a comb of narrow teeth at ``i x^2 /
    pi = pi / 2 + k pi`` under the arch ``sin x``, highest at ``pi / 2``: the best tooth is one of
    the two beside it, and Newton's method on the logarithm's derivative finds its top.
    """
    i = torch.arange(1, dim + 1, dtype=torch.float64)
    below = torch.floor(i / 4 - 0.5).clamp(min=0)
    tops = []
    for k in (below, below + 1):
        x = torch.sqrt(math.pi * (math.pi / 2 + k * math.pi) / i)
        for _ in range(20):
            phase = i * x.square() / math.pi
            speed = 2 * i * x / math.pi
            slope = torch.cos(x) / torch.sin(x)
            slope += MICHALEWICZ_POWER * speed * torch.cos(phase) / torch.sin(phase)
            curvature = -1 / torch.sin(x).square()
            curvature -= MICHALEWICZ_POWER * (speed / torch.sin(phase)).square()
            curvature += MICHALEWICZ_POWER * 2 * i / math.pi / torch.tan(phase)
            x = x - slope / curvature
        tops.append(x.clamp(0, math.pi))
    heights = [_michalewicz_heights(i, x) for x in tops]
    return torch.where(heights[0] >= heights[1], tops[0], tops[1])


def _michalewicz_heights(i: Tensor, x: Tensor) -> Tensor:
    return torch.sin(x) * torch.sin(i * x.square() / math.pi) ** MICHALEWICZ_POWER


def _michalewicz_minimum(dim: int) -> float:
    i = torch.arange(1, dim + 1, dtype=torch.float64)
    return -float(_michalewicz_heights(i, _michalewicz_minimizer(dim)).sum())


FACTS: dict[str, Facts] = {
    "sphere": Facts("sum of squares", -5.12, 5.12, _everywhere(0), _each(0.0)),
    "rastrigin": Facts("a bowl full of regular pits", -5.12, 5.12, _everywhere(0), _each(0.0)),
    "ackley": Facts(
        "a rough plain around a narrow hole", -32.768, 32.768, _everywhere(0), _each(0.0)
    ),
    "griewank": Facts("a wide bowl with ripples", -600.0, 600.0, _everywhere(0), _each(0.0)),
    "rosenbrock": Facts("a curved, flat valley", -2.048, 2.048, _everywhere(1), _each(0.0)),
    "eggholder": Facts(
        "steep ridges, the minimum in a corner",
        -512.0,
        512.0,
        _at(512.0, 404.2318051137578),
        lambda dim: -959.6406627208507,
    ),
    "gaussian_peaks": Facts(
        "five narrow pits of one depth on a plain",
        -4.0,
        4.0,
        _everywhere(0),
        lambda dim: -1 - 4 * math.exp(-24),
    ),
    "egg_box_bowl": Facts(
        "a bowl with an egg box in it",
        -4.0,
        4.0,
        _at(-1.3064400083695107, 0.0),
        lambda dim: -0.7945823375615283,
    ),
    "ravine": Facts(
        "an ellipse, a x^2 + b y^2",
        -2.0,
        2.0,
        _everywhere(0),
        _each(0.0),
        parameters=("a", "b"),
    ),
    "scaled_saddle": Facts(
        "a badly scaled saddle; lowest in two corners of its box",
        -5.0,
        5.0,
        _at(-5.0, 5.0),
        lambda dim: 0.25 - 2500 * math.sin(0.5) * math.cos(0.5),
    ),
    "schwefel": Facts(
        "deep pits, the lowest far from the second lowest",
        -500.0,
        500.0,
        _everywhere(420.96874635998194),
        _each(0.0),
    ),
    "levy": Facts("a bowl with waves", -10.0, 10.0, _everywhere(1), _each(0.0)),
    "styblinski_tang": Facts(
        "two pits a coordinate, one deeper",
        -5.0,
        5.0,
        _everywhere(-2.9035340277711771),
        _each(-39.166165703771416),
    ),
    "michalewicz": Facts(
        "plains cut by steep valleys",
        0.0,
        math.pi,
        _michalewicz_minimizer,
        _michalewicz_minimum,
    ),
    "zakharov": Facts("a plate bent in one direction", -5.0, 10.0, _everywhere(0), _each(0.0)),
}


def _make(
    name: str,
    dim: int | None,
    dtype: torch.dtype,
    device: torch.device,
    **parameters: float,
) -> Problem:
    """Make the problem of a landscape."""
    facts, formula = FACTS[name], TABLE[name]
    if dim is None:
        if formula.most is None:
            raise ValueError(
                f"{name} is defined in every dimension from {formula.least} on: "
                f"give one, as in problems.get({name!r}, dim=10)"
            )
        dim = formula.most
    for label, value in parameters.items():
        if not (isinstance(value, (int, float)) and value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}: {label} must be a finite number above 0, not {value!r}")
    objective = landscapes.Landscape(name, dim, tuple(map(float, parameters.values())))
    box = tuple(
        torch.full((dim,), side, dtype=dtype, device=device) for side in (facts.low, facts.high)
    )
    return Problem(
        name=name,
        dim=dim,
        bounds=(box[0], box[1]),
        minimum=facts.minimum(dim),
        minimizer=facts.minimizer(dim).to(device, dtype),
        objective=objective,
        evaluate=landscapes.value,
        differentiate=landscapes.value_and_gradient,
    )


LANDSCAPES: dict[str, Entry] = {
    name: Entry(
        functools.partial(_make, name),
        facts.about,
        dict(zip(facts.parameters, TABLE[name].parameters, strict=True)),
    )
    for name, facts in FACTS.items()
}
