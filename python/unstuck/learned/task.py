"""What a learned rule is trained on: tasks, families of tasks, and tasks in other units.

A task is something to train, a family draws tasks. Both are functions of integer seeds and hold no
state, so that a meta-training run is continued bit for bit from a few numbers, and so that any
worker makes the same task.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Batch", "Family", "Mixture", "Scaled", "Task", "generator", "seed_of"]

Batch = tuple[Tensor, ...]


@runtime_checkable
class Task(Protocol):
    """Something to train: initial parameters, batches, and a loss.

    Anything with these members can be trained on; nothing has to be derived from. Tasks must be
    picklable, and every member must be a function of its arguments alone.
    """

    @property
    def name(self) -> str:
        """What the task is, for tables and messages."""
        ...

    @property
    def floor(self) -> float:
        """A number that no loss is below: 0 for a cross-entropy. Losses count from here."""
        ...

    def initial(self, seed: int) -> list[Tensor]:
        """Return initial parameters, float32, drawn with a seed."""
        ...

    def batch(self, seed: int) -> Batch:
        """Return a batch of training data; an empty tuple where there is no data."""
        ...

    def validation(self, seed: int) -> Batch:
        """Return a batch of data that is not trained on; as :meth:`batch` where there is none."""
        ...

    def loss(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the loss, 0-d, of parameters on a batch, by torch operations that vmap knows."""
        ...


@runtime_checkable
class Family(Protocol):
    """A distribution of tasks."""

    @property
    def name(self) -> str:
        """What :data:`unstuck.learned.FAMILIES` knows it by."""
        ...

    def sample(self, seed: int) -> Task:
        """Return a task that depends on the seed alone."""
        ...


def seed_of(*counters: int | str) -> int:
    """Return a seed from 0 to 2^63 - 1 that belongs to these counters alone.

    Parameters
    ----------
    *counters : int or str
        Where the seed is used: the seed of the run, names, numbers of steps.

    Returns
    -------
    int
        The first 63 bits of their BLAKE2b hash.

    Examples
    --------
    >>> seed_of(0, "batch", 7) == seed_of(0, "batch", 7) != seed_of(0, "batch", 8)
    True
    """
    digest = hashlib.blake2b(repr(counters).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*counters: int | str) -> torch.Generator:
    """Return a generator for the CPU, seeded with :func:`seed_of` these counters."""
    return torch.Generator().manual_seed(seed_of(*counters))


@dataclass(frozen=True)
class Scaled:
    r"""A task in other units: the same losses, other parameters.

    .. math:: L'(\phi) = L(\alpha_1 \phi_1, ..., \alpha_n \phi_n)

    A rule that is to work whatever the size of gradients and parameters is trained on tasks whose
    tensors have random units.

    Parameters
    ----------
    task : Task
        The task.
    scales : tuple of float
        alpha, a positive number for each parameter.

    Raises
    ------
    ValueError
        When a scale is not a positive number.

    Examples
    --------
    >>> from unstuck.learned import Scaled
    >>> from unstuck.learned.functions import Landscape
    >>> task, other = Landscape("sphere", 2), Scaled(Landscape("sphere", 2), (4.0,))
    >>> bool((4 * other.initial(0)[0] == task.initial(0)[0]).all())
    True
    >>> other.loss(other.initial(0), ()) == task.loss(task.initial(0), ())
    tensor(True)

    Notes
    -----
    The augmentation of Lv, Jiang and Li, *Learning gradient descent: better generalization and
    longer horizons* (2017).
    """

    task: Task
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(not (math.isfinite(a) and a > 0) for a in self.scales):
            raise ValueError(f"scales must be positive numbers, not {self.scales}")

    @property
    def name(self) -> str:
        """Name of the task within, with its units."""
        return f"{self.task.name} in units of {', '.join(f'{a:.3g}' for a in self.scales)}"

    @property
    def floor(self) -> float:
        """A number that no loss is below."""
        return self.task.floor

    def initial(self, seed: int) -> list[Tensor]:
        """Return the initial parameters of the task within, in the new units."""
        params = self.task.initial(seed)
        if len(params) != len(self.scales):
            raise ValueError(
                f"{self.task.name} has {len(params)} parameters, but {len(self.scales)} scales "
                "were given: give each its own"
            )
        return [p / a for p, a in zip(params, self.scales, strict=True)]

    def batch(self, seed: int) -> Batch:
        """Return a training batch of the task within."""
        return self.task.batch(seed)

    def validation(self, seed: int) -> Batch:
        """Return a validation batch of the task within."""
        return self.task.validation(seed)

    def loss(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the loss of parameters in the new units."""
        return self.task.loss([a * p for a, p in zip(self.scales, params, strict=True)], batch)


@dataclass(frozen=True)
class Mixture:
    """A family that draws from one of several.

    Parameters
    ----------
    name : str
        Its name.
    families : tuple of Family
        Which; a family that stands twice is drawn twice as often.

    Raises
    ------
    ValueError
        When there is none.

    Examples
    --------
    >>> from unstuck.learned import FAMILIES, Mixture
    >>> both = Mixture("both", (FAMILIES["quadratics"], FAMILIES["rastrigin"]))
    >>> sorted({both.sample(seed).name.split()[0] for seed in range(20)})
    ['quadratic', 'rastrigin']
    """

    name: str
    families: tuple[Family, ...]

    def __post_init__(self) -> None:
        if not self.families:
            raise ValueError("families is empty: name at least one")

    def sample(self, seed: int) -> Task:
        """Return a task of one of the families."""
        drawn = seed_of("mixture", seed)
        return self.families[drawn % len(self.families)].sample(drawn)
