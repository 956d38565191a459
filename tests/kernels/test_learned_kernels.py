"""The MLP rule's kernels of every backend against the rule's torch form, statistics included."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from unstuck.learned import MLP, State
from unstuck.learned.mlp import shape_inputs
from unstuck.learned.together import step_students_
from unstuck.ops import learned
from unstuck.ops.learned import Group

from ..emulator.build import ORDERS
from .conftest import Backend

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [(3,), (20_000,), (0,), (), (33, 7), (4096,), (1, 1), (2, 3, 5), (8193,)]
TOLERANCE = {
    torch.float32: dict(rtol=1e-5, atol=1e-5),
    torch.float64: dict(rtol=1e-12, atol=1e-12),
    torch.bfloat16: dict(rtol=3e-2, atol=3e-2),
    torch.float16: dict(rtol=4e-3, atol=4e-3),
}
SETTINGS: dict[str, Group] = {
    "alone": Group(),
    "known length": Group(lr=3.0, num_steps=5),
    "decay": Group(lr=0.3, weight_decay=20.0, maximize=True),
}


@functools.cache
def rule(hidden: int = 4, control: int = 16, scale: float = 0.2) -> MLP:
    """Return a rule whose weights are none of them zero."""
    generator, made = torch.Generator().manual_seed(0), MLP(hidden, control)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return made


def theta(of: MLP) -> Tensor:
    return torch.nn.utils.parameters_to_vector(of.parameters()).detach()


class Problem:
    """Parameters and states of a rule, all of one group unless `groups` says otherwise."""

    def __init__(self, of: MLP, params: list[Tensor], state: State, group: Group) -> None:
        self.rule, self.params, self.state, self.group = of, params, state, group
        self.groups = [0] * len(params)
        self.extras: dict[str, Tensor] = {}
        self._plan: learned.Plan | None = None

    def to(self, device: torch.device) -> Problem:
        """Return a copy on a device."""
        state = {k: [x.clone().to(device) for x in column] for k, column in self.state.items()}
        group = self.group
        if isinstance(group.lr, Tensor):
            group = group._replace(lr=group.lr.to(device))
        new = Problem(self.rule, [p.clone().to(device) for p in self.params], state, group)
        new.extras = {k: x.to(device) for k, x in self.extras.items()}
        return new

    def tensors(self) -> list[Tensor]:
        return [*self.params, *(x for column in self.state.values() for x in column)]

    def plan(self) -> learned.Plan:
        traits = [shape_inputs(p.shape) for p in self.params]
        device = self.params[0].device
        return learned.plan_for(device, self.params, self.state, self.groups, traits)

    def step(self, grads: list[Tensor], *others: Group) -> None:
        """One step by the kernel."""
        device = self.params[0].device
        if self._plan is None:
            self._plan = self.plan()
        self._plan.set_gradients([g.to(device) for g in grads])
        net = learned.Net(theta(self.rule).to(device), self.rule.hidden, self.rule.control)
        learned.run(self._plan, device, [self.group, *others], net, **self.extras)

    def step_by_torch(self, grads: list[Tensor]) -> None:
        """One step by the torch form."""
        lr, decay, num_steps, maximize = self.group
        scale = self.extras.get("grad_scale", torch.ones(()))
        grads = [(-g if maximize else g) / scale.to(g.dtype) for g in grads]
        with torch.no_grad():
            new, self.state = self.rule(self.params, grads, self.state, lr=lr, num_steps=num_steps)
            steps = [self.rule.rate * lr * decay * p for p in self.params]
            self.params = [(w - s).to(w.dtype) for w, s in zip(new, steps, strict=True)]


def make(
    dtype: torch.dtype = torch.float32,
    sizes: list[tuple[int, ...]] = SIZES,
    group: Group = SETTINGS["alone"],
    of: MLP | None = None,
) -> Problem:
    generator, of = torch.Generator().manual_seed(0), of or rule()
    params = [torch.randn(s, generator=generator).to(dtype) for s in sizes]
    return Problem(of, params, of.init_state(params), group)


def gradients(problem: Problem, seed: int) -> list[Tensor]:
    """Return gradients of sizes decades apart."""
    generator = torch.Generator().manual_seed(1000 + seed)
    size = 10.0 ** (seed % 3 - 1)
    return [(size * torch.randn(p.shape, generator=generator)).to(p.dtype) for p in problem.params]


def assert_same(kernel: Problem, truth: Problem) -> None:
    columns = {"params": (kernel.params, truth.params)}
    columns |= {key: (kernel.state[key], truth.state[key]) for key in truth.state}
    for name, (mine, theirs) in columns.items():
        for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
            torch.testing.assert_close(
                x.cpu(), y, **TOLERANCE[y.dtype], msg=lambda m, n=name, i=i: f"{n}[{i}]: {m}"
            )


def compare(backend: Backend, problem: Problem, steps: int = 4) -> Problem:
    """Step a kernel's copy and one of torch's beside each other; return the former."""
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))
    for t in range(steps):
        grads = gradients(problem, t)
        kernel.step(grads)
        truth.step_by_torch(grads)
    assert_same(kernel, truth)
    return kernel


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("setting", SETTINGS)
def test_step_equals_the_torch_form(backend: Backend, dtype: torch.dtype, setting: str) -> None:
    problem = make(dtype, group=SETTINGS[setting])
    kernel = compare(backend, problem)
    assert not torch.equal(kernel.params[1].cpu(), problem.params[1])
    assert all(float(s) == 4 for s in kernel.state["step"])
    assert all(float(s[5]) != 0 for s in kernel.state["stats"] if s is not kernel.state["stats"][2])


@pytest.mark.parametrize(("hidden", "control"), [(1, 1), (64, 256), (17, 33)])
def test_every_width(backend: Backend, hidden: int, control: int) -> None:
    problem = make(sizes=[(50,), (7, 3)], of=rule(hidden, control, 0.05))
    compare(backend, problem, steps=3)


@pytest.mark.parametrize("order", ORDERS)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        kernel = make().to(backend.device)
        for t in range(3):
            kernel.step(gradients(kernel, t))
        results.append(kernel)
    for mine, theirs in zip(results[0].tensors(), results[1].tensors(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("where", range(4))
@pytest.mark.parametrize("shape", [(0,), ()], ids=["empty", "0-d"])
def test_odd_tensors_in_every_position(
    backend: Backend, where: int, shape: tuple[int, ...]
) -> None:
    sizes: list[tuple[int, ...]] = [(5,), (4097,), (64, 3)]
    sizes.insert(where, shape)
    compare(backend, make(sizes=sizes), steps=2)


def test_empty_tensors_alone(backend: Backend) -> None:
    kernel = compare(backend, make(sizes=[(0,), (0, 4)]))
    assert [float(s) for s in kernel.state["step"]] == [4, 4]


@pytest.mark.parametrize("count", [1, 300])
def test_long_lists(backend: Backend, count: int) -> None:
    problem = make(sizes=[((i * 7) % 11,) if i % 5 else () for i in range(count)])
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
    problem = make(sizes=[(40,), (5000,), (3, 3), (), (7,)])
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


def test_grad_scale_and_a_device_rate(backend: Backend) -> None:
    problem = make(group=Group(lr=torch.tensor(2.0, dtype=torch.float64), num_steps=10))
    problem.extras = dict(grad_scale=torch.tensor(128.0), found_inf=torch.tensor(0.0))
    kernel = compare(backend, problem)
    plain = make(group=Group(lr=2.0, num_steps=10)).to(backend.device)
    for t in range(4):
        plain.step(gradients(plain, t))
    assert not torch.equal(kernel.params[1], plain.params[1])


def test_found_inf_changes_nothing(backend: Backend) -> None:
    problem = make().to(backend.device)
    problem.step(gradients(problem, 0))
    before = problem.to(backend.device)
    problem.extras = dict(found_inf=torch.tensor(1.0, device=backend.device))
    problem.step([torch.full_like(p, torch.inf) for p in problem.params])
    assert all(torch.equal(x, y) for x, y in zip(problem.tensors(), before.tensors(), strict=True))
    problem.extras = {}
    problem.step(gradients(problem, 1))  # the tickets of what was left out are still in order
    before.step(gradients(problem, 1))
    assert all(torch.equal(x, y) for x, y in zip(problem.tensors(), before.tensors(), strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_coordinate(backend: Backend, value: float) -> None:
    problem = make(sizes=[(5000,), (6,)]).to(backend.device)
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
    problem = make(sizes=[(1001,), (4099,)])
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))
    kernel.params = [torch.cat((p.new_zeros(1), p))[1:] for p in kernel.params]
    for t in range(2):
        grads = gradients(problem, t)
        kernel.step(grads)
        truth.step_by_torch(grads)
    assert_same(kernel, truth)


def test_a_workspace_that_moves_is_noticed(backend: Backend) -> None:
    problem = make(sizes=[(5,)]).to(backend.device)
    plan = problem.plan()
    if not (size := plan.workspace_size()):
        pytest.skip("needs no workspace")
    workspace = torch.zeros(size, dtype=torch.float64, device=backend.device)
    plan.set_workspace(workspace)
    workspace.resize_(2 * size)
    plan.set_gradients([torch.ones(5, device=backend.device)])
    net = learned.Net(theta(problem.rule).to(backend.device), 4, 16)
    with pytest.raises(ValueError, match="workspace"):
        learned.run(plan, backend.device, [Group()], net)


# ---------------------------------------------------------------- students
def students(count: int, shapes: list[torch.Size]) -> tuple[Tensor, Tensor, State]:
    generator = torch.Generator().manual_seed(0)
    own = theta(rule())
    thetas = own + 0.1 * torch.randn(count, len(own), generator=generator)
    sizes = [s.numel() for s in shapes]
    points = torch.randn(count, sum(sizes), generator=generator)
    parts = [x.reshape(count, *s) for x, s in zip(points.split(sizes, 1), shapes, strict=True)]
    return thetas, points, torch.vmap(rule().init_state)(parts)


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
                step_students_(rule(), thetas, points, g.to(device), state, shapes, num_steps=5)
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
