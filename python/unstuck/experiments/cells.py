"""The file of a study that consists of cells: each is run once, and written when it is done."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import unstuck
from unstuck.experiments.blend_record import _commit

Tell = Callable[[str], None]  # is called with a line on how a study goes


@dataclass
class CellRecord:
    """Everything that a study has measured.

    Attributes
    ----------
    study : str
        Which study this is.
    fixed : dict
        What all cells of a file have in common, such as the number of seeds.
    cells : dict of str
        What was measured, by the name of the cell.
    made : dict
        Versions, commit and date of the last addition.
    path : Path or None
        The file; None keeps everything in memory.
    commit : str or None
        Commit of the source tree when the record was opened.
    """

    study: str
    fixed: dict[str, Any]
    cells: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    commit: str | None = field(default_factory=_commit)

    @classmethod
    def open(cls, path: Path | None, study: str, fixed: dict[str, Any]) -> CellRecord:
        """Go on with the file at `path`, or begin it.

        Raises
        ------
        ValueError
            When the file was made with other settings, or is not of this study.
        """
        if path is None or not path.exists():
            return cls(study, fixed, path=path)
        try:
            content = json.loads(path.read_text())
            record = cls(
                content["study"], content["fixed"], content["cells"], content["made"], path
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the file of a study: choose another") from error
        if (record.study, record.fixed) != (study, fixed):
            raise ValueError(
                f"{path} is of {record.study} with {record.fixed}, not {study} with {fixed}: "
                "choose another file, or the same options"
            )
        return record

    def cell(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what the file holds of a cell, or measure it and write the file."""
        if name not in self.cells:
            self.cells[name] = measure()
            self.save()
        return self.cells[name]

    def by_seed(self, name: str, seeds: int) -> list[Any]:
        """Return what the file holds of the cells ``NAME/0`` to ``NAME/(seeds - 1)``."""
        names = (f"{name}/{seed}" for seed in range(seeds))
        return [self.cells[name] for name in names if name in self.cells]

    def save(self) -> None:
        """Write the file anew, complete or not at all."""
        self.made = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "unstuck": unstuck.__version__,
            "commit": self.commit,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        if self.path is None:
            return
        head = {"study": self.study, "fixed": self.fixed, "made": self.made}
        lines = [f"{json.dumps(name)}: {json.dumps(cell)}" for name, cell in self.cells.items()]
        text = json.dumps(head)[:-1] + ', "cells": {\n' + ",\n".join(lines) + "\n}}\n"
        beside = self.path.with_name(self.path.name + ".part")
        beside.write_text(text)
        os.replace(beside, self.path)

    @property
    def origin(self) -> str:
        """One line on how it was made."""
        made = self.made
        return (
            f"Made {made['date']} with unstuck {made['unstuck']} (commit {made['commit']}), torch "
            f"{made['torch']}, CPU, {made['threads']} thread(s)."
        )


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Write mean and standard deviation; runs that were not finite are counted."""
    good = [value for value in values if value is not None and math.isfinite(value)]
    bad = len(values) - len(good)
    if not good:
        return "none finite"
    text = f"{statistics.fmean(good):.{digits}g}"
    if len(good) > 1:
        text += f" ± {statistics.stdev(good):.2g}"
    return text + (f" ({bad} not finite)" if bad else "")
