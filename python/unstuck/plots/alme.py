"""The pictures of the study of ALME: its escapes, the comparison, the kinds of landscapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unstuck._extras import require
from unstuck.plots.race import COLOURS, DASHES, LOSS, Style, _band, _dots, _frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cells = Mapping[str, Any]
TRAINING, FUNCTION = "training/", "function/"
PALETTE = (*COLOURS, "#7F7F7F")
TAKEN, LEFT = "#009E73", "#D55E00"
WIDE = 1e3  # ratio of values from which ticks at 1, 2 and 5 are too many
FLOOR = 1e-12  # a value below this is drawn as this
STEP, BEFORE, AFTER, ACCEPTED, DISTANCE, SCALE = range(6)  # of an escape in the results


def escapes_figure(cells: Cells, task: str, optimizer: str = "alme-aggressive") -> Figure:
    """Draw one training, with its escapes over its loss and the norm of its gradient.

    Parameters
    ----------
    cells : mapping
        The cells of the study of ALME: ``json.loads(text)["cells"]``.
    task : str
        Data set and network; its seed 0 is drawn.
    optimizer : str
        Which ALME.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to a window; write it with ``figure.savefig("escapes.png")``.

    Raises
    ------
    KeyError
        When the results have no such training.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> trace = {"step": [1, 2, 3], "loss": [2.0, 1.0, 1.0], "norm": [3.0, 0.1, 0.1]}
    >>> run = {"trace": trace, "history": [[2, 1.0, 0.5, True, 0.3, 2.0]]}
    >>> cells = {"training/digits/mlp": {"runs": {"alme": [run]}}}
    >>> len(escapes_figure(cells, "digits/mlp", "alme").axes)
    2
    """
    run = _runs(cells, task)[optimizer][0]
    figure = _figure((10.0, 6.0))
    axes: Any = figure.subplots(2, 1, sharex=True)
    trace = run["trace"]
    for axis, name, label in ((axes[0], "loss", LOSS), (axes[1], "norm", "gradient norm")):
        axis.plot(trace["step"], trace[name], color=COLOURS[1], lw=1.2)
        _frame(axis, "", "step" if name == "norm" else "", label, log=True)
        for kind, color, style in ((True, TAKEN, "-"), (False, LEFT, ":")):
            steps = [one[STEP] for one in run["history"] if one[ACCEPTED] is kind]
            label = f"escape, {'accepted' if kind else 'undone'} ({len(steps)})"
            for number, step in enumerate(steps):
                axis.axvline(step, color=color, ls=style, lw=1.4, label="" if number else label)
            if not steps:
                axis.plot([], [], color=color, ls=style, lw=1.4, label=label)
    for one in run["history"]:
        x, color = [one[STEP]] * 2, TAKEN if one[ACCEPTED] else LEFT
        axes[0].plot(x, [one[BEFORE], one[AFTER]], "-", color=color, lw=3, alpha=0.5)
        axes[0].plot(x[0], one[AFTER], "v" if one[ACCEPTED] else "x", color=color, ms=7)
    axes[0].legend(loc="upper right", framealpha=0.95, edgecolor="none")
    figure.suptitle(f"{optimizer} on {task}, seed 0: escapes, to the loss of the best candidate")
    return figure


def escape_distances_figure(cells: Cells, optimizer: str = "alme-aggressive") -> Figure:
    """Draw how far escapes went, and how many there were, of all trainings.

    Parameters
    ----------
    cells : mapping
        The cells of the study of ALME.
    optimizer : str
        Which ALME.

    Returns
    -------
    matplotlib.figure.Figure
        Distances of all seeds at the left (filled where accepted); at the right escapes so far,
        mean over seeds (broken: accepted).

    Raises
    ------
    ValueError
        When there is no training.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> run = {"train": [2.0, 1.0], "history": [[2, 1.0, 0.5, True, 0.3, 2.0]]}
    >>> figure = escape_distances_figure({"training/digits/mlp": {"runs": {"alme": [run]}}}, "alme")
    >>> figure.axes[1].get_ylabel()
    'escapes a run'
    """
    tasks = tasks_of(cells)
    if not tasks:
        raise ValueError("nothing to draw: the results have no training")
    figure = _figure((12.0, 5.0))
    left, right = figure.subplots(1, 2)
    for number, task in enumerate(tasks):
        runs = _runs(cells, task)[optimizer]
        color = COLOURS[number % len(COLOURS)]
        every = [one for run in runs for one in run["history"]]
        for kind in (True, False):
            some = [one for one in every if one[ACCEPTED] is kind]
            left.scatter(
                [one[STEP] for one in some],
                [one[DISTANCE] for one in some],
                s=34,
                marker="o",
                facecolors=color if kind else "none",
                edgecolors=color,
            )
        for kind, dashes in ((False, (1, 0)), (True, (3, 1.5))):
            steps = sorted(one[STEP] for one in every if one[ACCEPTED] or not kind)
            counts = np.arange(len(steps) + 1) / len(runs)
            label = "" if kind else f"{task} ({len(every) / len(runs):.1f})"
            right.step(
                [0, *steps], counts, where="post", color=color, dashes=dashes, lw=1.8, label=label
            )
    _frame(left, "Distance of the best candidate (filled: accepted)", "step", "Euclidean distance")
    if any(run["history"] for task in tasks for run in _runs(cells, task)[optimizer]):
        left.set_yscale("log")
    _frame(right, "Escapes so far (broken: accepted)", "step", "escapes a run")
    right.legend(frameon=False, fontsize=9)
    figure.suptitle(f"Escapes of {optimizer}, all seeds", fontweight="bold")
    return figure


def alme_comparison_figure(cells: Cells, task: str) -> Figure:
    """Draw all optimizers on a task in six panels: losses, test results, time, escapes.

    Parameters
    ----------
    cells : mapping
        The cells of the study of ALME.
    task : str
        Data set and network.

    Returns
    -------
    matplotlib.figure.Figure
        Lines are means over seeds, bands reach from the lowest to the highest.

    Raises
    ------
    KeyError
        When the results have no such training.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> run = {"train": [1.0], "validation": [1.0], "test": [1.0], "accuracy": 0.5, "seconds": 1.0}
    >>> cell = {"runs": {"adamw": [run], "alme": [{**run, "attempts": 2, "escapes": 1}]}}
    >>> len(alme_comparison_figure({"training/digits/mlp": cell}, "digits/mlp").axes)
    6
    """
    found = _runs(cells, task)
    figure = _figure((14.0, 8.0))
    axes: list[Any] = list(figure.subplots(2, 3).flat)
    for number, (name, runs) in enumerate(found.items()):
        style = _style(number)
        axes[0].plot([], [], label=name, lw=2.2, **style._asdict())
        for axis, part in zip(axes, ("train", "validation", "test"), strict=False):
            curves = [run[part] for run in runs]
            _band(axis, np.arange(1, len(curves[0]) + 1), curves, style)
        _dots(axes[3], number, [100 * (1 - run["accuracy"]) for run in runs], style)
        _dots(axes[4], number, [run["seconds"] for run in runs], style)
        for shift, key, alpha in ((-0.18, "attempts", 0.4), (0.18, "escapes", 1.0)):
            counts = [run.get(key, 0) for run in runs]
            axes[5].bar(number + shift, np.mean(counts), 0.34, color=style.color, alpha=alpha)
    for axis, part in zip(axes, ("Training", "Validation", "Test"), strict=False):
        _frame(axis, f"{part} loss", "epoch", LOSS, log=True)
    _frame(axes[3], "Test error of every seed", "", "wrong answers (%)")
    _frame(axes[4], "Time of every seed", "", "processor seconds")
    _frame(axes[5], "Escapes tried (pale) and accepted, mean", "", "escapes a run")
    for axis in axes[3:]:
        _ticks(axis, list(found))
    figure.legend(loc="outside lower center", ncols=len(found), frameon=False, handlelength=3.5)
    figure.suptitle(f"{task}: mean and range of {len(runs)} seeds", fontweight="bold")
    return figure


def alme_landscapes_figure(cells: Cells) -> Figure:
    """Draw where every optimizer ends, by type of landscape.

    Parameters
    ----------
    cells : mapping
        The cells of the study of ALME.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each training with the test loss of every seed and the mean; one for each
        function with the lowest value so far, median over the starts.

    Raises
    ------
    ValueError
        When there is nothing in the results.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> cells = {"function/ackley/2": {"runs": {"adamw": [{"best": [3.0, 1.0]}]}}}
    >>> alme_landscapes_figure(cells).axes[0].get_title()
    'ackley/2'
    """
    panels = [TRAINING + task for task in tasks_of(cells)]
    panels.sort(key=lambda name: name.rpartition("/")[2])  # by network
    panels += [name for name in cells if name.startswith(FUNCTION)]
    if not panels:
        raise ValueError("nothing to draw: the results have no training and no function")
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure((4.0 * columns, 3.6 * rows + 0.3))
    axes: list[Any] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.remove()
    names: dict[str, int] = {}
    for axis, panel in zip(axes, panels, strict=False):
        trained = panel.startswith(TRAINING)
        for name, runs in cells[panel]["runs"].items():
            number = names.setdefault(name, len(names))
            style = _style(number)
            if trained:
                _dots(axis, number, [run["test"][-1] for run in runs], style)
            else:
                _descents(axis, [run["best"] for run in runs], style)
        title = panel.partition("/")[2]
        if trained:
            _frame(axis, title, "", "test loss (nats)")
            _ticks(axis, list(cells[panel]["runs"]))
        else:
            narrow = np.divide(*sorted(axis.get_ylim(), reverse=True)) < WIDE
            _frame(axis, title, "share of the evaluations", "lowest value, median", log=narrow)
            if not narrow:
                _decades(axis)
    for name, number in names.items():
        axes[0].plot([], [], label=name, lw=2.2, **_style(number)._asdict())
    figure.legend(loc="outside lower center", ncols=len(names), frameon=False, handlelength=3.5)
    figure.suptitle("By type of landscape", fontweight="bold")
    return figure


def tasks_of(cells: Cells) -> list[str]:
    """Return data set and network of every training in the results.

    Examples
    --------
    >>> tasks_of({"training/digits/mlp": {}, "function/ackley/2": {}})
    ['digits/mlp']
    """
    return [name.removeprefix(TRAINING) for name in cells if name.startswith(TRAINING)]


def _runs(cells: Cells, task: str) -> Mapping[str, list[dict[str, Any]]]:
    return cells[TRAINING + task]["runs"]  # type: ignore[no-any-return]


def _figure(size: tuple[float, float]) -> Figure:
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    figure: Figure = make_figure(figsize=size, layout="constrained")
    return figure


def _style(number: int) -> Style:
    return Style(PALETTE[number % len(PALETTE)], DASHES[number % len(DASHES)])


def _descents(axis: Any, curves: Sequence[Sequence[float]], style: Style) -> None:
    """Draw the median over starts of the lowest value so far; their range hides the others."""
    values = np.maximum(np.median(np.asarray(curves), axis=0), FLOOR)
    shares = np.linspace(0, 1, len(values) + 1)[1:]
    axis.plot(shares, values, linewidth=1.8, **style._asdict())
    axis.set_yscale("log")


def _decades(axis: Any) -> None:
    """Set a few ticks, however many decades there are."""
    ticks = require("matplotlib.ticker", extra="plots", purpose="the figure")
    axis.yaxis.set_major_locator(ticks.LogLocator(numticks=6))
    axis.yaxis.set_minor_formatter(ticks.NullFormatter())


def _ticks(axis: Any, names: Sequence[str]) -> None:
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.grid(visible=False, axis="x")
