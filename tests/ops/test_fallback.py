"""Without compiled modules: one warning, the same results."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unstuck.ops import _native

from .cases import assert_close, make_case

SCRIPT = """
    import sys, warnings
    import torch
    import unstuck
    from unstuck.ops import _native

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 2))
    model = model.double()
    x, y = torch.randn(32, 6).double(), torch.randn(32, 2).double()
    options = [dict(), dict(alpha=0.25, momentum=0.5, weight_decay=0.1), dict(per_tensor=True)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kwargs in options:
            optimizer = unstuck.optim.DynamicBlend(model.parameters(), lr=1e-2, **kwargs)
            for _ in range(10):
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
    torch.save([p.detach() for p in model.parameters()], sys.argv[1])
    for warning in caught:
        print(warning.category.__name__, warning.message)
    print("native", _native.cpu is not None)
"""


def run(folder: Path, **environment: str) -> tuple[list[torch.Tensor], list[str]]:
    """Train in another process; return the parameters, and the lines it printed."""
    out = folder / "parameters.pt"
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return torch.load(out), process.stdout.splitlines()


@pytest.mark.slow
def test_switched_off_by_the_environment(native: ModuleType, tmp_path: Path) -> None:
    with_native, lines = run(tmp_path, UNSTUCK_NATIVE="1")
    assert lines == ["native True"]
    without, lines = run(tmp_path, UNSTUCK_NATIVE="0")
    assert lines[-1] == "native False"
    assert len(lines) == 2, "one warning in a process, not one a step or an optimizer"
    assert lines[0].startswith("RuntimeWarning unstuck: the CPU module is missing")
    assert "switched off by UNSTUCK_NATIVE=0" in lines[0]
    assert "python -m unstuck" in lines[0]
    for a, b in zip(with_native, without, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_module_that_is_missing_is_named_in_the_warning(
    native: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_native, "cpu", None)
    monkeypatch.setattr(_native, "cpu_missing", "not built")
    monkeypatch.setattr(_native, "_warned", set())
    case = make_case()
    plain = case.copy()
    with pytest.warns(RuntimeWarning, match=r"the CPU module is missing \(not built\)"):
        case.step()
    case.step()  # a second warning would be an error here
    plain.reference_step()
    plain.reference_step()
    assert case.bytes() == plain.bytes()


def test_bad_arguments_are_refused_before_the_warning(
    native: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_native, "cpu", None)
    monkeypatch.setattr(_native, "_warned", set())
    case = make_case()
    case.steps = case.steps[:-1]
    with pytest.raises(ValueError, match="steps has 2 entries"):
        case.step()
    assert not _native._warned


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_same_results(native: ModuleType, monkeypatch: pytest.MonkeyPatch, dtype) -> None:
    cases = [
        make_case([(5, 7), (), (0,)], dtype, gated=gated, momentum=momentum, nesterov=momentum > 0)
        for gated in (False, True)
        for momentum in (0.0, 0.5, 0.9)
    ]
    others = [case.copy() for case in cases]
    for case in cases:
        case.step()
    monkeypatch.setattr(_native, "cpu", None)
    monkeypatch.setattr(_native, "_warned", {"cpu"})
    for case, other in zip(cases, others, strict=True):
        other.step()
        assert_close(case, other)


def test_parameters_that_require_grad_are_stepped_outside_of_no_grad(way: str) -> None:
    case = make_case()
    case.params = [torch.nn.Parameter(p) for p in case.params]
    before = [p.detach().clone() for p in case.params]
    case.step()
    assert all(not torch.equal(p, b) for p, b in zip(case.params, before, strict=True))
    assert all(p.grad_fn is None and p.is_leaf for p in case.params)
