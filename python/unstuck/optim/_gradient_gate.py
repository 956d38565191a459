"""The gate on the flattened gradient, as first proposed, for small models.

alpha = sigmoid(w2 . relu(W1 g + b1) + b2) with g the gradient of all parameters of the group, so W1
alone is `hidden` times the model. Forward, backward and Adam in plain torch, without a host sync.
The network, its Adam moments and the last gradient are one float32 matrix [4, ...] in the group.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import gate as gate_ops
from unstuck.ops.gate import Header, Unit
from unstuck.optim import _layout as layout

MOST_WEIGHTS = 50_000_000


def create(group: dict[str, Any], inputs: int, device: torch.device) -> dict[str, Tensor]:
    """Return a new network for `inputs` gradient elements."""
    gate = group["gate"]
    hidden = int(gate["hidden"])
    if group["per_tensor"]:
        raise ValueError(
            "Gate(features='gradient') gives one alpha a group: per_tensor must be False"
        )
    if any(layout.is_shard(p) for p in group["params"]):
        raise ValueError("Gate(features='gradient') cannot read sharded parameters; use 'summary'")
    if hidden * inputs > MOST_WEIGHTS:
        raise ValueError(
            f"Gate(features='gradient') would need {hidden} x {inputs} weights, more than "
            f"{MOST_WEIGHTS}; use features='summary', which does not grow with the model"
        )
    generator = torch.Generator().manual_seed(int(gate["seed"]))
    bound = 1 / math.sqrt(max(1, inputs))
    net = torch.zeros(hidden * (inputs + 2) + 1, dtype=torch.float32)
    net[: hidden * (inputs + 1)].uniform_(-bound, bound, generator=generator)  # W1 and b1
    alpha = float(gate["init_alpha"])
    net[-1] = math.log(alpha / (1 - alpha))
    net = net.to(device)
    zeros = torch.zeros_like(net)
    return {
        "net": net,
        "exp_avg": zeros,
        "exp_avg_sq": zeros.clone(),
        "gradient": net.new_zeros(inputs),  # that gave the present alpha
        "previous": net.new_zeros(inputs),  # that gave the one before
    }


def _split(net: Tensor, hidden: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rest = net[-(2 * hidden + 1) :]
    return (
        net[: -(2 * hidden + 1)].view(hidden, -1),
        rest[:hidden],
        rest[hidden : 2 * hidden],
        rest[-1],
    )


def _forward(net: Tensor, hidden: int, x: Tensor) -> tuple[Tensor, Tensor]:
    W1, b1, w2, b2 = _split(net, hidden)
    h = (W1 @ x + b1).relu()
    return torch.sigmoid(w2 @ h + b2), h


def decide(
    group: dict[str, Any], grad_scale: Tensor | None = None, found_inf: Tensor | None = None
) -> None:
    """Set alpha from the gradients as they are; before the step."""
    network, params = group["gate_network"], group["params"]
    if any(p.grad is None for p in params):
        flat = [
            torch.zeros_like(layout.local(p)) if p.grad is None else layout.local(p.grad)
            for p in params
        ]
    else:
        flat = [layout.local(p.grad) for p in params]
    if network["net"].device != flat[0].device:
        for key, value in network.items():
            network[key] = value.to(flat[0].device)
    x = torch.cat([g.reshape(-1).float() for g in flat])
    if grad_scale is not None:
        x = x / grad_scale.to(x.device)
    if group["maximize"]:
        x = -x
    found_inf = layout.scalar_on(found_inf, x.device)
    x = torch.where(x.isfinite(), x, 0)
    alpha, _ = _forward(network["net"], int(group["gate"]["hidden"]), x)
    for kept, new in (
        (network["previous"], network["gradient"]),
        (network["gradient"], x),
        (gate_ops.units_of(group["gate_state"], 0)[0, Unit.ALPHA], alpha.to(torch.float64)),
    ):
        kept.copy_(new if found_inf is None else torch.where(found_inf != 0, kept, new))


def learn(group: dict[str, Any], found_inf: Tensor | None = None, *, meta: bool = False) -> None:
    """Take one Adam step along the hypergradient that the step (or `meta`, meta_step) left."""
    gate, network = group["gate"], group["gate_network"]
    if gate["mode"] != ("held-out" if meta else "online"):
        return
    hidden, header = int(gate["hidden"]), group["gate_state"]
    record = gate_ops.units_of(header, 0)[0]
    # In online mode the hypergradient is that of the alpha before the one just used.
    x = network["gradient"] if meta else network["previous"]
    usable = record[Unit.HYPERGRAD].isfinite() & (header[Header.STEPS] > (0 if meta else 1))
    if found_inf is not None:
        usable = usable & (found_inf.to(usable.device).reshape(()) == 0)
    d_alpha = record[Unit.HYPERGRAD].float()
    if gate["normalize"]:
        d_alpha = d_alpha / d_alpha.abs().clamp_min(torch.finfo(torch.float32).tiny)
    net, exp_avg, exp_avg_sq = network["net"], network["exp_avg"], network["exp_avg_sq"]
    alpha, h = _forward(net, hidden, x)
    w2 = _split(net, hidden)[2]
    d_logit = d_alpha * alpha * (1 - alpha)
    d_h = d_logit * w2 * (h > 0)
    grad = torch.cat((torch.outer(d_h, x).flatten(), d_h, d_logit * h, d_logit[None]))
    t = header[Header.META_STEPS] + 1
    new_avg = torch.lerp(exp_avg, grad, 0.1)
    new_sq = 0.99 * exp_avg_sq + 0.01 * grad * grad
    c1, c2 = (1 - 0.9**t).float(), (1 - 0.99**t).float()
    update = (new_avg / c1) / ((new_sq / c2).sqrt() + 1e-12)
    for kept, new in (
        (net, net - gate["lr"] * update),
        (exp_avg, new_avg),
        (exp_avg_sq, new_sq),
        (header[Header.META_STEPS], t),
    ):
        kept.copy_(torch.where(usable, new, kept))
