"""The per-parameter MLP rule: Adam's step, plus a mixture of directions that a network chooses."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from unstuck.learned import _check
from unstuck.learned._layers import by_row
from unstuck.learned._moments import EPS, TensorStep, bend, free, root, widened
from unstuck.learned.rule import UpdateRule

__all__ = ["MLP"]

BETAS = (0.9, 0.99)  # of exp_avg and exp_avg_slow
SQ_BETA = 0.999  # of exp_avg_sq
CLIP = 4.0
TIMES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
LONGEST = 600.0  # the highest step count that the tensor network is told
TRENDS = (0.9, 0.98)  # decays of the running averages of what a step has seen
LEAST_RMS = 1e-8
LOGIT = 5.0  # bound of the log-scale of a tensor
POWER = 2.0  # bound of the power of what is left of the run
FAR = 16.0  # bound of the direction of SGD

DIRECTIONS = 5  # exp_avg, gradient, exp_avg_slow, parameter; exp_avg as in SGD
EVEN = 8  # inputs of the coordinate network
INPUTS = 21  # of the tensor network
STATS = 7  # rms of w; fast and slow cosine, mean squares of a, x and u; rms of sqrt(v)


class MLP(UpdateRule):
    r"""Adam's direction plus a mixture of directions, chosen for every coordinate by an MLP.

    With Adam's moments :math:`m, v` (0.9, 0.999) and a slow momentum :math:`m_s` (0.99), all free
    of bias, and :math:`D = \sqrt{v} + 10^{-8}`, every coordinate has five odd directions

    .. math::
        o = \big(a = m / D,\;\; x = g / D,\;\; b = m_s / D,\;\;
                 q = w / \mathrm{rms}(w),\;\; d = m / \mathrm{rms}(\sqrt{v})\big)

    and eight inputs that do not change where signs do,

    .. math::
        e = \big(|a|, |x|, |b|, a x, a b, |q|, x q, |d|\big)

    (:math:`x`, :math:`q` and all inputs are cut at 4, :math:`d` at 16). The root mean squares are
    those of the tensor; that of :math:`\sqrt{v}` is of the last step, so the first has no
    :math:`d`. Along :math:`d` a tensor moves as with SGD, along the others as with Adam. One hidden
    layer makes coefficients of the inputs, and a second network, asked once a tensor and step, adds
    to its biases and sets its scale:

    .. math::
        c &= W_2\,\mathrm{relu}(W_1 e + \beta) + \gamma, \qquad
        u = e^{\sigma}\,\big(a + \textstyle\sum_k c_k o_k\big) \\
        (\beta, \gamma, \sigma, \kappa) &= A_2 \tanh(A_1 z + \alpha_1) + \alpha_2, \qquad
        w \leftarrow w - 10^{-3}\, \mathrm{lr}\, \rho^\kappa\, u ,

    where :math:`\rho` is the share of the run that is left, or 1 where `num_steps` is not known,
    and :math:`\kappa` is kept from 0 to 2.

    :math:`z` holds the step count at seven scales, 600 at most, since meta-training on short runs
    teaches nothing of higher ones, the progress where `num_steps` is known, size and shape of the
    tensor, its root mean square, and running averages of what earlier steps have seen: the cosine
    of gradient and momentum (is the step too long?), and the mean squares of :math:`a`, :math:`x`
    and :math:`u`. So a step reads every array once.

    The last layers start at zero: an untrained rule is ``torch.optim.Adam(lr=1e-3 * lr)``. The rule
    is odd: with gradients and parameters of the other sign, the steps have the other sign.

    Parameters
    ----------
    hidden : int
        Units of the coordinate network, 1 to 64.
    control : int
        Units of the tensor network, 1 to 256.
    scale : float
        Length of an untrained rule's steps, times Adam's: where training begins. 0.01 to 100.
    fade : float
        Its :math:`\kappa`, 0 to 2: with 1, steps fall linearly to 0 where `num_steps` is known.

    Raises
    ------
    TypeError, ValueError
        When one is no number in its range, or no whole number.

    Examples
    --------
    >>> import torch
    >>> from unstuck.learned import MLP
    >>> rule, w = MLP(), [torch.ones(2, 2)]
    >>> state = rule.init_state(w)
    >>> w, state = rule(w, [torch.full((2, 2), 0.3)], state)  # untrained: a step of Adam
    >>> w[0][0, 0].item()
    0.9990000128746033

    Notes
    -----
    The form (nominal step plus learned direction, features of several time scales, a network a
    tensor above one a coordinate) is that of Metz et al., "Practical tradeoffs between memory,
    compute, and performance in learned optimizers" (2022) and VeLO (2022); directions that a
    network weighs instead of makes keep it odd, free of scales and small.
    """

    name = "mlp"
    like = ("exp_avg", "exp_avg_slow", "exp_avg_sq")
    beside: ClassVar[tuple[str, ...]] = ("stats",)

    def __init__(
        self, hidden: int = 4, control: int = 16, scale: float = 1.0, fade: float = 0.0
    ) -> None:
        super().__init__(hidden=hidden, control=control, scale=scale, fade=fade)
        _check.whole("hidden", hidden, 1, 64)
        _check.whole("control", control, 1, 256)
        _check.number("scale", scale, 0.01, 100)
        _check.number("fade", fade, 0, POWER)
        self.hidden, self.control = hidden, control
        self.control_in = nn.Linear(INPUTS, control)
        self.control_out = nn.Linear(control, hidden + DIRECTIONS + 2)
        self.hidden_in = nn.Linear(EVEN, hidden, bias=False)
        self.hidden_out = nn.Linear(hidden, DIRECTIONS, bias=False)
        for zero in (self.control_out.weight, self.control_out.bias, self.hidden_out.weight):
            nn.init.zeros_(zero)
        with torch.no_grad():
            self.control_out.bias[-2:] = torch.tensor([math.log(scale), fade])

    def memory(self, p: Tensor) -> dict[str, Tensor]:
        """Return the ``stats``, seven numbers."""
        return {"stats": initial_stats(p)}

    def between(self, tensors: Sequence[TensorStep]) -> list[Tensor]:
        """Return a row a tensor: biases of hidden units and coefficients, log-scale, power."""
        device, num_steps = tensors[0].w.device, tensors[0].num_steps
        stats = [at.state["stats"] for at in tensors]
        kind = functools.reduce(torch.promote_types, (widened(x).dtype for x in stats))
        t = torch.stack([at.t.to(device, kind) for at in tensors])  # [T]
        s = torch.stack([x.to(device, kind) for x in stats])  # [T, STATS]
        z = [bend(t.clamp(max=LONGEST) / time) for time in TIMES]
        if num_steps is None:
            z += [torch.zeros_like(t)] * 3
        else:
            progress = (t / num_steps).clamp(max=1)
            z += [torch.ones_like(t), progress, bend((1 - progress) * 10)]
        shapes = [shape_inputs(at.w.shape) for at in tensors]
        z += list(torch.tensor(shapes, dtype=kind, device=device).unbind(1))
        rms, cos_fast, cos_slow, aa, xx, uu, _ = s.unbind(1)
        z += [
            (torch.log(rms + LEAST_RMS) / 4).clamp(min=-2.5, max=2.5),
            cos_fast,
            cos_slow,
            root(aa),
            xx / (1 + xx),
            torch.log(uu + 1e-6) / 8,
        ]
        out = by_row(self.control_out, torch.tanh(by_row(self.control_in, torch.stack(z, 1))))
        return list(out.unbind(0))

    def step_tensor(self, at: TensorStep, told: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`UpdateRule.step_tensor`."""
        t, stats = at.t, at.state["stats"]
        w, g, m, slow, v = (widened(x) for x in (at.w, at.g, *(at.state[k] for k in self.like)))
        dtype = w.dtype
        before = m
        m = m + (1 - BETAS[0]) * (g - m)
        slow = slow + (1 - BETAS[1]) * (g - slow)
        v = SQ_BETA * v + (1 - SQ_BETA) * g * g
        m_free, slow_free, v_free = (free(b, t, dtype) for b in (*BETAS, SQ_BETA))
        denom = root(v / v_free) + EPS
        rms, common = stats[0].to(dtype), stats[-1].to(dtype)
        known = common > 0
        a = m / m_free / denom
        x = _cut(g / denom)
        b = slow / slow_free / denom
        q = _cut(w / rms.clamp(min=LEAST_RMS))
        d = torch.where(known, m / m_free / torch.where(known, common, 1), 0).clamp(-FAR, FAR)
        even = [
            _cut(a.abs()),
            x.abs(),
            _cut(b.abs()),
            _cut(a * x),
            _cut(a * b),
            q.abs(),
            _cut(x * q),
            _cut(d.abs()),
        ]
        odd = torch.stack([a, x, b, q, d], -1)
        control = told.to(dtype)
        hidden = torch.relu(
            torch.stack(even, -1) @ self.hidden_in.weight.to(dtype).T + control[: self.hidden]
        )
        c = hidden @ self.hidden_out.weight.to(dtype).T + control[self.hidden : -2]
        u = torch.exp(control[-2].clamp(-LOGIT, LOGIT)) * (a + (c * odd).sum(-1))
        y = before / denom
        sums = torch.stack([f.sum() for f in (x * y, x * x, y * y, a * a, u * u, v / v_free)])
        moved = at.moved(at.rest(dtype) ** control[-1].clamp(0, POWER) * u)
        after = dict(exp_avg=m, exp_avg_slow=slow, exp_avg_sq=v, stats=_stats(stats, sums, moved))
        return moved, after


def initial_stats(p: Tensor) -> Tensor:
    """Return a tensor's statistics before the first step, ``[STATS]``."""
    squares = widened(p).square().sum() / max(p.numel(), 1)
    return torch.cat([root(squares).reshape(1), squares.new_zeros(STATS - 1)]).to(p.dtype)


def shape_inputs(shape: Sequence[int]) -> tuple[float, ...]:
    """Return what the tensor network sees of a shape.

    Whether it is a vector, whether it has more than two axes, and logarithms of its size, its first
    axis and the product of the others.
    """
    numel = math.prod(shape)
    first = shape[0] if len(shape) > 1 else numel
    return (
        float(len(shape) < 2),
        float(len(shape) > 2),
        math.log10(max(numel, 1)) / 4,
        math.log10(max(first, 1)) / 2,
        math.log10(max(numel // max(first, 1), 1)) / 2,
    )


def _stats(stats: Tensor, sums: Tensor, w: Tensor) -> Tensor:
    """Return the statistics after a step that has summed x y, x x, y y, a a, u u, v up."""
    n = max(w.numel(), 1)
    xy, xx, yy, aa, uu, vv = sums.unbind(0)
    both = root(xx) * root(yy)
    cosine = torch.where(both > 0, xy / torch.where(both > 0, both, 1), 0)
    _, cos_fast, cos_slow, was_aa, was_xx, was_uu, _ = widened(stats).unbind(0)
    quick, slow = 1 - TRENDS[0], 1 - TRENDS[1]
    ww = widened(w).square().sum()
    new = torch.stack(
        [
            root(ww / n),
            cos_fast + quick * (cosine - cos_fast),
            cos_slow + slow * (cosine - cos_slow),
            was_aa + quick * (aa / n - was_aa),
            was_xx + quick * (xx / n - was_xx),
            was_uu + quick * (uu / n - was_uu),
            root(vv / n),
        ]
    )
    # A coordinate that is not finite any more shall not take the others with it.
    spoiled = ~(torch.isfinite(new).all() & torch.isfinite(ww))
    return torch.where(spoiled, stats, new.to(stats.dtype))


def _cut(x: Tensor) -> Tensor:
    return x.clamp(-CLIP, CLIP)
