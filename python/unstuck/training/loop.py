"""The training loop: one model, one optimizer, one data set."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from unstuck.problems import Split, Splits
from unstuck.training.history import History

Criterion = Callable[[Tensor, Tensor], Tensor]
Probe = Callable[[Optimizer], float]

EVALUATION_ROWS = 2048  # rows per forward pass when a loss is measured; bounds the memory


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    data: Splits,
    *,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
    criterion: Criterion = functional.cross_entropy,
    scheduler: LRScheduler | None = None,
    meta_every: int = 0,
    closure: bool = False,
    probes: Mapping[str, Probe] | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a classifier, and measure it on every part of the data after every epoch.

    Every epoch visits every training row once, in an order that depends on ``seed`` alone, so
    that optimizers given the same seed see the same batches. Batches are slices of tensors that
    stay on their device; a loss is read from the device once an epoch.

    An optimizer with a ``record_loss`` method is told the loss of each batch before the step.

    Parameters
    ----------
    model : torch.nn.Module
        Maps inputs to logits; trained in place.
    optimizer : torch.optim.Optimizer
        Over the parameters of ``model``.
    data : Splits
        From :func:`unstuck.problems.load_data`.
    epochs : int
        Passes over the training rows.
    batch_size : int
        Rows per step; the last batch of an epoch may be smaller.
    seed : int
        Seed of the order of the batches.
    criterion : callable
        Mean loss from logits and classes.
    scheduler : torch.optim.lr_scheduler.LRScheduler, optional
        Stepped after every batch (:func:`steps` says how many there will be).
    meta_every : int
        After every so many steps, compute the gradient at the new parameters on a batch of
        ``data.meta`` and hand it over by ``optimizer.meta_step()``; 0 for never.
    closure : bool
        Hand the optimizer a closure that evaluates loss and gradient, as LBFGS needs.
    probes : mapping of str to callable, optional
        Read from the optimizer after every epoch into ``History.probes``.
    on_epoch : callable, optional
        Called with the history so far before the first and after every epoch; may raise to stop.

    Returns
    -------
    History
        Ends early, with ``diverged`` set, when a loss is NaN or infinite.

    Raises
    ------
    ValueError
        For counts below their minimum, or ``meta_every`` without meta rows or ``meta_step``.

    Examples
    --------
    >>> import torch
    >>> from unstuck.problems import load_data, make_model
    >>> data = load_data("digits")
    >>> model = make_model("logistic", data)
    >>> history = fit(model, torch.optim.SGD(model.parameters(), lr=0.1), data, epochs=2)
    >>> history.at("last").validation_loss < history.validation_loss[0]
    True
    """
    if epochs < 1 or batch_size < 1 or meta_every < 0:
        raise ValueError(
            f"epochs={epochs} and batch_size={batch_size} must be 1 or more, "
            f"meta_every={meta_every} must be 0 or more"
        )
    batches = Batches(data.train, batch_size, seed, stream=0)
    meta = None
    if meta_every:
        if data.meta is None:
            raise ValueError("meta_every needs meta rows: load_data(..., meta=0.2)")
        if not hasattr(optimizer, "meta_step"):
            raise ValueError(f"meta_every: {type(optimizer).__name__} has no meta_step method")
        meta = Batches(data.meta, batch_size, seed, stream=1).forever()
    probes = dict(probes or {})
    record_loss = getattr(optimizer, "record_loss", None)
    on_cuda = data.train.x.is_cuda

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        """Leave the gradient of a batch in the parameters, return its loss."""
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    history = History(probes={name: [] for name in probes})
    _measure(history, model, optimizer, data, criterion, probes, seconds=0.0)
    if on_epoch is not None:
        on_epoch(history)

    count = 0
    for _ in range(epochs):
        model.train()
        start = _clock(on_cuda)
        for x, y in batches:
            loss: Tensor | float
            if closure:
                loss = optimizer.step(functools.partial(gradient, x, y))  # type: ignore[arg-type]
                if record_loss is not None:
                    record_loss(loss)
            else:
                loss = gradient(x, y)
                if record_loss is not None:
                    record_loss(loss)
                optimizer.step()
            count += 1
            if meta is not None and count % meta_every == 0:
                gradient(*next(meta))
                optimizer.meta_step()  # type: ignore[attr-defined]
            if scheduler is not None:
                scheduler.step()
        elapsed = history.seconds[-1] + _clock(on_cuda) - start
        _measure(history, model, optimizer, data, criterion, probes, seconds=elapsed)
        if on_epoch is not None:
            on_epoch(history)
        if history.diverged:
            break
    return history


def steps(data: Splits, epochs: int, batch_size: int) -> int:
    """Count the optimizer steps of :func:`fit`, for schedules that must know.

    Parameters
    ----------
    data : Splits
        The data whose training part is cut into batches; the last one may be smaller.
    epochs : int
        Passes over that part.
    batch_size : int
        Rows a batch.

    Examples
    --------
    >>> from unstuck.problems import load_data
    >>> data = load_data("digits")
    >>> steps(data, epochs=2, batch_size=len(data.train))
    2
    """
    return epochs * math.ceil(len(data.train) / batch_size)


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, criterion: Criterion = functional.cross_entropy
) -> tuple[float, float]:
    """Measure mean loss and share of right answers over all rows of a part.

    Parameters
    ----------
    model : torch.nn.Module
        Put into evaluation mode meanwhile.
    split : Split
        The part, n rows.
    criterion : callable
        ``criterion(logits, y)``, the mean loss of a batch.

    Returns
    -------
    (float, float)
        Mean loss, and the share of rows whose largest logit is the right one.

    Examples
    --------
    >>> from unstuck.problems import load_data, make_model
    >>> data = load_data("digits")
    >>> loss, accuracy = evaluate(make_model("mlp", data), data.test)
    """
    training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=split.x.device)
    right = torch.zeros((), dtype=torch.int64, device=split.x.device)
    for x, y in _chunks(split.x, split.y, EVALUATION_ROWS):
        logits = model(x)
        total += criterion(logits, y) * len(y)
        right += (logits.argmax(dim=1) == y).sum()
    model.train(training)
    loss, share = torch.stack([total, right.to(total.dtype)]).div_(len(split)).tolist()
    return loss, share


class Batches:
    """The rows of a part in batches, in a new order each epoch.

    The order is a function of ``seed``, ``stream`` and the number of rows: the same on every
    device, and independent of torch's global generator.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, stream: int) -> None:
        self.split = split
        self.batch_size = batch_size
        self._generator = np.random.default_rng([seed, stream])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go once over the rows: one gather for the epoch, then views of it."""
        order = torch.from_numpy(self._generator.permutation(len(self.split)))
        order = order.to(self.split.x.device)
        x, y = self.split.x[order], self.split.y[order]
        return _chunks(x, y, self.batch_size)

    def forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go over the rows again and again."""
        while True:
            yield from self


def _chunks(x: Tensor, y: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut into views of so many rows; the last may be smaller."""
    return zip(torch.split(x, rows), torch.split(y, rows), strict=True)


def _measure(
    history: History,
    model: nn.Module,
    optimizer: Optimizer,
    data: Splits,
    criterion: Criterion,
    probes: Mapping[str, Probe],
    seconds: float,
) -> None:
    """Append the state of the run to its history."""
    train_loss, _ = evaluate(model, data.train, criterion)
    validation_loss, validation_accuracy = evaluate(model, data.validation, criterion)
    test_loss, test_accuracy = evaluate(model, data.test, criterion)
    history.train_loss.append(train_loss)
    history.validation_loss.append(validation_loss)
    history.validation_accuracy.append(validation_accuracy)
    history.test_loss.append(test_loss)
    history.test_accuracy.append(test_accuracy)
    history.seconds.append(seconds)
    for name, probe in probes.items():
        history.probes[name].append(probe(optimizer))
    history.diverged = not (math.isfinite(train_loss) and math.isfinite(validation_loss))


def _clock(on_cuda: bool) -> float:
    """Seconds, once the device has done what was asked of it."""
    if on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
