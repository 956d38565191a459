"""The study of ALME: networks on real data, functions, and what an escape costs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unstuck.experiments.alme_functions import measure_function
from unstuck.experiments.alme_settings import AlmePlan
from unstuck.experiments.alme_training import measure_escapes, measure_task
from unstuck.experiments.cells import CellRecord


def run_alme(
    plan: AlmePlan,
    path: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CellRecord:
    """Run every training, function and timing that the file still lacks.

    Parameters
    ----------
    plan : AlmePlan
        What to run; ``AlmePlan.of("full")`` is what the repository holds the results of.
    path : Path, optional
        JSON file that is written after every cell; what it holds is not run again.
    progress : callable, optional
        Called with the name of a cell, its number and how many there are.

    Returns
    -------
    CellRecord
        Cells ``training/DATA/NETWORK``, ``function/NAME/DIM`` and ``escape/DATA/mlp``.

    Raises
    ------
    ValueError
        When the file belongs to another study.

    Examples
    --------
    >>> import dataclasses
    >>> small = AlmePlan.of("small")
    >>> plan = dataclasses.replace(small, tasks=(), functions=("ackley/2",), starts=1, budget=50)
    >>> list(run_alme(plan).cells)
    ['function/ackley/2']
    """
    record = CellRecord.open(path, "alme", plan.fixed)
    todo = cells_of(plan)
    for number, (name, measure) in enumerate(todo.items()):
        record.cell(name, measure)
        if progress is not None:
            progress(name, number + 1, len(todo))
    return record


def cells_of(plan: AlmePlan) -> dict[str, Callable[[], Any]]:
    """Return the cells of a plan by name, each with what measures it."""
    todo: dict[str, Callable[[], Any]] = {}
    for task in plan.tasks:
        todo[f"training/{task}"] = functools.partial(measure_task, plan, task)
    for task in plan.tasks:
        if task.endswith("/mlp"):
            todo[f"escape/{task}"] = functools.partial(measure_escapes, plan, task)
    for function in plan.functions:
        todo[f"function/{function}"] = functools.partial(measure_function, plan, function)
    return todo
