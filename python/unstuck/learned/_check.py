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


def number(name: str, value: Any, low: float, high: float) -> None:
    """Raise unless `value` is a number in [`low`, `high`]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"Invalid {name}: {value}; it must be in [{low:g}, {high:g}]")


def flag(name: str, value: Any) -> None:
    """Raise unless `value` is True, False or None."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or None, not {value!r}")


def decays(name: str, values: Any) -> None:
    """Raise unless `values` are at most 16 numbers in [0, 1)."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a sequence of numbers, not {values!r}")
    if len(values) > 16:
        raise ValueError(f"{name} must be at most 16 numbers, not {len(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be numbers, not {value!r}")
        if not 0 <= value < 1:
            raise ValueError(f"Invalid decay among {name}: {value}; it must be in [0, 1)")
