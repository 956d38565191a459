"""Checks of what rules are made with, each error with the value and the remedy."""

from __future__ import annotations

import math
from typing import Any


def whole(name: str, value: Any, low: int, high: int) -> None:
    """Raise unless `value` is a whole number in [`low`, `high`]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"Invalid {name}: {value}; it must be in [{low}, {high}]")


def positive(name: str, value: Any) -> None:
    """Raise unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"Invalid {name}: {value}; it must be finite and above 0")


def flag(name: str, value: Any) -> None:
    """Raise unless `value` is True, False or None."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or None, not {value!r}")
