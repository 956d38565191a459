"""The step of :class:`unstuck.optim.Learned`: by a kept plan, or by the rule's torch form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstuck.learned import State, UpdateRule, WhitenedMLP
from unstuck.ops import _native, learned
from unstuck.optim import _layout as layout
from unstuck.optim import _learned_kernels as kernels
from unstuck.optim import _moments as moments
from unstuck.optim import _plans as plans
from unstuck.optim import _validate as validate

if TYPE_CHECKING:
    from unstuck.optim.learned import Learned


def step(optimizer: Learned) -> None:
    """Make one step of everything that has a gradient."""
    grad_scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    d = optimizer.defaults
    plain = torch.compiler.is_compiling() or d["fused"] is False or d["differentiable"]
    kept = None if plain else optimizer._plan
    ready = kept is not None and kept.plan.ready(optimizer.param_groups, optimizer.state)
    whitens = isinstance(optimizer.rule, WhitenedMLP)
    on_device = found_inf is not None and found_inf.device.type != "cpu"
    asks_device = ready and on_device and not whitens
    if found_inf is not None and not asks_device and bool(found_inf):
        return  # an overflow: nothing is even created
    if not ready:
        rows = plans.collect(optimizer)  # raises before anything has changed
        if not rows:
            return
        kept = None if plain else _keep(optimizer, rows)
    if kept is None:
        native = not plain and kernels.has_kernel(optimizer.rule)
        _step_slowly(optimizer, rows, grad_scale, native=native)
        return
    device = kept.device
    net = optimizer._weights.on(device)
    groups = [settings(group, device) for group in optimizer.param_groups]
    scale, inf = layout.scalar_on(grad_scale, device), layout.scalar_on(found_inf, device)
    if whitens:
        scale = _whiten(optimizer, kept, scale)
    learned.run(kept.plan, device, groups, net, scale, inf)
    plans.hold(optimizer, device, kept.plan, net)
    torch.autograd.graph.increment_version(kept.params)


def _whiten(optimizer: Learned, kept: plans.Kept, scale: Tensor | None) -> Tensor | None:
    """Have a kept plan step by whitened gradients; return how many times too large they are."""
    rule, params = optimizer.rule, kept.params
    assert isinstance(rule, WhitenedMLP)
    if hasattr(kept.plan, "look"):
        kernels.look(rule, kept.plan, optimizer._whitened, scale)
        return scale
    if kept.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{type(rule).__name__} cannot be captured: when it renews its roots is decided on the "
            "host; capture a rule that does not whiten, such as 'mlp-v1'"
        )
    grads = [p.grad for p in params if p.grad is not None]
    return kernels.whiten(rule, kept.plan, params, grads, optimizer._whitened, scale)


def settings(group: dict[str, Any], device: torch.device) -> learned.Group:
    """Return what a kernel on a device needs to know of a group."""
    lr = group["lr"]
    if isinstance(lr, Tensor):  # of another kind of device: as a number, as torch's optimizers do
        same = lr.device.type == device.type
        lr = lr.detach().to(device) if same else validate.number(lr)
    return learned.Group(lr, group["weight_decay"], group["num_steps"], group["maximize"])


def _keep(optimizer: Learned, rows: list[plans.Row]) -> plans.Kept | None:
    """Make and keep a plan of these rows; None when they must go another way."""
    rule, params = optimizer.rule, [row.p for row in rows]

    def make(device: torch.device) -> learned.Plan:
        states = [_state(optimizer, p) for p in params]
        state = {key: [s[key] for s in states] for key in (*rule.like, *rule.beside, "step")}
        optimizer._whitened = kernels.entries(rule, params, state)
        return kernels.plan(rule, device, params, state, [row.group for row in rows])

    optimizer._plan = None
    optimizer._plan = plans.build(
        optimizer, params, lambda device: kernels.ready(rule, params), make
    )
    return optimizer._plan


def _state(optimizer: Learned, p: Tensor) -> dict[str, Any]:
    """Return a parameter's state, created or brought to its dtype, device and layout."""
    state: dict[str, Any] = optimizer.state[p]
    rule = optimizer.rule
    moments.prepare(state, p, rule.like, rule.like)
    w = layout.local(p).detach()
    missing = [key for key in rule.beside if state.get(key) is None]
    if missing:
        fresh = rule.memory(w)
        state.update({key: fresh[key] for key in missing})
    for key in rule.beside:
        x = state[key]
        if x.dtype != w.dtype or x.device != w.device or not x.is_contiguous():
            state[key] = x.to(device=w.device, dtype=w.dtype).contiguous()
    return state


def _step_slowly(
    optimizer: Learned, rows: list[plans.Row], grad_scale: Tensor | None, *, native: bool
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
        if native and kernels.ready(rule, params):
            plan = kernels.plan(rule, device, params, state, [0] * len(params))
            plan.set_gradients(grads)
            scale = layout.scalar_on(grad_scale, device)
            if isinstance(rule, WhitenedMLP):
                among = kernels.entries(rule, params, state)
                scale = kernels.whiten(rule, plan, params, grads, among, scale)
            net = optimizer._weights.on(device)
            learned.run(plan, device, [settings(group, device)], net, scale, None)
            for home, written in copies:
                home.copy_(written)
            continue
        if native and _native.module_for(device) is None:
            _native.warn_fallback(device)
        if grad_scale is not None:
            grads = [g / grad_scale.to(device) for g in grads]
        if group["maximize"]:
            grads = [-g for g in grads]
        lr = group["lr"]
        if isinstance(lr, Tensor):
            lr = lr.to(device).reshape(())
        before = params, grads, state
        if d["differentiable"]:  # what is written below is not what autograd has kept
            copies_of = {key: [x.clone() for x in column] for key, column in state.items()}
            before = [x.clone() for x in params], [g.clone() for g in grads], copies_of
        theta = {key: p.to(device) for key, p in rule.named_parameters()}
        options = {"lr": lr, "num_steps": group["num_steps"]}
        new, after = torch.func.functional_call(rule, theta, before, options)
        _write(params, _decayed(rule, before[0], new, lr, group["weight_decay"]))
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
