"""Arguments of a blend step in the middle of a training, made from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import blend, gate, reference
from unstuck.ops.blend import Group
from unstuck.ops.gate import Header, Unit

HIDDEN = 3
COLUMNS = ("params", "grads", "exp_avgs", "exp_avg_sqs", "momentum_buffers", "directions", "steps")
LAYOUTS = ("contiguous", "transposed", "permuted", "offset")


@dataclass
class Case:
    """What one call of `blend.step` takes."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    momentum_buffers: list[Tensor]
    directions: list[Tensor]
    steps: list[Tensor]
    units: list[int]
    had_previous: list[bool]
    group: Group
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    finish: bool = True
    storages: list[torch.UntypedStorage] = field(default_factory=list, repr=False)

    @property
    def rows(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in (*COLUMNS, "units", "had_previous"))

    def step(self) -> None:
        blend.step(*self.rows, self.group, self.grad_scale, self.found_inf, self.finish)

    def hypergradient(self) -> None:
        blend.hypergradient(*self.rows, self.group, self.finish)

    def reference_step(self) -> None:
        with torch.no_grad():
            reference.blend_step(
                *self.rows, self.group, self.grad_scale, self.found_inf, self.finish
            )

    def reference_hypergradient(self) -> None:
        with torch.no_grad():
            reference.blend_hypergradient(*self.rows, self.group, self.finish)

    def plan_arguments(self) -> list[Any]:
        """Return what the constructor of a native plan takes."""
        nothing = [None] * len(self.params)
        return [
            self.params,
            self.exp_avgs,
            self.exp_avg_sqs,
            self.momentum_buffers or nothing,
            self.directions or nothing,
            self.steps,
            [0] * len(self.params),
            self.units,
            self.had_previous,
        ]

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor with its name."""
        for name in COLUMNS:
            for i, x in enumerate(getattr(self, name)):
                if x is not None:
                    yield f"{name}[{i}]", x
        scalars = {"lr": self.group.lr, "alpha": self.group.alpha}
        scalars |= {"gate": self.group.gate, "sums": self.group.sums}
        scalars |= {"grad_scale": self.grad_scale, "found_inf": self.found_inf}
        yield from ((name, x) for name, x in scalars.items() if isinstance(x, Tensor))

    def copy(self) -> Case:
        """Return a case of the same numbers and strides in other memory."""
        copies = [[_copy(x) for x in getattr(self, name)] for name in COLUMNS]
        group = Group(*map(_copy, self.group))
        scalars = _copy(self.grad_scale), _copy(self.found_inf)
        new = Case(*copies, [*self.units], [*self.had_previous], group, *scalars, self.finish)
        return new.keep_storages()

    def keep_storages(self) -> Case:
        """Remember all memory as it is lent out now, for `bytes`."""
        self.storages = [x.untyped_storage() for _, x in self.named()]
        return self

    def bytes(self) -> list[bytes]:
        """Return all memory, that around the tensors included."""
        return [_bytes(storage) for storage in self.storages]


def _bytes(storage: torch.UntypedStorage) -> bytes:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


def _copy(x: Any) -> Any:
    """Return a tensor with the strides of `x`, in a storage with the same bytes around it."""
    if not isinstance(x, Tensor):
        return x
    storage = x.untyped_storage().clone()
    new = torch.empty(0, dtype=x.dtype)
    return new.set_(storage, x.storage_offset(), x.shape, x.stride())


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the numbers of `x` in another order of memory, always without gaps."""
    if layout == "offset":
        big = torch.full((x.numel() + 5,), 7.0, dtype=x.dtype)
        return big[3 : 3 + x.numel()].view(x.shape).copy_(x)
    if x.dim() < 2 or layout == "contiguous":
        return x.contiguous()
    order = list(range(x.dim()))
    if layout == "transposed":
        order.reverse()
    else:
        order = order[1:] + order[:1]
    back = [order.index(d) for d in range(x.dim())]
    return x.permute(order).contiguous().permute(back)


def settings(**changes: Any) -> Group:
    """Return a group without a gate."""
    values: dict[str, Any] = {
        **dict(lr=1e-2, sgd_lr_ratio=3.0, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0),
        **dict(decoupled=False, momentum=0.9, dampening=0.0, nesterov=False, maximize=False),
        "alpha": 0.3,
    }
    return Group(**{**values, **changes})


def gate_for(numels: Sequence[int], hidden: int, generator: torch.Generator) -> Tensor:
    """Return a gate in the middle of its training."""
    vector = gate.create(hidden, numels, 0.4, 1, torch.device("cpu"))
    net = vector[gate.HEADER : gate.HEADER + 3 * gate.parameters(hidden)]
    net.copy_(torch.randn(net.shape, generator=generator, dtype=net.dtype) * 0.3)
    net[2 * gate.parameters(hidden) :].square_()  # second moments
    vector[Header.STEPS] = 5
    vector[Header.META_STEPS] = 4
    vector[Header.LOSS] = 1.25
    vector[Header.LOSS_FAST : Header.LOSS_SLOW + 1] = torch.tensor([1.5, 2.0])
    vector[Header.HAS_LOSS] = vector[Header.PREV_VALID] = 1
    rates = torch.tensor([0.02, 0.05, 0.9, 0.99, 1e-8, 0.0], dtype=torch.float64)
    vector[Header.PREV_LR : Header.PREV_DECAY + 1] = rates
    records = gate.units_of(vector, hidden)
    records[:, gate.PHI_PREV :] = torch.randn(
        len(numels), 2 * gate.FEATURES, generator=generator, dtype=torch.float64
    )
    records[:, Unit.ALPHA_PREV] = 0.6
    records[:, Unit.GRAD_MEAN] = 1.5
    records[:, Unit.DIFF_NORM_SQ] = 0.25
    return vector


def make_case(
    shapes: Sequence[tuple[int, ...]] = ((2, 3), (4,), ()),
    dtypes: torch.dtype | Sequence[torch.dtype] = torch.float32,
    *,
    gated: bool = False,
    per_tensor: bool = False,
    hidden: int = HIDDEN,
    layout: str = "contiguous",
    count: int | None = None,
    seed: int = 0,
    **changes: Any,
) -> Case:
    """Return a case; `changes` are fields of the group, `count` the number of steps so far."""
    generator = torch.Generator().manual_seed(seed)
    choose = random.Random(seed)
    each = [dtypes] * len(shapes) if isinstance(dtypes, torch.dtype) else list(dtypes)

    def column(square: bool = False) -> list[Tensor]:
        drawn = [torch.randn(s, generator=generator) for s in shapes]
        drawn = [x.square() + 0.01 if square else x for x in drawn]
        return [laid_out(x.to(t), layout) for x, t in zip(drawn, each, strict=True)]

    group = settings(**changes)
    n = len(shapes)
    units = list(range(n)) if gated and per_tensor else [0] * n
    if gated:
        numels = [torch.Size(s).numel() for s in shapes]
        numels = numels if per_tensor else [sum(numels)]
        given = dict(learn=True, meta_lr=0.05, hidden=hidden, units=len(numels))
        given |= dict(gate=gate_for(numels, hidden, generator))
        given |= dict(sums=torch.zeros(len(numels) * gate.SUMS, dtype=torch.float64))
        group = group._replace(**{**given, **changes})
    shared = group.momentum == group.beta1 and group.dampening == 0
    directed = gated and (group.nesterov or group.momentum == 0)
    steps = [choose.randrange(3) if count is None else count for _ in shapes]
    return Case(
        column(),
        column(),
        column(),
        column(square=True),
        [] if shared or group.momentum == 0 else column(),
        column() if directed else [],
        [torch.tensor(float(t)) for t in steps],
        units,
        [t > 0 for t in steps],
        group,
    ).keep_storages()


def gate_numbers(case: Case) -> Tensor:
    """Return the gate's vector without the scratch part that the kernels use as they like."""
    vector, hidden = case.group.gate, case.group.hidden
    assert vector is not None
    kept = vector[: gate.HEADER + 3 * gate.parameters(hidden)]
    return torch.cat((kept, gate.units_of(vector, hidden).flatten()))


TOLERANCE = {
    torch.float32: dict(rtol=2e-6, atol=2e-6),
    torch.float64: dict(rtol=1e-12, atol=1e-12),
    torch.bfloat16: dict(rtol=1e-2, atol=1e-2),
    torch.float16: dict(rtol=2e-3, atol=2e-3),
}


def assert_close(mine: Case, theirs: Case, *, overflow: bool = False) -> None:
    """Compare everything that a step may change, to rounding.

    Where numbers may `overflow`, only the order of the operations tells infinity from NaN: they
    count as the same, and a gate is not compared that was fed with them.
    """

    def compare(name: str, x: Any, y: Any, **tolerance: float) -> None:
        if overflow and x is not None:
            x, y = (torch.where(z.isfinite(), z, math.nan) for z in (x, y))
        torch.testing.assert_close(
            x, y, **tolerance, equal_nan=True, msg=lambda text: f"{name}: {text}"
        )

    for name in COLUMNS:
        pairs = zip(getattr(mine, name), getattr(theirs, name), strict=True)
        for i, (x, y) in enumerate(pairs):
            if x is not None:
                compare(f"{name}[{i}]", x, y, **TOLERANCE[x.dtype])
    if mine.group.gate is not None:
        double = all(p.dtype == torch.float64 for p in mine.params)
        tolerance = dict(rtol=1e-8, atol=1e-10) if double else dict(rtol=2e-3, atol=2e-3)
        compare("sums", mine.group.sums, theirs.group.sums, **tolerance)
        if overflow and not mine.group.sums.isfinite().all():
            return  # the features are made of those
        compare("gate", gate_numbers(mine), gate_numbers(theirs), **tolerance)


def with_group(case: Case, **changes: Any) -> Case:
    """Return the case with other settings, on the same tensors."""
    return replace(case, group=case.group._replace(**changes)).keep_storages()
