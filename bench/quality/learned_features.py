"""The long set of features beside the short one: what a step costs, and what meta-training makes.

Run ``python bench/quality/learned_features.py --save bench/results/quality_learned_features.json``.
Both rules are meta-trained by evolution strategies on the same tasks, with the same seeds and
settings, each for the same CPU time, and judged on the same tasks that neither is trained on: 0 is
the untrained rule's objective, Adam's at a rate of 1e-3, and lower is better. Times are of the CPU,
so that other processes hardly matter; judging is not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from unstuck.learned import (
    FAMILIES,
    MLP,
    Evolution,
    FeatureMLP,
    MetaTraining,
    Objective,
    Plan,
    UpdateRule,
)
from unstuck.optim import Learned

RULES = {"short": MLP, "long": FeatureMLP}
STUDENT = ((128, 784), (128,), (10, 128), (10,))  # 101,770 parameters
JUDGEMENTS = 4  # a training


def cost(rule: UpdateRule, rounds: int, *, fused: bool | None) -> dict[str, Any]:
    """Return what a step of the student costs: CPU milliseconds, and numbers kept a parameter."""
    params = [Parameter(torch.randn(shape)) for shape in STUDENT]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = Learned(params, rule, fused=fused)
    times = []
    for _ in range(rounds):
        began = time.process_time()
        optimizer.step()
        times.append(time.process_time() - began)
    count = sum(p.numel() for p in params)
    kept = sum(x.numel() for s in optimizer.state.values() for x in s.values())
    return {"ms": 1e3 * sorted(times)[rounds // 2], "numbers kept": kept / count}


def train(make: Any, seed: int, args: argparse.Namespace) -> list[tuple[int, float, float]]:
    """Return student steps, CPU seconds and objective at several times of a meta-training."""
    torch.manual_seed(seed)
    plan = Plan(
        unrolls=args.unrolls,
        students=args.students,
        truncation=args.truncation,
        horizon=(args.truncation, args.horizon),
        objective=Objective(late=1.0, validation=0.5),
    )
    estimator = Evolution(make(), FAMILIES[args.family], plan, seed=seed, sigma=args.sigma)
    training = MetaTraining(estimator, lr=args.lr, judge_every=10**9)
    start = training.judge()
    training.step()  # judges as well, and compiles what is compiled once: not counted
    before = training.rows[-1].student_steps
    spent, curve = 0.0, []
    while len(curve) < JUDGEMENTS:
        began = time.process_time()
        row = training.step()
        spent += time.process_time() - began
        if spent >= 60 * args.minutes * (len(curve) + 1) / JUDGEMENTS:
            curve.append((row.student_steps - before, spent, training.judge() - start))
    return curve


def at(curve: list[tuple[int, float, float]], column: int, where: float) -> float:
    """Return the objective where a column is `where`, on the lines between what was measured."""
    xs, ys = [0.0, *(row[column] for row in curve)], [0.0, *(row[2] for row in curve)]
    for (x0, y0), (x1, y1) in zip(
        zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False
    ):
        if where <= x1:
            return y0 + (y1 - y0) * (where - x0) / (x1 - x0)
    return math.nan if where > 1.01 * xs[-1] else ys[-1]


def main() -> None:
    """Measure, print, and save after every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="mlp")
    parser.add_argument("--minutes", type=float, default=2.0, help="CPU minutes a training")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--unrolls", type=int, default=4)
    parser.add_argument("--students", type=int, default=16)
    parser.add_argument("--truncation", type=int, default=20)
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--sigma", type=float, default=0.03)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name, make in RULES.items():
        results[name] = {
            "meta-parameters": sum(p.numel() for p in make().parameters()),
            "step, torch form": cost(make(), args.rounds, fused=False),
            "step, as it comes": cost(make(), args.rounds, fused=None),
            "curves": [],
        }
        print(name, json.dumps(results[name]), flush=True)
    for seed in range(args.seeds):
        curves = {name: train(make, seed, args) for name, make in RULES.items()}
        for name, curve in curves.items():
            results[name]["curves"].append(curve)
        steps = min(curve[-1][0] for curve in curves.values())
        seconds = min(curve[-1][1] for curve in curves.values())
        for what, column, where in (("student steps", 0, steps), ("CPU seconds", 1, seconds)):
            found = {name: round(at(curve, column, where), 4) for name, curve in curves.items()}
            print(f"seed {seed}, after {where:,.0f} {what}: {found}", flush=True)
        if args.save:
            about = {
                "machine": platform.processor() or platform.machine(),
                "torch": version("torch"),
                "settings": {k: str(v) for k, v in vars(args).items() if k != "save"},
            }
            args.save.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
