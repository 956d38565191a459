"""The picture of a race."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unstuck._extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unstuck.training import History, RaceResult

# Okabe and Ito's colours, told apart by colour-blind readers; without the yellow, black last.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ((1, 0), (5, 1.5), (1.5, 1.2), (7, 1.5, 1.5, 1.5))  # curves that coincide stay visible
COLUMNS = 3
CURVES = 4  # panels of curves, before the panels of probes or dots
FEW = 6  # names that fit side by side
LOSS = "cross-entropy (nats)"
PROBE_TITLES = {"alpha": "Blend: alpha (1 is Adam, 0 is SGD)"}


class Style(NamedTuple):
    """How one optimizer is drawn in every panel."""

    color: str
    dashes: tuple[float, ...]


def race_figure(result: RaceResult) -> Figure:
    """Draw a race: losses by epoch and by second, test results of every seed, probes.

    A line is the mean over seeds and the band around it reaches from the smallest to the largest
    seed; diverged runs are left out of both and counted in the legend.

    Parameters
    ----------
    result : RaceResult
        From :func:`unstuck.training.race`.

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
    >>> from unstuck.training import race
    >>> figure = race_figure(race("adam,sgd", model="logistic", epochs=2, seeds=2))
    >>> len(figure.axes)
    6
    """
    if not result.runs:
        raise ValueError("nothing to draw: no run has finished")
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    probes = sorted({name for run in result.runs for name in run.history.probes})
    panels = CURVES + 1 + max(len(probes), 1)
    rows = math.ceil(panels / COLUMNS)
    figure: Figure = make_figure(figsize=(4.6 * COLUMNS, 3.5 * rows + 1.0), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS).flat)
    for axis in axes[panels:]:
        axis.remove()

    good = {
        label: [history for history in result.histories(label) if not history.diverged]
        for label in result.labels
    }
    for number, label in enumerate(result.labels):
        style = Style(COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)])
        axes[0].plot([], [], label=_legend(result, label), linewidth=2.2, **style._asdict())
        if not good[label]:
            continue
        epochs = np.arange(result.epochs + 1)
        seconds = np.mean([history.seconds for history in good[label]], axis=0)
        validation = [history.validation_loss for history in good[label]]
        _band(axes[0], epochs, [history.train_loss for history in good[label]], style)
        _band(axes[1], epochs, validation, style)
        _band(axes[2], epochs, [_error(h.validation_accuracy) for h in good[label]], style)
        _band(axes[3], seconds, validation, style)
        _dots(axes[4], number, [history.test_loss[-1] for history in good[label]], style)
        for axis, name in zip(axes[5:], probes, strict=False):
            if name in good[label][0].probes:
                _band(axis, epochs, [history.probes[name] for history in good[label]], style)
        if not probes:
            last = [_error(history.test_accuracy)[-1] for history in good[label]]
            _dots(axes[5], number, last, style)

    _frame(axes[0], "Training loss", "epoch", LOSS, log=True)
    _frame(axes[1], "Validation loss", "epoch", LOSS, log=True)
    _frame(axes[2], "Validation error", "epoch", "wrong answers (%)", log=True)
    _frame(axes[3], "Validation loss by time", "seconds of training", LOSS, log=True)
    _frame(axes[4], "Test loss of every seed, last epoch", "", LOSS)
    _names(axes[4], good, lambda history: history.test_loss[-1])
    for axis, name in zip(axes[5:], probes, strict=False):
        _frame(axis, PROBE_TITLES.get(name, name), "epoch", name)
        if name == "alpha":
            axis.set_ylim(-0.03, 1.03)
    if not probes:
        _frame(axes[5], "Test error of every seed, last epoch", "", "wrong answers (%)")
        _names(axes[5], good, lambda history: _error(history.test_accuracy)[-1])

    figure.suptitle(_headline(result), fontsize=13, fontweight="bold")
    handles, labels = axes[0].get_legend_handles_labels()
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


def _headline(result: RaceResult) -> str:
    seeds = len({run.seed for run in result.runs})
    return (
        f"{result.model} ({result.parameters:,} parameters) on {result.data} "
        f"({result.rows['train']} training rows), batches of {result.batch_size}: "
        + (f"mean and range of {seeds} seeds" if seeds > 1 else "one seed")
    )


def _legend(result: RaceResult, label: str) -> str:
    every = result.histories(label)
    diverged = sum(history.diverged for history in every)
    if not every:
        return f"{label} (not run)"
    return f"{label} ({diverged} of {len(every)} diverged)" if diverged else label


def _error(accuracy: Sequence[float]) -> list[float]:
    """Share of right answers to per cent of wrong ones."""
    return [100 * (1 - share) for share in accuracy]


def _band(axis: Any, x: ArrayLike, curves: Sequence[Sequence[float]], style: Style) -> None:
    """Draw the mean of some curves, and the range they cover."""
    values = np.asarray(curves)  # [seeds, epochs + 1]
    axis.plot(x, values.mean(axis=0), linewidth=1.8, **style._asdict())
    axis.fill_between(
        x, values.min(axis=0), values.max(axis=0), color=style.color, alpha=0.15, linewidth=0
    )


def _dots(axis: Any, position: int, values: Sequence[float], style: Style) -> None:
    """Draw the values of all seeds side by side, and their mean as a bar."""
    places = position + (np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1))
    axis.scatter(places, values, s=24, alpha=0.65, color=style.color, linewidths=0)
    axis.hlines(np.mean(values), position - 0.32, position + 0.32, color=style.color, linewidth=2.5)


def _frame(axis: Any, title: str, x: str, y: str, *, log: bool = False) -> None:
    """Title, labels, scale and grid of a panel."""
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if log:
        axis.set_yscale("log")
        ticks = require("matplotlib.ticker", extra="plots", purpose="the figure")
        axis.yaxis.set_major_locator(ticks.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ticks.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(ticks.NullFormatter())
    axis.grid(visible=True, which="major", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _names(axis: Any, good: dict[str, list[History]], value: Any) -> None:
    """Put the name and the mean of each optimizer under a panel of dots."""
    names = []
    for label, histories in good.items():
        mean = f"{np.mean([value(history) for history in histories]):#.3g}" if histories else "-"
        names.append((label if len(good) > FEW else label.replace(":", "\n")) + f"\n{mean}")
    slant = {"rotation": 40, "ha": "right", "fontsize": 8} if len(good) > FEW else {"fontsize": 9}
    axis.set_xticks(range(len(names)), names, **slant)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.grid(visible=False, axis="x")
