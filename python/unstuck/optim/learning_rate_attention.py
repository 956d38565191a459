"""A gradient step whose length is a softmax-weighted mean of several that were tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from unstuck.optim._hybrid import Base, Batch, Hybrid, Record
from unstuck.optim._trials import copies
from unstuck.search._rates import Rates

__all__ = ["LearningRateAttention"]

OCTAVES = (-4, 4)  # K rates go from lr / 16 to 16 lr


class LearningRateAttention(Hybrid):
    r"""Learning-rate attention: at every step try K rates, and take their weighted mean.

    With the update :math:`u` that the gradient optimizer `base` would make at its learning rate
    lr (for gradient descent :math:`u = -\mathrm{lr}\,g`) and the rates
    :math:`\mathrm{lr}_k = f_k\,\mathrm{lr}`,

    .. math::
        L_k = L(w + f_k u), \qquad p = \mathrm{softmax}(-\beta L), \qquad
        w \leftarrow w + \Big(\sum_k p_k f_k\Big) u .

    The factors :math:`f_k` stay, so that a scheduler of lr moves all rates. A step costs K losses
    more than one of `base`.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or dictionaries of parameter groups.
    base : class, callable or Optimizer
        The gradient optimizer: a class of ``torch.optim`` (``SGD``, ``Adam``, ``LBFGS``), a
        function of the parameters, or an optimizer of the same parameters.
    lr : float or Tensor, optional
        Learning rate given to `base`; None leaves it to the default of `base`.
    rates : int or sequence of float
        How many rates K, from lr / 16 to 16 lr in equal ratios; or the rates themselves, at least
        0, kept as multiples of the lr of the first parameter group. A rate of 0 lets a step stand
        still.
    beta : float, optional
        Inverse temperature in 1 / loss. By default it is set at every step so that the
        effective number of rates is `share` of those with a finite loss.
    share : float
        In (0, 1]; see `beta`.
    module : nn.Module, optional
        The model that the closure reads. All rates are then evaluated together, as by
        :meth:`unstuck.population.PopulationLoss.line`.

    Raises
    ------
    ValueError, TypeError
        For values out of range; in :meth:`step` see there.

    Examples
    --------
    >>> import torch
    >>> from unstuck.optim import LearningRateAttention
    >>> model = torch.nn.Linear(8, 1)
    >>> x, y = torch.randn(64, 8), torch.randn(64, 1)
    >>> optimizer = LearningRateAttention(
    ...     model.parameters(), base=torch.optim.Adam, rates=16, lr=1e-3, module=model
    ... )
    >>> for _ in range(3):
    ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
    >>> 1e-3 / 16 <= optimizer.history[-1].rate <= 16e-3
    True

    Notes
    -----
    A rate whose loss is NaN or infinite gets weight zero. Where all are, or the gradient is not
    finite, the parameters stay bit for bit and the reason is in ``history``. Losses of all rates
    are taken on the batch, with the dropout masks and with the buffers of the gradient. On several
    processes the closure must return the same loss on all (all-reduce it).

    Learning-rate attention as in the attention-search experiments; the temperature by effective
    sample size follows sequential Monte Carlo practice (Kong, Liu and Wong, 1994).
    """

    _draws_noise = False
    _settings = ("_rates", "_factors")

    def __init__(
        self,
        params: Iterable[Any],
        base: Base = SGD,
        *,
        rates: int | Sequence[float] = 9,
        lr: float | Tensor | None = None,
        beta: float | None = None,
        share: float = 0.25,
        module: nn.Module | None = None,
    ) -> None:
        self._rates = Rates.read(rates, beta, share)
        super().__init__(params, base, lr, {"kind": "rates"}, module)
        self._factors = self._rates.factors(self._rate, *OCTAVES)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if group is self.param_groups[0]:
            self._rates.check(self._rate)

    def _advance(self, batch: Batch) -> None:
        before = batch.start()
        if not batch.finite:
            self.history.append(
                Record("rates", before * self._sign, 0.0, False, "loss or gradient not finite")
            )
            return
        trials = batch.trials()
        rate = self._rate
        self._base_step(batch)
        ends = copies(self._params)
        moved = list(zip(batch.params, trials.start, ends, strict=True))

        def go(factor: float) -> None:
            for p, start, end in moved:
                p.copy_(torch.lerp(start, end, factor))

        with trials:
            if (population := self._population_of(batch)) is None:
                losses = []
                for factor in self._factors:
                    go(factor)
                    losses.append(trials.loss())
                told = torch.stack(losses)
            else:
                trials.write(trials.start)
                back = [start - end for start, end in zip(trials.start, ends, strict=True)]
                told = population.line(back, population.point().new_tensor(self._factors)).double()
                trials.count += len(self._factors)
            weights = self._rates.weigh(told * self._sign)
        self._search["nfev"] += trials.count
        factor = math.fsum(p * f for p, f in zip(weights.tolist(), self._factors, strict=True))
        good = bool(weights.any())
        if good:
            go(factor)
        else:
            trials.write(trials.start)
        reason = "" if good else "no rate has a finite loss"
        self.history.append(Record("rates", before * self._sign, factor * rate, good, reason))
