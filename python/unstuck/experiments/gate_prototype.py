"""Variants of the gate, in plain torch on one flat vector: quick to change, not for training.

Screened here first; what proved itself went into the kernels. ``Variant()`` is the arithmetic of
:mod:`unstuck.ops.gate` with one alpha a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unstuck.ops import gate as gate_ops
from unstuck.ops.gate import Header, Sum, Unit


@dataclass(frozen=True)
class Variant:
    r"""How a gate of the prototype differs from the package's.

    Attributes
    ----------
    network : bool
        True: alpha from the features by the network that all tensors share. False: a bias alone,
        one for each tensor.
    per_tensor : bool
        One alpha for each tensor instead of one for all.
    init_alpha, lr : float
        Starting point, and learning rate of the gate's Adam.
    betas : (float, float)
        Decay rates of the gate's Adam.
    normalize : {"unit", "all", "no"}
        Divide the hypergradient of a unit by its own norms, by those of the whole model, or not.
    horizon : float
        The hypergradient is taken along :math:`D_t = \mathrm{horizon}\,D_{t-1} + u_{adam} -
        u_{sgd}`, the effect of an alpha that stays the same; 0 is the one-step hypergradient.
        Costs one more buffer of the size of the model.
    """

    network: bool = True
    per_tensor: bool = True
    init_alpha: float = 0.5
    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    normalize: str = "unit"
    horizon: float = 0.0


class PrototypeBlend(torch.optim.Optimizer):
    """The blend with a gate that learns online, as :class:`Variant` says."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        *,
        sgd_lr: float,
        total_steps: int,
        variant: Variant,
    ) -> None:
        super().__init__(params, {"lr": lr, "sgd_lr": sgd_lr})
        self.variant, self.total_steps = variant, total_steps
        self._params = [p for group in self.param_groups for p in group["params"]]
        sizes = [p.numel() for p in self._params]
        self._sizes = sizes if variant.per_tensor else [sum(sizes)]
        dtype = self._params[0].dtype
        self._m, self._v, self._difference = torch.zeros(3, sum(sizes), dtype=dtype)
        self._t = 0
        hidden = 32 if variant.network else 0
        device = torch.device("cpu")
        self._gate = gate_ops.create(hidden, self._sizes, variant.init_alpha, 0, device)
        self._hidden = hidden
        logit = math.log(variant.init_alpha / (1 - variant.init_alpha))
        count = gate_ops.parameters(hidden) if hidden else len(self._sizes)
        self._theta = torch.full((count,), logit, dtype=torch.float64)
        if hidden:
            self._theta.copy_(self._gate[gate_ops.HEADER : gate_ops.HEADER + count])
        self._theta_m, self._theta_v = torch.zeros(2, count, dtype=torch.float64)
        self._phi = torch.zeros(len(self._sizes), gate_ops.FEATURES, dtype=torch.float64)
        self._phi_used = self._phi

    @property
    def alpha(self) -> Tensor:
        """Share of Adam in the next step, [units]."""
        return self._decide(self._theta, self._phi)

    def record_loss(self, loss: Tensor) -> None:
        """Take in the loss of this batch, for the loss-trend feature."""
        self._gate[Header.LOSS] = loss.detach()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Learn from the gradient what the last step's alpha should have been, then step."""
        if closure is not None:
            raise ValueError("the prototype takes no closure: call backward before step()")
        group, g = self.param_groups[0], torch.cat([p.grad.flatten() for p in self._params])
        sums = torch.zeros(len(self._sizes), gate_ops.SUMS, dtype=torch.float64)
        sums[:, Sum.HYPER] = self._dots(g, self._difference)
        sums[:, Sum.GG] = self._dots(g, g)
        alpha = self.alpha  # decided before this gradient was seen, as in the package
        if self._t:
            self._learn(sums)
        self._phi_used = self._phi
        self._t += 1
        self._m.lerp_(g, 0.1)
        self._v.lerp_(g * g, 0.001)
        a = self._m / (1 - 0.9**self._t) / ((self._v / (1 - 0.999**self._t)).sqrt() + 1e-8)
        d = self._m / 0.1
        difference = group["lr"] * a - group["sgd_lr"] * d
        spread = torch.repeat_interleave(alpha.to(g.dtype), torch.tensor(self._sizes))
        update = group["sgd_lr"] * d + spread * difference
        self._difference = self.variant.horizon * self._difference + difference
        for which, x, y in (
            (Sum.DD, d, d),
            (Sum.AA, a, a),
            (Sum.GD, g, d),
            (Sum.GA, g, a),
            (Sum.DA, d, a),
        ):
            sums[:, which] = self._dots(x, y)
        self._notice(sums)
        place = 0
        for p in self._params:
            p.sub_(update[place : place + p.numel()].view_as(p))
            place += p.numel()

    def _dots(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the inner products of every unit."""
        parts = torch.split(x * y, self._sizes)
        return torch.stack([part.sum() for part in parts]).double()

    def _decide(self, theta: Tensor, phi: Tensor) -> Tensor:
        if not self._hidden:
            return theta.sigmoid()
        cut = self._hidden * gate_ops.FEATURES
        W1, rest = theta[:cut].view(self._hidden, -1), theta[cut:]
        b1, w2, b2 = rest[: self._hidden], rest[self._hidden : -1], rest[-1]
        return torch.sigmoid((phi @ W1.T + b1).relu() @ w2 + b2)

    def _learn(self, sums: Tensor) -> None:
        """Take one Adam step of the gate along the hypergradient."""
        variant, d_alpha = self.variant, -sums[:, Sum.HYPER]
        norms = (sums[:, Sum.GG] * self._dots(self._difference, self._difference)).sqrt()
        if variant.normalize == "unit":
            d_alpha = d_alpha / norms.clamp_min(1e-30)
        elif variant.normalize == "all":
            whole = self._difference.norm() * sums[:, Sum.GG].sum().sqrt()
            d_alpha = d_alpha * len(d_alpha) / whole.clamp_min(1e-30)
        theta = self._theta.clone().requires_grad_()
        with torch.enable_grad():
            total = self._decide(theta, self._phi_used) @ d_alpha
            (grad,) = torch.autograd.grad(total, theta)
        beta1, beta2 = variant.betas
        self._theta_m.lerp_(grad, 1 - beta1)
        self._theta_v.lerp_(grad * grad, 1 - beta2)
        root = (self._theta_v / (1 - beta2**self._t)).sqrt() + 1e-12
        self._theta -= variant.lr * self._theta_m / (1 - beta1**self._t) / root

    def _notice(self, sums: Tensor) -> None:
        """Compute the features as the package does, by ending a step of a gate that learns not."""
        group = self.param_groups[0]
        gate_ops.finish(
            self._gate,
            self._hidden,
            sums,
            lr=group["lr"],
            sgd_lr=group["sgd_lr"],
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            decay=0.0,
            momentum=0.9,
            learning=False,
            normalize=True,
            meta_lr=0.0,
            total_steps=self.total_steps,
        )
        records = gate_ops.units_of(self._gate, self._hidden)
        self._phi = records[:, gate_ops.PHI : gate_ops.PHI + gate_ops.FEATURES].clone()
        records[:, Unit.DIFF_NORM_SQ] = self._dots(self._difference, self._difference)
