"""How often each hybrid, with each gradient part, finds the minimum: default options, equal budget.

Run ``python bench/quality/hybrids.py --save bench/results/quality_hybrids.json``. A loss with its
gradient counts as one evaluation. Starts are uniform in the box, on the trapped loss near zero,
inside its traps; the same for all. A run succeeds within 0.01 of the minimum.
"""

from __future__ import annotations

import argparse
import json
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
NEAR = 1e-2


def losses(method: str, base: str | None, problem: problems.Problem, args: argparse.Namespace):
    """Return the lowest loss above the minimum of every start."""
    found = []
    for seed in range(args.seeds):
        result = minimize(
            problem,
            start_of(problem, seed),
            method=method,
            budget=args.budget,
            seed=seed,
            options={} if base is None else {"base": base},
        )
        found.append(result.fun - problem.minimum)
    return found


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
    print(f"{'':26}" + "".join(f"{name[:5] + ' ' + str(dim):>10}" for name, dim in places))
    rows: dict[str, dict] = {}
    for method in args.methods:
        for base in [None] if method == "attention" else args.bases:
            name = method if base is None else f"{method}, {base}"
            began = time.perf_counter()
            rows[name] = {}
            for label, dim in places:
                found = losses(method, base, problems.get(label, dim, dtype=torch.float64), args)
                rows[name][f"{label} {dim}"] = {
                    "successes": sum(loss <= NEAR for loss in found),
                    "median above the minimum": float(np.median(found)),
                }
            cells = (
                f"{cell['successes']:3d} {cell['median above the minimum']:.0e}"
                for cell in rows[name].values()
            )
            seconds = time.perf_counter() - began
            print(
                f"{name:26}" + "".join(f"{c:>10}" for c in cells) + f"{seconds:6.0f} s", flush=True
            )
            if args.save:
                args.save.parent.mkdir(parents=True, exist_ok=True)
                args.save.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
