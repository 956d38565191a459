"""Parameter groups of :class:`unstuck.optim.Learned`: what they may hold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unstuck.learned import UpdateRule
from unstuck.ops import _native, learned
from unstuck.optim import _layout as layout
from unstuck.optim import _validate as validate

WAYS = ("foreach", "fused", "capturable", "differentiable")  # how, not what: of no group


def check(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise for settings that are out of range."""
    for name in WAYS:
        if group[name] != defaults[name]:
            raise ValueError(
                f"{name}={group[name]} in one parameter group: the optimizer steps all its groups "
                f"in one way; pass {name} to its constructor"
            )
    validate.learning_rate("lr", group["lr"])
    validate.non_negative("weight_decay", group["weight_decay"])
    if group["num_steps"] is not None:
        validate.positive("num_steps", group["num_steps"])
    if not isinstance(group["maximize"], bool):
        raise TypeError(f"maximize must be True or False, not {group['maximize']!r}")


def check_parameters(group: dict[str, Any]) -> None:
    """Raise for parameters that cannot be stepped."""
    for p in group["params"]:
        if not (p.is_floating_point() or p.is_complex()):
            raise TypeError(f"Learned cannot update a parameter of dtype {p.dtype}")
        if layout.is_shard(p):
            raise TypeError(
                "Learned looks at whole tensors and cannot step shards (DTensor); replicate the "
                "model (DDP), or use unstuck.optim.DynamicBlend"
            )
        layout.check_parameter("Learned", p)
        layout.check_way(
            p, group, lambda d: "" if learned.native_ready(d) else _native.missing_for(d)
        )


def check_memory(rule: UpdateRule, loaded: dict[str, Any]) -> None:
    """Raise when a loaded state is that of a rule of other sizes."""
    for group in loaded["param_groups"]:
        for p in group["params"]:
            state = loaded["state"].get(p, {})
            given = [key for key in rule.beside if isinstance(state.get(key), Tensor)]
            alike = [x for key in rule.like if isinstance(x := state.get(key), Tensor)]
            if not given or any(x.shape != p.shape for x in alike):  # which a step will name
                continue
            fits = rule.memory(layout.local(p).detach().to("meta"))
            for key in given:
                if state[key].shape != fits[key].shape:
                    raise ValueError(
                        f"the loaded state {key!r} has shape {tuple(state[key].shape)}, but this "
                        f"rule ({type(rule).__name__} with {rule.config()}) keeps "
                        f"{tuple(fits[key].shape)} for a parameter of shape {tuple(p.shape)}; load "
                        "it with the rule that it was saved with"
                    )


def adopt(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Fill in what a loaded group lacks."""
    group.update({name: defaults[name] for name in WAYS})
    for name, value in defaults.items():
        group.setdefault(name, value)
