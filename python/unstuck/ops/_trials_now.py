"""Learning-rate trials at once: by a kernel, or in plain torch where there is none."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from unstuck.ops import _native, landscapes, reference_objectives, reference_trials
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


def kernels(objective: Objective) -> ModuleType | None:
    """Return the module with kernels for the objective's data, or None."""
    device = objective.X.device
    module = _native.module_for(device)
    if module is None:
        _native.warn_fallback(device)
        return None
    return module if device.type == "cpu" and objective.X.stride(1) == 1 else None


def trapped_numbers(objective: Objective) -> tuple[float, float, bool]:
    """Return lam, kappa and whether the loss is logistic, as the kernels take them."""
    if isinstance(objective, Trapped):
        return float(objective.lam), float(objective.kappa), False
    return 0.0, 0.0, isinstance(objective, LogisticRegression)


def step_now(objective: Along, w: Tensor, d: Tensor, rates: Tensor, beta: float) -> Step:
    """Try all rates, and take the step that they decide on."""
    if isinstance(objective, Landscape) or (module := kernels(objective)) is None:
        losses = losses_now(objective, w, d, rates)
        p, rate = reference_trials.choose(losses, rates, beta)
        return Step(torch.where(rate == 0, w, w - rate * d), losses, p, rate)
    step = Step(
        torch.empty_like(w), torch.empty_like(rates), torch.empty_like(rates), w.new_empty(())
    )
    _call(module, objective, w, d, rates, beta, step)
    return step


def losses_now(objective: Along, w: Tensor, d: Tensor, rates: Tensor) -> Tensor:
    """Try all rates."""
    if isinstance(objective, Landscape):
        many = max(1, MEMORY // (w.numel() * w.element_size()))
        return torch.cat(
            [
                landscapes.value(objective, w - part[:, None] * d)
                for part in torch.split(rates, many)
            ]
        )
    module = kernels(objective)
    if module is None:
        return reference_trials.losses(objective, w, d, rates)
    losses = torch.empty_like(rates)
    _call(module, objective, w, d, rates, 0.0, (None, losses, None, None))
    return losses


def _call(
    module: ModuleType,
    objective: Objective,
    w: Tensor,
    d: Tensor,
    rates: Tensor,
    beta: float,
    to: tuple[Tensor | None, ...],
) -> None:
    """Let the kernel write the losses and, where there is room for them, p, w and the rate."""
    moved, losses, p, rate = to
    line = (w, d, rates, beta, losses, p, moved, rate, torch.get_num_threads())
    X, y = objective.X, objective.y
    if isinstance(objective, TwoLayerNet):
        w1, b1, _, _ = reference_objectives.layers(objective, torch.stack([w, d]))
        first = torch.baddbmm(b1[..., None], w1, X.T.expand(2, -1, -1))  # [2, H, n]
        sizes = (X.shape[1], objective.hidden, objective.outputs)
        module.net_trials(first, y, objective.loss == "cross-entropy", *sizes, *line)
    else:
        module.regression_trials(X, y, *trapped_numbers(objective), *line)
