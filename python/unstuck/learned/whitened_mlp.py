"""The MLP rule on whitened gradients: correlations of a matrix's rows and columns are taken off."""

from __future__ import annotations

from torch import Tensor

from unstuck.learned import _check, _whitening
from unstuck.learned._moments import TensorStep
from unstuck.learned.mlp import MLP

__all__ = ["WhitenedMLP"]


class WhitenedMLP(MLP):
    r"""The MLP rule, on gradients whose rows and columns are less correlated.

    A gradient :math:`G` with two axes or more is seen as a matrix of its first axis by all others,
    and goes into :class:`MLP` as

    .. math::
        \tilde G = R^{-p}\, G\, C^{-p}, \qquad
        R = \frac{\overline{G G^T}}{\mathrm{tr}/n} + \delta n, \qquad
        C = \frac{\overline{G^T G}}{\mathrm{tr}/n} + \delta n, \qquad \delta = 10^{-5}.

    The means over time :math:`\overline{\,\cdot\,}` look at every tenth gradient and keep 0.88 (the
    plain mean, as long as that forgets more), and have a mean eigenvalue of 1, so that lengths of
    gradients stay. The roots are renewed at looks 1, 2, 4, 8, 16 and at every 20th, which is every
    200 steps. A side longer than 64 is left as it is, and so are vectors. A gradient that is
    not finite spoils its whole matrix, but nothing that is kept.

    With :math:`p = 1/4` this is Shampoo's preconditioner, with 0 nothing. An untrained rule is Adam
    on whitened gradients. Unlike that of :class:`MLP` its step is not one pass over memory: for a
    matrix of r by c, both whitened, it takes :math:`2 r c\,(r + c)` operations a step, a twentieth
    more for looks, and has ``2 (r^2 + c^2)`` numbers of memory. On the CPU all that is native for
    contiguous float32, but for the eigenvalues, which are torch's.

    Parameters
    ----------
    hidden, control, scale, fade
        As for :class:`MLP`.
    power : float
        p, above 0 and at most 0.5.

    Raises
    ------
    TypeError, ValueError
        When one is no number in its range, or no whole number.

    Examples
    --------
    >>> import torch
    >>> from unstuck.learned import WhitenedMLP
    >>> rule, w = WhitenedMLP(), [torch.zeros(2, 3)]
    >>> state = rule.init_state(w)
    >>> w, state = rule(w, [torch.tensor([[3.0, 0.1, 0.1], [3.0, 0.1, 0.2]])], state)
    >>> state["rows"][0].shape, state["columns_root"][0].shape
    (torch.Size([2, 2]), torch.Size([3, 3]))

    Notes
    -----
    Gupta, Koren, Singer, "Shampoo: preconditioned stochastic tensor optimization" (2018). Half of
    its power was better on small classifiers (docs/meta-training.md).
    """

    name = "whitened-mlp"
    beside = ("stats", *_whitening.NAMES)

    def __init__(
        self,
        hidden: int = 4,
        control: int = 16,
        scale: float = 1.0,
        fade: float = 0.0,
        power: float = 0.125,
    ) -> None:
        super().__init__(hidden, control, scale, fade)
        self._config["power"] = power
        _check.number("power", power, 1e-3, 0.5)
        self.power = power

    def memory(self, p: Tensor) -> dict[str, Tensor]:
        """Return the ``stats``, and of each side that is whitened a mean and a root ``[n, n]``."""
        return {**super().memory(p), **_whitening.memory(p)}

    def step_tensor(self, at: TensorStep, told: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`UpdateRule.step_tensor`."""
        g, memory = _whitening.whitened(at.g, at.state, at.t, self.power, at.w.shape)
        moved, after = super().step_tensor(at._replace(g=g), told)
        return moved, {**after, **memory}
