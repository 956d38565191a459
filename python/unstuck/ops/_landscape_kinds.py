"""The landscapes by name: what one is, and what it checks. The formulas are in the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unstuck.ops import reference_landscapes as reference

__all__ = ["NAMES", "Landscape"]

#: The names that :class:`Landscape` knows.
NAMES = tuple(reference.TABLE)


@dataclass(frozen=True)
class Landscape:
    """A named function of `dim` coordinates, to be minimised.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    dim : int
        The number D of coordinates. Some landscapes are defined for two only.
    parameters : tuple of float
        The numbers in the formula that may be chosen: ``(a, b)`` of ``"ravine"``,
        ``a x^2 + b y^2``, (1, 2) where left empty. The others have none.

    Raises
    ------
    ValueError
        For an unknown name, a dimension that the landscape does not have, or parameters that are
        too many, too few or not finite.

    Examples
    --------
    >>> import torch
    >>> from unstuck.ops.landscapes import Landscape, value
    >>> value(Landscape("rastrigin", 3), torch.zeros(3))
    tensor(0.)

    Notes
    -----
    The formulas are in ``ops/reference_landscapes.py`` (torch) and ``csrc/math/landscapes.hpp``.
    """

    name: str
    dim: int
    parameters: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in reference.TABLE:
            raise ValueError(f"unknown landscape {self.name!r}: known are {', '.join(NAMES)}")
        formula = reference.TABLE[self.name]
        if isinstance(self.dim, bool) or not isinstance(self.dim, int):
            raise ValueError(f"dim must be an integer, not {self.dim!r}")
        if self.dim < formula.least or (formula.most is not None and self.dim > formula.most):
            limits = f"{formula.least}" if formula.most else f"at least {formula.least}"
            raise ValueError(f"dim of {self.name} must be {limits}, not {self.dim}")
        parameters = tuple(float(p) for p in self.parameters) or formula.parameters
        if len(parameters) != len(formula.parameters):
            raise ValueError(
                f"{self.name} has {len(formula.parameters)} parameters, not {self.parameters}"
            )
        if not all(math.isfinite(p) for p in parameters):
            raise ValueError(f"parameters must be finite, not {self.parameters}")
        object.__setattr__(self, "parameters", parameters)
