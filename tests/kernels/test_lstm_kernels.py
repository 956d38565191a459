"""The LSTM rule's kernels of every backend against the rule's torch form."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from unstuck.learned import LSTM, State
from unstuck.learned.lstm import FEATURES
from unstuck.ops import learned
from unstuck.ops.learned import Group

from ..emulator.build import ORDERS
from .conftest import Backend

SIZES = [(3,), (1025,), (0,), (), (33, 7), (128,), (1, 1), (2, 3, 5), (129,)]
SETTINGS: dict[str, Group] = {
    "alone": Group(),
    "known length": Group(lr=3.0, num_steps=3),
    "decay": Group(lr=0.3, weight_decay=20.0, maximize=True),
}


@functools.cache
def rule(features: str = "rich", hidden: int = 5, nominal: bool = True) -> LSTM:
    """Return a rule whose weights are none of them zero."""
    generator = torch.Generator().manual_seed(0)
    made = LSTM(features, hidden, nominal=nominal, scale=0.5)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return made


class Problem:
    """Parameters of one group, and their states."""

    def __init__(self, of: LSTM, params: list[Tensor], state: State, group: Group) -> None:
        self.rule, self.params, self.state, self.group = of, params, state, group
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
        device, groups = self.params[0].device, [0] * len(self.params)
        return learned.lstm_plan_for(device, self.params, self.state, groups, self.rule.hidden)

    def step(self, grads: list[Tensor]) -> None:
        """One step by the kernel."""
        device = self.params[0].device
        if self._plan is None:
            self._plan = self.plan()
        self._plan.set_gradients([g.to(device) for g in grads])
        theta = torch.nn.utils.parameters_to_vector(self.rule.parameters()).detach().to(device)
        kind = list(FEATURES).index(self.rule.features)
        net = learned.LstmNet(theta, kind, self.rule.nominal, self.rule.scale)
        learned.run(self._plan, device, [self.group], net, **self.extras)

    def step_by_torch(self, grads: list[Tensor]) -> None:
        """One step by the torch form."""
        lr, decay, num_steps, maximize = self.group
        scale = self.extras.get("grad_scale", torch.ones(()))
        grads = [(-g if maximize else g) / scale for g in grads]
        with torch.no_grad():
            new, self.state = self.rule(self.params, grads, self.state, lr=lr, num_steps=num_steps)
            steps = [self.rule.rate * lr * decay * p for p in self.params]
            self.params = [(w - s).to(w.dtype) for w, s in zip(new, steps, strict=True)]


def make(
    sizes: list[tuple[int, ...]] = SIZES,
    group: Group = SETTINGS["alone"],
    of: LSTM | None = None,
) -> Problem:
    generator, of = torch.Generator().manual_seed(0), of or rule()
    params = [torch.randn(s, generator=generator) for s in sizes]
    return Problem(of, params, of.init_state(params), group)


def gradients(problem: Problem, seed: int) -> list[Tensor]:
    """Return gradients of sizes decades apart."""
    generator = torch.Generator().manual_seed(1000 + seed)
    size = 10.0 ** (seed % 3 - 1)
    return [size * torch.randn(p.shape, generator=generator) for p in problem.params]


def compare(backend: Backend, problem: Problem, steps: int = 3) -> Problem:
    """Step a kernel's copy and one of torch's beside each other; return the former."""
    kernel, truth = problem.to(backend.device), problem.to(torch.device("cpu"))
    for t in range(steps):
        grads = gradients(problem, t)
        kernel.step(grads)
        truth.step_by_torch(grads)
    for mine, theirs in zip(kernel.tensors(), truth.tensors(), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-5, atol=1e-5)
    return kernel


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_step_equals_the_torch_form(backend: Backend, features: str, setting: str) -> None:
    problem = make(group=SETTINGS[setting], of=rule(features, nominal=setting != "alone"))
    kernel = compare(backend, problem)
    assert not torch.equal(kernel.params[1].cpu(), problem.params[1])
    assert all(float(s) == 3 for s in kernel.state["step"])


@pytest.mark.parametrize("hidden", [1, 4, 20, 63, 64])
def test_every_width(backend: Backend, hidden: int) -> None:
    compare(backend, make([(50,), (7, 30)], of=rule("rich", hidden)))


@pytest.mark.parametrize("order", ORDERS)
def test_result_does_not_depend_on_the_order_of_threads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    results = []
    for chosen in ("forward", order):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", chosen)
        kernel = make(of=rule(hidden=11)).to(backend.device)
        for t in range(2):
            kernel.step(gradients(kernel, t))
        results.append(kernel)
    for mine, theirs in zip(results[0].tensors(), results[1].tensors(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("shape", [(0,), ()], ids=["empty", "0-d"])
def test_odd_tensors_in_every_position(
    backend: Backend, where: int, shape: tuple[int, ...]
) -> None:
    sizes: list[tuple[int, ...]] = [(5,), (129,)]
    sizes.insert(where, shape)
    compare(backend, make(sizes), steps=2)


def test_empty_tensors_alone(backend: Backend) -> None:
    kernel = compare(backend, make([(0,), (0, 4)]))
    assert [float(s) for s in kernel.state["step"]] == [3, 3]


def test_long_lists(backend: Backend) -> None:
    sizes: list[tuple[int, ...]] = [((i * 7) % 11,) if i % 5 else () for i in range(500)]
    kernel = compare(backend, make(sizes, of=rule("gradient", 1)), steps=2)
    launches = kernel.plan().launches()
    assert launches == 1 if not backend.is_cuda_code else launches in (2, 9)


def test_grad_scale_and_a_device_rate(backend: Backend) -> None:
    problem = make(group=Group(lr=torch.tensor(2.0, dtype=torch.float64), num_steps=10))
    problem.extras = dict(grad_scale=torch.tensor(128.0), found_inf=torch.tensor(0.0))
    kernel = compare(backend, problem)
    plain = make(group=Group(lr=2.0, num_steps=10)).to(backend.device)
    for t in range(3):
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
    for one in (problem, before):  # the ticket of what was left out is still in order
        one.step(gradients(problem, 1))
    assert all(torch.equal(x, y) for x, y in zip(problem.tensors(), before.tensors(), strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_coordinate(backend: Backend, value: float) -> None:
    problem = make([(300,), (6,)]).to(backend.device)
    grads = gradients(problem, 1)
    grads[0][217] = value
    problem.step(grads)
    for row in (problem.params[0], *problem.state["hidden"][0], *problem.state["cell"][0]):
        assert set((~row.isfinite()).nonzero().flatten().tolist()) <= {217}
    assert not problem.params[0][217].isfinite()
    assert problem.params[1].isfinite().all()
