"""The Transformer rule: the gradient asks the history of its coordinate what to do."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unstuck.learned import _check
from unstuck.learned._layers import linear, normalized, zero
from unstuck.learned._moments import Moments, TensorStep, advance, bend, widened
from unstuck.learned.rule import UpdateRule

__all__ = ["Transformer"]

FEATURES = 4  # of a moment of the history
NOW = 2  # further ones of the query
HIGHEST = 10.0


class Transformer(UpdateRule):
    r"""One decoder block a coordinate: the gradient is the query, the history keys and values.

    The last `history` steps of a coordinate, each seen as
    :math:`x_k = (g/\sqrt v,\, m/\sqrt v,\, \log\sqrt{v}/10,\, w)` at its time (Adam's moments, free
    of bias), are kept; :math:`p_k` is a learned code of their age. With the present one,
    :math:`k = 0`, and :math:`q = Q (x_0, t, \mathrm{progress})`,

    .. math::
        z &= q + O \sum_k \mathrm{softmax}_k\!\big(q \cdot (K x_k + p_k) / \sqrt{d}\big)\, V x_k \\
        u &= n + v \cdot \big(z' + F_2\, \mathrm{gelu}(F_1 z')\big), \qquad
        z' = \mathrm{normalized}(z), \qquad w \leftarrow w - 10^{-3}\,\mathrm{lr}\, u ,

    by several heads. :math:`n` is Adam's direction with `nominal` and 0 without; :math:`v` starts
    at zero: an untrained rule is Adam of rate ``1e-3 * lr``, or stands still.

    Parameters
    ----------
    width : int
        Of the block, a multiple of `heads`, 2 to 128.
    heads : int
        1 to 16.
    history : int
        Steps that are kept, 1 to 64; memory is ``4 * history`` numbers a parameter.
    nominal : bool
        Whether the block corrects Adam's direction instead of making its own.

    Raises
    ------
    TypeError, ValueError
        When an argument is out of its range.

    Examples
    --------
    >>> import torch
    >>> from unstuck.learned import Transformer
    >>> rule, w = Transformer(history=4), [torch.ones(3)]
    >>> w, state = rule(w, [torch.ones(3)], rule.init_state(w))
    >>> state["history"][0].shape
    torch.Size([4, 4, 3])

    Notes
    -----
    The form is that of Vaswani et al., "Attention is all you need" (2017), over time instead of
    words.
    """

    name = "transformer"
    like = ("exp_avg", "exp_avg_sq")
    beside = ("history",)

    def __init__(
        self, width: int = 16, heads: int = 2, history: int = 8, nominal: bool = True
    ) -> None:
        super().__init__(width=width, heads=heads, history=history, nominal=nominal)
        _check.whole("width", width, 2, 128)
        _check.whole("heads", heads, 1, 16)
        _check.whole("history", history, 1, 64)
        _check.flag("nominal", nominal)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, not {width} and {heads}")
        self.width, self.heads, self.history, self.nominal = width, heads, history, bool(nominal)
        self.query = nn.Linear(FEATURES + NOW, width)
        self.key = nn.Linear(FEATURES, width, bias=False)
        self.value = nn.Linear(FEATURES, width)
        self.mix = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 1, bias=False)
        self.ages = nn.Parameter(0.1 * torch.randn(history + 1, width, dtype=torch.float32))
        zero(self.out)

    def memory(self, p: Tensor) -> dict[str, Tensor]:
        """Return the ``history [history, 4, *shape]``, the newest first."""
        return {"history": p.new_zeros((self.history, FEATURES, *p.shape))}

    def step_tensor(self, at: TensorStep, told: None) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`UpdateRule.step_tensor`."""
        now = advance(at)
        seen = _features(now)  # [4, *shape]
        history = torch.cat([seen[None], widened(at.state["history"])])
        u = self._block(history, now, at)
        if self.nominal:
            u = now.direction + u
        return at.moved(u), dict(exp_avg=now.m, exp_avg_sq=now.v, history=history[:-1])

    def _block(self, history: Tensor, now: Moments, at: TensorStep) -> Tensor:
        """Return the block's output, ``[*shape]``; the present is ``history[0]``."""
        kind = history.dtype
        x = history.movedim((0, 1), (-2, -1))  # [*shape, times, features]
        t = now.t.to(kind)
        times = torch.stack([bend(t / 100), at.progress(kind)])
        q = linear(self.query, torch.cat([x[..., 0, :], times.expand(*now.w.shape, NOW)], -1))
        keys = self._by_head(linear(self.key, x) + self.ages.to(kind))
        values = self._by_head(linear(self.value, x))
        scores = (self._by_head(q)[..., None, :, :] * keys).sum(-1)
        scores = scores / math.sqrt(self.width / self.heads)
        ages = torch.arange(self.history + 1, device=x.device, dtype=kind)
        scores = torch.where((ages < t)[:, None], scores, -torch.inf)  # there was nothing before
        weights = torch.softmax(scores, -2)  # [*shape, times, heads]
        z = normalized(q + linear(self.mix, (weights[..., None] * values).sum(-3).flatten(-2)))
        z = z + linear(self.narrow, torch.nn.functional.gelu(linear(self.widen, z)))
        return linear(self.out, z)[..., 0]

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, self.width // self.heads)


def _features(now: Moments) -> Tensor:
    """Return what is kept of a step, ``[4, *shape]``."""
    d = now.root
    x = [now.g / d, now.direction, torch.log(d) / 10, now.w]
    return torch.stack(x).clamp(-HIGHEST, HIGHEST)
