"""Checks of constructor and group values, each error with the value and the remedy."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def number(value: float | Tensor) -> float:
    """Return a number, or that of a tensor of one element."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def non_negative(name: str, value: Any) -> None:
    """Raise unless `value` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"Invalid {name}: {value}; it must be finite and at least 0")


def learning_rate(name: str, value: Any) -> None:
    """Raise unless `value` is a finite number of at least 0, or a tensor of one float."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Tensor {name} must be one float32 or float64, not {value.dtype} of shape "
                f"{tuple(value.shape)}"
            )
        if value.is_meta:
            return
        value = number(value)
    non_negative(name, value)


def betas(value: Any) -> None:
    """Raise unless `value` is a pair of numbers in [0, 1)."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"betas must be a pair of numbers in [0, 1), not {value!r}")
    for i, beta in enumerate(value):
        if isinstance(beta, Tensor):
            raise TypeError(f"betas[{i}] is a tensor; pass a number")
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}; it must be in [0, 1)")


def alpha(value: Any) -> None:
    """Raise unless `value` is None, a schedule, a number in [0, 1] or a tensor of one float."""
    if value is None or callable(value):
        return
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Tensor alpha must be one float32 or float64, not {value.dtype} of shape "
                f"{tuple(value.shape)}"
            )
        if value.is_meta:
            return
        value = number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"alpha must be None, a number, a tensor or a function, not {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"Invalid alpha: {value}; it must be in [0, 1]")


def positive(name: str, value: Any) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"Invalid {name}: {value}; it must be at least 1")
