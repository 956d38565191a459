"""Group entries and per-parameter state of :class:`unstuck.optim.DynamicBlend`.

A group's ``moment_beta`` is the beta1 under which ``exp_avg / (1 - beta1)`` is the momentum buffer
of all its parameters (shared-moment mode), or None: then they have buffers of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstuck.ops import _native, blend
from unstuck.ops import gate as gate_ops
from unstuck.ops.gate import Unit
from unstuck.optim import _gradient_gate as gradient_gate
from unstuck.optim import _layout as layout
from unstuck.optim import _moments as moments
from unstuck.optim import _validate as validate
from unstuck.optim.gate import Gate

if TYPE_CHECKING:
    from unstuck.optim.blend import DynamicBlend

WAYS = ("foreach", "fused", "capturable", "differentiable")  # how, not what: of no group
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer", "sgd_direction")


# ---------------------------------------------------------------- groups
def check_group(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise for settings that are out of range or exclude each other."""
    for name in WAYS:
        if group[name] != defaults[name]:
            raise ValueError(
                f"{name}={group[name]} in one parameter group: the optimizer steps all its groups "
                f"in one way; pass {name} to its constructor"
            )
    validate.learning_rate("lr", group["lr"])
    validate.non_negative("sgd_lr", group["sgd_lr"])
    validate.betas(group["betas"])
    for name in ("eps", "momentum", "weight_decay"):
        validate.non_negative(name, group[name])
    dampening = group["dampening"]
    if not isinstance(dampening, (int, float)) or not abs(dampening) < float("inf"):
        raise ValueError(f"Invalid dampening: {dampening}; it must be a finite number")
    if group["nesterov"] and (group["momentum"] <= 0 or dampening != 0):
        raise ValueError(
            f"nesterov needs a momentum and zero dampening, not {group['momentum']} and {dampening}"
        )
    validate.alpha(group["alpha"])
    if group["gate"] is not None and not isinstance(group["gate"], Gate):
        raise TypeError(f"gate must be an unstuck.optim.Gate or None, not {group['gate']!r}")
    for name in ("foreach", "differentiable"):
        if group["alpha"] is None and group[name]:
            raise ValueError(f"{name}=True has no gate: pass alpha=")
    if group["alpha"] is not None and group["gate"] is not None:
        raise ValueError("alpha and gate exclude each other: a given alpha needs no gate")
    if group["alpha"] is not None and group["per_tensor"]:
        raise ValueError("per_tensor=True is for the gate; with alpha= make parameter groups")
    if validate.number(group["lr"]) == 0 and group["sgd_lr"] != 0:
        raise ValueError(
            "lr is 0, so the ratio sgd_lr / lr that schedulers keep is undefined; pass a positive "
            "lr (alpha=0 switches the Adam part off)"
        )


def complete_group(group: dict[str, Any]) -> None:
    """Turn the settings of a new group into what is kept, and check its parameters."""
    lr = validate.number(group["lr"])
    group["sgd_lr_ratio"] = group.pop("sgd_lr") / lr if lr else 0.0
    group["moment_beta"] = None
    group["schedule_step"] = 0
    group["idle"] = []  # positions of the parameters that the last step left where they were
    group["gate_state"] = group["gate_network"] = group["gate_units"] = None
    if callable(group["alpha"]) and not isinstance(group["alpha"], Tensor):
        group["alpha"] = 0.5  # until the schedule is asked
    for p in group["params"]:
        if not (p.is_floating_point() or p.is_complex()):
            raise TypeError(f"DynamicBlend cannot update a parameter of dtype {p.dtype}")
        layout.check_parameter("DynamicBlend", p)
        layout.check_way(
            p, group, lambda d: "" if blend.native_ready(d) else _native.missing_for(d)
        )
    if group["alpha"] is not None:
        group["gate"] = None
        return
    gate = group["gate"] or Gate()
    group["gate"] = gate.to_dict()
    params = group["params"]
    if len({p.device for p in params}) > 1:
        raise ValueError(
            "a gate needs the parameters of its group on one device; make a group for each device, "
            "or pass alpha="
        )
    device = params[0].device if params else torch.device("cpu")
    if device.type == "meta":
        device = torch.device("cpu")  # moves with the parameters at the first step
    units = group["gate_units"] = _gate_units(group)
    if gate.features == "gradient":
        group["gate_network"] = gradient_gate.create(group, sum(units), device)
    group["gate_state"] = gate_ops.create(
        hidden_of(group), units, gate.init_alpha, gate.seed, device
    )


def _gate_units(group: dict[str, Any]) -> list[int]:
    """Return the number of elements behind each alpha of the gate."""
    numels = [p.numel() * (2 if p.is_complex() else 1) for p in group["params"]]
    return numels if group["per_tensor"] else [sum(numels)]


def check_gate_units(group: dict[str, Any]) -> None:
    """Follow an edited ``group["params"]`` where the gate can, and raise where it cannot."""
    if group["gate_state"] is None or (units := _gate_units(group)) == group["gate_units"]:
        return
    if group["per_tensor"] or uses_gradient_gate(group):
        raise ValueError(
            f"the gate of this parameter group was made for {group['gate_units']} elements, but "
            f"its parameters have {units} now; bring new parameters in with add_param_group()"
        )
    group["gate_units"], group["idle"] = units, []
    gate_ops.units_of(group["gate_state"], hidden_of(group))[0, Unit.NUMEL] = units[0]


def adopt_group(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Fill in what a loaded group lacks, such as one saved by ``torch.optim.Adam`` or ``SGD``."""
    group.update({name: defaults[name] for name in WAYS})
    if "sgd_lr_ratio" in group:
        return
    if group.pop("amsgrad", False):
        raise ValueError(
            "the checkpoint was made with amsgrad=True, which DynamicBlend does not have; continue "
            "with torch.optim.Adam, or start afresh"
        )
    from_adam = "betas" in group
    if not from_adam:  # the rate of SGD
        group["sgd_lr"] = group.pop("lr")
    for name, value in defaults.items():
        group.setdefault(name, value)
    complete_group(group)
    if from_adam:
        group["moment_beta"] = group["betas"][0]  # momentum goes on from Adam's first moment


def hidden_of(group: dict[str, Any]) -> int:
    """Return the width of the native gate; the gradient gate lives outside of it."""
    gate = group["gate"]
    return 0 if gate is None or gate["features"] == "gradient" else int(gate["hidden"])


def uses_gradient_gate(group: dict[str, Any]) -> bool:
    """Whether alpha comes from the flattened gradient."""
    return group["gate"] is not None and group["gate"]["features"] == "gradient"


def gradient_gated(optimizer: DynamicBlend, indices: set[int]) -> list[dict[str, Any]]:
    """Return those groups whose alpha comes from the flattened gradient."""
    groups = [optimizer.param_groups[index] for index in sorted(indices)]
    return [group for group in groups if uses_gradient_gate(group)]


def settings(group: dict[str, Any], sums: Tensor | None) -> blend.Group:
    """Return a group's settings as the kernels read them."""
    if "sgd_lr" in group:  # set by hand: renew the ratio
        validate.non_negative("sgd_lr", group["sgd_lr"])
        if (rate := validate.number(group["lr"])) == 0:
            raise ValueError(
                f"sgd_lr={group['sgd_lr']} was set while lr is 0, so their ratio is undefined; set "
                "lr first, or the ratio itself (sgd_lr_ratio)"
            )
        group["sgd_lr_ratio"] = group.pop("sgd_lr") / rate
    lr, alpha = group["lr"], group["alpha"]
    beta1, beta2 = group["betas"]
    gate = group["gate"] or {}
    state = group["gate_state"]
    return blend.Group(
        lr=_on_device(lr, group),
        sgd_lr_ratio=group["sgd_lr_ratio"],
        beta1=beta1,
        beta2=beta2,
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        decoupled=group["decoupled_weight_decay"],
        momentum=group["momentum"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        alpha=0.0 if state is not None else _on_device(alpha, group),
        gate=state,
        sums=sums,
        hidden=hidden_of(group),
        units=1 if sums is None else sums.numel() // gate_ops.SUMS,
        learn=gate.get("mode") == "online",
        normalize=gate.get("normalize", True),
        meta_lr=gate.get("lr", 0.0),
        total_steps=float(gate.get("total_steps") or 0),
    )


def _on_device(value: float | Tensor, group: dict[str, Any]) -> float | Tensor:
    """A number stays one; so does a CPU tensor when the parameters are elsewhere."""
    if not isinstance(value, Tensor):
        return float(value)
    params = group["params"]
    if value.device.type == "cpu" and params and params[0].device.type != "cpu":
        return float(value)
    return value.detach() if not group["differentiable"] else value


# ---------------------------------------------------------------- modes
def resolve_mode(optimizer: DynamicBlend, group: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether the step needs momentum buffers, and whether it needs SGD directions.

    A group that shared its moment and no longer can (a scheduler moved momentum or beta1) gets its
    buffers here, from ``exp_avg``.
    """
    momentum, beta1 = group["momentum"], group["betas"][0]
    shareable = momentum != 0 and momentum == beta1 and group["dampening"] == 0
    shared_under = group["moment_beta"]
    if shared_under is None:
        if shareable and not any(optimizer.state.get(p) for p in group["params"]):
            group["moment_beta"] = shared_under = beta1
    elif not shareable or beta1 != shared_under:
        for p in group["params"]:
            state = optimizer.state.get(p)
            if state:
                state["momentum_buffer"] = state["exp_avg"] / (1 - shared_under)
        group["moment_beta"] = shared_under = None
    needs_direction = group["gate_state"] is not None and (group["nesterov"] or momentum == 0)
    return momentum != 0 and shared_under is None, needs_direction


def prepare(
    optimizer: DynamicBlend, p: Tensor, group: dict[str, Any], mode: tuple[bool, bool]
) -> dict[str, Any]:
    """Create this parameter's state, or bring it to its dtype, device and layout."""
    needs_buffer, needs_direction = mode
    state: dict[str, Any] = optimizer.state[p]
    fresh = "step" not in state
    wanted = ["exp_avg", "exp_avg_sq"]
    wanted += ["momentum_buffer"] if needs_buffer else []
    wanted += ["sgd_direction"] if needs_direction else []
    created = moments.prepare(state, p, wanted, MOMENTS)
    if "momentum_buffer" in created and not fresh:
        _prime(state["momentum_buffer"], p, group, getattr(optimizer, "grad_scale", None))
    gate_state = group["gate_state"]
    if gate_state is not None and gate_state.device != p.device and p.device.type != "meta":
        group["gate_state"] = gate_state.to(p.device)
    return state


def _prime(buffer: Tensor, p: Tensor, group: dict[str, Any], grad_scale: Tensor | None) -> None:
    """Fill a buffer that starts late, so that its first step sets it to the gradient as in SGD."""
    if group["dampening"] and p.grad is not None:
        grad = -p.grad if group["maximize"] else p.grad
        if grad_scale is not None:
            grad = grad / grad_scale.to(grad.device)
        if group["weight_decay"] and not group["decoupled_weight_decay"]:
            grad = grad + group["weight_decay"] * p.detach()
        scaled = grad * (group["dampening"] / group["momentum"])
        buffer.copy_(torch.where(scaled.isfinite(), scaled, 0))
