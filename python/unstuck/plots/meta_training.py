"""The picture of a meta-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unstuck._extras import require
from unstuck.plots.race import COLOURS, _frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 0.05  # of all steps, that the running mean covers


def meta_training_figure(curve: Mapping[str, Any]) -> Figure:
    """Draw how the objective of a meta-training fell, and the norm of its gradients.

    Parameters
    ----------
    curve : mapping
        The content of ``curve.json``: a list of numbers for each field of
        :class:`unstuck.learned.Row`, where None is a value that was not measured.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to a window; write it with ``figure.savefig("curve.png")``.

    Raises
    ------
    ValueError
        When no step has been made.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> curve = {"step": [1, 2], "score": [0.0, -0.1], "gradient_norm": [2.0, 1.0]}
    >>> curve |= {"judged": [0.0, None], "student_steps": [80, 160], "seconds": [0.5, 1.0]}
    >>> len(meta_training_figure(curve).axes)
    2
    """
    steps = _numbers(curve.get("step", ()))
    if not len(steps):
        raise ValueError("nothing to draw: no meta-step has been made")
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    figure: Figure = make_figure(figsize=(9.0, 6.5), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    score, judged = _numbers(curve["score"]), _numbers(curve["judged"])
    axes[0].plot(steps, score, ".", ms=3, color=COLOURS[4], alpha=0.5, label="meta-steps")
    width = max(1, round(WINDOW * len(steps)))
    mean = np.convolve(score, np.full(width, 1 / width), mode="valid")
    axes[0].plot(steps[width - 1 :], mean, color=COLOURS[1], lw=1.6, label=f"mean of {width}")
    known = np.isfinite(judged)
    axes[0].plot(
        steps[known], judged[known], "o-", color=COLOURS[0], ms=4, label="judged on fixed tasks"
    )
    axes[0].legend(framealpha=0.95, edgecolor="none")
    minutes, made = curve["seconds"][-1] / 60, curve["student_steps"][-1]
    title = f"{len(steps):,} meta-steps, {made:,} student steps, {minutes:.1f} minutes"
    _frame(axes[0], title, "", "objective")
    norm = _numbers(curve["gradient_norm"])
    axes[1].plot(steps, np.maximum(norm, np.finfo(float).tiny), color=COLOURS[2], lw=0.8)
    _frame(axes[1], "", "meta-step", "meta-gradient norm", log=True)
    return figure


def _numbers(column: Sequence[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in column], dtype=float)
