"""A learned rule's tensors, stepped by its kernel and beside it by its torch form."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from unstuck.learned import LSTM, MLP, State
from unstuck.learned.lstm import FEATURES
from unstuck.learned.mlp import shape_inputs
from unstuck.ops import learned
from unstuck.ops.learned import Group

from .conftest import Backend

Sizes = list[tuple[int, ...]]
SIZES: dict[str, Sizes] = {
    "mlp": [(3,), (20_000,), (0,), (), (33, 7), (4096,), (1, 1), (2, 3, 5), (8193,)],
    "lstm": [(3,), (1025,), (0,), (), (33, 7), (128,), (1, 1), (2, 3, 5), (129,)],
}
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
def mlp(hidden: int = 4, control: int = 16, scale: float = 0.2) -> MLP:
    """Return a rule whose weights are none of them zero."""
    made = MLP(hidden, control)
    _disturb(made, scale)
    return made


@functools.cache
def lstm(features: str = "rich", hidden: int = 5, nominal: bool = True) -> LSTM:
    """Return a rule whose weights are none of them zero."""
    made = LSTM(features, hidden, nominal=nominal, scale=0.5)
    _disturb(made, 0.2)
    return made


def _disturb(rule: MLP | LSTM, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))


def theta(of: MLP | LSTM) -> Tensor:
    """Return the rule's weights."""
    return torch.nn.utils.parameters_to_vector(of.parameters()).detach()


class Problem:
    """Parameters and states of a rule, all of one group unless `groups` says otherwise."""

    def __init__(self, of: MLP | LSTM, params: list[Tensor], state: State, group: Group) -> None:
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
        """Return all that a step changes."""
        return [*self.params, *(x for column in self.state.values() for x in column)]

    def plan(self) -> learned.Plan:
        """Return a new plan of the kernel's."""
        device = self.params[0].device
        if isinstance(self.rule, LSTM):
            width = self.rule.hidden
            return learned.lstm_plan_for(device, self.params, self.state, self.groups, width)
        traits = [shape_inputs(p.shape) for p in self.params]
        return learned.plan_for(device, self.params, self.state, self.groups, traits)

    def net(self) -> learned.Net | learned.LstmNet:
        """Return the rule's weights as the kernel takes them."""
        rule, weights = self.rule, theta(self.rule).to(self.params[0].device)
        if isinstance(rule, LSTM):
            kind = list(FEATURES).index(rule.features)
            return learned.LstmNet(weights, kind, rule.nominal, rule.scale)
        return learned.Net(weights, rule.hidden, rule.control)

    def step(self, grads: list[Tensor], *others: Group) -> None:
        """One step by the kernel; `others` are the groups after the first."""
        device = self.params[0].device
        if self._plan is None:
            self._plan = self.plan()
        self._plan.set_gradients([g.to(device) for g in grads])
        learned.run(self._plan, device, [self.group, *others], self.net(), **self.extras)

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
    of: MLP | LSTM,
    sizes: Sizes | None = None,
    dtype: torch.dtype = torch.float32,
    group: Group = SETTINGS["alone"],
) -> Problem:
    """Return a problem before its first step; without `sizes`, those that `SIZES` has."""
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.randn(s, generator=generator).to(dtype)
        for s in (SIZES[of.name] if sizes is None else sizes)
    ]
    return Problem(of, params, of.init_state(params), group)


def gradients(problem: Problem, seed: int) -> list[Tensor]:
    """Return gradients of sizes decades apart."""
    generator = torch.Generator().manual_seed(1000 + seed)
    size = 10.0 ** (seed % 3 - 1)
    return [(size * torch.randn(p.shape, generator=generator)).to(p.dtype) for p in problem.params]


def assert_same(kernel: Problem, truth: Problem) -> None:
    """Compare everything that a step changes."""
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
