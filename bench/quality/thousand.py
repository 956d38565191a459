"""A thousand coordinates, 256 candidates, 150 D evaluations: against separable methods.

Run ``python bench/quality/thousand.py --save bench/results/quality_thousand.json`` (needs
``evotorch`` and ``cma``). Starts are uniform in the box of the landscape, the same for all
methods; sigma0 is a fraction of the half width of the box. Ours takes the default of
``unstuck.minimize``, 0.5; every other method has the best of ``--sigmas``, chosen for each
landscape on the very figures that are reported. The figure is the loss at the centre of the
distribution in the end: median, lowest and highest over seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from unstuck.ops.landscapes import Landscape, value
from unstuck.search import AttentionSearch

BOXES = {"sphere": 5.12, "rastrigin": 5.12, "ackley": 32.768, "griewank": 600.0}


def attention(landscape, x0, sigma0, popsize, iterations, seed):
    search = AttentionSearch(
        x0, sigma0, popsize=popsize, seed=seed, covariance="diagonal", restarts=False
    )
    for _ in range(iterations):
        search.step(landscape)
    return search.center


def plain(landscape, x0, sigma0, popsize, iterations, seed):
    search = AttentionSearch(x0, sigma0, popsize=popsize, seed=seed, mode="plain")
    for _ in range(iterations):
        search.step(landscape)
    return search.center


def pycma(landscape, x0, sigma0, popsize, iterations, seed):
    import cma

    options = {"CMA_diagonal": True, "popsize": popsize, "seed": seed + 1, "verbose": -9}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        es = cma.CMAEvolutionStrategy(x0.double().numpy(), sigma0, options)
        for _ in range(iterations):
            points = es.ask()
            losses = value(landscape, torch.from_numpy(np.asarray(points)))
            es.tell(points, losses.numpy())
    return torch.from_numpy(np.asarray(es.mean)).to(x0)


def evotorch(kind):
    def run(landscape, x0, sigma0, popsize, iterations, seed):
        logging.getLogger("evotorch").setLevel(logging.ERROR)
        from evotorch import Problem
        from evotorch.algorithms import CEM, CMAES, PGPE, SNES
        from evotorch.decorators import vectorized

        @vectorized
        def function(x):
            return value(landscape, x)

        def problem():
            size = {"solution_length": landscape.dim, "initial_bounds": (-1, 1)}
            return Problem("min", function, seed=seed + 1, dtype=torch.float32, **size)

        shared = {"popsize": popsize, "stdev_init": sigma0, "center_init": x0}
        if kind == "SNES":
            search = SNES(problem(), **shared)
        elif kind == "CEM":
            search = CEM(problem(), parenthood_ratio=0.5, **shared)
        elif kind == "CMAES":
            search = CMAES(problem(), separable=True, **shared)
        else:
            radius = sigma0 * landscape.dim**0.5
            search = PGPE(
                problem(),
                center_learning_rate=radius / 15,
                stdev_learning_rate=0.1,
                optimizer="clipup",
                optimizer_config={"max_speed": radius / 7.5},
                **shared,
            )
        for _ in range(iterations):
            search.step()
        return torch.as_tensor(search.status["center"]).to(x0).clone()

    return run


OURS = "unstuck attention"
DEFAULT = 0.5  # of the half width: a quarter of the width

METHODS = {
    OURS: attention,
    "unstuck, plain": plain,
    "pycma, CMA_diagonal": pycma,
    "EvoTorch SNES": evotorch("SNES"),
    "EvoTorch CMAES, separable": evotorch("CMAES"),
    "EvoTorch CEM": evotorch("CEM"),
    "EvoTorch PGPE, ClipUp": evotorch("PGPE"),
}


def peers(methods: list[str]) -> list[str]:
    """Return the distributions that the methods come from."""
    found = {"pycma": "cma", "EvoTorch": "evotorch"}
    return [name for word, name in found.items() if any(word in method for method in methods)]


def measure(name: str, label: str, args: argparse.Namespace) -> dict:
    """Return the final losses of a method on a landscape, at the sigma0 that suits it best."""
    landscape, half = Landscape(label, args.dim), BOXES[label]
    iterations = args.budget * args.dim // args.popsize
    found: dict[float, list[float]] = {}
    for share in [DEFAULT] if name == OURS else args.sigmas:
        found[share] = []
        for seed in args.seeds:
            draw = torch.Generator().manual_seed(seed)
            x0 = (2 * torch.rand(args.dim, generator=draw) - 1) * half
            center = METHODS[name](landscape, x0, share * half, args.popsize, iterations, seed)
            loss = float(value(landscape, center.double()))
            found[share].append(loss if np.isfinite(loss) else float("inf"))
    medians = {share: float(np.median(losses)) for share, losses in found.items()}
    best = min(medians, key=lambda share: medians[share])
    return {
        "median": medians[best],
        "lowest": min(found[best]),
        "highest": max(found[best]),
        "losses": found[best],
        "sigma0 / half width": best,
        "median by sigma0": {str(share): median for share, median in medians.items()},
    }


def main() -> None:
    """Measure, print and save after every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=1000)
    parser.add_argument("--popsize", type=int, default=256)
    parser.add_argument("--budget", type=int, default=150, help="evaluations a coordinate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.05, 0.2, 0.5])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="names, as printed")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: v for k, v in vars(args).items() if k not in {"save", "methods"}}
    versions = {p: version(p) for p in ("unstuck", "torch", *peers(args.methods))}
    record = {"settings": settings, "versions": versions, "python": platform.python_version()}
    rows: dict[str, dict] = {}
    for name in args.methods:
        rows[name] = {}
        for label in BOXES:
            began = time.perf_counter()
            rows[name][label] = row = measure(name, label, args)
            print(
                f"{name:28}{label:11}{row['median']:12.4g}   {row['lowest']:.4g} to "
                f"{row['highest']:.4g}   sigma0 {row['sigma0 / half width']}   "
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )
        if args.save:
            args.save.parent.mkdir(parents=True, exist_ok=True)
            args.save.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
