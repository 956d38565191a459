"""Checks of what rules are made with, each error with the value and the remedy."""

from __future__ import annotations

from typing import Any


def whole(name: str, value: Any, low: int, high: int) -> None:
    """Raise unless `value` is a whole number in [`low`, `high`]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"Invalid {name}: {value}; it must be in [{low}, {high}]")
