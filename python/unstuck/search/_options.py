"""The options of attention search, checked."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

_BELONGS = {
    "beta": ("plain", "enhanced"),
    "eta": ("plain", "enhanced"),
    "spread": ("enhanced",),
    "covariance": ("adaptive",),
    "ess": ("adaptive",),
    "local": ("adaptive",),
    "restarts": ("adaptive",),
}
_MODES = ("adaptive", "plain", "enhanced")


def check_options(
    mode: str, sigma0: float, popsize: int | None, bound: str, given: dict[str, Any]
) -> None:
    """Raise ``ValueError`` for what is out of its range or belongs to another mode."""
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {_MODES}, not {mode!r}")
    if not (sigma0 > 0 and math.isfinite(sigma0)):
        raise ValueError(f"sigma0 must be finite and above 0, not {sigma0}")
    if bound not in ("clip", "reflect"):
        raise ValueError(f"bound must be 'clip' or 'reflect', not {bound!r}")
    if popsize is not None and not (isinstance(popsize, Integral) and popsize >= 2):
        raise ValueError(f"popsize must be a whole number of at least 2, not {popsize!r}")
    for name in given:
        if mode not in _BELONGS[name]:
            belongs = " and ".join(_BELONGS[name])
            raise ValueError(f"{name} belongs to mode {belongs}, not {mode}: leave it out")
    if given.get("covariance", "full") not in ("full", "diagonal"):
        raise ValueError(f"covariance must be 'full' or 'diagonal', not {given['covariance']!r}")
    for name in ("beta", "eta"):
        if name in given and not (given[name] > 0 and math.isfinite(given[name])):
            raise ValueError(f"{name} must be finite and above 0, not {given[name]}")
    if given.get("eta", 1.0) > 1:
        raise ValueError(f"eta must be at most 1, not {given['eta']}")
    if not 0 < given.get("ess", 0.5) < 1:
        raise ValueError(f"ess must be between 0 and 1, not {given['ess']}")
    spread = given.get("spread", (1.0, 1.0))
    if len(spread) != 2 or not all(s > 0 and math.isfinite(s) for s in spread):
        raise ValueError(f"spread must be two numbers above 0, not {spread}")
