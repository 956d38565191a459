"""dL'/dalpha equals autograd through the step, and the gate's weights follow it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unstuck.ops import gate as gate_ops
from unstuck.optim import DynamicBlend, Gate

from .autograd_blend import AutogradBlend, gate_alpha
from .runs import loss_of, make_params

SHAPES = ((6, 4), (5,), (), (3, 2))
KINDS = {
    "shared": {},
    "general": {"momentum": 0.7, "dampening": 0.2, "betas": (0.8, 0.95)},
    "nesterov": {"nesterov": True},
    "nesterov-general": {"nesterov": True, "momentum": 0.6},
    "no-momentum": {"momentum": 0.0},
    "l2": {"weight_decay": 0.3},
    "l2-nesterov-maximize": {"weight_decay": 0.3, "nesterov": True, "maximize": True},
    "decoupled": {"weight_decay": 0.9, "decoupled_weight_decay": True},
    "decoupled-general": {
        "weight_decay": 0.9,
        "decoupled_weight_decay": True,
        "momentum": 0.5,
        "lr": 0.05,
    },
    "maximize": {"maximize": True},
    "no-momentum-l2": {"momentum": 0.0, "weight_decay": 0.2},
}
GATES = {"group": {}, "per-tensor": {"per_tensor": True}, "gradient": {"features": "gradient"}}
every_gate = pytest.mark.parametrize("gate", GATES)
every_kind = pytest.mark.parametrize("kind", KINDS)
ways = pytest.mark.parametrize("fused", [None, False], ids=["native", "plain"])
LATE = {(1, 1), (2, 1), (4, 3)}  # (batch, parameter) without a gradient


def gradients(params: list[Tensor], batch: int) -> list[Tensor | None]:
    leaves = [p.detach().requires_grad_() for p in params]
    grads = torch.autograd.grad(loss_of(leaves, batch), leaves)
    return [None if (batch, i) in LATE else g for i, g in enumerate(grads)]


def later_loss(params: list[Tensor], batch: int, maximize: bool) -> Tensor:
    """The minimised loss of a later batch, as far as it has gradients."""
    kept = [p.detach() if (batch, i) in LATE else p for i, p in enumerate(params)]
    loss = loss_of(kept, batch)
    return -loss if maximize else loss


class Pair:
    """The optimizer and its autograd twin, in step."""

    def __init__(self, kind: str, device, fused, *, per_tensor=False, **gate) -> None:
        settings = KINDS[kind]
        self.params = make_params(SHAPES, torch.float64, device)
        self.ours = DynamicBlend(
            self.params,
            gate=Gate(hidden=6, lr=0.05, **gate),
            per_tensor=per_tensor,
            fused=fused,
            **settings,
        )
        self.twin = AutogradBlend(**settings)
        self.maximize = settings.get("maximize", False)
        self.per_tensor = per_tensor

    def alphas(self, alpha: Tensor) -> list[Tensor]:
        return list(alpha) if self.per_tensor else [alpha[0]] * len(self.params)

    def step(self, batch: int) -> tuple[Tensor, list[Tensor]]:
        """Step both; return alpha as a leaf and the parameters that depend on it."""
        grads = gradients(self.params, batch)
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g
        before = [p.detach().clone() for p in self.params]
        self.ours.step()
        used = gate_ops.units_of(self.ours.param_groups[0]["gate_state"], self.hidden)
        alpha = used[:, gate_ops.Unit.ALPHA_PREV].clone().requires_grad_()
        after = self.twin.step(before, grads, self.alphas(alpha))
        for p, q in zip(self.params, after, strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-10, atol=1e-12)
        return alpha, after

    @property
    def hidden(self) -> int:
        gate = self.ours.param_groups[0]["gate"]
        return 0 if gate["features"] == "gradient" else gate["hidden"]


def assert_gradient(ours: Tensor, exact: Tensor) -> None:
    assert exact.abs().max() > 1e-6  # there is something to compare
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-12)


@ways
@every_kind
@every_gate
def test_online(kind, gate, fused, device):
    """Step k + 1 tells the derivative of its own loss by the alpha of step k."""
    pair = Pair(kind, device, fused, **GATES[gate])
    alpha, after = pair.step(0)
    for batch in range(1, 8):
        loss = later_loss(after, batch, pair.maximize)
        (exact,) = torch.autograd.grad(loss, alpha, allow_unused=True)
        alpha, after = pair.step(batch)
        assert_gradient(pair.ours.hypergradient[0], exact)


@ways
@every_kind
@every_gate
@pytest.mark.parametrize("given", [False, True], ids=["from-grad", "given"])
def test_held_out(kind, gate, given, fused, device):
    pair = Pair(kind, device, fused, **GATES[gate], mode="held-out")
    for batch in range(5):
        alpha, after = pair.step(batch)
        other = 100 + batch
        (exact,) = torch.autograd.grad(later_loss(after, other, pair.maximize), alpha)
        grads = gradients(pair.params, other)
        if given:
            pair.ours.meta_step(grads)
        else:
            for p, g in zip(pair.params, grads, strict=True):
                p.grad = g
            pair.ours.meta_step()
        assert_gradient(pair.ours.hypergradient[0], exact)


def gate_of(optimizer: DynamicBlend) -> tuple[Tensor, Tensor]:
    """The gate's weights, and the features [units, n] that gave the alpha of the last step."""
    group = optimizer.param_groups[0]
    if group["gate_network"] is not None:
        return group["gate_network"]["net"], group["gate_network"]["gradient"][None]
    state, hidden = group["gate_state"], group["gate"]["hidden"]
    weights = state[gate_ops.HEADER : gate_ops.HEADER + gate_ops.parameters(hidden)]
    return weights, gate_ops.units_of(state, hidden)[:, gate_ops.PHI_PREV : gate_ops.PHI]


@ways
@pytest.mark.parametrize("mode", ["online", "held-out"])
@every_gate
@pytest.mark.parametrize("kind", ["shared", "nesterov-general", "decoupled", "maximize"])
def test_the_gate_takes_adam_steps_along_its_own_gradient(kind, gate, mode, fused, device):
    """Without normalising, the weights change as torch's Adam changes them by autograd."""
    pair = Pair(kind, device, fused, **GATES[gate], mode=mode, normalize=False)
    weights, _ = gate_of(pair.ours)
    weights.copy_(torch.randn(weights.shape))  # w2 is zero at first, and W1 would learn nothing
    if gate != "gradient":
        gate_ops.decide(pair.ours.param_groups[0]["gate_state"], 6)
    theta = nn.Parameter(weights.clone())
    adam = torch.optim.Adam([theta], lr=0.05, betas=(0.9, 0.99), eps=1e-12)
    tolerance = 2e-4 if gate == "gradient" else 1e-8  # that network is float32
    alpha, after = pair.step(0)
    for batch in range(1, 8):
        start = theta.detach().clone()
        again = gate_alpha(theta, 6, gate_of(pair.ours)[1].clone())
        if mode == "held-out":
            torch.testing.assert_close(again.double(), alpha, rtol=1e-5, atol=0)
        later = batch if mode == "online" else 100 + batch
        loss = later_loss(after, later, pair.maximize)
        (d_alpha,) = torch.autograd.grad(loss, alpha)
        adam.zero_grad()
        again.backward(d_alpha.to(again.dtype))
        adam.step()
        if mode == "held-out":
            pair.ours.meta_step(gradients(pair.params, later))
        alpha, after = pair.step(batch)
        assert not torch.equal(start, theta)
        torch.testing.assert_close(
            gate_of(pair.ours)[0], theta.detach(), rtol=tolerance, atol=tolerance
        )


def test_frozen_gates_do_not_learn(device):
    pair = Pair("shared", device, None, mode="frozen")
    start = gate_of(pair.ours)[0].clone()
    for batch in range(4):
        pair.step(batch)
    assert torch.equal(gate_of(pair.ours)[0], start)
    assert float(pair.ours.alpha[0]) == Gate().init_alpha


def test_meta_step_needs_a_held_out_gate_and_fitting_gradients():
    params = make_params()
    online, held_out = DynamicBlend(params), DynamicBlend(params, gate=Gate(mode="held-out"))
    with pytest.raises(ValueError, match=r"needs a gate in held-out mode: pass gate=Gate\(mode="):
        online.meta_step()
    with pytest.raises(ValueError, match="got 1 gradients for 4 parameters"):
        held_out.meta_step([torch.zeros(2)])
    with pytest.raises(ValueError, match=r"shape \(7, 5\) has a gradient of shape \(2,\)"):
        held_out.meta_step([torch.zeros(2), None, None, None])


def run_features(params, device, *, scale=1.0, copies=1, per_tensor=False):
    """Features and alphas over some steps, of `copies` of the parameters and a scaled loss."""
    everything = [nn.Parameter(p.detach().clone()) for _ in range(copies) for p in params]
    optimizer = DynamicBlend(
        everything,
        lr=0.01,
        sgd_lr=0.05 / scale,
        eps=1e-30,
        gate=Gate(hidden=6, lr=0.1),
        per_tensor=per_tensor,
    )
    rows = []
    for batch in range(12):
        loss = sum(
            loss_of(everything[i * len(params) : (i + 1) * len(params)], batch)
            for i in range(copies)
        )
        optimizer.zero_grad()
        (scale * loss).backward()
        optimizer.record_loss(scale * loss)
        optimizer.step()
        records = gate_ops.units_of(optimizer.param_groups[0]["gate_state"], 6)
        rows.append(
            torch.cat((records[: len(params), gate_ops.PHI :], records[: len(params), :1]), 1)
        )
    return torch.stack(rows)


@pytest.mark.parametrize("per_tensor", [False, True], ids=["group", "per-tensor"])
def test_features_do_not_depend_on_the_scale_of_the_loss(per_tensor, device):
    """A loss a thousand times larger, with sgd_lr as much smaller, is the same training."""
    params = make_params(SHAPES, torch.float64, device)
    plain = run_features(params, device, per_tensor=per_tensor)
    scaled = run_features(params, device, scale=1000.0, per_tensor=per_tensor)
    assert plain[..., :-1].std(0).max() > 0.01  # they say something
    torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-8)


def test_features_do_not_depend_on_the_size_of_the_model(device):
    params = make_params(SHAPES, torch.float64, device)
    one, many = run_features(params, device), run_features(params, device, copies=9)
    torch.testing.assert_close(many, one, rtol=1e-6, atol=1e-8)


def test_loss_trend_and_progress():
    params = make_params()
    optimizer = DynamicBlend(params, gate=Gate(hidden=6, total_steps=10))
    for step in range(12):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.record_loss(2.0 - 0.1 * step)
        optimizer.step()
        records = gate_ops.units_of(optimizer.param_groups[0]["gate_state"], 6)
        trend, progress = records[0, -2:]
        assert float(progress) == pytest.approx(min(1.0, (step + 1) / 10))
        assert trend < 0 if step else trend == 0
