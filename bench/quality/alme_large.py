"""What an escape of ALME takes for large perceptrons, candidates together and one after another.

Run ``python bench/quality/alme_large.py 10 together`` for about 10 million parameters; ``in-turn``
is the other way, ``--candidates 2 --steps 1`` makes a smaller escape. Peaks are of the process, so
there is one case a process, on Linux.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstuck.optim import ALME


def resident(name: str) -> int:
    """Return a figure of the process in bytes: VmRSS, or its peak VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def main() -> None:
    """Measure and print one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("millions", type=float)
    parser.add_argument("way", choices=["together", "in-turn"])
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    width = int((args.millions * 1e6 / 2) ** 0.5)
    layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    size = sum(p.numel() for p in model.parameters())
    x, y = torch.randn(1024, width), torch.randint(0, 10, (1024,))
    optimizer = ALME(
        model.parameters(),
        module=model,
        scales={1.0: args.candidates},
        n_eval_steps=args.steps,
        memory=1 << 50 if args.way == "together" else 1,
    )

    def closure() -> Tensor:
        rows = torch.randint(0, 1024, (64,))
        return F.cross_entropy(model(x[rows]), y[rows])

    for _ in range(2):
        optimizer.step(closure)
    began = time.perf_counter()
    for _ in range(3):
        optimizer.step(closure)
    step = (time.perf_counter() - began) / 3
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before = resident("VmRSS")
    began = time.perf_counter()
    optimizer.escape(closure)
    took = time.perf_counter() - began
    extra = resident("VmHWM") - before
    print(
        f"{size / 1e6:.1f}M parameters, {args.way}: {extra / 2**20:.0f} MiB, {extra / size:.0f} "
        f"bytes a parameter, {took:.2f} s, {took / step:.0f} steps"
    )


if __name__ == "__main__":
    main()
