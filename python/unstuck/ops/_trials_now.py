"""Learning-rate trials at once: by a kernel, or in plain torch where there is none."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from unstuck.ops import landscapes, reference_objectives, reference_trials
from unstuck.ops._candidates_now import dense, native_for, number_of
from unstuck.ops._native import on, where
from unstuck.ops._objective_kinds import LogisticRegression, Objective, Trapped, TwoLayerNet
from unstuck.ops.landscapes import Landscape

Along: TypeAlias = Objective | Landscape

MEMORY = 1 << 23  # bytes of trial points of a landscape at a time


class Step(NamedTuple):
    """What :func:`unstuck.ops.trials.step` returns."""

    w: Tensor
    """The new point, ``[D]``."""
    losses: Tensor
    """``L(w - rates[k] d)``, ``[K]``."""
    p: Tensor
    """Weights of the rates, ``[K]``; their sum is one, or zero when no loss was finite."""
    rate: Tensor
    """``sum p_k rates_k``, 0-d; zero when no loss was finite."""


def kernels(objective: Along, like: Tensor, name: str) -> Any:
    """Return the module with the kernel `name` for tensors as `like`, or None."""
    module = native_for(like)
    if module is None or not hasattr(module, name):
        return None
    strided = not isinstance(objective, Landscape) and objective.X.stride(1) != 1
    return None if strided else module


def trapped_numbers(objective: Objective) -> tuple[float, float, bool]:
    """Return lam, kappa and whether the loss is logistic, as the kernels take them."""
    if isinstance(objective, Trapped):
        return float(objective.lam), float(objective.kappa), False
    return 0.0, 0.0, isinstance(objective, LogisticRegression)


def kernel_data(objective: Objective) -> tuple[Any, ...]:
    """Return a net or a regression as the kernels of candidates take it."""
    X, y = objective.X, objective.y
    if isinstance(objective, TwoLayerNet):
        return X, y, objective.loss == "cross-entropy", objective.hidden, objective.outputs
    return X, y, *trapped_numbers(objective)


def workspace_for(module: Any, what: str, device: torch.device, *sizes: int) -> Tensor | None:
    """Return the memory that the kernel `what` wants: None on the CPU, where each has its own."""
    if not hasattr(module, f"{what}_workspace"):
        return None
    numbers = getattr(module, f"{what}_workspace")(*sizes)
    return torch.empty(numbers, dtype=torch.float64, device=device)


def step_now(objective: Along, w: Tensor, d: Tensor, rates: Tensor, beta: float) -> Step:
    """Try all rates, and take the step that they decide on."""
    w, d, rates = dense(w), dense(d), dense(rates)
    losses, p, rate = torch.empty_like(rates), torch.empty_like(rates), w.new_empty(())
    step = Step(torch.empty_like(w), losses, p, rate)
    if _native(objective, (w, d, rates, beta, losses, p, step.w, rate)):
        return step
    losses = _reference(objective, w, d, rates)
    p, rate = reference_trials.choose(losses, rates, beta)
    return Step(torch.where(rate == 0, w, w - rate * d), losses, p, rate)


def losses_now(objective: Along, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    """Try all rates."""
    w, d, rates = dense(w), dense(d), dense(rates)
    losses = torch.empty_like(rates)
    if _native(objective, (w, d, rates, 0.0, losses, None, None, None)):
        return losses
    return _reference(objective, w, d, rates)


def _native(objective: Along, line: tuple[Any, ...]) -> bool:
    """Let a kernel write what `line` has room for; False where there is none."""
    if isinstance(objective, Landscape):
        what, sizes = "landscape_trials", [objective.dim]
    elif isinstance(objective, TwoLayerNet):
        what, sizes = "net_trials", [len(objective.y)]
    else:
        what, sizes = "regression_trials", [*objective.X.shape]
    w, d, rates, device = *line[:3], line[0].device
    module = kernels(objective, w, what)
    if module is None:
        return False
    arguments: tuple[Any, ...]
    if isinstance(objective, Landscape):
        arguments = (number_of(objective.name), objective.parameters)
    elif isinstance(objective, TwoLayerNet):
        w1, b1, _, _ = reference_objectives.layers(objective, torch.stack([w, d]))
        X, classes = objective.X, objective.loss == "cross-entropy"
        first = torch.baddbmm(b1[..., None], w1, X.T.expand(2, -1, -1))  # [2, H, n]
        shape = (X.shape[1], objective.hidden, objective.outputs)
        arguments = (first, objective.y, classes, *shape)
    else:
        arguments = (objective.X, objective.y, *trapped_numbers(objective))
    workspace = workspace_for(module, what, device, *sizes, len(rates))
    with on(device):
        getattr(module, what)(*arguments, *line, workspace, where(device))
    return True


def _reference(objective: Along, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    if not isinstance(objective, Landscape):
        return reference_trials.losses(objective, w, d, rates)
    many = max(1, MEMORY // (w.numel() * w.element_size()))
    return torch.cat(
        [landscapes.value(objective, w - part[:, None] * d) for part in torch.split(rates, many)]
    )
