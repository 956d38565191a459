"""A gradient optimizer and attention search, in turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, SGD

from unstuck.optim._candidates import Settings
from unstuck.optim._escape import Escaping
from unstuck.optim._hybrid import Base, Batch
from unstuck.optim._validate import positive

__all__ = ["Alternating"]


class Alternating(Escaping):
    r"""Alternate gradient steps and attention steps in a fixed cycle.

    A cycle is `gradient_steps` steps of the gradient optimizer `base`, then `attention_steps` steps
    that each draw candidates around the parameters, weighed as by :class:`ReactiveEscape`, and take
    their weighted mean or the best of them, whichever is lower, if that beats where they stood on
    the same batch. Otherwise the parameters stay bit for bit.

    Parameters
    ----------
    params, base, lr, popsize, sigma, explore, beta, share, seed, module
        As for :class:`ReactiveEscape`.
    gradient_steps : int
        Gradient steps in a cycle.
    attention_steps : int
        Attention steps in a cycle; each is one call of :meth:`step`, with a batch of its own.

    Raises
    ------
    ValueError, TypeError
        For values out of range; in :meth:`step` see there.

    Examples
    --------
    >>> import torch
    >>> from unstuck.optim import Alternating
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 3.0]))
    >>> def rastrigin():
    ...     return (10 + w**2 - 10 * torch.cos(2 * torch.pi * w)).sum()
    >>> optimizer = Alternating([w], lr=1e-3, sigma=0.5)
    >>> for _ in range(300):
    ...     loss = optimizer.step(rastrigin)
    >>> optimizer.escapes > 0 and loss.item() < 2.0
    True

    Notes
    -----
    Losses that are not finite, dropout, buffers and several processes: see :class:`ReactiveEscape`.
    The moments of `base` outlast an attention step, but for L-BFGS, whose history is of a path
    without jumps.

    The alternating hybrid of gradient descent and attention search, as in the experiments on the
    trapped loss.
    """

    _settings = ("_candidates", "gradient_steps", "attention_steps")

    def __init__(
        self,
        params: Iterable[Any],
        base: Base = SGD,
        *,
        lr: float | Tensor | None = None,
        gradient_steps: int = 10,
        attention_steps: int = 2,
        popsize: int = 32,
        sigma: float = 0.1,
        explore: float = 5.0,
        beta: float | None = None,
        share: float = 0.25,
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        positive("gradient_steps", gradient_steps)
        positive("attention_steps", attention_steps)
        self.gradient_steps, self.attention_steps = gradient_steps, attention_steps
        candidates = Settings(popsize, sigma, explore, beta, share, seed)
        super().__init__(params, base, lr, candidates, {"position": 0}, module)

    def _advance(self, batch: Batch) -> None:
        search = self._search
        if search["position"] < self.gradient_steps:
            self._descend(batch)
        else:
            forget = isinstance(self._base, LBFGS)
            self._look_around(batch, 1, self._candidates.sigma, forget)
        cycle = self.gradient_steps + self.attention_steps
        search["position"] = (search["position"] + 1) % cycle
