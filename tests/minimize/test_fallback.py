"""Without native modules minimize goes the same way."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from unstuck import problems
from unstuck.minimize import METHODS, minimize

SCRIPT = """
    import warnings
    warnings.simplefilter("ignore", RuntimeWarning)
    import torch
    import unstuck
    from unstuck.minimize import METHODS
    from unstuck.ops import _native
    assert _native.cpu is None
    problem = unstuck.problems.get("griewank", 60, dtype=torch.float64)
    for method in METHODS:
        result = unstuck.minimize(problem, method=method, seed=3, options={"maxiter": 4})
        print(method, result.nfev, *result.history.fun)
"""


def test_every_method_gives_the_same_without_native_modules():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "UNSTUCK_NATIVE": "0"},
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    problem = problems.get("griewank", 60, dtype=torch.float64)
    for line in lines:
        method, nfev, *values = line.split()
        result = minimize(problem, method=method, seed=3, options={"maxiter": 4})
        assert result.nfev == int(nfev)
        assert result.history.fun == pytest.approx([float(value) for value in values], rel=1e-4)
