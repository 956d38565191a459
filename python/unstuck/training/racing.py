"""The race: one model, several optimizers, the same weights and batches for all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from unstuck.problems import load_data, lookup, make_model
from unstuck.training.history import History
from unstuck.training.loop import fit, steps
from unstuck.training.optimizers import Entrant, entrants
from unstuck.training.result import RaceResult, Run

Schedule = Callable[[Optimizer, int], LRScheduler | None]


def _constant(optimizer: Optimizer, total: int) -> None:
    """Leave the learning rates alone."""


def _cosine(optimizer: Optimizer, total: int) -> LRScheduler:
    """Bring the learning rates down to zero along half a cosine."""
    return CosineAnnealingLR(optimizer, T_max=total)


SCHEDULES: dict[str, Schedule] = {"constant": _constant, "cosine": _cosine}


@dataclass(frozen=True)
class Progress:
    """Where a race is, after an epoch.

    Attributes
    ----------
    label, seed : str, int
        The run under way.
    epoch, epochs : int
        Epochs done and to do of this run.
    run, runs : int
        Number of this run, from 0, and how many there will be.
    history : History
        Of the run so far.
    best, best_label : float, str
        The lowest validation loss of any run so far, and whose it is.
    """

    label: str
    seed: int
    epoch: int
    epochs: int
    run: int
    runs: int
    history: History
    best: float
    best_label: str


def race(
    optimizers: str | Sequence[Entrant] = "blend,adam,adamw,sgd",
    data: str = "digits",
    model: str = "mlp",
    *,
    epochs: int = 30,
    seeds: int | Sequence[int] = 10,
    batch_size: int = 64,
    schedule: str = "constant",
    device: torch.device | str = "cpu",
    threads: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> RaceResult:
    """Train one model with several optimizers and record how each does.

    For every seed all optimizers start from the same weights and see the same batches of the
    same training rows (an optimizer that needs a second batch gives up some of them, and its
    batches are drawn from the rest). Seeds are the outer loop, so that a race that is stopped
    has compared all optimizers on the seeds it finished.

    Parameters
    ----------
    optimizers : str or sequence of Entrant
        ``"adam,sgd:lr=0.05"``, or what :func:`unstuck.training.entrants` made of it.
    data : str
        ``"digits"``, ``"mnist1d"`` or ``"mnist"``.
    model : str
        ``"mlp"``, ``"conv"`` or ``"logistic"``.
    epochs : int
        Passes over the training rows.
    seeds : int or sequence of int
        How many seeds (0, 1, ...), or which.
    batch_size : int
        Rows per step.
    schedule : str
        ``"constant"``, or ``"cosine"``: learning rates fall to zero over the run.
    device : torch.device or str
        Where to train.
    threads : int
        CPU threads of torch while the race lasts. Models this small gain little from a second
        one, and wait for it when another program has the core.
    progress : callable, optional
        Called with a :class:`Progress` before the first and after every epoch of each run.

    Returns
    -------
    RaceResult
        All runs. After Ctrl-C those that had finished, with ``interrupted`` set.

    Raises
    ------
    ValueError
        For an unknown name or a count below 1.

    Examples
    --------
    >>> result = race("adam,sgd", data="digits", model="logistic", epochs=2, seeds=1)
    >>> sorted(row.label for row in result.summary())
    ['adam', 'sgd']
    """
    field = entrants(optimizers) if isinstance(optimizers, str) else list(optimizers)
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if epochs < 1 or batch_size < 1 or threads < 1 or not numbers:
        raise ValueError(
            f"epochs={epochs}, batch_size={batch_size}, seeds={seeds}, threads={threads}: "
            "each must be 1 or more"
        )
    make_schedule = lookup(SCHEDULES, schedule, "schedule")
    splits = load_data(data, numbers[0], device=device)
    result = RaceResult(
        data=data,
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        schedule=schedule,
        device=str(splits.train.x.device),
        threads=threads,
        seeds=numbers,
        rows={part: len(getattr(splits, part)) for part in ("train", "validation", "test")},
        parameters=sum(p.numel() for p in make_model(model, splits).parameters()),
        settings={one.label: dict(one.settings) for one in field},
        torch=torch.__version__,
    )
    report = _Reporter(progress, epochs, len(numbers) * len(field))
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in numbers:
            for one in field:
                splits = load_data(data, seed, meta=one.entry.meta, device=device)
                network = make_model(model, splits, seed)
                optimizer = one.build(network)
                history = fit(
                    network,
                    optimizer,
                    splits,
                    epochs=epochs,
                    batch_size=batch_size,
                    seed=seed,
                    scheduler=make_schedule(optimizer, steps(splits, epochs, batch_size)),
                    meta_every=1 if one.entry.meta else 0,
                    closure=one.entry.closure,
                    probes=one.entry.probes,
                    on_epoch=report.run(one.label, seed),
                )
                result.runs.append(Run(one.label, seed, history))
    except KeyboardInterrupt:
        return dataclasses.replace(result, interrupted=True)
    finally:
        torch.set_num_threads(threads_before)
    return result


class _Reporter:
    """Turns the epochs of one run after another into the progress of the race."""

    def __init__(self, progress: Callable[[Progress], None] | None, epochs: int, runs: int) -> None:
        self._progress = progress
        self._epochs = epochs
        self._runs = runs
        self._started = 0
        self._best = math.inf
        self._best_label = ""

    def run(self, label: str, seed: int) -> Callable[[History], None]:
        """Start the next run; the result is called after each of its epochs."""
        number = self._started
        self._started += 1

        def on_epoch(history: History) -> None:
            if history.validation_loss[-1] < self._best:
                self._best, self._best_label = history.validation_loss[-1], label
            if self._progress is not None:
                self._progress(
                    Progress(
                        label=label,
                        seed=seed,
                        epoch=history.epochs,
                        epochs=self._epochs,
                        run=number,
                        runs=self._runs,
                        history=history,
                        best=self._best,
                        best_label=self._best_label,
                    )
                )

        return on_epoch
