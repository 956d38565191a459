"""Escapes of ALME on mini-batches that trap Adam, at equal evaluations.

Run ``python bench/quality/alme_escapes.py --save bench/results/quality_alme_escapes.json``. All
methods have the same learning rate, first weights and batch size; every loss that is evaluated
counts, with its gradient or without, those of candidates too. Batches are drawn at every
evaluation, so that no loss repeats and L-BFGS descents never begin. The figure is the loss on all
data: how many seeds came below the problem's target within the budget, the median of the
evaluations that took (a failure counts as the whole budget), and quartiles of the loss in the end.
Methods are run in turn for every seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstuck.optim import ALME

EVERY = 20  # evaluations between two looks at all data


class Problem(NamedTuple):
    """A module, its loss on one batch drawn by torch's generator, and on all data."""

    module: nn.Module
    batch_loss: Callable[[], Tensor]
    loss: Callable[[], Tensor]


def net(activation: type[nn.Module], *widths: int) -> nn.Sequential:
    """Return linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def of_rows(module: nn.Module, x: Tensor, y: Tensor, loss: Callable, size: int) -> Problem:
    """Return the problem of rows, `size` of which are a batch."""

    def batch_loss() -> Tensor:
        rows = torch.randint(0, len(x), (size,))
        return loss(module(x[rows]), y[rows])

    return Problem(module, batch_loss, lambda: loss(module(x), y))


bce = F.binary_cross_entropy_with_logits


def parity() -> Problem:
    """Six tanh units for the parity of five bits."""
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)))
    y = (x.prod(1, keepdim=True) > 0).float()
    return of_rows(net(nn.Tanh, 5, 6, 1), x, y, bce, 16)


def deep_sigmoid() -> Problem:
    """A plateau of vanishing gradients: 3-4-4-4-1 for the parity of three bits."""
    x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    return of_rows(net(nn.Sigmoid, 3, 4, 4, 4, 1), x, x.sum(1, keepdim=True) % 2, bce, 6)


def saturated() -> Problem:
    """Tanh units that start saturated, six times too wide."""
    x = torch.randn(256, 4)
    y = torch.sin(2 * x[:, :1]) * x[:, 1:2]
    module = net(nn.Tanh, 4, 16, 16, 1)
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.weight.mul_(6)
            layer.bias.mul_(6)
    return of_rows(module, x, y / y.std(), F.mse_loss, 32)


def dead_relu(shift: float = 1.0) -> Problem:
    """Most ReLU units start dead."""
    x = torch.linspace(-1, 1, 64)[:, None]
    y = torch.sin(3 * math.pi * x)
    module = net(nn.ReLU, 1, 16, 16, 1)
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.bias.sub_(shift / layer.in_features**0.5)
    return of_rows(module, x, y / y.std(), F.mse_loss, 16)


def all_dead() -> Problem:
    """All units of the second layer start dead: nothing but the last bias has a gradient."""
    problem = dead_relu()
    with torch.no_grad():
        problem.module[2].bias.sub_(3.0)
    return problem


def encoder() -> Problem:
    """8-3-8, codes that share a corner."""
    module = nn.Sequential(nn.Linear(8, 3), nn.Sigmoid(), nn.Linear(3, 8))
    return of_rows(module, torch.eye(8), torch.eye(8), bce, 4)


def spirals() -> Problem:
    """Two interleaved spirals."""
    turn = torch.arange(97) * math.pi / 16
    radius = (104 - torch.arange(97)) / 104
    one = torch.stack([radius * torch.sin(turn), radius * torch.cos(turn)], 1)
    y = torch.cat([torch.ones(97, 1), torch.zeros(97, 1)])
    return of_rows(net(nn.Tanh, 2, 16, 16, 1), torch.cat([one, -one]), y, bce, 32)


def xor() -> Problem:
    """Two sigmoid units for XOR, with noise on the inputs."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return of_rows(net(nn.Sigmoid, 2, 2, 1), x, x.sum(1, keepdim=True) % 2, bce, 3)


class Product(nn.Module):
    """A product of three matrices, all near zero: a saddle of third order."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.ParameterList(1e-3 * torch.randn(10, 10) for _ in range(3))

    def forward(self) -> Tensor:
        """Return the product [10, 10]."""
        return self.factors[0] @ self.factors[1] @ self.factors[2]


def factors() -> Problem:
    """Entries of a matrix of rank 3, a random half of them at a time."""
    truth = torch.randn(10, 3) @ torch.randn(3, 10) / 3**0.5
    module = Product()

    def batch_loss() -> Tensor:
        seen = torch.rand(10, 10) < 0.5
        return 2 * ((module() - truth).square() * seen).mean()

    return Problem(module, batch_loss, lambda: (module() - truth).square().mean())


class Memory(nn.Module):
    """A tanh RNN that says in the end what came first."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(1 + hidden, hidden)
        self.outer = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, 1] of sequences [N, T]."""
        h = x.new_zeros(len(x), self.outer.in_features)
        for step in x.unbind(1):
            h = torch.tanh(self.inner(torch.cat([step[:, None], h], 1)))
        return self.outer(h)


def memory() -> Problem:
    """The sign of the first of 16 numbers."""
    module, test = Memory(8), torch.randn(512, 16)

    def loss(x: Tensor) -> Tensor:
        return bce(module(x), (x[:, :1] > 0).float())

    return Problem(module, lambda: loss(torch.randn(32, 16)), lambda: loss(test))


PROBLEMS: dict[str, tuple[Callable[[], Problem], float]] = {  # and the target
    "parity": (parity, 0.05),
    "deep sigmoid": (deep_sigmoid, 0.05),
    "saturated tanh": (saturated, 0.1),
    "dead ReLU": (dead_relu, 0.05),
    "all ReLU dead": (all_dead, 0.05),
    "encoder": (encoder, 0.1),
    "two spirals": (spirals, 0.1),
    "XOR": (xor, 0.05),
    "product of factors": (factors, 0.01),
    "RNN memory": (memory, 0.1),
}


def torch_method(cls: type[torch.optim.Optimizer]) -> Callable:
    """Return a method that steps by an optimizer of torch."""

    def make(problem: Problem, lr: float, seed: int) -> Callable[[], int]:
        optimizer = cls(problem.module.parameters(), lr=lr, fused=True)
        made = 0

        def step() -> int:
            nonlocal made
            optimizer.zero_grad()
            problem.batch_loss().backward()
            optimizer.step()
            made += 1
            return made

        return step

    return make


def alme(problem: Problem, lr: float, seed: int, **options) -> Callable[[], int]:
    """ALME with candidates together."""
    optimizer = ALME(
        problem.module.parameters(), lr=lr, module=problem.module, seed=seed, **options
    )

    def step() -> int:
        optimizer.step(problem.batch_loss)
        return optimizer.nfev

    step.optimizer = optimizer
    return step


METHODS: dict[str, Callable] = {
    "Adam": torch_method(torch.optim.Adam),
    "AdamW": torch_method(torch.optim.AdamW),
    "ALME": alme,
}


def run(name: str, method: Callable, seed: int, budget: int, lr: float) -> dict:
    """Return when the target was met, and the loss in the end."""
    make, target = PROBLEMS[name]
    torch.manual_seed(seed)
    problem = make()
    step = method(problem, lr, seed)
    spent, look, met, loss = 0, 0, None, math.inf
    while spent < budget:
        spent = step()
        if spent >= look or spent >= budget:
            look = spent + EVERY
            with torch.no_grad():
                loss = float(problem.loss())
            if loss < target:
                met = spent
                break
    optimizer = getattr(step, "optimizer", None)
    counts = [optimizer.attempts, optimizer.escapes] if optimizer else [0, 0]
    return {
        "met": met if met is not None and met <= budget else None,
        "loss": loss,
        "escapes": counts,
    }


def summary(runs: list[dict], budget: int) -> dict:
    """Return the figures of a cell."""
    losses = torch.tensor([r["loss"] for r in runs], dtype=torch.float64)
    took = torch.tensor([float(r["met"] or budget) for r in runs])
    return {
        "met": sum(r["met"] is not None for r in runs),
        "median evaluations": float(took.quantile(0.5)),
        "mean evaluations": float(took.mean()),
        "loss quartiles": losses.quantile(
            torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        ).tolist(),
        "attempts": sum(r["escapes"][0] for r in runs),
        "escapes": sum(r["escapes"][1] for r in runs),
    }


def main() -> None:
    """Measure, print and save after every problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(16)))
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: v for k, v in vars(args).items() if k not in {"save", "methods", "problems"}}
    versions = {p: version(p) for p in ("unstuck", "torch")}
    record = {"settings": settings, "versions": versions, "python": platform.python_version()}
    cells: dict[str, dict] = {}
    for name in args.problems:
        runs: dict[str, list[dict]] = {method: [] for method in args.methods}
        began = time.perf_counter()
        for seed in args.seeds:
            for method in args.methods:
                runs[method].append(run(name, METHODS[method], seed, args.budget, args.lr))
        cells[name] = {m: {**summary(r, args.budget), "runs": r} for m, r in runs.items()}
        for method in args.methods:
            cell = cells[name][method]
            low, middle, high = cell["loss quartiles"]
            print(
                f"{name:20}{method:24}{cell['met']:3} of {len(args.seeds)}  evaluations "
                f"{cell['median evaluations']:5.0f} {cell['mean evaluations']:5.0f}  loss "
                f"{middle:.3g} ({low:.3g} to "
                f"{high:.3g})  escapes {cell['escapes']} of {cell['attempts']}",
                flush=True,
            )
        print(f"{name:20}{time.perf_counter() - began:.0f} s", flush=True)
        if args.save:
            args.save.parent.mkdir(parents=True, exist_ok=True)
            args.save.write_text(json.dumps({**record, "cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
