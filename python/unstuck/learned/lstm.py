"""The coordinatewise LSTM rule: one small recurrent network for every parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unstuck.learned import _check
from unstuck.learned._moments import Moments, TensorStep, advance, bend, widened
from unstuck.learned.rule import UpdateRule

__all__ = ["FEATURES", "LSTM"]

FEATURES = {"gradient": 2, "log": 3, "rich": 8}
"""Feature sets, and how many numbers each hands to the network."""

LEAST = 1e-16  # gradients below it count as zero
HIGHEST = 10.0


class LSTM(UpdateRule):
    r"""A recurrent network that reads one coordinate's gradient and writes its update.

    All coordinates share the weights; each has its own memory :math:`h, c` of `hidden` numbers.

    .. math::
        (i, f, o, z) &= \mathrm{split}(W x_t + U h_{t-1} + b), \qquad
        c_t = \sigma(f)\, c_{t-1} + \sigma(i) \tanh z, \qquad
        h_t = \sigma(o) \tanh c_t \\
        u_t &= n_t + s\, v \cdot h_t, \qquad w \leftarrow w - 10^{-3}\,\mathrm{lr}\, u_t ,

    where :math:`n_t` is Adam's direction with `nominal` and 0 without, and :math:`v` starts at
    zero: an untrained rule is Adam of rate ``1e-3 * lr``, or stands still.

    Feature sets, :math:`x_t`:

    - ``"gradient"``: :math:`(g, w)`.
    - ``"log"``: :math:`(\log|g|, \mathrm{sign}\, g, w)`, so that gradients of all sizes count.
    - ``"rich"``: those of ``"log"``, Adam's direction :math:`m/\sqrt v`, :math:`g/\sqrt v`,
      :math:`\log \sqrt v`, and step count and progress (0 where unknown), bent to [-1, 1].

    Logarithms are divided by 10; what can be large is cut at 10.

    Parameters
    ----------
    features : str
        ``"gradient"``, ``"log"`` or ``"rich"``.
    hidden : int
        Units, 1 to 64.
    nominal : bool, optional
        Whether the network corrects Adam's direction instead of making its own. None: with
        ``"rich"`` alone.
    scale : float
        :math:`s`.

    Raises
    ------
    TypeError, ValueError
        When an argument is out of its range.

    Examples
    --------
    >>> import torch
    >>> from unstuck.learned import LSTM
    >>> rule, w = LSTM("log", hidden=8), [torch.ones(3)]
    >>> w, state = rule(w, [torch.ones(3)], rule.init_state(w))
    >>> state["hidden"][0].shape
    torch.Size([8, 3])

    Notes
    -----
    Andrychowicz et al., "Learning to learn by gradient descent by gradient descent" (2016).
    """

    name = "lstm"
    like = ("exp_avg", "exp_avg_sq")
    beside = ("hidden", "cell")

    def __init__(
        self,
        features: str = "log",
        hidden: int = 20,
        nominal: bool | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(features=features, hidden=hidden, nominal=nominal, scale=scale)
        if features not in FEATURES:
            raise ValueError(f"Unknown features: {features!r}; they are one of {list(FEATURES)}")
        _check.whole("hidden", hidden, 1, 64)
        _check.flag("nominal", nominal)
        _check.positive("scale", scale)
        self.features, self.hidden, self.scale = features, hidden, float(scale)
        self.nominal = features == "rich" if nominal is None else nominal
        self.gates_in = nn.Linear(FEATURES[features], 4 * hidden)
        self.gates_hidden = nn.Linear(hidden, 4 * hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.gates_in.bias[hidden : 2 * hidden] += 1  # remember at first

    def memory(self, p: Tensor) -> dict[str, Tensor]:
        """Return ``hidden`` and ``cell``, both ``[hidden, *shape]``."""
        return {key: p.new_zeros((self.hidden, *p.shape)) for key in self.beside}

    def step_tensor(self, at: TensorStep, told: None) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`UpdateRule.step_tensor`."""
        now = advance(at)
        h, c = self._cell(self._features(now, at), at.state["hidden"], at.state["cell"])
        u = self.scale * (h @ self.out.weight.to(h.dtype)[0])
        if self.nominal:
            u = now.direction + u
        hidden, cell = h.movedim(-1, 0), c.movedim(-1, 0)
        return at.moved(u), dict(exp_avg=now.m, exp_avg_sq=now.v, hidden=hidden, cell=cell)

    def _features(self, now: Moments, at: TensorStep) -> Tensor:
        """Return what the network reads of each coordinate, [*shape, features]."""
        w, g = now.w, now.g
        if self.features == "gradient":
            return torch.stack([_cut(g), _cut(w)], -1)
        tiny = g.abs() < LEAST
        size = torch.log(torch.where(tiny, LEAST, g.abs())) / 10
        x = [size, torch.where(tiny, 0, g.sign()), _cut(w)]
        if self.features == "rich":
            d = now.root
            x += [_cut(now.direction), _cut(g / d), torch.log(d) / 10]
            times = bend(now.t.to(w.dtype) / 100), at.progress(w.dtype)
            x += [y.expand_as(w) for y in times]
        return torch.stack(x, -1)

    def _cell(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden and cell after a step, [*shape, hidden]."""
        h, c = widened(h).movedim(0, -1), widened(c).movedim(0, -1)
        kind = x.dtype
        gates = (
            x @ self.gates_in.weight.to(kind).T
            + self.gates_in.bias.to(kind)
            + h @ self.gates_hidden.weight.to(kind).T
        )
        i, f, o, z = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
        return torch.sigmoid(o) * torch.tanh(c), c


def _cut(x: Tensor) -> Tensor:
    return x.clamp(-HIGHEST, HIGHEST)
