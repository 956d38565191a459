"""Without compiled modules a population gives the same losses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys, warnings
import torch
import torch.nn.functional as F
from torch import nn
from unstuck.ops.candidates import Draw, Region
from unstuck.population import PopulationLoss

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2)).double()
x, y = torch.randn(32, 6).double(), torch.randn(32, 2).double()
population = PopulationLoss(model, lambda: F.mse_loss(model(x), y))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    region, draw = Region(population.point(), 0.1), Draw(3)
    points = population.low_rank_points(draw, 0.1, 0, 4)
    found = [
        population.losses(points), *population.value_and_gradient(points),
        population.candidates(region, draw, 5), population.low_rank(draw, 0.1, 4),
        population.line(points[0], torch.rand(4).double()),
    ]
torch.save([population.is_plain, *found], sys.argv[1])
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def run(path: Path, native: str) -> tuple[list[object], str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env={**os.environ, "UNSTUCK_NATIVE": native},
        capture_output=True,
        text=True,
        check=True,
    )
    return torch.load(path), done.stdout


def test_plain_torch_gives_the_same(tmp_path):
    slow, told = run(tmp_path / "slow.pt", "0")
    assert told.count("RuntimeWarning") == 1
    assert "UNSTUCK_NATIVE=0" in told
    assert slow[0] is False
    fast, _ = run(tmp_path / "fast.pt", "1")
    for x, y in zip(slow[1:], fast[1:], strict=True):
        torch.testing.assert_close(x, y)
