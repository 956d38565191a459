"""What an Adam step is given: the tensors of one parameter group, its settings, the tests."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unstuck.ops._blend_rows import shown


class Stat(IntEnum):
    """Places in a statistics vector, as ``csrc/math/stagnation.hpp`` has them; windows follow."""

    SEEN_NORMS = 0
    FLAT_STEPS = 1
    STAGNANT_STEPS = 2
    LAST_NORM = 3
    NORM_CHANGE = 4
    LAST_LOSS = 5
    LOSS_WAITS = 6
    SEEN_LOSSES = 7
    LOSS_CHANGE = 8
    GRAD_SQUARES = 9
    TOTAL_STEPS = 10
    BEST_LOSS = 11
    HAS_BEST = 12


HEADER = len(Stat)


class Group(NamedTuple):
    """What one parameter group sets for an Adam step. The fields are those the kernels read.

    `lr` is a number, or a tensor of one number on the parameters' device.
    """

    lr: float | Tensor
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False


class Tracking(NamedTuple):
    """How stagnation is told from gradient norms and losses; see ``csrc/math/stagnation.hpp``.

    A `loss_threshold` below 0 leaves losses out.
    """

    norm_window: int = 10
    norm_threshold: float = 1e-6
    loss_window: int = 10
    loss_threshold: float = -1.0
    patience: int = 5
    relative: bool = False

    @property
    def size(self) -> int:
        """The length of the statistics vector."""
        return HEADER + self.norm_window + self.loss_window


class Rows(NamedTuple):
    """The tensors of one group: lists with one entry a parameter."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: list[Tensor]

    def device(self) -> torch.device | None:
        """Return the device of the first parameter, or None without any; all lists are lists."""
        for name, column in zip(self._fields, self, strict=True):
            if not isinstance(column, (list, tuple)):
                raise TypeError(f"{name} must be a list or a tuple, not {shown(column)}")
            if not self.params and column:
                raise ValueError(f"{name} has {len(column)} entries, but params has 0")
        if not self.params:
            return None
        first = self.params[0]
        if not isinstance(first, Tensor):
            raise TypeError(f"params[0] must be a torch.Tensor, not {shown(first)}")
        return first.device

    def written(self, stats: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the tensor of everything that a step writes."""
        for name in ("params", "exp_avgs", "exp_avg_sqs", "steps"):
            for i, x in enumerate(getattr(self, name)):
                yield f"{name}[{i}]", x
        if stats is not None:
            yield "stats", stats


def as_tuple(kind: type[Any], name: str, x: Any) -> Any:
    """Return a tuple as a Group or Tracking, or raise."""
    if not isinstance(x, tuple):
        raise TypeError(f"{name} must be a {kind.__name__}, not {shown(x)}")
    if len(x) != len(kind._fields):
        raise ValueError(f"{name} must have {len(kind._fields)} fields, not {len(x)}")
    return x if isinstance(x, kind) else kind(*x)
