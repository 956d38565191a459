"""Landscapes at once, and as torch.library knows them, for code that is being compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops import _candidates_now as now
from unstuck.ops import reference_landscapes as reference
from unstuck.ops._landscape_kinds import Landscape

_SCHEMA = "(str name, float[] parameters, Tensor x)"


def value_now(landscape: Landscape, x: Tensor) -> Tensor:
    """Return the values: by a kernel, or in plain torch where there is none."""
    if module := now.native_for(x):
        return now.values(module, landscape.name, landscape.parameters, x)
    return reference.value(landscape.name, landscape.parameters, x)


def value_and_gradient_now(landscape: Landscape, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values and the gradients."""
    if module := now.native_for(x):
        return now.value_and_gradient(module, landscape.name, landscape.parameters, x)
    return reference.value_and_gradient(landscape.name, landscape.parameters, x)


def value(landscape: Landscape, x: Tensor) -> Tensor:
    """Return the values, as a call of the registered op."""
    values: Tensor = torch.ops.unstuck.landscape_value(
        landscape.name, list(landscape.parameters), x
    )
    return values


def value_and_gradient(landscape: Landscape, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values and the gradients, as a call of the registered op."""
    results: tuple[Tensor, Tensor] = torch.ops.unstuck.landscape_value_and_gradient(
        landscape.name, list(landscape.parameters), x
    )
    return results


def _value(name: str, parameters: list[float], x: Tensor) -> Tensor:
    return value_now(Landscape(name, x.shape[-1], tuple(parameters)), x.detach())


def _value_and_gradient(name: str, parameters: list[float], x: Tensor) -> tuple[Tensor, Tensor]:
    return value_and_gradient_now(Landscape(name, x.shape[-1], tuple(parameters)), x.detach())


_library = torch.library.Library("unstuck", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name, _returns, _implementation, _fake in (
    (
        "landscape_value",
        "Tensor",
        _value,
        lambda name, parameters, x: x.new_empty(x.shape[:-1]),
    ),
    (
        "landscape_value_and_gradient",
        "(Tensor, Tensor)",
        _value_and_gradient,
        lambda name, parameters, x: (x.new_empty(x.shape[:-1]), x.new_empty(x.shape)),
    ),
):
    _library.define(f"{_name}{_SCHEMA} -> {_returns}")  # type: ignore[no-untyped-call]
    _library.impl(  # type: ignore[no-untyped-call]
        _name, _implementation, "CompositeExplicitAutograd"
    )
    torch.library.register_fake(f"unstuck::{_name}", _fake, lib=_library)
