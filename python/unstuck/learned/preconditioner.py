"""A rule in the manner of Optimus: attention predicts a low-rank preconditioner beside the step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unstuck.learned import _check
from unstuck.learned._layers import linear, normalized, zero
from unstuck.learned._moments import Moments, TensorStep, advance, bend, root
from unstuck.learned.rule import UpdateRule

__all__ = ["Preconditioner"]

FEATURES = 5  # of a coordinate
TIMES = 2
HIGHEST = 10.0
MOST = 3.0  # of the logarithm of a curvature's correction


class _Told(NamedTuple):
    """What a tensor knows before it steps."""

    now: Moments
    tokens: Tensor  # [n, width]
    mean: Tensor  # [width]


class Preconditioner(UpdateRule):
    r"""Attention across coordinates and tensors that learns a quasi-Newton method.

    Every coordinate is a token of Adam's direction, the gradient, the change of the gradient since
    the last step and that step :math:`u'` (what BFGS is made of), and its parameter:
    :math:`(a, g/\sqrt v, \Delta g/\sqrt v, u', w)`. Tokens look at
    their tensor by linear attention, the tensors' means look at each other by attention, and what
    comes out, :math:`z_i`, predicts a correction of the step and, for each of `rank` factors, an
    addition to a vector :math:`\ell_r` of the tensor's shape that is kept:

    .. math::
        \ell_r \leftarrow \rho_r\, \ell_r + L_r z, \qquad
        u = P\,\big(a + d \cdot z\big), \qquad
        P = I + \sum_r (e^{\kappa_r} - 1)\, \hat\ell_r \hat\ell_r^T, \qquad
        w \leftarrow w - 10^{-3}\,\mathrm{lr}\, u ,

    one preconditioner a tensor, with :math:`\hat\ell_r = \ell_r / \lVert\ell_r\rVert` and
    :math:`\kappa_r` asked of the tensor's token. Where factors are orthogonal,
    :math:`e^{\kappa_r}` is how much longer or shorter steps along :math:`\ell_r` are. Layers that
    predict corrections start at zero: an untrained rule is Adam of rate ``1e-3 * lr``.

    Coordinates may be renumbered and tensors reordered: the rule does the same with the step. Time
    is linear in the number of coordinates.

    Parameters
    ----------
    width : int
        Of tokens, 2 to 128.
    rank : int
        Factors of a preconditioner, 1 to 16; memory is ``4 + rank`` numbers a parameter.

    Raises
    ------
    TypeError, ValueError
        When an argument is out of its range.

    Examples
    --------
    >>> import torch
    >>> from unstuck.learned import Preconditioner
    >>> rule, w = Preconditioner(rank=2), [torch.ones(3)]
    >>> w, state = rule(w, [torch.ones(3)], rule.init_state(w))
    >>> state["factors"][0].shape
    torch.Size([2, 3])

    Notes
    -----
    Gärtner, Metz, Andriluka, Freeman, Sminchisescu: "Transformer-based learned optimization" (2023)
    predict a dense preconditioner's updates by full attention over coordinates.
    """

    name = "preconditioner"
    like = ("exp_avg", "exp_avg_sq", "last_grad", "last_step")
    beside = ("factors",)

    def __init__(self, width: int = 16, rank: int = 3) -> None:
        super().__init__(width=width, rank=rank)
        _check.whole("width", width, 2, 128)
        _check.whole("rank", rank, 1, 16)
        self.width, self.rank = width, rank
        self.token = nn.Linear(FEATURES + TIMES, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.across = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.widen = nn.Linear(2 * width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.step_out = nn.Linear(width, 1, bias=False)
        self.factor_out = nn.Linear(width, rank, bias=False)
        self.curvature_out = nn.Linear(width, rank)
        self.keep = nn.Parameter(torch.full((rank,), 2.0, dtype=torch.float32))
        zero(self.step_out, self.curvature_out)

    def memory(self, p: Tensor) -> dict[str, Tensor]:
        """Return the ``factors [rank, *shape]``."""
        return {"factors": p.new_zeros((self.rank, *p.shape))}

    def between(self, tensors: Sequence[TensorStep]) -> list[_Told]:
        """Return each tensor's tokens, and their mean after it has seen those of the others."""
        now = [advance(at) for at in tensors]
        tokens = [self._tokens(x, at) for x, at in zip(now, tensors, strict=True)]
        means = self._across([x.mean(-2) if len(x) else x.new_zeros(self.width) for x in tokens])
        return [_Told(*each) for each in zip(now, tokens, means, strict=True)]

    def step_tensor(self, at: TensorStep, told: _Told) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`UpdateRule.step_tensor`."""
        now, z = told.now, told.tokens
        mean = told.mean.to(z.dtype)
        z = torch.cat([z, mean.expand_as(z)], -1)
        z = linear(self.narrow, torch.nn.functional.gelu(linear(self.widen, z)))
        u = now.direction.flatten() + linear(self.step_out, z)[..., 0]
        kept = at.state["factors"].to(z.dtype).reshape(self.rank, now.w.numel())
        factors = torch.sigmoid(self.keep).to(z.dtype)[:, None] * kept
        factors = factors + linear(self.factor_out, z).T  # [rank, n]
        kappa = linear(self.curvature_out, mean).clamp(-MOST, MOST)
        length = root(factors.square().sum(1, keepdim=True))
        unit = factors / torch.where(length > 0, length, 1)
        u = u + (torch.expm1(kappa) * (unit @ u)) @ unit
        u = u.reshape(now.w.shape)
        factors = factors.reshape(self.rank, *now.w.shape)
        moments = dict(exp_avg=now.m, exp_avg_sq=now.v)
        return at.moved(u), dict(moments, last_grad=now.g, last_step=u, factors=factors)

    def _tokens(self, now: Moments, at: TensorStep) -> Tensor:
        """Return a tensor's coordinates after they have looked at each other, ``[n, width]``."""
        d = now.root
        grad, step = (at.state[key].to(d.dtype) for key in ("last_grad", "last_step"))
        change = torch.where(now.t == 1, 0, now.g - grad)
        x = [now.direction, now.g / d, change / d, step, now.w]
        times = bend(now.t.to(d.dtype) / 100), at.progress(d.dtype)
        x += [y.expand_as(d) for y in times]
        features = torch.stack([y.flatten() for y in x], -1).clamp(-HIGHEST, HIGHEST)
        z = linear(self.token, features)
        if not len(z):
            return z
        q, k, v = (layer(normalized(z)) for layer in (self._q, self._k, self._v))
        return z + q @ (k.T @ v) / (q @ k.sum(-2)[:, None])

    def _q(self, z: Tensor) -> Tensor:
        return torch.nn.functional.elu(linear(self.query, z)) + 1

    def _k(self, z: Tensor) -> Tensor:
        return torch.nn.functional.elu(linear(self.key, z)) + 1

    def _v(self, z: Tensor) -> Tensor:
        return linear(self.value, z)

    def _across(self, means: list[Tensor]) -> list[Tensor]:
        """Return the tensors' means after they have looked at each other."""
        kind = functools.reduce(torch.promote_types, (x.dtype for x in means))
        z = torch.stack([x.to(kind) for x in means])
        q, k, v = (linear(layer, normalized(z)) for layer in self.across)  # type: ignore[arg-type]
        return list((z + torch.softmax(q @ k.T / self.width**0.5, -1) @ v).unbind(0))
