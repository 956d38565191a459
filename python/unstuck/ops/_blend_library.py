"""The blend's ops as torch.library knows them, for code that is being compiled.

Eager calls do not come here: the dispatcher would cost more than a small step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unstuck.ops._blend_now import hypergradient_now, step_now
from unstuck.ops._blend_rows import Group, Rows

NUMBERS = (
    "lr",
    "sgd_lr_ratio",
    "beta1",
    "beta2",
    "eps",
    "weight_decay",
    "momentum",
    "dampening",
    "alpha",
    "meta_lr",
    "total_steps",
)
FLAGS = ("decoupled", "nesterov", "maximize", "learn", "normalize")

# Optional tensors that are written travel as lists of at most one, so that the schema can say so.
_GROUP = (
    "Tensor(g!)[] gate, Tensor(h!)[] sums, Tensor? lr, Tensor? alpha, float[] numbers, "
    "bool[] flags, int hidden, int gate_units, bool finish"
)
_STEP = (
    "blend_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] momentum_buffers, Tensor(e!)[] directions, "
    f"Tensor(f!)[] steps, int[] units, bool[] had_previous, {_GROUP}, "
    "Tensor? grad_scale, Tensor? found_inf) -> ()"
)
_HYPERGRADIENT = (
    "blend_hypergradient_(Tensor[] params, Tensor[] grads, Tensor[] exp_avgs, "
    "Tensor[] exp_avg_sqs, Tensor[] momentum_buffers, Tensor[] directions, Tensor[] steps, "
    f"int[] units, bool[] had_previous, {_GROUP}) -> ()"
)


def pack(group: Group) -> tuple[Any, ...]:
    """Return a group as the ops take it."""

    def plain(name: str) -> float:
        value = getattr(group, name)
        return 0.0 if isinstance(value, Tensor) else float(value)

    return (
        [] if group.gate is None else [group.gate],
        [] if group.sums is None else [group.sums],
        group.lr if isinstance(group.lr, Tensor) else None,
        group.alpha if isinstance(group.alpha, Tensor) else None,
        [plain(name) for name in NUMBERS],
        [bool(getattr(group, name)) for name in FLAGS],
        group.hidden,
        group.units,
    )


def _unpack(
    gate: list[Tensor],
    sums: list[Tensor],
    lr: Tensor | None,
    alpha: Tensor | None,
    numbers: list[float],
    flags: list[bool],
    hidden: int,
    gate_units: int,
) -> Group:
    for name, given, names in (("numbers", numbers, NUMBERS), ("flags", flags, FLAGS)):
        if len(given) != len(names):
            raise ValueError(f"{name} must be the {len(names)} of {names}, not {len(given)}")
    if len(gate) > 1 or len(sums) > 1:
        raise ValueError(f"a group has at most one gate and sums, not {len(gate)} and {len(sums)}")
    fields: dict[str, Any] = dict(zip(NUMBERS, numbers, strict=True))
    fields.update(zip(FLAGS, flags, strict=True))
    fields.update(gate=gate[0] if gate else None, sums=sums[0] if sums else None)
    fields.update({} if lr is None else {"lr": lr}, **({} if alpha is None else {"alpha": alpha}))
    return Group(**fields, hidden=hidden, units=gate_units)


def _step(*args: Any) -> None:
    rows, group, (finish, grad_scale, found_inf) = Rows(*args[:9]), args[9:17], args[17:]
    step_now(rows, _unpack(*group), grad_scale, found_inf, finish)


def _hypergradient(*args: Any) -> None:
    rows, group, (finish,) = Rows(*args[:9]), args[9:17], args[17:]
    hypergradient_now(rows, _unpack(*group), finish)


_library = torch.library.Library("unstuck", "DEF")  # type: ignore[no-untyped-call]
for _name, _schema, _implementation in (
    ("blend_step_", _STEP, _step),
    ("blend_hypergradient_", _HYPERGRADIENT, _hypergradient),
):
    _library.define(_schema)  # type: ignore[no-untyped-call]
    _library.impl(  # type: ignore[no-untyped-call]
        _name, _implementation, "CompositeExplicitAutograd"
    )
    torch.library.register_fake(f"unstuck::{_name}", lambda *args: None, lib=_library)
