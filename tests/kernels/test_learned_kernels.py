"""The MLP rule's kernels of every backend against the rule's torch form, statistics included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unstuck.learned import State
from unstuck.learned.mlp import shape_inputs
from unstuck.learned.together import step_students_
from unstuck.ops import learned
from unstuck.ops.learned import Group

from .conftest import Backend
from .rule_problem import SETTINGS, Problem, assert_same, compare, gradients, make, mlp, theta

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("setting", SETTINGS)
def test_step_equals_the_torch_form(backend: Backend, dtype: torch.dtype, setting: str) -> None:
    problem = make(mlp(), dtype=dtype, group=SETTINGS[setting])
    kernel = compare(backend, problem)
    assert not torch.equal(kernel.params[1].cpu(), problem.params[1])
    assert all(float(s) == 4 for s in kernel.state["step"])
    assert all(float(s[5]) != 0 for s in kernel.state["stats"] if s is not kernel.state["stats"][2])


@pytest.mark.parametrize(("hidden", "control"), [(1, 1), (64, 256), (17, 33)])
def test_every_width(backend: Backend, hidden: int, control: int) -> None:
    problem = make(mlp(hidden, control, 0.05), [(50,), (7, 3)])
    compare(backend, problem, steps=3)


@pytest.mark.parametrize("count", [1, 300])
def test_long_lists(backend: Backend, count: int) -> None:
    problem = make(mlp(), [((i * 7) % 11,) if i % 5 else () for i in range(count)])
    kernel = compare(backend, problem, steps=2)
    launches = kernel.plan().launches()
    if not backend.is_cuda_code:
        assert launches == 2
        return
    small = launches > 2 and count == 300  # 4 KB of arguments
    most = 34 if small else 290
    assert -(-count // (most + 6)) <= launches <= -(-count // (most - 6))


def test_groups_and_dtypes_side_by_side(backend: Backend) -> None:
    """Each tensor moves as it would alone, by its own group's rate."""
    rates, kinds = [0.5, 2.0], [torch.float32, torch.float64]
    problem = make(mlp(), [(40,), (5000,), (3, 3), (), (7,)])
    problem.params = [p.to(kinds[i % 2]) for i, p in enumerate(problem.params)]
    problem.state = problem.rule.init_state(problem.params)
    groups = [0, 0, 1, 1, 0]
    together = problem.to(backend.device)
    together.groups, together.group = groups, Group(lr=rates[0])
    alone = []
    for i, group in enumerate(groups):
        state = {key: [column[i]] for key, column in problem.state.items()}
        one = Problem(problem.rule, [problem.params[i]], state, Group(lr=rates[group]))
        alone.append(one.to(backend.device))
    for t in range(3):
        grads = gradients(problem, t)
        together.step(grads, Group(lr=rates[1]))
        for one, g in zip(alone, grads, strict=True):
            one.step([g])
    for i, one in enumerate(alone):
        assert torch.equal(together.params[i], one.params[0])
        assert torch.equal(together.state["stats"][i], one.state["stats"][0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_coordinate(backend: Backend, value: float) -> None:
    problem = make(mlp(), [(5000,), (6,)]).to(backend.device)
    problem.step(gradients(problem, 0))
    kept = problem.state["stats"][0].clone()
    grads = gradients(problem, 1)
    grads[0][4321] = value
    problem.step(grads)
    assert (~problem.params[0].isfinite()).nonzero().tolist() == [[4321]]
    assert problem.params[1].isfinite().all()
    assert torch.equal(problem.state["stats"][0], kept)
    assert [float(s) for s in problem.state["step"]] == [2, 2]


def test_unaligned_memory(backend: Backend) -> None:
    """Views that start off a 16-byte boundary take the element-by-element path."""
    problem = make(mlp(), [(1001,), (4099,)])
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))
    kernel.params = [torch.cat((p.new_zeros(1), p))[1:] for p in kernel.params]
    for t in range(2):
        grads = gradients(problem, t)
        kernel.step(grads)
        truth.step_by_torch(grads)
    assert_same(kernel, truth)


def test_a_workspace_that_moves_is_noticed(backend: Backend) -> None:
    problem = make(mlp(), [(5,)]).to(backend.device)
    plan = problem.plan()
    if not (size := plan.workspace_size()):
        pytest.skip("needs no workspace")
    workspace = torch.zeros(size, dtype=torch.float64, device=backend.device)
    plan.set_workspace(workspace)
    workspace.resize_(2 * size)
    plan.set_gradients([torch.ones(5, device=backend.device)])
    with pytest.raises(ValueError, match="workspace"):
        learned.run(plan, backend.device, [Group()], problem.net())


# ---------------------------------------------------------------- students
def students(count: int, shapes: list[torch.Size]) -> tuple[Tensor, Tensor, State]:
    generator = torch.Generator().manual_seed(0)
    own = theta(mlp())
    thetas = own + 0.1 * torch.randn(count, len(own), generator=generator)
    sizes = [s.numel() for s in shapes]
    points = torch.randn(count, sum(sizes), generator=generator)
    parts = [x.reshape(count, *s) for x, s in zip(points.split(sizes, 1), shapes, strict=True)]
    return thetas, points, torch.vmap(mlp().init_state)(parts)


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("sizes", [[(9, 5), (9,), (), (2, 9)], [(64, 80), (0,), (8,)]], ids=str)
def test_students_go_together_as_alone(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[Any]
) -> None:
    shapes = [torch.Size(s) for s in sizes]
    runs = []
    for native in (True, False):
        device = backend.device if native else torch.device("cpu")
        thetas, points, state = students(count, shapes)
        state = {k: [x.to(device) for x in column] for k, column in state.items()}
        thetas, points = thetas.to(device), points.to(device)
        with monkeypatch.context() as patch:
            if not native:
                patch.setattr(learned, "native_ready", lambda _: False)
            for i in range(3):
                g = torch.randn(points.shape, generator=torch.Generator().manual_seed(i))
                step_students_(mlp(), thetas, points, g.to(device), state, shapes, num_steps=5)
        runs.append((points, state))
    torch.testing.assert_close(runs[0][0].cpu(), runs[1][0], rtol=1e-5, atol=1e-5)
    for key, column in runs[1][1].items():
        for x, y in zip(runs[0][1][key], column, strict=True):
            torch.testing.assert_close(x.cpu(), y, rtol=1e-5, atol=1e-5)


def test_students_want_their_workspace(backend: Backend) -> None:
    if not hasattr(backend.module, "learned_students_workspace"):
        pytest.skip("needs no workspace")
    shapes = [torch.Size((5000,)), torch.Size((3,))]
    thetas, points, state = students(2, shapes)
    size = backend.module.learned_students_workspace([5000, 3], 2)
    columns = [[x.to(backend.device) for x in state[key]] for key in learned.STATE]
    tensors = [x.to(backend.device) for x in (points, torch.ones_like(points), thetas)]
    for lent in (None, torch.zeros(size - 1, dtype=torch.float64, device=backend.device)):
        with pytest.raises(ValueError, match=f"the workspace must have {size} float64 numbers"):
            backend.module.learned_students(
                *tensors[:2],
                *columns,
                [5000, 3],
                [shape_inputs(s) for s in shapes],
                tensors[2],
                *(4, 16, 1.0, None, 0, lent),
            )
    assert torch.equal(tensors[0].cpu(), points)
