"""Parameter groups of :class:`unstuck.optim.ALME`: what they may hold, what a step reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstuck.ops import _native, adam
from unstuck.optim import _layout as layout
from unstuck.optim import _validate as validate

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME

WAYS = ("foreach", "fused", "capturable", "differentiable")  # how, not what: of no group


def check(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise for settings that are out of range, and for parameters that cannot be stepped."""
    for name in WAYS:
        if group[name] != defaults[name]:
            raise ValueError(
                f"{name}={group[name]} in one parameter group: the optimizer steps all its groups "
                f"in one way; pass {name} to its constructor"
            )
    if group["maximize"] != defaults["maximize"]:
        raise ValueError(
            f"maximize={group['maximize']} in one parameter group: losses of candidates are "
            "compared in one direction; pass maximize to the constructor"
        )
    validate.learning_rate("lr", group["lr"])
    validate.betas(group["betas"])
    for name in ("eps", "weight_decay"):
        validate.non_negative(name, group[name])


def check_parameters(group: dict[str, Any]) -> None:
    """Raise for parameters that cannot be stepped."""
    for p in group["params"]:
        if not (p.is_floating_point() or p.is_complex()):
            raise TypeError(f"ALME cannot update a parameter of dtype {p.dtype}")
        layout.check_parameter("ALME", p)
        layout.check_way(p, group, lambda d: "" if adam.native_ready(d) else _native.missing_for(d))


def adopt(group: dict[str, Any], defaults: dict[str, Any], first: dict[str, Any] | None) -> None:
    """Fill in what a loaded group lacks, such as one saved by ``torch.optim.Adam``.

    `first` has the entries that only the first group has.
    """
    if group.pop("amsgrad", False):
        raise ValueError(
            "the checkpoint was made with amsgrad=True, which ALME does not have; continue with "
            "torch.optim.Adam, or start afresh"
        )
    if "betas" not in group:
        raise ValueError(
            "the checkpoint was not made by an Adam: its groups have no betas; start afresh"
        )
    group.update({name: defaults[name] for name in WAYS})
    for name, value in {**defaults, **(first or {})}.items():
        group.setdefault(name, value)


def settings(group: dict[str, Any]) -> adam.Group:
    """Return a group's settings as the kernels read them."""
    beta1, beta2 = group["betas"]
    return adam.Group(
        _on_device(group["lr"], group["params"]),
        beta1,
        beta2,
        group["eps"],
        group["weight_decay"],
        group["decoupled_weight_decay"],
        group["maximize"],
    )


def _on_device(lr: float | Tensor, params: list[Tensor]) -> float | Tensor:
    """A number stays one; so does a CPU tensor when the parameters are elsewhere."""
    if not isinstance(lr, Tensor):
        return float(lr)
    if lr.device.type == "cpu" and params and params[0].device.type != "cpu":
        return float(lr)
    return lr.detach()


def stats_on(optimizer: ALME, device: torch.device) -> Tensor:
    """Return the statistics, brought to the device of the parameters."""
    first = optimizer.param_groups[0]
    stats: Tensor = first["stagnation"]
    if stats.device != device and device.type != "meta":
        stats = first["stagnation"] = stats.to(device)
    return stats
