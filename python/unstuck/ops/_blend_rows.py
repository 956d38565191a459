"""What a blend step is given: the tensors of one parameter group, and its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


def shown(x: Any) -> str:
    """Name a value in an error text; of a tensor only what it is."""
    plain = x is None or isinstance(x, (bool, int, float, str))
    return ascii(x)[:80] if plain else f"a value of type {type(x).__name__}"


class Group(NamedTuple):
    """What one parameter group sets for a blend step. The fields are those the kernels read.

    `lr` and `alpha` are numbers or tensors of one number on the parameters' device. With a `gate`
    (the vector of :mod:`unstuck.ops.gate`) `alpha` is not read, and `sums`, float64 [units, 7]
    flattened, receives the step's inner products.
    """

    lr: float | Tensor
    sgd_lr_ratio: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool
    momentum: float
    dampening: float
    nesterov: bool
    maximize: bool
    alpha: float | Tensor
    gate: Tensor | None = None
    sums: Tensor | None = None
    hidden: int = 0
    units: int = 1
    learn: bool = False
    normalize: bool = True
    meta_lr: float = 0.0
    total_steps: float = 0.0


def as_group(x: Any) -> Group:
    """Return a tuple as a group, or raise."""
    if not isinstance(x, tuple):
        raise TypeError(f"group must be a Group, not {shown(x)}")
    if len(x) != len(Group._fields):
        raise ValueError(f"group must have {len(Group._fields)} fields, not {len(x)}")
    return x if isinstance(x, Group) else Group(*x)


class Rows(NamedTuple):
    """The tensors of one group: lists with one entry a parameter, or empty where optional."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    momentum_buffers: list[Tensor]
    directions: list[Tensor]
    steps: list[Tensor]
    units: list[int]
    had_previous: list[bool]

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

    def written(self, group: Group) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the tensor of everything that a step writes."""
        names = ("params", "exp_avgs", "exp_avg_sqs", "momentum_buffers", "directions", "steps")
        for name in names:
            for i, x in enumerate(getattr(self, name)):
                if x is not None:
                    yield f"{name}[{i}]", x
        if group.gate is not None and group.sums is not None:
            yield "group.gate", group.gate
            yield "group.sums", group.sums
