"""Pictures of minimisations: how the best value fell, and where a method went on a plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unstuck._extras import require
from unstuck.plots.race import COLOURS, DASHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unstuck.minimize import OptimizeResult

COLUMNS = 3
GRID = 201  # points a side of a contour plot
LEVELS = 24
PATH = "#D55E00"

Array = NDArray[np.float64]


def convergence_figure(
    results: Mapping[str, OptimizeResult], *, minimum: float | None = None, title: str = ""
) -> Figure:
    """Draw the best value so far over evaluations and over seconds, one line a result.

    Parameters
    ----------
    results : mapping of str to OptimizeResult
        From :func:`unstuck.minimize`, by the name for the legend.
    minimum : float, optional
        The known minimum: the distance to it is drawn, logarithmically. Without it the values are,
        logarithmically where all are above 0.
    title : str
        Stands above.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to a window; write it with ``figure.savefig("search.png")``.

    Raises
    ------
    ValueError
        When there is no result.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> import unstuck
    >>> result = unstuck.minimize(lambda x: ((x - 1) ** 2).sum(), [0.0, 3.0], budget=500, seed=0)
    >>> len(convergence_figure({"attention": result}, minimum=0.0).axes)
    2
    """
    figure = _figure(results, (11.0, 4.4))
    axes: Any = figure.subplots(1, 2, sharey=True)
    offset = 0.0 if minimum is None else minimum
    curves = {name: np.asarray(one.history.fun, float) - offset for name, one in results.items()}
    everything = np.concatenate(list(curves.values()))
    finite = everything[np.isfinite(everything)]
    positive = finite[finite > 0]
    # A value at the minimum has no logarithm: it stands a decade below the lowest other.
    log = positive.size > 0 and (minimum is not None or positive.size == finite.size)
    floor = positive.min() / 10 if log else -math.inf
    for number, (name, one) in enumerate(results.items()):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "dashes": DASHES[number % len(DASHES)],
        }
        best = np.maximum(curves[name], floor)
        axes[0].plot(one.history.nfev, best, label=f"{name}: {one.fun:.7g}", lw=1.8, **style)
        axes[1].plot(one.history.seconds, best, lw=1.8, **style)
    for axis, label in zip(axes, ("evaluations", "seconds"), strict=True):
        axis.set_xlabel(label)
        axis.grid(visible=True, alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if log:
            axis.set_yscale("log")
    axes[0].set_ylabel("best value" if minimum is None else "best value above the minimum")
    axes[0].legend(frameon=False, fontsize=10, handlelength=3)
    figure.suptitle(title, fontweight="bold")
    return figure


def trajectory_figure(
    results: Mapping[str, OptimizeResult],
    function: Callable[[Array], Array],
    box: tuple[Array, Array],
    *,
    minimizer: Array | None = None,
    title: str = "",
) -> Figure:
    """Draw where each method went on the contours of a function of two numbers.

    Parameters
    ----------
    results : mapping of str to OptimizeResult
        Made with ``options={"return_all": True}``, by the name for the panel.
    function : callable
        Values ``[n]`` of points ``[n, 2]``, both arrays in float64.
    box : tuple of two arrays
        ``(low [2], high [2])``: the part that is drawn.
    minimizer : array, optional
        The known best point ``[2]``, marked with a cross.
    title : str
        Stands above.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a result: a dot at the start, a star at the best point.

    Raises
    ------
    ValueError
        When there is no result, one has no ``allvecs``, or it is not of two numbers.
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> import unstuck
    >>> bowl = lambda x: ((x - 1) ** 2).sum(-1)
    >>> result = unstuck.minimize(
    ...     bowl, [0.0, 3.0], vectorized=True, budget=500, seed=0, options={"return_all": True}
    ... )
    >>> box = (np.full(2, -2.0), np.full(2, 4.0))
    >>> len(trajectory_figure({"attention": result}, bowl, box).axes)
    1
    """
    paths = {name: _path(name, one) for name, one in results.items()}
    columns = min(max(len(results), 1), COLUMNS)
    rows = math.ceil(len(results) / columns)
    figure = _figure(results, (4.8 * columns, 4.6 * rows + 0.4))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(results) :]:
        axis.remove()
    low, high = (np.asarray(side, float) for side in box)
    across, up = (np.linspace(low[i], high[i], GRID) for i in range(2))
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    values = np.asarray(function(points), float).reshape(GRID, GRID)
    for axis, (name, path) in zip(axes, paths.items(), strict=False):
        _contours(axis, across, up, values)
        _walk(axis, path, _array(results[name].x))
        if minimizer is not None:
            axis.plot(*minimizer, "x", color="black", ms=9, mew=2, clip_on=False, label="minimum")
        axis.set_xlim(low[0], high[0])
        axis.set_ylim(low[1], high[1])
        axis.set_title(f"{name}: {results[name].fun:.7g}", fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title, fontweight="bold")
    return figure


def _figure(results: Mapping[str, OptimizeResult], size: tuple[float, float]) -> Figure:
    if not results:
        raise ValueError("nothing to draw: there is no result")
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    figure: Figure = make_figure(figsize=size, layout="constrained")
    return figure


def _array(point: Any) -> Array:
    """Return a tensor or an array of two numbers as an array."""
    if hasattr(point, "detach"):
        point = point.detach().cpu().numpy()
    return np.asarray(point, float).reshape(-1)


def _path(name: str, result: OptimizeResult) -> Array:
    if "allvecs" not in result:
        raise ValueError(
            f"{name} has no trajectory: call minimize with options={{'return_all': True}}"
        )
    path = np.stack([_array(point) for point in result.allvecs])  # [nit + 1, 2]
    if path.shape[1] != 2:
        raise ValueError(f"{name} has {path.shape[1]} coordinates: a contour plot needs 2")
    return path


def _contours(axis: Any, across: Array, up: Array, values: Array) -> None:
    """Draw areas of equal share of the box, the lowest darkest: no value range hides another."""
    colors = require("matplotlib.colors", extra="plots", purpose="the figure")
    shares = np.quantile(values[np.isfinite(values)], np.linspace(0, 1, LEVELS + 1) ** 1.5)
    levels = np.unique(shares)
    if len(levels) < 3:  # nearly flat
        levels = np.linspace(levels[0] - 1, levels[-1] + 1, 3)
    norm = colors.BoundaryNorm(levels, 256)
    axis.contourf(across, up, values, levels=levels, norm=norm, cmap="Blues_r", alpha=0.8)


def _walk(axis: Any, path: Array, best: Array) -> None:
    """Draw the way of a method."""
    axis.plot(path[:, 0], path[:, 1], "-", color=PATH, lw=1.1, alpha=0.5, label="search")
    order = np.arange(len(path))  # darker later
    axis.scatter(path[:, 0], path[:, 1], c=order, cmap="Oranges", vmin=-len(path), s=9, zorder=2)
    axis.plot(*path[0], "o", color=PATH, mec="white", ms=8, clip_on=False, label="start")
    axis.plot(*best, "*", color="#F0E442", mec="black", ms=14, clip_on=False, label="best")
