"""Gradient descent to a minimum, a new start by attention search around it, and again."""

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

__all__ = ["AttentionRestart"]


class AttentionRestart(Escaping):
    r"""Attention restart: cycles of descent to a minimum and a search for a better start.

    In each cycle the gradient optimizer `base` steps until the mean loss of a window of steps has
    not fallen by more than `tol` of its size, or for `gradient_steps` steps. The next step
    re-places the start: from the minimum it makes `attention_steps` attention steps on one batch,
    as :class:`ReactiveEscape` does, and takes the best place it has seen if that beats the minimum
    on the same batch; the next cycle starts there, with a fresh `base`. Otherwise the parameters,
    and the state of `base`, stay bit for bit, and the next restart looks `growth` times as far, up
    to `reach` times as far as the first, and then near again.

    Parameters
    ----------
    params, base, lr, window, popsize, explore, beta, share, seed, module
        As for :class:`ReactiveEscape`.
    gradient_steps : int
        Gradient steps in a cycle at most.
    tol : float
        Relative fall of the mean loss from one window to the next that is still a descent.
    attention_steps : int
        Attention steps of one restart.
    growth : float
        Factor of `sigma` after a restart that found nothing better, at least 1.
    reach : float
        Where that ends, at least 1.
    sigma : float
        Standard deviation of the first half of the candidates in a first restart, in units of the
        parameters.

    Raises
    ------
    ValueError, TypeError
        For values out of range; in :meth:`step` see there.

    Examples
    --------
    >>> import torch
    >>> from unstuck.optim import AttentionRestart
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 3.0]))
    >>> def rastrigin():
    ...     return (10 + w**2 - 10 * torch.cos(2 * torch.pi * w)).sum()
    >>> optimizer = AttentionRestart([w], lr=1e-3)
    >>> for _ in range(300):
    ...     loss = optimizer.step(rastrigin)
    >>> optimizer.escapes > 0 and loss.item() < 2.0
    True

    Notes
    -----
    Losses that are not finite, dropout, buffers and several processes: see :class:`ReactiveEscape`.

    The restarts by attention search of the hybrid experiments on the trapped loss; that they look
    further after a failure is as in variable neighbourhood search (Mladenovic and Hansen, 1997).
    """

    _settings = (
        "_candidates",
        "plateau",
        "gradient_steps",
        "attention_steps",
        "growth",
        "reach",
    )

    def __init__(
        self,
        params: Iterable[Any],
        base: Base = SGD,
        *,
        lr: float | Tensor | None = None,
        gradient_steps: int = 200,
        window: int = 10,
        tol: float = 1e-3,
        attention_steps: int = 10,
        growth: float = 2.0,
        reach: float = 32.0,
        popsize: int = 32,
        sigma: float = 0.1,
        explore: float = 5.0,
        beta: float | None = None,
        share: float = 0.25,
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        positive("gradient_steps", gradient_steps)
        positive("window", window)
        positive("attention_steps", attention_steps)
        non_negative("tol", tol)
        for name, value in (("growth", growth), ("reach", reach)):
            non_negative(name, value)
            if value < 1:
                raise ValueError(f"Invalid {name}: {value}; it must be at least 1")
        self.plateau = Plateau(window, tol)
        self.gradient_steps, self.attention_steps = gradient_steps, attention_steps
        self.growth, self.reach = growth, reach
        candidates = Settings(popsize, sigma, explore, beta, share, seed)
        search = {**Plateau.fresh(), "descended": 0, "widened": 1.0}
        super().__init__(params, base, lr, candidates, search, module)

    def _advance(self, batch: Batch) -> None:
        search = self._search
        if search["plateaus"] == 0 and search["descended"] < self.gradient_steps:
            self.plateau.see(search, self._descend(batch))
            search["descended"] += 1
            return
        sigma = self._candidates.sigma * search["widened"]
        escaped = self._look_around(batch, self.attention_steps, sigma, forget=True)
        self.plateau.begin(search, elsewhere=escaped)
        search["descended"] = 0
        wider = search["widened"] * self.growth
        search["widened"] = 1.0 if escaped or wider > self.reach else wider
