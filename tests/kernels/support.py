"""A blend step's tensors, made twice: for a kernel and for the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import blend, gate, reference

GATE_HIDDEN = 8


@dataclass
class Problem:
    """Everything a blend step takes, for one group."""

    params: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    momentum_buffers: list[Tensor]
    directions: list[Tensor]
    steps: list[Tensor]
    units: list[int]
    group: blend.Group
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> tuple[list[Tensor], ...]:
        """All that a step changes but the gate."""
        return (
            self.params,
            self.exp_avgs,
            self.exp_avg_sqs,
            self.momentum_buffers,
            self.directions,
            self.steps,
        )

    def to(self, device: torch.device) -> Problem:
        """Return a deep copy on `device`."""

        def move(x: Any) -> Any:
            return x.detach().clone().to(device) if isinstance(x, Tensor) else x

        lists = [[move(x) for x in column] for column in self.state]
        group = blend.Group(*(move(x) for x in self.group))
        return Problem(*lists, self.units, group, {k: move(v) for k, v in self.extras.items()})

    def step(self, grads: list[Tensor], *, by_reference: bool = False) -> None:
        """One step, through the op or by the reference."""
        self._call("step", grads, by_reference, **self.extras)

    def hypergradient(self, grads: list[Tensor], *, by_reference: bool = False) -> None:
        """Sums of another batch's gradient."""
        self._call("hypergradient", grads, by_reference)

    def _call(self, name: str, grads: list[Tensor], by_reference: bool, **kwargs: Any) -> None:
        p, m, v, b, d, s = self.state
        had = [True] * len(p)
        group = self.group
        function = getattr(blend, name)
        if by_reference:
            function = getattr(reference, f"blend_{name}")
            if group.sums is not None:
                group = group._replace(sums=group.sums.view(-1, gate.SUMS))
        with torch.no_grad():
            function(p, grads, m, v, b, d, s, self.units, had, group, **kwargs)


def make(
    sizes: list[tuple[int, ...]],
    dtype: torch.dtype,
    *,
    gated: bool = False,
    per_tensor: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Problem:
    """Return a problem in its first step; `settings` are fields of `blend.Group`."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(s, generator=generator).to(dtype) for s in sizes]

    def zeros() -> list[Tensor]:
        return [torch.zeros_like(p) for p in params]

    values: dict[str, Any] = {
        **dict(lr=1e-2, sgd_lr_ratio=3.0, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0),
        **dict(decoupled=False, momentum=0.9, dampening=0.0, nesterov=False, maximize=False),
        "alpha": 0.3,
        **settings,
    }
    units = list(range(len(params))) if per_tensor else [0] * len(params)
    count = len(params) if per_tensor else 1
    if gated:
        numels = [p.numel() for p in params]
        numels = numels if per_tensor else [sum(numels)]
        cpu = torch.device("cpu")
        values.update(
            gate=gate.create(GATE_HIDDEN, numels, 0.4, seed, cpu),
            sums=torch.zeros(count * gate.SUMS, dtype=torch.float64),
            hidden=GATE_HIDDEN,
            units=count,
            learn=True,
            meta_lr=0.05,
        )
    shared = values["momentum"] == 0 or (
        values["momentum"] == values["beta1"] and values["dampening"] == 0
    )
    directed = gated and (values["nesterov"] or values["momentum"] == 0)
    return Problem(
        params,
        zeros(),
        zeros(),
        [] if shared else zeros(),
        zeros() if directed else [],
        [torch.zeros((), dtype=torch.float32) for _ in params],
        units,
        blend.Group(**values),
    )


def gradients(problem: Problem, seed: int) -> list[Tensor]:
    """Return fresh gradients, on the CPU."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return [torch.randn(p.shape, generator=generator).to(p.dtype).cpu() for p in problem.params]


def gate_numbers(problem: Problem) -> Tensor:
    """Return the gate's vector without its scratch part."""
    vector = problem.group.gate
    assert vector is not None
    scratch = gate.HEADER + 3 * gate.parameters(problem.group.hidden)
    records = gate.units_of(vector, problem.group.hidden).flatten()
    return torch.cat((vector[:scratch], records)).cpu()


TOLERANCE = {
    torch.float32: dict(rtol=2e-6, atol=2e-6),
    torch.float64: dict(rtol=1e-12, atol=1e-12),
    torch.bfloat16: dict(rtol=2e-2, atol=2e-2),
    torch.float16: dict(rtol=2e-3, atol=2e-3),
}


def assert_same(kernel: Problem, reference: Problem) -> None:
    """Compare everything that a step changes."""
    for name, mine, theirs in zip(
        ("params", "exp_avgs", "exp_avg_sqs", "momentum_buffers", "directions", "steps"),
        kernel.state,
        reference.state,
        strict=True,
    ):
        for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
            tolerance = TOLERANCE[x.dtype]
            torch.testing.assert_close(
                x.cpu(), y.cpu(), **tolerance, msg=lambda m, n=name, i=i: f"{n}[{i}]: {m}"
            )
    if kernel.group.gate is not None:
        exact = all(p.dtype == torch.float64 for p in kernel.params)
        tolerance = dict(rtol=1e-8, atol=1e-10) if exact else dict(rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(
            gate_numbers(kernel), gate_numbers(reference), equal_nan=True, **tolerance
        )
