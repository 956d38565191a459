"""The picture of a race on a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unstuck._extras import require
from unstuck.plots.race import COLOURS, DASHES, FEW, Style, _band, _dots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unstuck.training.problem_race import ProblemRace

FLOOR = 1e-12  # a distance to the minimum below this is drawn as this


def problem_race_figure(result: ProblemRace) -> Figure:
    """Draw a race on a function: the best loss by evaluations, and where each run ended.

    Where the minimum is known, the logarithm of the distance to it is drawn. A line is the mean
    over seeds of what is drawn, and the band reaches from the lowest to the highest.

    Parameters
    ----------
    result : ProblemRace
        From :func:`unstuck.training.problem_race.race_on`.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to a window; write it with ``figure.savefig("race.png")``.

    Raises
    ------
    ValueError
        When no run has finished.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> from unstuck.training.problem_race import race_on
    >>> figure = problem_race_figure(race_on("sphere", ("gd", "attention"), dim=2, budget=200))
    >>> len(figure.axes)
    2
    """
    if not result.runs:
        raise ValueError("nothing to draw: no run has finished")
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    figure: Figure = make_figure(figsize=(12.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    known = result.minimum is not None
    ran = [method for method in result.methods if result.curves(method)]
    ends = []
    for number, method in enumerate(ran):
        style = Style(COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)])
        losses = np.array(result.curves(method))  # [seeds, points]
        if result.minimum is not None:
            losses = np.log10(np.maximum(losses - result.minimum, FLOOR))
        _band(left, result.evaluations, losses.tolist(), style)
        left.plot([], [], label=method, linewidth=2.2, **style._asdict())
        _dots(right, number, losses[:, -1].tolist(), style)
        ends.append(f"{method}\n{np.mean(result.final(method)):#.4g}")
    named = "log10 of the loss above the minimum" if known else "loss"
    left.set_title("Lowest loss so far", fontsize=11)
    left.set_xlabel("losses evaluated (a gradient counts with its loss)")
    right.set_title("At the end, every seed; below the mean loss", fontsize=11)
    right.set_xticks(range(len(ran)), ends, fontsize=8, rotation=20 if len(ran) > 3 else 0)
    for axis in (left, right):
        axis.set_ylabel(named)
        axis.grid(visible=True, alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    seeds = len({run.seed for run in result.runs})
    figure.suptitle(
        f"{result.problem}, {result.dim} dimensions, gradient descent at its best rate "
        f"{result.rate:.3g}: "
        + (f"mean and range of {seeds} starts" if seeds > 1 else "one start"),
        fontsize=13,
        fontweight="bold",
    )
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), FEW),
        frameon=False,
        fontsize=11,
        handlelength=3.5,
    )
    return figure
