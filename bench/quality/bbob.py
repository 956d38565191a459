"""The 24 BBOB functions at 500 D evaluations: share of targets reached, area under the ECDF.

Run ``python bench/quality/bbob.py --save bench/results/quality_bbob.json`` (needs ``ioh`` and
``cma``). Targets: 51, from f_opt + 1e2 to f_opt + 1e-8, even in the logarithm, as COCO has them. A
pair (function, target) is solved when a point within the budget is at or below the target. The area
is that under the share of solved pairs over the logarithm of evaluations, from 1 to 500 D, over its
whole width. Every method gets the same starts (uniform in [-4, 4]^D), sigma0 = 2 and box [-5, 5]^D,
one seed an instance; a run ends at the budget or below f_opt + 1e-8.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import ioh
import numpy as np
import torch
from peers import METHODS, SpentError

TARGETS = np.logspace(2, -8, 51)


class Counted:
    """A BBOB function that counts and remembers when each target was reached."""

    def __init__(self, function: int, instance: int, dim: int, budget: int) -> None:
        self._problem = ioh.get_problem(function, instance, dim, ioh.ProblemClass.BBOB)
        self._lowest = self._problem.optimum.y
        self.budget, self.used = budget, 0
        self.reached = np.full(TARGETS.size, np.inf)  # evaluations

    def __call__(self, points: np.ndarray) -> np.ndarray:
        values = np.empty(len(points))
        for k, x in enumerate(np.asarray(points, float)):
            if self.used == self.budget:
                raise SpentError
            values[k] = self._problem(x)
            self.used += 1
            self.reached[(values[k] - self._lowest <= TARGETS) & (self.reached > self.used)] = (
                self.used
            )
        if np.isfinite(self.reached[-1]):
            raise SpentError
        return values

    def score(self) -> tuple[float, float]:
        """Return the share of targets and the area."""
        reached = np.isfinite(self.reached)
        at = np.where(reached, self.reached, self.budget)
        return float(reached.mean()), float(np.mean(1 - np.log(at) / np.log(self.budget)))


def measure(method: Callable, dims: list[int], instances: list[int], budget: int, seed: int):
    """Return {(dim, function, instance): (share, area)}."""
    scores = {}
    for dim in dims:
        for function in range(1, 25):
            for instance in instances:
                counted = Counted(function, instance, dim, budget * dim)
                number = seed * 10**6 + 1000 * function + 10 * instance + dim
                x0 = np.random.default_rng(number).uniform(-4, 4, dim)
                with contextlib.suppress(SpentError):
                    method(counted, x0, 2.0, (-5.0, 5.0), number)
                scores[dim, function, instance] = counted.score()
    return scores


def row(scores: dict, instances: list[int], seconds: float) -> dict:
    """Return means, spread over instances, and means by dimension and function."""

    def mean(keep=lambda key: True):
        return [round(float(v), 4) for v in np.mean([s for k, s in scores.items() if keep(k)], 0)]

    by = [mean(lambda k, i=i: k[2] == i) for i in instances]
    return {
        "solved, area": mean(),
        "standard deviation over instances": np.std(by, 0, ddof=1).round(4).tolist()
        if len(by) > 1
        else None,
        "by dimension": {str(d): mean(lambda k, d=d: k[0] == d) for d in {k[0] for k in scores}},
        "by function": {str(f): mean(lambda k, f=f: k[1] == f)[0] for f in range(1, 25)},
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Measure, print and save after every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--budget", type=int, default=500, help="evaluations a coordinate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="names, as printed")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: v for k, v in vars(args).items() if k not in {"save", "methods"}}
    versions = {p: version(p) for p in ("unstuck", "torch", "numpy", "scipy", "ioh", "cma")}
    record = {"settings": settings, "versions": versions, "python": platform.python_version()}
    rows = {}
    print(f"{'method':34}{'solved':>8}{'area':>8}   by dimension {args.dims}")
    for name in args.methods:
        began = time.perf_counter()
        scores = measure(METHODS[name], args.dims, args.instances, args.budget, args.seed)
        rows[name] = result = row(scores, args.instances, time.perf_counter() - began)
        solved, area = result["solved, area"]
        each = "  ".join("{:.3f}/{:.3f}".format(*result["by dimension"][str(d)]) for d in args.dims)
        print(f"{name:34}{solved:8.3f}{area:8.3f}   {each}   {result['seconds']} s", flush=True)
        if args.save:
            args.save.parent.mkdir(parents=True, exist_ok=True)
            args.save.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
