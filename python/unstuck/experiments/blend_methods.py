"""What the blend study compares, and what is tuned of each.

Every rate of the same kind has the same range whichever method it belongs to, and every method is
tuned with the same number of trials, the first of which is the range's usual value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn
from torch.optim import Optimizer

from unstuck.optim import DynamicBlend, Gate

Settings = Mapping[str, float]
Build = Callable[[nn.Module, Settings, int], Optimizer]


@dataclass(frozen=True)
class Range:
    """What a setting may be: between `low` and `high`, tried first at `usual`.

    With `log` the logarithm is searched evenly.
    """

    low: float
    high: float
    usual: float
    log: bool = True


ADAM_LR = Range(1e-4, 2e-2, 1e-3)
SGD_LR = Range(5e-3, 0.6, 3e-2)
FORGET = Range(0.02, 0.4, 0.1)  # 1 - momentum and 1 - beta1
ALPHA = Range(0.0, 1.0, 0.5, log=False)


@dataclass(frozen=True)
class Method:
    """A way to train, and what is tuned of it.

    Attributes
    ----------
    about : str
        What it is, for the reader of the table.
    role : str
        ``"gate"``, ``"baseline"``, or ``"control"``: compared, but not part of the claim.
    space : mapping
        The settings that are tuned.
    build : callable
        Makes the optimizer from the model, the settings and the number of steps to come.
    meta : float
        Share of the rows not for testing that it takes from training as its second batch.
    cosine : bool
        The learning rates fall to zero along half a cosine.
    most_inputs : int, optional
        Data with more inputs than this are left out: the method's cost grows too fast with them.
    """

    about: str
    role: str
    space: Mapping[str, Range]
    build: Build
    meta: float = 0.0
    cosine: bool = False
    most_inputs: int | None = None


def _adam(model: nn.Module, given: Settings, steps: int) -> Optimizer:
    return torch.optim.Adam(model.parameters(), given["lr"], betas=(1 - given["1-beta1"], 0.999))


def _sgd(model: nn.Module, given: Settings, steps: int) -> Optimizer:
    return torch.optim.SGD(model.parameters(), given["sgd_lr"], momentum=1 - given["1-momentum"])


def _blend(
    model: nn.Module,
    given: Settings,
    *,
    alpha: float | Callable[[int], float] | None = None,
    gate: Gate | None = None,
    per_tensor: bool = False,
) -> Optimizer:
    """Make a blend whose two halves share one tuned momentum."""
    momentum = 1 - given["1-momentum"]
    return DynamicBlend(
        model.parameters(),
        given["lr"],
        sgd_lr=given["sgd_lr"],
        betas=(momentum, 0.999),
        momentum=momentum,
        alpha=alpha,
        gate=gate,
        per_tensor=per_tensor,
    )


def _fixed(model: nn.Module, given: Settings, steps: int) -> Optimizer:
    return _blend(model, given, alpha=given.get("alpha", 0.5))


def _linear(model: nn.Module, given: Settings, steps: int) -> Optimizer:
    return _blend(model, given, alpha=lambda step: min(1.0, step / steps))


START = 0.2  # nearer to SGD, whose larger rate is the better one to begin with


def _gate(
    features: str = "summary",
    mode: str = "online",
    per_tensor: bool = True,
    init_alpha: float = START,
) -> Build:
    def build(model: nn.Module, given: Settings, steps: int) -> Optimizer:
        gate = Gate(features, mode, init_alpha=init_alpha, total_steps=steps)
        return _blend(model, given, gate=gate, per_tensor=per_tensor)

    return build


_ADAM = MappingProxyType({"lr": ADAM_LR, "1-beta1": FORGET})
_SGD = MappingProxyType({"sgd_lr": SGD_LR, "1-momentum": FORGET})
_BLEND = MappingProxyType({"lr": ADAM_LR, "sgd_lr": SGD_LR, "1-momentum": FORGET})
META = 0.15  # a fifth of the training rows

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "gate": Method("online gate, one alpha a tensor", "gate", _BLEND, _gate()),
        "gate-single": Method(
            "online gate, one alpha for all tensors", "gate", _BLEND, _gate(per_tensor=False)
        ),
        "gate-held-out": Method(
            "gate that learns from rows held out of training",
            "gate",
            _BLEND,
            _gate(mode="held-out"),
            meta=META,
        ),
        "gate-source": Method(
            "the source's gate: flattened gradient, second batch, one alpha",
            "gate",
            _BLEND,
            _gate("gradient", "held-out", per_tensor=False, init_alpha=0.5),
            meta=META,
            most_inputs=50,
        ),
        "alpha-half": Method("blend with alpha 0.5", "baseline", _BLEND, _fixed),
        "alpha-tuned": Method(
            "blend with a tuned constant alpha", "baseline", {**_BLEND, "alpha": ALPHA}, _fixed
        ),
        "adam": Method("torch Adam", "baseline", _ADAM, _adam),
        "sgd": Method("torch SGD with momentum", "baseline", _SGD, _sgd),
        "alpha-linear": Method(
            "blend with alpha from 0 to 1 along the run", "control", _BLEND, _linear
        ),
        "adam-cosine": Method("Adam, cosine rates", "control", _ADAM, _adam, cosine=True),
        "sgd-cosine": Method("SGD, cosine rates", "control", _SGD, _sgd, cosine=True),
        "gate-cosine": Method(
            "online gate a tensor, cosine rates", "control", _BLEND, _gate(), cosine=True
        ),
    }
)


def rounded(value: float) -> float:
    """Keep four digits of a setting, so that what is written is exactly what was run."""
    return float(f"{value:.4g}") if math.isfinite(value) else value
