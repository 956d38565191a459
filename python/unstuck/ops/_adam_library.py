"""Adam's op as torch.library knows it, for code that is being compiled.

Eager calls do not come here: the dispatcher would cost more than a small step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unstuck.ops._adam_now import step_now
from unstuck.ops._adam_rows import Group, Rows, Tracking

NUMBERS = ("lr", "beta1", "beta2", "eps", "weight_decay", "norm_threshold", "loss_threshold")
COUNTS = ("norm_window", "loss_window", "patience")
FLAGS = ("decoupled", "maximize", "relative", "finish")

# The optional tensor that is written travels as a list of at most one, so that the schema says so.
_SCHEMA = (
    "adam_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps, Tensor(e!)[] stats, Tensor? lr, "
    "float[] numbers, int[] counts, bool[] flags, Tensor? grad_scale, Tensor? found_inf) -> ()"
)


def pack(group: Group, stats: Tensor | None, tracking: Tracking, finish: bool) -> tuple[Any, ...]:
    """Return settings as the op takes them."""
    every = {**group._asdict(), **tracking._asdict(), "finish": finish}
    numbers = [0.0 if isinstance(every[n], Tensor) else float(every[n]) for n in NUMBERS]
    return (
        [] if stats is None else [stats],
        group.lr if isinstance(group.lr, Tensor) else None,
        numbers,
        [int(every[n]) for n in COUNTS],
        [bool(every[n]) for n in FLAGS],
    )


def _step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    stats: list[Tensor],
    lr: Tensor | None,
    numbers: list[float],
    counts: list[int],
    flags: list[bool],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    fields: dict[str, Any] = {}
    packed: tuple[tuple[str, tuple[str, ...], list[Any]], ...] = (
        ("numbers", NUMBERS, numbers),
        ("counts", COUNTS, counts),
        ("flags", FLAGS, flags),
    )
    for name, names, given in packed:
        if len(given) != len(names):
            raise ValueError(f"{name} must be the {len(names)} of {names}, not {len(given)}")
        fields.update(zip(names, given, strict=True))
    if len(stats) > 1:
        raise ValueError(f"there is at most one vector of statistics, not {len(stats)}")
    if lr is not None:
        fields["lr"] = lr
    step_now(
        Rows(params, grads, exp_avgs, exp_avg_sqs, steps),
        Group(**{name: fields[name] for name in Group._fields}),
        stats[0] if stats else None,
        Tracking(**{name: fields[name] for name in Tracking._fields}),
        fields["finish"],
        grad_scale,
        found_inf,
    )


_library = torch.library.Library("unstuck", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(_SCHEMA)  # type: ignore[no-untyped-call]
_library.impl("adam_step_", _step, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("unstuck::adam_step_", lambda *args: None, lib=_library)
