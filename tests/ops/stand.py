"""A native plan, and the optimizer's lists and dictionaries that it watches."""

from __future__ import annotations

from collections import defaultdict
from types import ModuleType
from typing import Any

import torch
from torch.nn import Parameter

from .cases import Case, make_case

SHAPES = ((2, 3), (4,), (3, 2), ())


class Stand:
    """A native plan, and the optimizer's lists and dictionaries that it watches."""

    def __init__(self, native: ModuleType, *, watched: bool = True, **changes: Any) -> None:
        self.case: Case = make_case(SHAPES, count=2, momentum=0.5, **changes)
        self.params = self.case.params = [Parameter(p) for p in self.case.params]
        for p, grad in zip(self.params, self.case.grads, strict=True):
            p.grad = grad
        idle = Parameter(torch.zeros(2))  # has no gradient, and so no place in the plan
        self.groups: list[dict[str, Any]] = [
            {"params": self.params[:2], "lr": 0.1},
            {"params": [idle, *self.params[2:]], "lr": 0.2},
        ]
        keys = ("exp_avgs", "exp_avg_sqs", "momentum_buffers", "steps")
        names = ("exp_avg", "exp_avg_sq", "momentum_buffer", "step")
        self.state: dict[Any, dict[str, Any]] = defaultdict(dict)
        for i, p in enumerate(self.params):
            for name, key in zip(names, keys, strict=True):
                self.state[p][name] = getattr(self.case, key)[i]
        self.plan = native.BlendPlan(*self.case.plan_arguments())
        if watched:
            self.plan.watch(self.groups, self.state)

    def ready(self) -> bool:
        return self.plan.ready(self.groups, self.state)

    def step(self) -> None:
        self.plan.step([self.case.group], None, None, True, 1)
