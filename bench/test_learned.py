"""Steps of learned rules beside torch's fused Adam and beside the rules' torch forms."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from unstuck.learned import LSTM, MLP, UpdateRule, WhitenedMLP
from unstuck.learned._whitening import LARGEST
from unstuck.optim import Learned

STUDENT = ((128, 784), (128,), (10, 128), (10,))  # 101,770 parameters
BYTES = 36  # a parameter: five arrays are read, four written
FLOPS = 182  # a parameter with four hidden units, counted in csrc/math/learned.hpp
NARROW = ((64, 784), (64,), (64, 64), (64,), (10, 64), (10,))  # all sides but one are whitened
LOOKS = 1 / 20  # of the products: half of them, since means are symmetric, at one step in ten
CELL = 148  # a hidden unit of the LSTM beside its products, counted in csrc/math/lstm.hpp


def tensors(shapes: tuple[tuple[int, ...], ...]) -> list[Parameter]:
    """Return parameters with gradients."""
    params = [Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def trained(rule: UpdateRule) -> UpdateRule:
    """A rule whose weights are not zero: the time does not depend on what they are."""
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return rule


@pytest.mark.parametrize("n", [101_770, 10_000_000])
def test_the_mlp_rule(side_by_side, n: int) -> None:
    shapes = STUDENT if n == 101_770 else ((n,),)
    side_by_side(
        f"MLP rule, {n:,} parameters",
        Learned(tensors(shapes), trained(MLP()), fused=True).step,
        {"torch fused Adam": torch.optim.Adam(tensors(shapes), fused=True).step},
        bytes=BYTES * n,
        targets={"torch fused Adam": 3.0},
    )


@pytest.mark.parametrize("n", [101_770, 1_000_000])
def test_the_mlp_rule_beside_its_torch_form(side_by_side, n: int) -> None:
    shapes, rule = (STUDENT if n == 101_770 else ((n,),)), trained(MLP())
    side_by_side(
        f"MLP rule, {n:,} parameters, beside torch",
        Learned(tensors(shapes), rule, fused=True).step,
        {"torch form": Learned(tensors(shapes), rule, fused=False).step},
        flops=FLOPS * n,
        targets={"torch form": 0.1},
    )


def whitening_flops(shapes: tuple[tuple[int, ...], ...]) -> float:
    """Operations of a step in products with roots and in those that means look at."""
    matrices = [shape for shape in shapes if len(shape) == 2]
    products = sum(2 * r * c * sum(n for n in (r, c) if n <= LARGEST) for r, c in matrices)
    return (1 + LOOKS) * products


@pytest.mark.parametrize("shapes", [STUDENT, NARROW], ids=["784-128-10", "784-64-64-10"])
def test_the_whitened_rule(side_by_side, shapes: tuple[tuple[int, ...], ...]) -> None:
    rule = trained(WhitenedMLP())
    n = sum(p.numel() for p in tensors(shapes))
    side_by_side(
        f"whitened MLP rule, {n:,} parameters",
        Learned(tensors(shapes), rule, fused=True).step,
        {
            "MLP rule": Learned(tensors(shapes), trained(MLP()), fused=True).step,
            "torch fused Adam": torch.optim.Adam(tensors(shapes), fused=True).step,
            "torch form": Learned(tensors(shapes), rule, fused=False).step,
        },
        flops=FLOPS * n + whitening_flops(shapes),
        targets={"torch fused Adam": 3.0, "torch form": 0.1},
    )


@pytest.mark.parametrize("features", ["log", "rich"])
def test_the_lstm_rule(side_by_side, features: str) -> None:
    rule = trained(LSTM(features, hidden=20))
    inputs = rule.gates_in.in_features + rule.hidden
    side_by_side(
        f"LSTM rule ({features}, hidden 20), 101,770 parameters",
        Learned(tensors(STUDENT), rule, fused=True).step,
        {"torch form": Learned(tensors(STUDENT), rule, fused=False).step},
        flops=rule.hidden * (2 * 4 * inputs + CELL) * 101_770,
        targets={"torch form": 0.1},
    )
