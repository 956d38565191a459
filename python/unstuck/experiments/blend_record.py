"""The file of a blend study: every trial and run, written as they finish."""

from __future__ import annotations

import json
import math
import os
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import unstuck
from unstuck.training import History


@dataclass
class BlendRecord:
    """All trials and runs of a study.

    Attributes
    ----------
    fixed : dict
        What must be the same for all runs of a file: protocol, epochs, batch size, tuning seeds.
    trials : dict of str to list
        By ``"data/method"`` (and ``"/seed"`` in the source's protocol): each a dictionary of
        ``settings``, ``value`` and ``runs``.
    runs : dict of str to list
        By ``"data/method"``: each a dictionary of ``seed``, ``settings``, ``last`` and ``best``
        (figures at the last epoch and at the one of lowest validation loss), ``alpha`` (mean after
        every epoch), and ``validation_loss`` (curve).
    made : dict
        Versions, commit and date of the last addition.
    """

    fixed: dict[str, Any]
    trials: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def open(cls, path: Path | None, fixed: dict[str, Any]) -> BlendRecord:
        """Go on with the file at `path`, or begin it; None keeps everything in memory.

        Raises
        ------
        ValueError
            When the file was made with other fixed settings, or is not such a file.
        """
        if path is None or not path.exists():
            return cls(fixed, path=path)
        try:
            content = json.loads(path.read_text())
            record = cls(
                **{key: content[key] for key in ("fixed", "trials", "runs", "made")}, path=path
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the file of a blend study: choose another") from error
        if record.fixed != fixed:
            raise ValueError(
                f"{path} was made with {record.fixed}, not {fixed}: choose another file, or the "
                "same options"
            )
        return record

    def save(self) -> None:
        """Write the file anew, complete or not at all."""
        if self.path is None:
            return
        self.made = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "unstuck": unstuck.__version__,
            "commit": _commit(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        content = asdict(self)
        del content["path"]
        beside = self.path.with_name(self.path.name + ".part")
        beside.write_text(_compact(content) + "\n")
        os.replace(beside, self.path)


def figures(history: History) -> dict[str, Any]:
    """Return what a study keeps of a run; a diverged one has infinite losses."""
    kept: dict[str, Any] = {"diverged": history.diverged, "seconds": history.seconds[-1]}
    for at in ("last", "best"):
        scores = history.at("best" if at == "best" else "last")._asdict()
        del scores["seconds"]
        bad = history.diverged and at == "last"
        kept[at] = {
            name: math.inf if bad and name.endswith("loss") else round(value, 6)
            for name, value in scores.items()
        }
    kept["validation_loss"] = [round(loss, 5) for loss in history.validation_loss]
    if "alpha" in history.probes:
        kept["alpha"] = [round(alpha, 4) for alpha in history.probes["alpha"]]
    return kept


def _compact(content: dict[str, Any]) -> str:
    """Write one trial or run a line: small files that still can be compared line by line."""
    parts = []
    for key, value in content.items():
        if key not in ("trials", "runs"):
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
            continue
        blocks = [
            f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"
            for name, rows in value.items()
        ]
        parts.append(f"{json.dumps(key)}: {{\n" + ",\n".join(blocks) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}"


def _commit() -> str | None:
    """Return the commit of the source tree that runs, if it is one."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
