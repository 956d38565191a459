"""Families of tasks by name, and a few words on each."""

from __future__ import annotations

from unstuck.learned.functions import Functions, Quadratics
from unstuck.learned.networks import Networks
from unstuck.learned.task import Family, Mixture

__all__ = ["FAMILIES"]

_LANDSCAPES = ("sphere", "ackley", "griewank", "rosenbrock", "styblinski_tang", "levy", "zakharov")
_SMOOTH = ("relu", "tanh", "gelu")

_MLP = Networks(
    "mlp",
    ("digits", "mnist1d"),
    width=(16, 128),
    depth=(1, 3),
    activations=_SMOOTH,
    batch=(32, 128),
    scale=(0.5, 2.0),
    features=(32, 512),
)
_CONV = Networks(
    "conv",
    ("digits", "mnist1d"),
    width=(16, 32),
    depth=(0, 1),
    activations=_SMOOTH,
    batch=(32, 64),
    channels=((8,), (8, 16)),
    scale=(0.5, 2.0),
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Quadratics(),
        Functions("rastrigin", ("rastrigin",)),
        Functions("rosenbrock", ("rosenbrock",)),
        Functions("landscapes", _LANDSCAPES, units=0.5),
        Mixture(
            "functions",
            (
                Quadratics(),
                Functions("rastrigin", ("rastrigin",)),
                Functions("rosenbrock", ("rosenbrock",)),
            ),
        ),
        Networks("digits", ("digits",), width=(16, 64)),
        Networks("mnist1d", ("mnist1d",), width=(16, 64)),
        Networks("mnist", ("mnist",), width=(16, 128)),
        _MLP,
        _CONV,
        Mixture("networks", (_MLP, _MLP, _MLP, _CONV)),
    )
}
"""Families by name. ``mnist`` is in no mixture, so that it can tell how a rule transfers."""
