"""The table of the source: GD and attention search by dimension, beside the recommended method.

Run ``python bench/quality/source_table.py --save bench/results/quality_source_table.json``. Every
run gets 20,000 evaluations, a start uniform in the box of the landscape, and sigma0 a quarter of
the width of the box; the figure is the best loss. Beside it the figures that the source reports for
gradient descent and for attention search.
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

from unstuck.ops.landscapes import Landscape
from unstuck.search import AttentionSearch

BOXES = {"sphere": 5.12, "rastrigin": 5.12, "ackley": 32.768, "griewank": 600.0}
# reported: landscape, dimension: (gradient descent, attention search)
REPORTED = {
    "sphere": {
        2: (1.34e-17, 1.15e-3),
        5: (2.45e-17, 0.496),
        10: (6.2e-17, 3.94),
        50: (1.91e-16, 33.6),
        100: (4.22e-16, 81.0),
    },
    "rastrigin": {
        2: (24.9, 1.28),
        5: (49.7, 22.7),
        10: (126.0, 64.4),
        50: (378.0, 473.0),
        100: (868.0, 1010.0),
    },
    "ackley": {
        2: (10.1, 1.44),
        5: (9.35, 2.88),
        10: (10.2, 4.2),
        50: (9.38, 4.89),
        100: (10.4, 5.11),
    },
    "griewank": {
        2: (0.0326, 0.0165),
        5: (0.882, 0.211),
        10: (1.03, 0.465),
        50: (1.1, 0.827),
        100: (1.21, 0.777),
    },
}


def run(name: str, dim: int, seed: int, budget: int, **options: object) -> float:
    """Return the best loss of a run of `budget` evaluations."""
    half = BOXES[name]
    draw = torch.Generator().manual_seed(seed)
    x0 = (2 * torch.rand(dim, generator=draw, dtype=torch.float64) - 1) * half
    search = AttentionSearch(x0, half / 2, bounds=(-half, half), seed=seed, **options)
    landscape = Landscape(name, dim)
    while search.nfev + search.popsize <= budget:
        search.step(landscape)
    return search.best.f


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, lost = [], 0
    print(f"{'landscape':11}{'D':>5}{'GD':>10}{'attention':>11}   ours: median, worst of seeds")
    for name, line in REPORTED.items():
        for dim, (descent, reported) in line.items():
            began = time.perf_counter()
            losses = [run(name, dim, seed, args.budget) for seed in range(args.seeds)]
            middle, worst = float(np.median(losses)), max(losses)
            aims = [reported] if name == "sphere" else [reported, descent]
            below = worst < min(aims)
            lost += not below
            took = time.perf_counter() - began
            note = "all below" if below else f"{sum(f < min(aims) for f in losses)} below"
            print(
                f"{name:11}{dim:5}{descent:10.3g}{reported:11.3g}   "
                f"{middle:.3g}, {worst:.3g}   {note}   {took:.0f} s",
                flush=True,
            )
            rows.append(
                {
                    "landscape": name,
                    "dim": dim,
                    "reported GD": descent,
                    "reported attention": reported,
                    "median": middle,
                    "worst": worst,
                    "losses": losses,
                }
            )
    print("every run is below what was reported" if not lost else f"{lost} rows are not")
    if args.save:
        settings = {"budget": args.budget, "seeds": args.seeds}
        versions = {p: version(p) for p in ("unstuck", "torch", "numpy")}
        record = {"settings": settings, "versions": versions, "python": platform.python_version()}
        args.save.parent.mkdir(parents=True, exist_ok=True)
        args.save.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
