"""How often each hybrid, with each gradient part, finds the minimum: default options, equal budget.

Run ``python bench/quality/hybrids.py --save bench/results/quality_hybrids.json``. A loss with its
gradient counts as one evaluation. Starts are uniform in the box, on the trapped loss near zero,
inside its traps; the same for all. A run ends within 0.001 of the minimum, or at the budget.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from unstuck import minimize, problems
from unstuck.search._descent import BASES
from unstuck.training.problem_race import start_of

HYBRIDS = ("reactive-escape", "alternating", "attention-restart", "lr-attention")
NEAR = 1e-3


def measure(method: str, base: str | None, problem: problems.Problem, args: argparse.Namespace):
    """Return how many starts came within NEAR of the minimum, and after how many evaluations."""

    def found(intermediate_result) -> bool:
        return intermediate_result.fun - problem.minimum <= NEAR

    took = []
    for seed in range(args.seeds):
        result = minimize(
            problem,
            start_of(problem, seed),
            method=method,
            budget=args.budget,
            seed=seed,
            callback=found,
            options={} if base is None else {"base": base},
        )
        if found(result):
            took.append(result.nfev)
    return {"found": len(took), "median evaluations": float(np.median(took)) if took else None}


def main() -> None:
    """Measure, print and save after every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=["rastrigin", "ackley", "griewank"])
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--trapped", type=int, nargs="*", default=[11], help="its dimensions")
    parser.add_argument("--methods", nargs="+", default=["attention", *HYBRIDS])
    parser.add_argument("--bases", nargs="+", default=list(BASES))
    parser.add_argument("--budget", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: v for k, v in vars(args).items() if k not in {"save", "methods"}}
    versions = {name: version(name) for name in ("unstuck", "torch")}
    record = {"settings": settings, "versions": versions, "python": platform.python_version()}
    places = [(name, dim) for name in args.problems for dim in args.dims]
    places += [("trapped", dim) for dim in args.trapped]
    print(f"{'':26}" + "".join(f"{name[:5] + ' ' + str(dim):>11}" for name, dim in places))
    rows: dict[str, dict] = {}
    for method in args.methods:
        for base in [None] if method == "attention" else args.bases:
            name = method if base is None else f"{method}, {base}"
            began = time.perf_counter()
            rows[name] = {}
            for label, dim in places:
                problem = problems.get(label, dim, dtype=torch.float64)
                rows[name][f"{label} {dim}"] = measure(method, base, problem, args)
            cells = (
                f"{cell['found']:3d} {cell['median evaluations'] or math.nan:6.0f}"
                for cell in rows[name].values()
            )
            seconds = time.perf_counter() - began
            print(
                f"{name:26}" + "".join(f"{c:>11}" for c in cells) + f"{seconds:6.0f} s", flush=True
            )
            if args.save:
                args.save.parent.mkdir(parents=True, exist_ok=True)
                args.save.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
