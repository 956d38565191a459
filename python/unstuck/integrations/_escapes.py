"""Escapes of an optimizer whose steps get no closure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from unstuck.optim import ALME


class Escapes:
    """Makes the escapes of an :class:`unstuck.optim.ALME` whose steps get no closure.

    Call it after every step of the optimizer. Where an escape is due, it evaluates `loss` on
    batches of `loader`: a fresh one for every step of the candidates where these are evaluated
    together (:attr:`unstuck.optim.ALME.evaluates_together`), else one for all of an escape.

    Parameters
    ----------
    optimizer : Optimizer
        An ALME, or what ``accelerate`` wraps around it.
    loss : callable
        Takes a batch and returns the loss of the model, a tensor of one number.
    loader : iterable
        Batches; begun anew when it ends.

    Raises
    ------
    TypeError
        When the optimizer is no ALME.

    Examples
    --------
    >>> import torch
    >>> from unstuck.integrations import Escapes
    >>> from unstuck.optim import ALME
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = ALME(model.parameters(), module=model)
    >>> batches = torch.randn(8, 16, 4)
    >>> escapes = Escapes(optimizer, lambda batch: model(batch).square().mean(), batches)
    >>> for batch in batches:
    ...     optimizer.zero_grad()
    ...     loss = model(batch).square().mean()
    ...     loss.backward()
    ...     optimizer.record_loss(loss)
    ...     _ = optimizer.step()
    ...     taken = escapes()
    >>> taken
    False
    """

    def __init__(
        self, optimizer: Optimizer, loss: Callable[[Any], Tensor], loader: Iterable[Any]
    ) -> None:
        inner = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(inner, ALME):
            raise TypeError(
                f"escapes need an unstuck.optim.ALME, not {type(inner).__name__}: pass one to the "
                "training loop"
            )
        self.optimizer, self._loss, self._loader = inner, loss, loader
        self._batches: Iterator[Any] = iter(())

    def __call__(self) -> bool:
        """Make an escape if one is due; return whether a better place was taken.

        Raises
        ------
        ValueError
            When the loader has no batch.
        """
        if not self.optimizer.escape_due:
            return False
        if self.optimizer.evaluates_together:
            return self.optimizer.escape(lambda: self._loss(self._batch()))
        batch = self._batch()
        return self.optimizer.escape(lambda: self._loss(batch))

    def _batch(self) -> Any:
        for batch in self._batches:
            return batch
        self._batches = iter(self._loader)
        for batch in self._batches:
            return batch
        raise ValueError("the loader has no batch to evaluate candidates on")
