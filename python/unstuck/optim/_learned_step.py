"""The step of :class:`unstuck.optim.Learned`: by a kept plan, or by the rule's torch form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unstuck.learned import MLP, State, UpdateRule
from unstuck.learned.mlp import shape_inputs
from unstuck.ops import _native, learned
from unstuck.optim import _layout as layout
from unstuck.optim import _moments as moments

if TYPE_CHECKING:
    from unstuck.optim.learned import Learned


class Row(NamedTuple):
    """One parameter with a gradient, and the number of its group."""

    p: Tensor
    grad: Tensor
    group: int


class Kept:
    """A native plan of everything that has a gradient, until something moves."""

    def __init__(self, plan: learned.Plan, rows: list[Row]) -> None:
        self.plan = plan
        self.device = rows[0].p.device
        self.params = [row.p for row in rows]


class Weights:
    """The meta-parameters of a rule as a kernel takes them, renewed when they have changed."""

    def __init__(self, rule: UpdateRule) -> None:
        self._rule = rule
        self._nets: dict[torch.device, learned.Net] = {}
        self._seen: list[tuple[int, int]] = []

    def on(self, device: torch.device) -> learned.Net:
        """Return them on a device."""
        rule = self._rule
        assert isinstance(rule, MLP)
        params = list(rule.parameters())
        seen = [(p.data_ptr(), -1 if p.is_inference() else p._version) for p in params]
        if seen != self._seen:
            self._nets, self._seen = {}, seen
        if device not in self._nets:
            flat = [p.detach().to(device, torch.float32).reshape(-1) for p in params]
            self._nets[device] = learned.Net(torch.cat(flat), rule.hidden, rule.control)
        return self._nets[device]


def has_kernel(rule: UpdateRule) -> bool:
    """Whether there is a native step for this rule."""
    return type(rule).name in learned.KERNELS


def collect(optimizer: Learned) -> list[Row]:
    """Return the parameters that have a gradient, every gradient checked."""
    rows = []
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if p.grad is not None:
                layout.check_parameter("Learned", p)
                layout.check_gradient("Learned", p, p.grad)
                rows.append(Row(p, p.grad, index))
    return rows


def step(optimizer: Learned) -> None:
    """Make one step of everything that has a gradient."""
    grad_scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    d = optimizer.defaults
    plain = torch.compiler.is_compiling() or d["fused"] is False or d["differentiable"]
    kept = None if plain else optimizer._plan
    ready = kept is not None and kept.plan.ready(optimizer.param_groups, optimizer.state)
    asks_device = ready and found_inf is not None and found_inf.device.type != "cpu"
    if found_inf is not None and not asks_device and bool(found_inf):
        return  # an overflow: nothing is even created
    if not ready:
        rows = collect(optimizer)  # raises before anything has changed
        if not rows:
            return
        kept = None if plain else _keep(optimizer, rows)
    if kept is None:
        native = not plain and has_kernel(optimizer.rule)
        _step_slowly(optimizer, rows, grad_scale, native=native)
    else:
        groups = [settings(group) for group in optimizer.param_groups]
        net = optimizer._weights.on(kept.device)
        learned.run(kept.plan, kept.device, groups, net, grad_scale, found_inf)
        torch.autograd.graph.increment_version(kept.params)


def settings(group: dict[str, Any]) -> learned.Group:
    """Return what a kernel needs to know of a group."""
    return learned.Group(group["lr"], group["weight_decay"], group["num_steps"], group["maximize"])


def _keep(optimizer: Learned, rows: list[Row]) -> Kept | None:
    """Make and keep a plan of these rows; None when they must go another way."""
    optimizer._plan = None
    device = rows[0].p.device
    if any(row.p.device != device or not layout.is_plain(row.p) for row in rows):
        return None
    if not has_kernel(optimizer.rule) or not learned.native_ready(device):
        return None
    known = set(optimizer.state)
    try:
        states = [_state(optimizer, row.p) for row in rows]
        columns = {key: [s[key] for s in states] for key in learned.STATE}
        plan = _plan(device, [row.p for row in rows], columns, [row.group for row in rows])
    except Exception:
        for p in [p for p in optimizer.state if p not in known]:
            del optimizer.state[p]
        raise
    plan.watch(optimizer.param_groups, optimizer.state)
    if not plan.ready(optimizer.param_groups, optimizer.state):
        return None  # a gradient of another layout
    optimizer._plan = Kept(plan, rows)
    return optimizer._plan


def _plan(
    device: torch.device, params: list[Tensor], state: State, groups: list[int]
) -> learned.Plan:
    traits = [shape_inputs(p.shape) for p in params]
    return learned.plan_for(device, params, state, groups, traits)


def _state(optimizer: Learned, p: Tensor) -> dict[str, Any]:
    """Return a parameter's state, created or brought to its dtype, device and layout."""
    state: dict[str, Any] = optimizer.state[p]
    rule = optimizer.rule
    moments.prepare(state, p, rule.like, rule.like)
    w = layout.local(p).detach()
    missing = [key for key in rule.beside if state.get(key) is None]
    if missing:
        fresh = rule.init_state([w])
        for key in missing:
            state[key] = fresh[key][0]
    for key in rule.beside:
        if state[key].dtype != w.dtype or state[key].device != w.device:
            state[key] = state[key].to(device=w.device, dtype=w.dtype)
    return state


def _step_slowly(
    optimizer: Learned, rows: list[Row], grad_scale: Tensor | None, *, native: bool
) -> None:
    """Step one group and device after another: other layouts, other rules, plain torch."""
    d = optimizer.defaults
    rule = optimizer.rule
    for index, device in dict.fromkeys((row.group, row.p.device) for row in rows):
        group = optimizer.param_groups[index]
        mine = [row for row in rows if (row.group, row.p.device) == (index, device)]
        params: list[Tensor] = []
        grads: list[Tensor] = []
        copies: list[tuple[Tensor, Tensor]] = []
        state: State = {key: [] for key in (*rule.like, *rule.beside, "step")}
        for row in mine:
            kept = _state(optimizer, row.p)
            alike = [kept[key] for key in rule.like]
            if d["differentiable"]:
                packed = [layout.local(x) for x in (row.p, row.grad, *alike)]
            else:
                packed, back = moments.pack(row.p, row.grad, alike)
                copies += back
            params.append(packed[0])
            grads.append(packed[1])
            for key, x in zip(rule.like, packed[2:], strict=True):
                state[key].append(x)
            for key in (*rule.beside, "step"):
                state[key].append(kept[key])
        if native and learned.native_ready(device):
            plan = _plan(device, params, state, [0] * len(params))
            plan.set_gradients(grads)
            net = optimizer._weights.on(device)
            learned.run(plan, device, [settings(group)], net, grad_scale, None)
            for home, written in copies:
                home.copy_(written)
            continue
        if native:
            _native.warn_fallback(device)
        if grad_scale is not None:
            grads = [g / grad_scale.to(device) for g in grads]
        if group["maximize"]:
            grads = [-g for g in grads]
        lr = group["lr"].to(device) if isinstance(group["lr"], Tensor) else group["lr"]
        new, after = rule.to(device)(params, grads, state, lr=lr, num_steps=group["num_steps"])
        _write(params, _decayed(rule, params, new, lr, group["weight_decay"]))
        for key, column in after.items():
            _write(state[key], column)
        for home, written in copies:
            home.copy_(written)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version([row.p for row in rows])
        optimizer._plan = None


def _decayed(
    rule: UpdateRule, old: list[Tensor], new: list[Tensor], lr: float | Tensor, decay: float
) -> list[Tensor]:
    if not decay:
        return new
    return [y - (rule.rate * lr * decay * x).to(y.dtype) for x, y in zip(old, new, strict=True)]


def _write(to: list[Tensor], values: list[Tensor]) -> None:
    for x, y in zip(to, values, strict=True):
        x.copy_(y)
