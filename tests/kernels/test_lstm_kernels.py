"""The LSTM rule's kernels of every backend against the rule's torch form."""

from __future__ import annotations

import pytest
import torch

from unstuck.learned.lstm import FEATURES

from .conftest import Backend
from .rule_problem import SETTINGS, compare, gradients, lstm, make


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_step_equals_the_torch_form(backend: Backend, features: str, setting: str) -> None:
    problem = make(lstm(features, nominal=setting != "alone"), group=SETTINGS[setting])
    kernel = compare(backend, problem)
    assert not torch.equal(kernel.params[1].cpu(), problem.params[1])
    assert all(float(s) == 4 for s in kernel.state["step"])


@pytest.mark.parametrize("hidden", [1, 4, 20, 63, 64])
def test_every_width(backend: Backend, hidden: int) -> None:
    compare(backend, make(lstm("rich", hidden), [(50,), (7, 30)]))


def test_long_lists(backend: Backend) -> None:
    sizes: list[tuple[int, ...]] = [((i * 7) % 11,) if i % 5 else () for i in range(500)]
    kernel = compare(backend, make(lstm("gradient", 1), sizes), steps=2)
    launches = kernel.plan().launches()
    assert launches == 1 if not backend.is_cuda_code else launches in (2, 9)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_coordinate(backend: Backend, value: float) -> None:
    problem = make(lstm(), [(300,), (6,)]).to(backend.device)
    grads = gradients(problem, 1)
    grads[0][217] = value
    problem.step(grads)
    for row in (problem.params[0], *problem.state["hidden"][0], *problem.state["cell"][0]):
        assert set((~row.isfinite()).nonzero().flatten().tolist()) <= {217}
    assert not problem.params[0][217].isfinite()
    assert problem.params[1].isfinite().all()
