"""The pictures of learned rules on functions of two numbers, and on MNIST."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unstuck._extras import require
from unstuck.plots.race import COLOURS, DASHES, LOSS, Style, _band, _frame
from unstuck.plots.search import GRID, Array, _contours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cells = Mapping[str, Any]
PHASES = ("generalist", "specialist", "multi-task", "specialist-moved")
OTHERS = ("adam", "sgd")
BOX = 6.0


def learned_trajectories_figure(
    cells: Cells, rules: Sequence[str], function: Callable[[Array], Array]
) -> Figure:
    """Draw the ways of every phase of each rule, of Adam and of SGD from the same starts.

    Parameters
    ----------
    cells : mapping
        The cells of the study of functions: ``json.loads(text)["cells"]``.
    rules : sequence of str
        Which rules, a row each; their first meta-training is drawn.
    function : callable
        Values ``[n]`` of points ``[n, 2]``, both arrays in float64: what they went on. Its minimum
        lies at zero.

    Returns
    -------
    matplotlib.figure.Figure
        On the contours of the function, a column a start. Not attached to a window; write
        it with ``figure.savefig("trajectories.png")``.

    Raises
    ------
    ValueError
        When there is no rule to draw.
    KeyError
        When a rule has not been run.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> way = {"ways": [[[3.0, 3.0], [1.0, 0.0]]]}
    >>> phases = ("generalist", "specialist", "multi-task", "specialist-moved")
    >>> cells = {"mlp/0": dict.fromkeys(phases, way), "baselines": {"adam": way, "sgd": way}}
    >>> len(learned_trajectories_figure(cells, ["mlp"], lambda x: (x**2).sum(-1)).axes)
    1
    """
    if not rules:
        raise ValueError("nothing to draw: there is no rule")
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    starts = len(cells["baselines"][OTHERS[0]]["ways"])
    size = (4.4 * starts, 4.2 * len(rules) + 0.6)
    figure: Figure = make_figure(figsize=size, layout="constrained")
    axes: Any = figure.subplots(len(rules), starts, squeeze=False)
    side = np.linspace(-BOX, BOX, GRID)
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    values = function(points).reshape(GRID, GRID)
    for row, rule in enumerate(rules):
        found = {phase: cells[f"{rule}/0"][phase] for phase in PHASES}
        found |= {name: cells["baselines"][name] for name in OTHERS}
        for start in range(starts):
            axis = axes[row, start]
            _contours(axis, side, side, values)
            for number, (name, cell) in enumerate(found.items()):
                way: Array = np.asarray(cell["ways"][start], float)
                _way(axis, way, COLOURS[number % len(COLOURS)], name)
            axis.plot(0, 0, "x", color="black", ms=9, mew=2, label="minimum")
            axis.set_xlim(-BOX, BOX)
            axis.set_ylim(-BOX, BOX)
            axis.set_title(f"{rule}, start {start + 1}", fontsize=11)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Ways to the minimum, or not (star: end)", fontweight="bold")
    return figure


def _way(axis: Any, way: Array, color: str, name: str) -> None:
    axis.plot(way[:, 0], way[:, 1], ".-", color=color, lw=1.8, ms=4, alpha=0.85, label=name)
    axis.plot(*way[0], "o", color="black", ms=6)
    axis.plot(*way[-1], "*", color=color, mec="black", ms=12)


def learned_mnist_figure(cells: Cells, steps: int) -> Figure:
    """Draw the training loss against steps by every set of features, and by Adam.

    Parameters
    ----------
    cells : mapping
        The cells of the study of MNIST.
    steps : int
        Of the runs.

    Returns
    -------
    matplotlib.figure.Figure
        Means over students and meta-trainings, and the range that they cover.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> runs = {"default": [{"curve": [2.3, 1.0]}], "tuned": [{"curve": [2.3, 0.5]}], "rate": 0.01}
    >>> figure = learned_mnist_figure({"adam": runs, "log/0": runs}, 20)
    >>> len(figure.axes[0].get_legend().get_texts())
    3
    """
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    figure: Figure = make_figure(figsize=(8.0, 4.8), layout="constrained")
    axis = figure.subplots()
    curves: dict[str, list[list[float]]] = {}
    for name, cell in cells.items():
        if name == "adam":
            curves["Adam 0.001"] = [run["curve"] for run in cell["default"]]
            curves[f"Adam {cell['rate']:g}, tuned"] = [run["curve"] for run in cell["tuned"]]
        else:
            features = f"LSTM, {name.partition('/')[0]}"
            curves.setdefault(features, []).extend(run["curve"] for run in cell["tuned"])
    for number, (name, runs) in enumerate(curves.items()):
        style = Style(COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)])
        axis.plot([], [], label=name, linewidth=2.2, **style._asdict())
        middles = (np.arange(len(runs[0])) + 0.5) * steps / len(runs[0])
        _band(axis, middles, runs, style)
    _frame(axis, "Training loss of a batch, block means", "step", LOSS, log=True)
    axis.legend(frameon=False, fontsize=10, handlelength=3.5)
    return figure
