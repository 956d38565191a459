"""A gradient optimizer that looks around when two plateaus follow one another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD

from unstuck.optim._candidates import Settings
from unstuck.optim._escape import Escaping
from unstuck.optim._hybrid import Base, Batch
from unstuck.optim._validate import non_negative, positive
from unstuck.search._plateau import Plateau

__all__ = ["ReactiveEscape"]


class ReactiveEscape(Escaping):
    r"""Reactive escape: gradient steps until plateaus in a row, then attention steps, and again.

    The gradient optimizer `base` steps until the mean loss of a window of steps has not fallen by
    more than `tol` of its size, `plateaus` times in a row. The next step looks around: from the
    parameters :math:`w` it makes `escape_steps` attention steps on one batch,

    .. math::
        w_i = w + \sigma_i \epsilon_i, \qquad a = \mathrm{softmax}(-\beta L(w_i)), \qquad
        w \leftarrow \sum_i a_i w_i ,

    and takes the best place it has seen if that beats where it stood on the same batch. Otherwise
    the parameters, and the state of `base`, stay bit for bit.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or dictionaries of parameter groups.
    base : class, callable or Optimizer
        The gradient optimizer: a class of ``torch.optim`` (``SGD``, ``Adam``, ``LBFGS``), a
        function of the parameters, or an optimizer of the same parameters.
    lr : float or Tensor, optional
        Learning rate given to `base`; None leaves it to the default of `base`.
    window : int
        Steps in a window.
    tol : float
        Relative fall of the mean loss from one window to the next that is no plateau.
    plateaus : int
        Plateaus in a row before an escape is tried.
    escape_steps : int
        Attention steps of one escape.
    popsize : int
        Candidates of an attention step, an even number (they come in pairs of opposite noise).
    sigma : float
        Standard deviation of the first half of the candidates, in units of the parameters.
    explore : float
        That of the second half, in units of `sigma`.
    beta : float, optional
        Inverse temperature in 1 / loss. By default it is set at every attention step so that the
        effective number of candidates is `share` of those with a finite loss.
    share : float
        In (0, 1]; see `beta`.
    seed : int
        Key of the noise, 0 to 2^64 - 1. The same seed gives the same candidates on every device,
        and after loading a state.
    module : nn.Module, optional
        The model that the closure reads. All candidates are then evaluated together, as by
        :class:`unstuck.population.PopulationLoss`.

    Raises
    ------
    ValueError, TypeError
        For values out of range; in :meth:`step` see there.

    Examples
    --------
    >>> import torch
    >>> from unstuck.optim import ReactiveEscape
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 3.0]))
    >>> def rastrigin():
    ...     return (10 + w**2 - 10 * torch.cos(2 * torch.pi * w)).sum()
    >>> optimizer = ReactiveEscape([w], lr=1e-3, sigma=0.5)
    >>> for _ in range(300):
    ...     loss = optimizer.step(rastrigin)
    >>> optimizer.escapes > 0 and rastrigin().item() < 2.0
    True

    Notes
    -----
    A candidate whose loss is NaN or infinite gets weight zero. Where all are, the parameters stay
    and the reason is in ``history``. All candidates see the dropout masks and the buffers (running
    statistics) of the place they start from, and leave both as they were. An escape clears the
    state of `base`, whose moments belong to another place. On several processes the closure must
    return the same loss on all (all-reduce it).

    Gradient descent with a reactive escape by attention search, as in the hybrid experiments on the
    trapped loss.
    """

    _settings = ("_candidates", "plateau", "plateaus", "escape_steps")

    def __init__(
        self,
        params: Iterable[Any],
        base: Base = SGD,
        *,
        lr: float | Tensor | None = None,
        window: int = 10,
        tol: float = 1e-3,
        plateaus: int = 2,
        escape_steps: int = 10,
        popsize: int = 32,
        sigma: float = 0.1,
        explore: float = 5.0,
        beta: float | None = None,
        share: float = 0.25,
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        positive("window", window)
        positive("plateaus", plateaus)
        positive("escape_steps", escape_steps)
        non_negative("tol", tol)
        self.plateau = Plateau(window, tol)
        self.plateaus, self.escape_steps = plateaus, escape_steps
        candidates = Settings(popsize, sigma, explore, beta, share, seed)
        super().__init__(params, base, lr, candidates, Plateau.fresh(), module)

    def _advance(self, batch: Batch) -> None:
        search = self._search
        if search["plateaus"] < self.plateaus:
            self.plateau.see(search, self._descend(batch))
            return
        escaped = self._look_around(batch, self.escape_steps, self._candidates.sigma, forget=True)
        self.plateau.begin(search, elsewhere=escaped)
