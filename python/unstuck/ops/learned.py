"""The steps of learned update rules, as ops."""

from __future__ import annotations

from typing import Any

from unstuck.ops._blend_now import native_ready

__all__ = ["KERNELS", "Plan", "native_ready"]

Plan = Any  # unstuck._C.LearnedPlan or unstuck._cuda.LearnedPlan
KERNELS: frozenset[str] = frozenset()
