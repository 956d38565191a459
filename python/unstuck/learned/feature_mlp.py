"""The per-parameter MLP rule with the long set of features, each normalised over its tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unstuck.learned import _check
from unstuck.learned._layers import linear, zero
from unstuck.learned._moments import EPS, TensorStep, advance, root, widened
from unstuck.learned.rule import UpdateRule

__all__ = ["FeatureMLP"]

TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
SHARE = 0.1  # of a tensor's root mean square, added to what is divided by
LEAST = 1e-12  # added to the root mean square of a feature
LOGIT = 5.0  # bound of the magnitude


class FeatureMLP(UpdateRule):
    r"""Adam's direction plus one that a small network makes of many features of a coordinate.

    With momenta :math:`m_i` at several decays (Adam's among them), Adam's second moment :math:`v`,
    and factored second moments :math:`r_j` (means of :math:`g^2` over the rows of a matrix) and
    :math:`c_j` (over its columns) at several decays, and with :math:`D(x) = \sqrt{x} + 0.1\,
    \mathrm{rms}(\sqrt{x}) + 10^{-8}`, the features are

    .. math::
        g,\; w,\; m_i,\; \sqrt{v},\; 1/D(v),\; m_i/D(v),\; \sqrt{r_j},\; \sqrt{c_j},\; 1/D(r_j),\;
        1/D(c_j),\; \frac{g}{D(r_j) D(c_j)},\; \frac{m_j}{D(r_j) D(c_j)} ,

    each divided by its root mean square over the tensor, and beside them
    :math:`\tanh(t/\tau - 1)` at eleven scales :math:`\tau` and the progress (0 where unknown). One
    or two hidden layers with relu make a direction and a magnitude of them,

    .. math::
        (d, s) = \mathrm{MLP}(\mathrm{features}), \qquad
        u = a + d\, e^{s}, \qquad w \leftarrow w - 10^{-3}\,\mathrm{lr}\, u ,

    where :math:`a` is Adam's direction. The last layer starts at zero: an untrained rule is
    ``torch.optim.Adam(lr=1e-3 * lr)``. A tensor with more than two axes is the matrix of its first
    axis and the others, a vector the matrix of one column.

    There is no native step. :class:`MLP` reads a third of this in one pass over memory.

    Parameters
    ----------
    hidden : int
        Units of a hidden layer, 1 to 256.
    layers : int
        Hidden layers, 1 or 2.
    momenta : sequence of float
        Decays in [0, 1) beside Adam's 0.9; memory is as many numbers a parameter, and two.
    factored : sequence of float
        Decays of the factored second moments, and of momenta that are divided by them: as many as
        there are momenta with Adam's.

    Raises
    ------
    TypeError, ValueError
        When an argument is out of its range.

    Examples
    --------
    >>> import torch
    >>> from unstuck.learned import FeatureMLP
    >>> rule, w = FeatureMLP(), [torch.ones(4, 3)]
    >>> w, state = rule(w, [torch.ones(4, 3)], rule.init_state(w))
    >>> state["momenta"][0].shape, state["rows"][0].shape, state["columns"][0].shape
    (torch.Size([2, 4, 3]), torch.Size([3, 4]), torch.Size([3, 3]))

    Notes
    -----
    The features are those of ``small_fc_lopt``: Metz et al., "Practical tradeoffs between memory,
    compute, and performance in learned optimizers" (2022), with its sizes and decays as defaults.
    Other than there, second moments enter as roots, and what is divided by has a floor that goes
    with the tensor, so that nothing but Adam's 1e-8 depends on the scale of the loss; the step has
    Adam's as its nominal part; decays are not learned.
    """

    name = "feature-mlp"
    like = ("exp_avg", "exp_avg_sq")
    beside = ("momenta", "rows", "columns")

    def __init__(
        self,
        hidden: int = 4,
        layers: int = 2,
        momenta: Sequence[float] = (0.99, 0.999),
        factored: Sequence[float] = (0.9, 0.99, 0.999),
    ) -> None:
        super().__init__(
            hidden=hidden, layers=layers, momenta=list(momenta), factored=list(factored)
        )
        _check.whole("hidden", hidden, 1, 256)
        _check.whole("layers", layers, 1, 2)
        for name, decays in (("momenta", momenta), ("factored", factored)):
            _check.decays(name, decays)
        if len(factored) != len(momenta) + 1:
            raise ValueError(
                f"factored must have one decay for each momentum, Adam's with them: "
                f"{len(momenta) + 1}, not {len(factored)}"
            )
        self.momenta, self.factored = list(momenta), list(factored)
        kinds = len(factored)
        self.whole_in = nn.Linear(4 + 4 * kinds, hidden, bias=False)
        self.row_in = nn.Linear(2 * kinds, hidden, bias=False)
        self.column_in = nn.Linear(2 * kinds, hidden, bias=False)
        self.time_in = nn.Linear(len(TIMES) + 1, hidden)
        self.between_layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.out = nn.Linear(hidden, 2)
        zero(self.out)

    def memory(self, p: Tensor) -> dict[str, Tensor]:
        """Return ``momenta [n, *shape]``, ``rows [k, first]`` and ``columns [k, others]``."""
        rows, columns = _matrix(p.shape)
        kinds = len(self.factored)
        return {
            "momenta": p.new_zeros((len(self.momenta), *p.shape)),
            "rows": p.new_zeros((kinds, rows)),
            "columns": p.new_zeros((kinds, columns)),
        }

    def step_tensor(self, at: TensorStep, told: None) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`UpdateRule.step_tensor`."""
        now = advance(at)
        rows, columns = _matrix(now.w.shape)
        g, w, m, v = (x.reshape(rows, columns) for x in (now.g, now.w, now.m, now.v))
        slow = widened(at.state["momenta"]).reshape(len(self.momenta), rows, columns)
        slow = slow + (1 - _column(self.momenta, slow)) * (g - slow)
        squares, keep = _finite(g * g), _column(self.factored, g)[..., 0]
        r = keep * widened(at.state["rows"]) + (1 - keep) * squares.sum(1) / max(columns, 1)
        c = keep * widened(at.state["columns"]) + (1 - keep) * squares.sum(0) / max(rows, 1)

        moments = torch.cat([m[None], slow])
        over_v, over_r, over_c = _reciprocal(v[None], 2), _reciprocal(r, 1), _reciprocal(c, 1)
        factor = over_r[:, :, None] * over_c[:, None, :]
        whole = [torch.stack([g, w, root(v)]), over_v, moments, moments * over_v]
        whole += [g * factor, moments * factor]
        t = at.t.to(g.dtype)
        times = [torch.tanh(t / scale - 1) for scale in TIMES] + [at.progress(g.dtype)]

        hidden = (
            _normalized(self.whole_in, torch.cat(whole))  # [rows, columns, hidden]
            + _normalized(self.row_in, torch.cat([root(r), over_r]))[:, None]
            + _normalized(self.column_in, torch.cat([root(c), over_c]))
            + linear(self.time_in, torch.stack(times))
        )
        hidden = torch.relu(hidden)
        for layer in self.between_layers:
            hidden = torch.relu(linear(layer, hidden))  # type: ignore[arg-type]
        d, s = linear(self.out, hidden).unbind(-1)
        u = now.direction + (d * torch.exp(s.clamp(-LOGIT, LOGIT))).reshape(now.w.shape)
        kept = slow.reshape(len(self.momenta), *now.w.shape)
        moments_of_adam = dict(exp_avg=now.m, exp_avg_sq=now.v)
        return at.moved(u), dict(moments_of_adam, momenta=kept, rows=r, columns=c)


def _matrix(shape: torch.Size) -> tuple[int, int]:
    """Return the shape of the matrix that a tensor is seen as."""
    if len(shape) < 2:
        return shape.numel(), 1
    return shape[0], math.prod(shape[1:])


def _column(decays: Sequence[float], like: Tensor) -> Tensor:
    """Return decays ``[n, 1, 1]``."""
    return torch.tensor(decays, dtype=like.dtype, device=like.device)[:, None, None]


def _mean_square(x: Tensor, dims: int) -> Tensor:
    """Return the mean square over the last axes, which stay with length 1; 0 of nothing."""
    over = tuple(range(-dims, 0))
    return _finite(x.square()).sum(over, keepdim=True) / max(math.prod(x.shape[-dims:]), 1)


def _finite(x: Tensor) -> Tensor:
    """Leave out of a sum what is not finite: it shall not take other coordinates with it."""
    return torch.where(x.isfinite(), x, 0)


def _reciprocal(squares: Tensor, dims: int) -> Tensor:
    """Return 1 over the root, with a floor that goes with the tensor (its last axes)."""
    x = root(squares)
    return 1 / (x + SHARE * root(_mean_square(x, dims)) + EPS)


def _normalized(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return a layer's output for features ``x [n, *shape]``, each over its root mean square."""
    rms = root(_mean_square(x, x.ndim - 1)).reshape(-1) + LEAST
    return x.movedim(0, -1) @ (layer.weight.to(x.dtype) / rms).T
