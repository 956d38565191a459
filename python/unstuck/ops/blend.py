"""The blend step as an op: native where it can be, plain torch elsewhere, traceable by the compiler.

One call updates all tensors of one parameter group; :class:`Plan` does so for a whole optimizer and
is kept between steps.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unstuck.ops import _native, gate, reference

__all__ = ["Group", "Plan", "finish", "hypergradient", "native_ready", "plan_for", "step"]


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


Plan = Any  # unstuck._C.BlendPlan or unstuck._cuda.BlendPlan


def native_ready(device: torch.device) -> bool:
    """Whether a compiled kernel can run on `device`."""
    return _native.module_for(device) is not None


def _where(device: torch.device) -> int:
    """Threads on the CPU, the current stream on CUDA."""
    if device.type == "cpu":
        return torch.get_num_threads()
    return int(torch.cuda.current_stream(device).cuda_stream)


def plan_for(
    device: torch.device,
    params: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor | None],
    directions: list[Tensor | None],
    steps: list[Tensor],
    groups: list[int],
    units: list[int],
    had_previous: list[bool],
) -> Plan:
    """Check the tensors once and return the native plan that steps them.

    Raises
    ------
    ValueError
        When a tensor does not fit: another dtype, device, shape or strides than its parameter, gaps
        in its memory, memory shared with another, no memory at all. The text names the tensor.
    TypeError
        When something is not a tensor, or has a dtype that is not computed.
    """
    module = _native.module_for(device)
    if module is None:
        raise RuntimeError(_native.missing_for(device))
    plan = module.BlendPlan(
        params,
        exp_avgs,
        exp_avg_sqs,
        momentum_buffers,
        directions,
        steps,
        groups,
        units,
        had_previous,
    )
    if size := plan.workspace_size():
        plan.set_workspace(torch.zeros(size, dtype=torch.float64, device=device))
    return plan


def run(
    plan: Plan,
    device: torch.device,
    groups: list[Group],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Step everything in `plan`, whose gradients have been read."""
    if device.type == "cpu":
        plan.step(groups, grad_scale, found_inf, True, torch.get_num_threads())
        return
    with torch.cuda.device(device):
        plan.step(groups, grad_scale, found_inf, True, _where(device))


def _native_step(
    tensors: tuple[list[Tensor], ...],
    units: list[int],
    had_previous: list[bool],
    group: Group,
    call: str,
    *args: Any,
) -> None:
    params, grads, exp_avgs, exp_avg_sqs, momentum_buffers, directions, steps = tensors
    device = params[0].device
    none = [None] * len(params)
    plan = plan_for(
        device,
        params,
        exp_avgs,
        exp_avg_sqs,
        list(momentum_buffers) or none,
        list(directions) or none,
        steps,
        [0] * len(params),
        units,
        had_previous,
    )
    plan.set_gradients(grads)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        getattr(plan, call)([group], *args, _where(device))


def _step_now(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor],
    directions: list[Tensor],
    steps: list[Tensor],
    units: list[int],
    had_previous: list[bool],
    group: Group,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    finish: bool,
) -> None:
    if not params:
        return
    if not native_ready(params[0].device):
        _native.warn_fallback(params[0].device)
        reference.blend_step(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            momentum_buffers,
            directions,
            steps,
            units,
            had_previous,
            _with_matrix(group),
            grad_scale,
            found_inf,
            finish,
        )
        return
    tensors = (params, grads, exp_avgs, exp_avg_sqs, momentum_buffers, directions, steps)
    _native_step(tensors, units, had_previous, group, "step", grad_scale, found_inf, finish)


def _with_matrix(group: Group) -> Group:
    """The reference reads the sums as a matrix."""
    return group if group.sums is None else group._replace(sums=group.sums.view(-1, gate.SUMS))


def hypergradient(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor],
    directions: list[Tensor],
    steps: list[Tensor],
    units: list[int],
    had_previous: list[bool],
    group: Group,
    finish: bool = True,
) -> None:
    """Inner product of another batch's gradients with u_adam - u_sgd of the last step.

    Leaves ``g' . g'`` and ``g' . (u_adam - u_sgd)`` in ``group.sums``; the hypergradient of alpha is
    minus the latter. With `finish` the gate learns from it at once.
    """
    if not params:
        return
    if not native_ready(params[0].device):
        _native.warn_fallback(params[0].device)
        reference.blend_hypergradient(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            momentum_buffers,
            directions,
            steps,
            units,
            had_previous,
            _with_matrix(group),
            finish,
        )
        return
    tensors = (params, grads, exp_avgs, exp_avg_sqs, momentum_buffers, directions, steps)
    _native_step(tensors, units, had_previous, group, "hypergradient", finish)


def finish(group: Group, *, meta: bool = False, found_inf: Tensor | None = None) -> None:
    """End a step (with `meta` a held-out one) whose sums were completed elsewhere.

    Sharded parameters need this: their sums are added up over the ranks first. Where `found_inf` is
    not zero the gate stays as it is.
    """
    group = _with_matrix(group)
    if meta:
        reference.blend_meta_step(group)
    else:
        reference.blend_finish(group, None if found_inf is None else found_inf != 0)


# ---------------------------------------------------------------- torch.library
# Optional tensors that are written travel as lists of at most one, so that the schema can say so.
_SCHEMA = (
    "blend_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] momentum_buffers, Tensor(e!)[] directions, "
    "Tensor(f!)[] steps, int[] units, bool[] had_previous, Tensor(g!)[] gate, Tensor(h!)[] sums, "
    "Tensor? lr, Tensor? alpha, Tensor? grad_scale, Tensor? found_inf, float[] numbers, "
    "bool[] flags, int hidden, int gate_units) -> ()"
)
_NUMBERS = (
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
_FLAGS = ("decoupled", "nesterov", "maximize", "learn", "normalize")


def _blend_step_op(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor],
    directions: list[Tensor],
    steps: list[Tensor],
    units: list[int],
    had_previous: list[bool],
    gate: list[Tensor],
    sums: list[Tensor],
    lr: Tensor | None,
    alpha: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    numbers: list[float],
    flags: list[bool],
    hidden: int,
    gate_units: int,
) -> None:
    if len(numbers) != len(_NUMBERS) or len(flags) != len(_FLAGS):
        raise ValueError(
            f"blend_step_ takes {len(_NUMBERS)} numbers and {len(_FLAGS)} flags, "
            f"not {len(numbers)} and {len(flags)}"
        )
    fields: dict[str, Any] = dict(zip(_NUMBERS, numbers, strict=True))
    fields.update(zip(_FLAGS, flags, strict=True))
    fields.update(gate=gate[0] if gate else None, sums=sums[0] if sums else None)
    fields.update({} if lr is None else {"lr": lr}, **({} if alpha is None else {"alpha": alpha}))
    group = Group(**fields, hidden=hidden, units=gate_units)
    with torch.no_grad():
        _step_now(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            momentum_buffers,
            directions,
            steps,
            units,
            had_previous,
            group,
            grad_scale,
            found_inf,
            True,
        )


_library = torch.library.Library("unstuck", "DEF")
_library.define(_SCHEMA)
_library.impl("blend_step_", _blend_step_op, "CompositeExplicitAutograd")
torch.library.register_fake("unstuck::blend_step_", lambda *args: None, lib=_library)


def step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    momentum_buffers: list[Tensor],
    directions: list[Tensor],
    steps: list[Tensor],
    units: list[int],
    had_previous: list[bool],
    group: Group,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    finish: bool = True,
) -> None:
    """Step the tensors of one group in place.

    Parameters
    ----------
    params, grads, exp_avgs, exp_avg_sqs : list of Tensor
        One entry a parameter, alike in shape, strides, dtype and device.
    momentum_buffers : list of Tensor
        Empty when the buffer is ``exp_avg / (1 - beta1)``.
    directions : list of Tensor
        The SGD directions of the last step, where a gate learns and the state does not tell them
        (nesterov, or no momentum); else empty.
    steps : list of Tensor
        Step counts, one float32 each, on the parameters' device; raised by one.
    units : list of int
        The unit of the gate that each tensor belongs to.
    had_previous : list of bool
        Whether the last step moved the tensor.
    group : Group
        The rates, and the gate.
    grad_scale, found_inf : Tensor, optional
        Gradients are divided by the former; nothing at all happens where the latter is not zero.
    finish : bool
        Whether the gate learns and decides at the end.

    Raises
    ------
    ValueError, TypeError
        As :func:`plan_for`; nothing has been changed then.
    """
    if torch.compiler.is_compiling():
        torch.ops.unstuck.blend_step_(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            momentum_buffers,
            directions,
            steps,
            units,
            had_previous,
            [] if group.gate is None else [group.gate],
            [] if group.sums is None else [group.sums],
            group.lr if isinstance(group.lr, Tensor) else None,
            group.alpha if isinstance(group.alpha, Tensor) else None,
            grad_scale,
            found_inf,
            [
                0.0 if isinstance(getattr(group, name), Tensor) else float(getattr(group, name))
                for name in _NUMBERS
            ],
            [getattr(group, name) for name in _FLAGS],
            group.hidden,
            group.units,
        )
        return
    _step_now(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        momentum_buffers,
        directions,
        steps,
        units,
        had_previous,
        group,
        grad_scale,
        found_inf,
        finish,
    )
