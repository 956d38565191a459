"""One row an optimizer class; the contract tests run on every variant of every row."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch

from unstuck.learned import MLP, UpdateRule, WhitenedMLP
from unstuck.optim import (
    ALME,
    Alternating,
    AttentionRestart,
    DynamicBlend,
    Gate,
    Learned,
    LearningRateAttention,
    ReactiveEscape,
)


@dataclass(frozen=True)
class Variant:
    """One way to construct an optimizer."""

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    amp: bool = True  # takes grad_scale and found_inf inside its step
    sharded: bool = True  # steps DTensor parameters
    still: bool = True  # moves nothing where all gradients have been zero
    compiled: bool = False  # stepped under torch.compile; a few, since each takes seconds
    slack: float = 1.0  # of tolerances between forms: roots of what gradients lack are mostly noise


@dataclass(frozen=True)
class OptimizerInfo:
    """What the contract tests need to know of one class."""

    cls: type[torch.optim.Optimizer]
    variants: tuple[Variant, ...]
    refused: tuple[tuple[dict[str, Any], type[Exception], str], ...]  # kwargs, error, its text
    bad_groups: tuple[tuple[dict[str, Any], type[Exception], str], ...]
    rate_entries: tuple[str, ...] = ("lr",)
    further_rates: tuple[str, ...] = ()  # arguments beside lr
    as_adam: dict[str, Any] = field(default_factory=dict)  # kwargs that make it Adam
    without_gate: dict[str, Any] = field(default_factory=dict)  # those that let tensors step alone
    lr_unit: float = 1.0  # the lr that steps as Adam does with lr=1
    settings: dict[str, Any] = field(  # of a group, none of them a default
        default_factory=lambda: {"betas": (0.7, 0.9), "eps": 1e-3}
    )
    closure: bool = False  # each step needs a closure, and a gradient optimizer is within

    def make(self, variant: Variant, params: Any, **more: Any) -> Any:
        return self.cls(params, **{**variant.kwargs, **more})


def half_at_first(step: int) -> float:
    """A schedule of alpha that pickle can name."""
    return 0.5 if step < 2 else 1.0 / step


def _gate(**kwargs: Any) -> dict[str, Any]:
    return {"gate": Gate(**{"hidden": 8, "lr": 0.05, **kwargs})}


DYNAMIC_BLEND = OptimizerInfo(
    cls=DynamicBlend,
    variants=(
        Variant("gate", compiled=True),
        Variant("gate-general", {"momentum": 0.8, "dampening": 0.1, **_gate()}),
        Variant(
            "gate-nesterov", {"nesterov": True, "weight_decay": 0.01, **_gate()}, compiled=True
        ),
        Variant("gate-no-momentum", {"momentum": 0, **_gate(total_steps=50)}),
        Variant(
            "gate-decoupled",
            {"weight_decay": 0.1, "decoupled_weight_decay": True, **_gate(normalize=False)},
        ),
        Variant("gate-per-tensor", {"per_tensor": True, "maximize": True, **_gate()}),
        Variant("gate-held-out", _gate(mode="held-out")),
        Variant("gate-frozen", _gate(mode="frozen", init_alpha=0.3)),
        Variant("gate-gradient", _gate(features="gradient"), sharded=False, compiled=True),
        Variant("gate-unfused", {"fused": False, **_gate()}),
        Variant("alpha-shared", {"alpha": 0.4, "weight_decay": 0.01}),
        Variant("alpha-fused", {"alpha": 0.4, "fused": True}),
        Variant("alpha-general", {"alpha": 0.4, "momentum": 0.5, "dampening": 0.2}, compiled=True),
        Variant("alpha-nesterov", {"alpha": 0.4, "nesterov": True, "maximize": True}),
        Variant("alpha-no-momentum", {"alpha": 0.4, "momentum": 0}),
        Variant(
            "alpha-decoupled", {"alpha": 0.4, "weight_decay": 0.1, "decoupled_weight_decay": True}
        ),
        Variant("alpha-tensor", {"alpha": torch.tensor(0.4, dtype=torch.float64)}),
        Variant("alpha-schedule", {"alpha": half_at_first}),
        Variant("alpha-unfused", {"alpha": 0.4, "fused": False, "momentum": 0.8}, compiled=True),
        Variant(
            "alpha-foreach",
            {"alpha": 0.4, "foreach": True, "nesterov": True},
            amp=False,
            compiled=True,
        ),
        Variant("adam", {"alpha": 1}),
        Variant("sgd", {"alpha": 0.0}),
    ),
    refused=(
        ({"lr": -0.1}, ValueError, r"lr: -0\.1; it must be finite and at least 0"),
        ({"lr": float("nan")}, ValueError, "lr: nan; it must be finite"),
        ({"lr": "fast"}, TypeError, "lr must be a number, not 'fast'"),
        ({"lr": torch.ones(2)}, ValueError, r"Tensor lr must be one float32 .* shape \(2,\)"),
        ({"lr": torch.tensor(-0.5)}, ValueError, r"lr: -0\.5; it must be"),
        ({"alpha": torch.tensor(1.5)}, ValueError, r"alpha: 1\.5; it must be in \[0, 1\]"),
        ({"sgd_lr": torch.tensor(0.1)}, TypeError, r"sgd_lr must be a number, not tensor"),
        ({"lr": 0.0}, ValueError, "lr is 0, so the ratio .* pass a positive lr"),
        ({"sgd_lr": float("inf")}, ValueError, "sgd_lr: inf; it must be finite"),
        ({"betas": (1.0, 0.9)}, ValueError, r"index 0: 1\.0; it must be in \[0, 1\)"),
        ({"betas": (0.9, -0.1)}, ValueError, r"index 1: -0\.1; it must be in \[0, 1\)"),
        ({"betas": 0.9}, ValueError, "betas must be a pair .* not 0.9"),
        ({"betas": (torch.tensor(0.9), 0.99)}, TypeError, r"betas\[0\] is a tensor; pass a number"),
        ({"eps": -1}, ValueError, "eps: -1; it must be finite and at least 0"),
        ({"momentum": -0.5}, ValueError, r"momentum: -0\.5; it must be"),
        ({"weight_decay": -1}, ValueError, "weight_decay: -1; it must be"),
        ({"dampening": float("nan")}, ValueError, "dampening: nan; it must be a finite number"),
        ({"nesterov": True, "momentum": 0}, ValueError, "nesterov needs a momentum .* not 0 and 0"),
        ({"nesterov": True, "dampening": 0.5}, ValueError, r"zero dampening, not 0\.9 and 0\.5"),
        ({"alpha": 1.5}, ValueError, r"alpha: 1\.5; it must be in \[0, 1\]"),
        ({"alpha": "half"}, TypeError, "alpha must be None, a number, .* not 'half'"),
        ({"alpha": torch.ones(3)}, ValueError, r"Tensor alpha must be one float32 .* \(3,\)"),
        ({"alpha": 0.5, "gate": Gate()}, ValueError, "alpha and gate exclude each other"),
        ({"alpha": 0.5, "per_tensor": True}, ValueError, "per_tensor=True is for the gate"),
        ({"gate": 0.5}, TypeError, "gate must be an unstuck.optim.Gate or None, not 0.5"),
        (
            {"gate": Gate(features="gradient"), "per_tensor": True},
            ValueError,
            "per_tensor must be False",
        ),
        ({"alpha": 0.5, "foreach": True, "fused": True}, ValueError, "choose one"),
        ({"foreach": True}, ValueError, "foreach=True has no gate: pass alpha="),
        ({"differentiable": True}, ValueError, "differentiable=True has no gate: pass alpha="),
        (
            {"alpha": 0.5, "differentiable": True, "fused": True},
            ValueError,
            "leave fused and foreach unset",
        ),
        ({"capturable": True}, ValueError, "capturable=True, but a parameter is on the CPU"),
    ),
    bad_groups=(
        ({"lr": -1.0}, ValueError, r"lr: -1\.0; it must be"),
        ({"alpha": 2.0}, ValueError, r"alpha: 2\.0; it must be in"),
        ({"betas": (0.9, 1.0)}, ValueError, r"index 1: 1\.0"),
        ({"gate": "wide"}, TypeError, "gate must be an unstuck.optim.Gate or None, not 'wide'"),
        ({"alpha": 0.5, "gate": Gate()}, ValueError, "alpha and gate exclude each other"),
        ({"fused": False}, ValueError, "fused=False in one parameter group.*to its constructor"),
        ({"foreach": True}, ValueError, "foreach=True in one parameter group"),
        ({"nesterov": True, "momentum": 0.0}, ValueError, r"not 0\.0 and 0"),
    ),
    rate_entries=("lr", "sgd_lr_ratio"),
    further_rates=("sgd_lr",),
    as_adam={"alpha": 1.0},
    without_gate={"alpha": 0.4, "gate": None, "per_tensor": False},
)

ALME_INFO = OptimizerInfo(
    cls=ALME,
    variants=(
        Variant("default", compiled=True),
        Variant("plain-mode", {"mode": "plain", "loss_threshold": 1e-5}),
        Variant("short-windows", {"grad_norm_window": 2, "loss_window": 4, "loss_threshold": 0.1}),
        Variant("adam", {"weight_decay": 0.05, "decoupled_weight_decay": False}),
        Variant("adamw", {"weight_decay": 0.1, "fused": True}),
        Variant("maximize", {"maximize": True, "betas": (0.4, 0.99)}),
        Variant("unfused", {"fused": False, "weight_decay": 0.1}, compiled=True),
    ),
    refused=(
        ({"lr": -0.1}, ValueError, r"lr: -0\.1; it must be finite and at least 0"),
        ({"lr": "fast"}, TypeError, "lr must be a number, not 'fast'"),
        ({"lr": torch.ones(2)}, ValueError, r"Tensor lr must be one float32 .* shape \(2,\)"),
        ({"betas": (1.0, 0.9)}, ValueError, r"index 0: 1\.0; it must be in \[0, 1\)"),
        ({"eps": -1}, ValueError, "eps: -1; it must be finite and at least 0"),
        ({"weight_decay": -1}, ValueError, "weight_decay: -1; it must be"),
        ({"foreach": True}, ValueError, "one native step for all tensors: leave foreach unset"),
        ({"differentiable": True}, ValueError, "use DynamicBlend"),
        ({"capturable": True}, ValueError, "capturable=True, but a parameter is on the CPU"),
        ({"module": 3}, TypeError, "module must be a torch.nn.Module or None, not 3"),
        ({"mode": "fast"}, ValueError, "mode must be 'adaptive' or 'plain', not 'fast'"),
        ({"grad_norm_window": 1}, ValueError, "grad_norm_window: 1; it must be at least 2"),
        ({"loss_window": 3}, ValueError, "loss_window: 3; it must be at least 4"),
        ({"grad_norm_threshold": -1.0}, ValueError, r"grad_norm_threshold: -1\.0"),
        ({"loss_threshold": float("nan")}, ValueError, "loss_threshold: nan"),
        ({"scales": {}}, ValueError, "scales is empty: pass"),
        ({"scales": [1.0]}, TypeError, r"scales must be \{scale: number of candidates\}"),
        ({"scales": {1.0: 0}}, ValueError, "number of candidates of scale 1.0: 0"),
        ({"scales": {-1.0: 2}}, ValueError, r"scale: -1\.0"),
        ({"escape_budget": 1.0}, ValueError, r"escape_budget: 1\.0; .* below 1"),
        ({"seed": -1}, ValueError, r"seed: -1; it must be in \[0, 2\^64\)"),
        ({"memory": 0}, ValueError, "memory: 0; it must be at least 1"),
        *(
            ({name: 0}, ValueError, f"Invalid {name}: 0; it must be at least 1")
            for name in ("stagnation_patience", "n_eval_steps", "check_every")
        ),
    ),
    bad_groups=(
        ({"lr": -1.0}, ValueError, r"lr: -1\.0; it must be"),
        ({"betas": (0.9, 1.0)}, ValueError, r"index 1: 1\.0"),
        ({"fused": False}, ValueError, "fused=False in one parameter group.*to its constructor"),
        ({"maximize": True}, ValueError, "maximize=True in one parameter group: losses"),
    ),
)


def trained(rule: UpdateRule, seed: int = 0) -> UpdateRule:
    """A rule with weights of every layer away from zero, as training would leave it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in rule.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
            weight.copy_(weight if weight.any() else 0.1 * noise)
    return rule


torch.manual_seed(0)
MLP_RULE = trained(MLP())
WHITENED_RULE = trained(WhitenedMLP())

LEARNED = OptimizerInfo(
    cls=Learned,
    variants=(
        Variant("pretrained", {"lr": 0.1}, sharded=False, still=False, slack=20),
        Variant("untrained", {"rule": MLP(), "lr": 10.0}, sharded=False),
        Variant("mlp", {"rule": MLP_RULE, "lr": 10.0, "num_steps": 20}, sharded=False, still=False),
        Variant(
            "mlp-decay",
            {"rule": MLP_RULE, "weight_decay": 0.1, "lr": 5.0},
            sharded=False,
            still=False,
        ),
        Variant(
            "mlp-maximize",
            {"rule": MLP_RULE, "maximize": True, "lr": 9.0},
            sharded=False,
            still=False,
        ),
        Variant(
            "whitened",
            {"rule": WHITENED_RULE, "lr": 10.0, "num_steps": 20},
            sharded=False,
            still=False,
        ),
        Variant(
            "mlp-unfused",
            {"rule": MLP_RULE, "fused": False, "lr": 10.0},
            sharded=False,
            still=False,
        ),
    ),
    refused=(
        ({"lr": -0.1}, ValueError, r"lr: -0\.1; it must be finite and at least 0"),
        ({"lr": "fast"}, TypeError, "lr must be a number, not 'fast'"),
        ({"lr": torch.ones(2)}, ValueError, r"Tensor lr must be one float32 .* shape \(2,\)"),
        ({"weight_decay": -1}, ValueError, "weight_decay: -1; it must be"),
        ({"num_steps": 0}, ValueError, "num_steps: 0; it must be at least 1"),
        ({"num_steps": 1.5}, TypeError, "num_steps must be a whole number, not 1.5"),
        ({"maximize": 1}, TypeError, "maximize must be True or False, not 1"),
        ({"rule": "mlp-v1"}, TypeError, r"not 'mlp-v1'; .* Learned\.from_pretrained\(\)"),
        ({"foreach": True}, ValueError, "one native step for all tensors: leave foreach unset"),
        ({"differentiable": True, "fused": True}, ValueError, "leave fused unset"),
        (
            {"capturable": True, "rule": MLP_RULE},
            ValueError,
            "capturable=True, but a parameter is on the CPU",
        ),
        (
            {"capturable": True},
            ValueError,
            "WhitenedMLP decides on the host when to renew its roots",
        ),
    ),
    bad_groups=(
        ({"lr": -1.0}, ValueError, r"lr: -1\.0; it must be"),
        ({"num_steps": -2}, ValueError, "num_steps: -2; it must be at least 1"),
        ({"fused": False}, ValueError, "fused=False in one parameter group.*to its constructor"),
    ),
    lr_unit=1e3,
    settings={"num_steps": 7},
)

MOMENTUM = functools.partial(torch.optim.SGD, momentum=0.9)
ASCENT = functools.partial(torch.optim.Adam, maximize=True)
BASES = (  # of the optimizers that hold a gradient optimizer
    ("gd", {"lr": 0.05}),
    ("momentum", {"base": MOMENTUM, "lr": 0.02}),
    ("adam", {"base": torch.optim.Adam, "lr": 0.05}),
    ("lbfgs", {"base": torch.optim.LBFGS, "lr": 0.1}),
    ("ascent", {"base": ASCENT, "lr": 0.05}),
)
BAD_BASES = (
    ({"base": 3}, TypeError, "base must be a torch.optim class, .* not 3"),
    ({"base": list}, TypeError, r"base must return an optimizer, not \["),
    ({"base": functools.partial(torch.optim.SGD, lr=-1.0)}, ValueError, r"learning rate: -1\.0"),
    ({"lr": -0.1}, ValueError, r"learning rate: -0\.1"),
)
BAD_CANDIDATES = (
    ({"popsize": 3}, ValueError, "popsize: 3; candidates come in pairs"),
    ({"popsize": 0}, ValueError, "popsize: 0"),
    ({"sigma": 0.0}, ValueError, "sigma: 0; candidates would all be where they start"),
    ({"sigma": -1.0}, ValueError, r"sigma: -1\.0; it must be finite and at least 0"),
    ({"explore": float("inf")}, ValueError, "explore: inf; it must be finite"),
    ({"beta": float("nan")}, ValueError, "beta: nan"),
    ({"share": 0.0}, ValueError, r"share: 0\.0; it must be in \(0, 1\]"),
    ({"seed": -1}, ValueError, r"seed: -1; it must be in \[0, 2\^64\)"),
)


def _with_bases(**kwargs: Any) -> tuple[Variant, ...]:
    return tuple(
        Variant(name, {**base, **kwargs}, amp=False, sharded=False) for name, base in BASES
    )


def _bad_count(name: str) -> tuple[dict[str, Any], type[Exception], str]:
    return {name: 0}, ValueError, f"Invalid {name}: 0; it must be at least 1"


LEARNING_RATE_ATTENTION = OptimizerInfo(
    cls=LearningRateAttention,
    variants=_with_bases(rates=4),
    refused=(
        *BAD_BASES,
        ({"rates": ()}, ValueError, "rates is empty: pass at least one"),
        ({"rates": (1.0, -2.0)}, ValueError, r"a rate must be finite and at least 0, not -2\.0"),
        ({"rates": 0}, ValueError, "rates must be at least 1, not 0"),
        ({"rates": 0.5}, TypeError, r"rates must be how many .* or a sequence of them, not 0\.5"),
        ({"rates": (1.0,), "lr": 0.0}, ValueError, r"multiples of lr, which is 0\.0: pass one"),
        ({"beta": -1}, ValueError, "beta must be finite and at least 0, not -1"),
        ({"share": 1.5}, ValueError, r"share must be in \(0, 1\], not 1\.5"),
    ),
    bad_groups=(),
    closure=True,
)
REACTIVE_ESCAPE = OptimizerInfo(
    cls=ReactiveEscape,  # in a row of few steps a plateau is whatever does not fall by 90 %
    variants=_with_bases(window=1, tol=0.9, plateaus=1, escape_steps=2, popsize=6, seed=3),
    refused=(
        *BAD_BASES,
        *BAD_CANDIDATES,
        _bad_count("window"),
        _bad_count("plateaus"),
        _bad_count("escape_steps"),
        ({"tol": -1.0}, ValueError, r"tol: -1\.0"),
        ({"window": 1.5}, TypeError, "window must be a whole number, not 1.5"),
    ),
    bad_groups=(),
    closure=True,
)
ALTERNATING = OptimizerInfo(
    cls=Alternating,
    variants=_with_bases(gradient_steps=2, attention_steps=1, popsize=6, beta=2.0),
    refused=(
        *BAD_BASES,
        *BAD_CANDIDATES,
        _bad_count("gradient_steps"),
        _bad_count("attention_steps"),
    ),
    bad_groups=(),
    closure=True,
)
ATTENTION_RESTART = OptimizerInfo(
    cls=AttentionRestart,
    variants=_with_bases(gradient_steps=2, window=2, attention_steps=2, popsize=6),
    refused=(
        *BAD_BASES,
        *BAD_CANDIDATES,
        _bad_count("gradient_steps"),
        _bad_count("attention_steps"),
        ({"growth": 0.5}, ValueError, r"growth: 0\.5; it must be at least 1"),
        ({"reach": float("nan")}, ValueError, "reach: nan"),
    ),
    bad_groups=(),
    closure=True,
)

REGISTRY = (
    DYNAMIC_BLEND,
    ALME_INFO,
    LEARNED,
    LEARNING_RATE_ATTENTION,
    REACTIVE_ESCAPE,
    ALTERNATING,
    ATTENTION_RESTART,
)
