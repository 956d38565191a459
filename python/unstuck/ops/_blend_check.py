"""The checks that plain torch makes before a blend step.

The native modules check what they are given themselves; the fallback keeps to the same rules, so
that an error is an error everywhere, and comes before anything is written.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from unstuck.ops import gate as gate_ops
from unstuck.ops._blend_rows import Group, Rows, shown

__all__ = ["check"]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_HIDDEN = 4096
NUMBERS = ("sgd_lr_ratio", "beta1", "beta2", "eps", "weight_decay", "momentum", "dampening")
FLAGS = ("decoupled", "nesterov", "maximize")


def check(
    rows: Rows,
    group: Group,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    *,
    needs_gate: bool = False,
) -> tuple[Rows, Group]:
    """Raise ValueError or TypeError for what the native modules would refuse.

    Returns rows and group with plain numbers in place of whatever stood for them.
    """
    device = rows.device()
    _check_numbers(group)
    if needs_gate and group.gate is None:
        raise ValueError("group.gate is None, but a hypergradient needs a gate")
    for name in rows._fields:
        column: list[Any] = getattr(rows, name)
        optional = name in ("momentum_buffers", "directions")
        if len(column) != len(rows.params) and not (optional and not column):
            raise ValueError(f"{name} has {len(column)} entries, but params has {len(rows.params)}")
        if name == "units":
            limit = 2**31 - 1 if group.gate is None else group.units - 1
            for i, unit in enumerate(column):
                check_integer(f"units[{i}]", unit, 0, limit)
        elif name == "had_previous":
            for i, value in enumerate(column):
                check_flag(f"had_previous[{i}]", value)
        else:
            for i, x in enumerate(column):
                if x is not None or not optional:
                    check_cell(f"{name}[{i}]", x, rows.params[i], scalar=name == "steps")
    scalars: list[tuple[str, Tensor]] = []
    for label, y in (("grad_scale", grad_scale), ("found_inf", found_inf)):
        if y is not None:
            check_scalar(label, y, device, (torch.float32,))
            scalars.append((label, y))
    rates = [("group.lr", group.lr)]
    rates += [("group.alpha", group.alpha)] if group.gate is None else []
    for label, z in rates:
        if isinstance(z, Tensor):
            check_scalar(label, z, device, (torch.float32, torch.float64))
            scalars.append((label, z))
    for label, x in (("group.gate", group.gate), ("group.sums", group.sums)):
        if x is not None and x.device != device:
            raise ValueError(f"{label} must be on the device of the parameters, not {x.device}")
    read = [(f"grads[{i}]", grad) for i, grad in enumerate(rows.grads)]
    check_memory(list(rows.written(group)), read + scalars)
    plain: dict[str, Any] = {name: float(getattr(group, name)) for name in NUMBERS}
    plain |= {name: bool(getattr(group, name)) for name in FLAGS}
    plain |= {} if isinstance(group.lr, Tensor) else {"lr": float(group.lr)}
    whole = [operator.index(unit) for unit in rows.units]
    flags = [bool(value) for value in rows.had_previous]
    return rows._replace(units=whole, had_previous=flags), group._replace(**plain)


# ---------------------------------------------------------------- numbers
def check_number(name: str, x: Any, *, low: float = -math.inf) -> float:
    """Return a finite number of at least `low`, or raise."""
    try:
        value = float(x) if not isinstance(x, (str, bytes, bytearray)) else None
    except Exception as error:
        raise TypeError(f"{name} must be a number that float64 holds, not {shown(x)}") from error
    if value is None:
        raise TypeError(f"{name} must be a number, not {shown(x)}")
    if not math.isfinite(value) or value < low:
        at_least = f" and at least {low:g}" if low > -math.inf else ""
        raise ValueError(f"{name} must be finite{at_least}, not {shown(x)}")
    return value


def check_integer(name: str, x: Any, low: int, high: int) -> None:
    """Raise unless `x` is an integer of the range."""
    try:
        value = operator.index(x)
    except Exception as error:
        raise TypeError(f"{name} must be an integer, not {shown(x)}") from error
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {shown(x)}")


def check_flag(name: str, x: Any) -> None:
    """Raise unless `x` is True or False."""
    if not isinstance(x, (int, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {shown(x)}")


def _check_numbers(group: Group) -> None:
    lr = 1.0 if isinstance(group.lr, Tensor) else check_number("group.lr", group.lr, low=0)
    for name in ("sgd_lr_ratio", "eps", "weight_decay", "momentum"):
        check_number(f"group.{name}", getattr(group, name), low=0)
    if not math.isfinite(lr * group.sgd_lr_ratio):
        raise ValueError(
            "group.sgd_lr_ratio times lr must be finite, but they are "
            f"{group.sgd_lr_ratio} and {lr}"
        )
    check_number("group.dampening", group.dampening)
    for name in ("beta1", "beta2"):
        if not 0 <= check_number(f"group.{name}", getattr(group, name)) < 1:
            raise ValueError(f"group.{name} must be in [0, 1), not {shown(getattr(group, name))}")
    for name in FLAGS:
        check_flag(f"group.{name}", getattr(group, name))
    if group.gate is None:
        given = isinstance(group.alpha, Tensor)
        if not given and not 0 <= check_number("group.alpha", group.alpha) <= 1:
            raise ValueError(f"group.alpha must be in [0, 1], not {shown(group.alpha)}")
        if group.sums is not None:
            raise ValueError("group.sums are for a gate, but the group has none")
        return
    check_integer("group.hidden", group.hidden, 0, MAX_HIDDEN)
    check_integer("group.units", group.units, 1, 2**31 - 1)
    for name in ("learn", "normalize"):
        check_flag(f"group.{name}", getattr(group, name))
    for name in ("meta_lr", "total_steps"):
        check_number(f"group.{name}", getattr(group, name), low=0)
    sizes = {
        "gate": gate_ops.size(group.hidden, group.units),
        "sums": group.units * gate_ops.SUMS,
    }
    for name, size in sizes.items():
        x = getattr(group, name)
        check_vector(f"group.{name}", x, size)


# ---------------------------------------------------------------- tensors
def is_dense(x: Tensor) -> bool:
    """Whether the elements fill one block of memory, each exactly once."""
    if x.is_contiguous() or x.numel() <= 1:
        return True
    expected = 1
    dims = sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n != 1)
    for stride, length in dims:
        if stride != expected:
            return False
        expected *= length
    return True


def _described(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}, strides {x.stride()}, on {x.device}"


def _check_readable(name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {shown(x)}")
    if x.layout != torch.strided:
        raise ValueError(
            f"{name} has the layout {x.layout}; only dense (strided) tensors are updated: "
            "call .to_dense() first"
        )
    if not _has_memory(x):
        raise ValueError(
            f"{name} ({type(x).__name__} of {x.dtype} on {x.device}) has no memory of plain numbers"
            "; materialise it first"
        )
    if x.is_neg():
        raise ValueError(f"{name} is a lazily negated view; call .resolve_neg() first")


def _has_memory(x: Tensor) -> bool:
    if x.is_meta or x.is_nested or x.is_quantized or isinstance(x, FakeTensor):
        return False
    if x.device.type not in ("cpu", "cuda") or not x.numel():
        return True  # other devices need not tell addresses
    try:
        return x.data_ptr() != x.storage_offset() * x.element_size()  # behind no memory
    except RuntimeError:
        return False


def check_vector(name: str, x: Any, size: int) -> None:
    """Raise unless `x` is a contiguous float64 vector of that size."""
    _check_readable(name, x)
    if x.dtype != torch.float64 or x.shape != (size,) or not x.is_contiguous():
        raise ValueError(
            f"{name} must be a contiguous float64 vector of {size} numbers; it is {_described(x)}"
        )


def check_cell(name: str, x: Any, model: Tensor, *, scalar: bool) -> None:
    """Raise unless a step can take `x` beside the parameter `model`."""
    _check_readable(name, x)
    if scalar:
        check_scalar(name, x, model.device, (torch.float32,))
        return
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, not {x.dtype}")
    if not is_dense(x):
        raise ValueError(
            f"{name} must fill its memory without gaps or overlaps: {_described(x)}; "
            "use .contiguous()"
        )
    same = (x.dtype, x.device, x.shape) == (model.dtype, model.device, model.shape)
    if not same or not _same_strides(x, model):
        raise ValueError(
            f"{name} must agree with its parameter ({_described(model)}) in dtype, device, shape "
            f"and strides; it is {_described(x)}"
        )


def _same_strides(x: Tensor, y: Tensor) -> bool:
    if not x.numel():
        return True
    pairs = zip(x.stride(), y.stride(), x.shape, strict=True)
    return all(a == b or n == 1 for a, b, n in pairs)


def check_scalar(
    name: str, x: Any, device: torch.device | None, dtypes: tuple[torch.dtype, ...]
) -> None:
    """Raise unless `x` is one number of these dtypes on the device."""
    _check_readable(name, x)
    if x.dtype not in dtypes or x.numel() != 1 or x.device != (device or x.device):
        raise ValueError(
            f"{name} must be one {' or '.join(str(t) for t in dtypes)} on the device of the "
            f"parameters; it is {_described(x)}"
        )


def check_memory(written: list[tuple[str, Tensor]], read: list[tuple[str, Tensor]]) -> None:
    """Raise when something that is written shares memory with anything else."""
    spans = []
    for name, x in written + read:
        size = x.numel() * x.element_size()
        if size and (begin := x.data_ptr()):
            spans.append((begin, begin + size, name))
    outputs = {name for name, _ in written}
    spans.sort()
    end, holder = 0, ""
    for begin, stop, name in spans:
        if begin < end and (name in outputs or holder in outputs):
            raise ValueError(
                f"{name} shares memory with {holder}, and a step writes there: clone one of them"
            )
        if stop > end:
            end, holder = stop, name
