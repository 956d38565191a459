"""The gate of the dynamic blend: its one float64 vector, and its arithmetic in plain torch.

The layout and the formulas are those of ``csrc/math/gate.hpp``; the native kernels work on the same
vector. Nothing here reads a value back to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

HEADER, FEATURES, SUMS = 16, 9, 7
PHI_PREV = 6
PHI = PHI_PREV + FEATURES
UNIT = PHI + FEATURES


class Header(IntEnum):
    """Where the numbers at the head of the vector are."""

    STEPS = 0
    META_STEPS = 1
    LOSS = 2
    LOSS_FAST = 3
    LOSS_SLOW = 4
    HAS_LOSS = 5
    PREV_VALID = 6
    PREV_LR = 7
    PREV_SGD_LR = 8
    PREV_BETA1 = 9
    PREV_BETA2 = 10
    PREV_EPS = 11
    PREV_DECAY = 12


class Unit(IntEnum):
    """Where the numbers of one unit's record are; its features follow at PHI_PREV and PHI."""

    ALPHA = 0
    ALPHA_PREV = 1
    HYPERGRAD = 2
    GRAD_MEAN = 3
    DIFF_NORM_SQ = 4
    NUMEL = 5


class Sum(IntEnum):
    """The sums that a step leaves for each unit."""

    GG = 0
    DD = 1
    AA = 2
    GD = 3
    GA = 4
    DA = 5
    HYPER = 6


def parameters(hidden: int) -> int:
    """Return the size of the network."""
    return hidden * (FEATURES + 2) + 1 if hidden else 0


def _units_offset(hidden: int) -> int:
    return HEADER + 4 * parameters(hidden) + hidden


def size(hidden: int, units: int) -> int:
    """Return the length of the vector."""
    return _units_offset(hidden) + units * UNIT


def units_of(gate: Tensor, hidden: int) -> Tensor:
    """Return the records, a view of shape [units, UNIT]."""
    return gate[_units_offset(hidden) :].view(-1, UNIT)


def create(
    hidden: int, numels: Sequence[int], init_alpha: float, seed: int, device: torch.device
) -> Tensor:
    """Return the vector of a new gate, one unit for each entry of `numels`.

    The output layer is zero but for its bias, so that every alpha starts at `init_alpha`.
    """
    gate = torch.zeros(size(hidden, len(numels)), dtype=torch.float64)
    gate[Header.LOSS] = math.nan
    if hidden:
        generator = torch.Generator().manual_seed(seed)
        net = gate[HEADER : HEADER + parameters(hidden)]
        bound = 1 / math.sqrt(FEATURES)
        first = hidden * (FEATURES + 1)
        net[:first].uniform_(-bound, bound, generator=generator)
        net[-1] = math.log(init_alpha / (1 - init_alpha))
    records = units_of(gate, hidden)
    records[:, Unit.ALPHA] = init_alpha
    records[:, Unit.ALPHA_PREV] = init_alpha
    records[:, Unit.NUMEL] = torch.tensor(list(numels), dtype=torch.float64)
    return gate.to(device)


class _Network:
    """Views of the network's weights, their Adam moments, and the passes through it."""

    def __init__(self, gate: Tensor, hidden: int) -> None:
        P = parameters(hidden)
        self.hidden = hidden
        self.net, self.exp_avg, self.exp_avg_sq = gate[HEADER : HEADER + 3 * P].view(3, P)
        self.W1 = self.net[: hidden * FEATURES].view(hidden, FEATURES)
        self.b1 = self.net[hidden * FEATURES : hidden * (FEATURES + 1)]
        self.w2, self.b2 = self.net[hidden * (FEATURES + 1) : -1], self.net[-1]

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha [units] and the hidden activations [units, hidden]."""
        h = (phi @ self.W1.T + self.b1).relu()
        return torch.sigmoid(h @ self.w2 + self.b2), h

    def gradient(self, phi: Tensor, d_alpha: Tensor) -> Tensor:
        """Return sum over units of dL/dalpha times dalpha/dtheta."""
        alpha, h = self.forward(phi)
        d_logit = d_alpha * alpha * (1 - alpha)
        d_h = d_logit[:, None] * self.w2 * (h > 0)
        parts = ((d_h.T @ phi).flatten(), d_h.sum(0), d_logit @ h, d_logit.sum()[None])
        return torch.cat(parts)


def learn(
    gate: Tensor, hidden: int, sums: Tensor, lr: float, normalize: bool, enabled: Tensor
) -> None:
    """Take one Adam step of the network along the hypergradient, where `enabled`."""
    records, network = units_of(gate, hidden), _Network(gate, hidden)
    d_alpha = -sums[:, Sum.HYPER]
    if normalize:
        norms = sums[:, Sum.GG].sqrt() * records[:, Unit.DIFF_NORM_SQ].sqrt()
        d_alpha = torch.where(norms > 0, d_alpha / norms, 0.0)
    enabled = enabled & d_alpha.isfinite().all()
    grad = network.gradient(records[:, PHI_PREV:PHI], d_alpha)
    beta1, beta2, t = 0.9, 0.99, gate[Header.META_STEPS] + 1
    exp_avg = network.exp_avg + (1 - beta1) * (grad - network.exp_avg)
    exp_avg_sq = beta2 * network.exp_avg_sq + (1 - beta2) * grad * grad
    update = (exp_avg / (1 - beta1**t)) / ((exp_avg_sq / (1 - beta2**t)).sqrt() + 1e-12)
    for kept, new in (
        (network.net, network.net - lr * update),
        (network.exp_avg, exp_avg),
        (network.exp_avg_sq, exp_avg_sq),
        (gate[Header.META_STEPS], t),
    ):
        kept.copy_(torch.where(enabled, new, kept))


def decide(gate: Tensor, hidden: int) -> None:
    """Set every unit's alpha from its features."""
    records = units_of(gate, hidden)
    records[:, Unit.ALPHA] = _Network(gate, hidden).forward(records[:, PHI:])[0]


def _cosine(dot: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    norms = xx.sqrt() * yy.sqrt()
    return torch.where(norms > 0, dot / norms, 0.0).clamp(-1, 1)


def _features(
    gate: Tensor, records: Tensor, s: Tensor, momentum: float, total_steps: float
) -> Tensor:
    """Return the features of every unit [units, FEATURES] and update the running mean."""
    grad_norm = s[:, Sum.GG].sqrt()
    mean = records[:, Unit.GRAD_MEAN]
    before = torch.where(mean > 0, mean, grad_norm)
    mean.copy_(before + 0.1 * (grad_norm - before))
    trend = torch.where((grad_norm > 0) & (before > 0), (grad_norm / before).log(), 0.0)
    coherence = torch.where(before > 0, (1 - momentum) * s[:, Sum.DD].sqrt() / before, 0.0)
    numel = records[:, Unit.NUMEL]
    rms = torch.where(numel > 0, (s[:, Sum.AA] / numel).sqrt(), 0.0)
    fast, slow = gate[Header.LOSS_FAST], gate[Header.LOSS_SLOW]
    loss_trend = torch.where(slow != 0, (fast - slow) / slow.abs(), 0.0).clamp(-1, 1)
    t = gate[Header.STEPS]
    progress = (t / total_steps).clamp(0, 1) if total_steps > 0 else t / (t + 1000)
    phi = torch.stack(
        (
            _cosine(s[:, Sum.GD], s[:, Sum.GG], s[:, Sum.DD]),
            _cosine(s[:, Sum.GA], s[:, Sum.GG], s[:, Sum.AA]),
            _cosine(s[:, Sum.DA], s[:, Sum.DD], s[:, Sum.AA]),
            trend.clamp(-3, 3),
            coherence.clamp(0, 3),
            rms.clamp(0, 3),
            _cosine(s[:, Sum.HYPER], s[:, Sum.GG], records[:, Unit.DIFF_NORM_SQ]),
            loss_trend.expand(len(s)),
            progress.expand(len(s)),
        ),
        dim=1,
    )
    return torch.where(phi.isfinite(), phi, 0.0)


def finish(
    gate: Tensor,
    hidden: int,
    sums: Tensor,
    *,
    lr: Tensor | float,
    sgd_lr: Tensor | float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    momentum: float,
    learning: bool,
    normalize: bool,
    meta_lr: float,
    total_steps: float,
) -> None:
    """End a step: learn from the hypergradient, take in the statistics, set the next alpha."""
    previous = gate[Header.PREV_VALID] != 0
    if hidden and learning:
        learn(gate, hidden, sums, meta_lr, normalize, previous)
    gate[Header.STEPS] += 1
    loss, has = gate[Header.LOSS].clone(), gate[Header.HAS_LOSS] != 0
    known = loss.isfinite()
    for slot, rate in ((Header.LOSS_FAST, 0.1), (Header.LOSS_SLOW, 0.01)):
        mean = gate[slot]
        new = torch.where(has, mean + rate * (loss - mean), loss)
        mean.copy_(torch.where(known, new, mean))
    gate[Header.HAS_LOSS].copy_((known | has).to(gate.dtype))
    gate[Header.LOSS] = math.nan
    gate[Header.PREV_VALID] = 1
    rates = (lr, sgd_lr, beta1, beta2, eps, decay)
    for slot_index, value in enumerate(rates, start=Header.PREV_LR):
        gate[slot_index] = value
    records = units_of(gate, hidden)
    records[:, Unit.HYPERGRAD].copy_(
        torch.where(previous, -sums[:, Sum.HYPER], records[:, Unit.HYPERGRAD])
    )
    records[:, PHI_PREV:PHI] = records[:, PHI:].clone()
    records[:, PHI:] = _features(gate, records, sums, momentum, total_steps)
    a, b = gate[Header.PREV_LR], gate[Header.PREV_SGD_LR]
    aa, dd = a * a * sums[:, Sum.AA], b * b * sums[:, Sum.DD]
    norm_sq = aa - 2 * a * b * sums[:, Sum.DA] + dd
    # Updates that agree to a hundredth leave nothing to choose, and float32 sums too few digits.
    records[:, Unit.DIFF_NORM_SQ] = torch.where(norm_sq > 1e-4 * (aa + dd), norm_sq, 0.0)
    records[:, Unit.ALPHA_PREV] = records[:, Unit.ALPHA]
    if hidden:
        decide(gate, hidden)


def meta_step(
    gate: Tensor, hidden: int, sums: Tensor, *, learning: bool, normalize: bool, meta_lr: float
) -> None:
    """Learn from a second batch's gradient (held-out mode), then set alpha anew."""
    previous = gate[Header.PREV_VALID] != 0
    if hidden and learning:
        learn(gate, hidden, sums, meta_lr, normalize, previous)
    record = units_of(gate, hidden)[:, Unit.HYPERGRAD]
    record.copy_(torch.where(previous, -sums[:, Sum.HYPER], record))
    if hidden:
        decide(gate, hidden)
