"""Escapes of ALME within the Trainer of ``transformers``, which steps without a closure."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from unstuck._extras import require
from unstuck.integrations._escapes import Escapes

__all__ = ["EscapeCallback"]


def _transformers() -> Any:
    return require("transformers", extra="integrations", purpose="EscapeCallback")


_Callback: Any = _transformers().TrainerCallback if find_spec("transformers") else object


class EscapeCallback(_Callback):  # type: ignore[misc]
    """Makes the escapes of ALME after steps of a ``transformers.Trainer``.

    Parameters
    ----------
    loss : callable, optional
        Takes the model and a batch and returns the loss; by default ``model(**batch)`` and its
        ``loss``, as the Trainer does it.

    Raises
    ------
    MissingExtraError
        When ``transformers`` is not installed.
    TypeError
        When training begins, if the Trainer's optimizer is no ALME.

    Examples
    --------
    ``Trainer(model, arguments, optimizers=(ALME(model.parameters(), module=model), None),
    callbacks=[EscapeCallback()], ...)``

    >>> from unstuck.integrations.huggingface import EscapeCallback
    >>> callable(EscapeCallback.on_step_end)
    True
    """

    def __init__(self, loss: Callable[[Any, Any], Tensor] | None = None) -> None:
        _transformers()  # or an error that says what to install
        self._loss = _loss_of if loss is None else loss
        self.escapes: Escapes | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take hold of model, optimizer and batches."""
        model = kwargs["model"]
        loader = kwargs["train_dataloader"]
        self.escapes = Escapes(kwargs["optimizer"], lambda b: self._loss(model, b), loader)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make an escape if one is due."""
        if self.escapes is not None:
            self.escapes()


def _loss_of(model: Any, batch: Any) -> Tensor:
    outputs = model(**batch)
    loss: Tensor = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
    return loss
