"""The trials as torch.library knows them, for code that is being compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from unstuck.ops._objective_kinds import (
    LinearRegression,
    LogisticRegression,
    Objective,
    Trapped,
    TwoLayerNet,
)
from unstuck.ops._trials_now import Along, losses_now, step_now
from unstuck.ops.landscapes import Landscape

OBJECTIVE = "str kind, Tensor[] data, float[] numbers, int[] sizes"
_LINE = "Tensor w, Tensor d, Tensor rates"

Packed = tuple[str, list[Tensor], list[float], list[int]]


def pack(objective: Along) -> Packed:
    """Return an objective as the ops take it."""
    if isinstance(objective, Landscape):
        return f"landscape {objective.name}", [], list(objective.parameters), [objective.dim]
    data = [objective.X, objective.y]
    if isinstance(objective, TwoLayerNet):
        return f"net {objective.loss}", data, [], [objective.hidden, objective.outputs]
    if isinstance(objective, Trapped):
        return "trapped", data, [objective.lam, objective.kappa], []
    return "logistic" if isinstance(objective, LogisticRegression) else "linear", data, [], []


def unpack(kind: str, data: list[Tensor], numbers: list[float], sizes: list[int]) -> Along:
    """Return the objective that :func:`pack` packed."""
    family, _, name = kind.partition(" ")
    if family == "landscape":
        return Landscape(name, sizes[0], tuple(numbers))
    if family == "net":
        hidden, outputs = sizes
        X, y = data
        return TwoLayerNet(X, y, hidden, name, None if name == "bce" else outputs)
    if family == "trapped":
        X, y = data
        lam, kappa = numbers
        return Trapped(X, y, lam, kappa)
    kinds: dict[str, type[LinearRegression | LogisticRegression]] = {
        "linear": LinearRegression,
        "logistic": LogisticRegression,
    }
    if family not in kinds:
        raise ValueError(
            f"unknown kind of objective {kind!r}: known are {', '.join(kinds)}, "
            "trapped, net and landscape with a name"
        )
    objective: Objective = kinds[family](*data)
    return objective


def _step(
    kind: str,
    data: list[Tensor],
    numbers: list[float],
    sizes: list[int],
    w: Tensor,
    d: Tensor,
    rates: Tensor,
    beta: float,
) -> tuple[Tensor, ...]:
    return tuple(step_now(unpack(kind, data, numbers, sizes), w, d, rates, beta))


def _losses(
    kind: str,
    data: list[Tensor],
    numbers: list[float],
    sizes: list[int],
    w: Tensor,
    d: Tensor,
    rates: Tensor,
) -> Tensor:
    return losses_now(unpack(kind, data, numbers, sizes), w, d, rates)


_library = torch.library.Library("unstuck", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name, _schema, _implementation, _fake in (
    (
        "trial_step",
        f"trial_step({OBJECTIVE}, {_LINE}, float beta) -> (Tensor, Tensor, Tensor, Tensor)",
        _step,
        lambda kind, data, numbers, sizes, w, d, rates, beta: (
            torch.empty_like(w),
            torch.empty_like(rates),
            torch.empty_like(rates),
            w.new_empty(()),
        ),
    ),
    (
        "trial_losses",
        f"trial_losses({OBJECTIVE}, {_LINE}) -> Tensor",
        _losses,
        lambda kind, data, numbers, sizes, w, d, rates: torch.empty_like(rates),
    ),
):
    _library.define(_schema)  # type: ignore[no-untyped-call]
    _library.impl(  # type: ignore[no-untyped-call]
        _name, _implementation, "CompositeExplicitAutograd"
    )
    torch.library.register_fake(f"unstuck::{_name}", _fake, lib=_library)
