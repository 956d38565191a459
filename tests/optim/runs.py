"""Small training runs that the contract tests share, and exact comparison of what they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unstuck.optim import Learned

from .registry import REGISTRY, OptimizerInfo, Variant

SHAPES = ((7, 5), (5,), (), (3, 2, 4))


def every_variant(keep: Callable[[Variant], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Parametrize a test over every variant of every class that steps by given gradients."""
    return _parametrize(lambda info, variant: not info.closure and keep(variant))


def every_optimizer(keep: Callable[[Variant], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Parametrize a test over every variant of every class; only :func:`train` steps them all."""
    return _parametrize(lambda _, variant: keep(variant))


def every_hybrid(keep: Callable[[Variant], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Parametrize a test over every variant of every class that steps by a closure."""
    return _parametrize(lambda info, variant: info.closure and keep(variant))


def _parametrize(keep: Callable[[OptimizerInfo, Variant], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("info", "variant"),
        [
            pytest.param(info, variant, id=f"{info.cls.__name__}-{variant.name}")
            for info in REGISTRY
            for variant in info.variants
            if keep(info, variant)
        ],
    )


def every_class(*, closures: bool = False) -> pytest.MarkDecorator:
    """Parametrize a test over the classes with their defaults; with `closures` over all."""
    rows = [info for info in REGISTRY if closures or not info.closure]
    return pytest.mark.parametrize("info", rows, ids=lambda info: info.cls.__name__)


def make_params(
    shapes: Iterable[tuple[int, ...]] = SHAPES,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype))
        for shape in shapes
    ]


def loss_of(params: Sequence[Tensor], batch: int) -> Tensor:
    """A bounded loss whose minimum moves with the batch."""
    generator = torch.Generator().manual_seed(1000 + batch)
    total: Any = 0.0
    for p in params:
        shift = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        wide = torch.view_as_real(p).sum(-1) if p.is_complex() else p
        total = total + (wide + shift.to(p.device, wide.dtype)).cos().sum()
    return total


def backward(params: Sequence[Tensor], batch: int) -> Tensor:
    """Fill the gradients with those of one batch."""
    for p in params:
        p.grad = None
    loss = loss_of(params, batch)
    loss.backward()
    return loss


def train(optimizer: Any, params: Sequence[Tensor], batches: Iterable[int]) -> None:
    """Train as a user would, with whatever the gate can be told."""
    if any(info.closure and isinstance(optimizer, info.cls) for info in REGISTRY):
        for batch in batches:
            optimizer.step(lambda batch=batch: loss_of(params, batch))
        return
    gates = [(group.get("gate") or {}).get("mode") for group in optimizer.param_groups]
    for batch in batches:
        loss = backward(params, batch)
        record_loss(optimizer, loss)
        optimizer.step()
        if "held-out" in gates:
            backward(params, 10_000 + batch)
            optimizer.meta_step()


def record_loss(optimizer: Any, loss: Tensor) -> None:
    """Tell the optimizer the loss where it wants to know."""
    if hasattr(optimizer, "record_loss"):
        optimizer.record_loss(loss)


def derived(optimizer: Any) -> list[Tensor]:
    """What a step makes of sums over all elements: alphas of gates, statistics."""
    if hasattr(optimizer, "alpha"):
        return list(optimizer.alpha)
    if isinstance(optimizer, Learned):
        states = [optimizer.state[p] for g in optimizer.param_groups for p in g["params"]]
        return [state["stats"].clone() for state in states if "stats" in state]
    return [optimizer.param_groups[0]["stagnation"].clone()]


def has_gate(variant: Variant) -> bool:
    """Whether a gate sets alpha from all parameters of a group together."""
    return variant.name.startswith("gate")


def snapshot(optimizer: Any, params: Sequence[Tensor]) -> dict[str, Any]:
    """Copy of everything that decides how training goes on."""
    return {
        "params": [p.detach().clone() for p in params],
        "optimizer": deepcopy(optimizer.state_dict()),
    }


def stepped(optimizer: Any, params: Sequence[Tensor]) -> dict[str, Any]:
    """The same without what ALME has seen of closures, which a step without one does not show."""
    state = snapshot(optimizer, params)
    state["optimizer"]["param_groups"][0].pop("searched", None)
    return state


def assert_same(a: Any, b: Any, where: str = "", *, rtol: float = 0, atol: float = 0) -> None:
    """Compare nested values, tensors bit for bit unless tolerances are given."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        assert isinstance(a, Tensor), where
        assert isinstance(b, Tensor), where
        alike = (a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape)
        if alike and torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
            return  # the quick way; the slow one says where they differ
        torch.testing.assert_close(
            a, b, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(a, Mapping):
        assert isinstance(b, Mapping), where
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]", rtol=rtol, atol=atol)
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b), where
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]", rtol=rtol, atol=atol)
    else:
        assert a == b, where


def assert_changed(before: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """Every parameter has moved: what a contract says of a step is then not empty."""
    for i, (old, p) in enumerate(zip(before, params, strict=True)):
        assert p.numel() == 0 or not torch.equal(old, p), f"parameter {i} did not move"


__all__ = [
    "SHAPES",
    "OptimizerInfo",
    "Variant",
    "assert_changed",
    "assert_same",
    "backward",
    "derived",
    "every_class",
    "every_hybrid",
    "every_optimizer",
    "every_variant",
    "has_gate",
    "loss_of",
    "make_params",
    "record_loss",
    "snapshot",
    "train",
]
