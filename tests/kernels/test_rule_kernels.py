"""What the kernels of every learned rule promise alike, on every backend."""

from __future__ import annotations

import functools

import pytest
import torch

from unstuck.learned import LSTM, MLP
from unstuck.ops.learned import Group

from ..emulator.build import ORDERS
from .conftest import Backend
from .rule_problem import compare, gradients, lstm, make, mlp


@pytest.fixture(params=[mlp, functools.partial(lstm, hidden=11)], ids=["mlp", "lstm"])
def rule(request: pytest.FixtureRequest) -> MLP | LSTM:
    """Run the test with every rule that has a kernel."""
    made: MLP | LSTM = request.param()
    return made


@pytest.mark.parametrize("order", ORDERS)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, rule: MLP | LSTM, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        kernel = make(rule).to(backend.device)
        for t in range(3):
            kernel.step(gradients(kernel, t))
        results.append(kernel)
    for mine, theirs in zip(results[0].tensors(), results[1].tensors(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("where", range(4))
@pytest.mark.parametrize("shape", [(0,), ()], ids=["empty", "0-d"])
def test_odd_tensors_in_every_position(
    backend: Backend, rule: MLP | LSTM, where: int, shape: tuple[int, ...]
) -> None:
    sizes: list[tuple[int, ...]] = [(5,), (4097,), (64, 3)]
    sizes.insert(where, shape)
    compare(backend, make(rule, sizes), steps=2)


def test_empty_tensors_alone(backend: Backend, rule: MLP | LSTM) -> None:
    kernel = compare(backend, make(rule, [(0,), (0, 4)]))
    assert [float(s) for s in kernel.state["step"]] == [4, 4]


def test_grad_scale_and_a_device_rate(backend: Backend, rule: MLP | LSTM) -> None:
    problem = make(rule, group=Group(lr=torch.tensor(2.0, dtype=torch.float64), num_steps=10))
    problem.extras = dict(grad_scale=torch.tensor(128.0), found_inf=torch.tensor(0.0))
    kernel = compare(backend, problem)
    plain = make(rule, group=Group(lr=2.0, num_steps=10)).to(backend.device)
    for t in range(4):
        plain.step(gradients(plain, t))
    assert not torch.equal(kernel.params[1], plain.params[1])


def test_found_inf_changes_nothing(backend: Backend, rule: MLP | LSTM) -> None:
    problem = make(rule).to(backend.device)
    problem.step(gradients(problem, 0))
    before = problem.to(backend.device)
    problem.extras = dict(found_inf=torch.tensor(1.0, device=backend.device))
    problem.step([torch.full_like(p, torch.inf) for p in problem.params])
    assert all(torch.equal(x, y) for x, y in zip(problem.tensors(), before.tensors(), strict=True))
    problem.extras = {}
    problem.step(gradients(problem, 1))  # the tickets of what was left out are still in order
    before.step(gradients(problem, 1))
    assert all(torch.equal(x, y) for x, y in zip(problem.tensors(), before.tensors(), strict=True))
