"""The picture of learned rules on held-out tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from unstuck._extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"learned": "#D55E00", "adam": "#0072B2", "adamw": "#56B4E9", "sgd": "#009E73"}


def learned_curves_figure(tasks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw learning curves: the training loss against steps, and against seconds where known.

    Parameters
    ----------
    tasks : mapping
        From :func:`unstuck.experiments.learned_curves.run_curves`.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to a window; write it with ``figure.savefig("curves.png")``.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> curves = {"learned x 1": [2.3, 1.0, 0.4], "adam cosine 0.01": [2.3, 1.2, 0.5]}
    >>> figure = learned_curves_figure({"digits 512": {"steps": 300, "curves": curves}})
    >>> len(figure.axes)
    1
    """
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    timed = any("seconds" in task for task in tasks.values())
    rows = 2 if timed else 1
    figure: Figure = make_figure(figsize=(4.8 * len(tasks), 3.6 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, len(tasks), squeeze=False)
    for column, (name, task) in enumerate(tasks.items()):
        for row in range(rows):
            _curves(axes[row, column], task, seconds=row == 1)
        axes[0, column].set_title(name, fontsize=11)
        axes[0, column].legend(frameon=False, fontsize=8)
    return figure


def _curves(axis: Any, task: Mapping[str, Any], *, seconds: bool) -> None:
    """Draw the curves of one task."""
    for name, curve in task["curves"].items():
        middles = (np.arange(len(curve)) + 0.5) * task["steps"] / len(curve)
        x = middles * task["seconds"][name] if seconds else middles
        colour = COLOURS[name.partition(" ")[0]]
        axis.plot(x, curve, color=colour, label=name, lw=1.6)
    axis.set_yscale("log")
    axis.set_xlabel("seconds (2 threads)" if seconds else "step")
    axis.set_ylabel("training loss (nats)")
    axis.grid(visible=True, alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
