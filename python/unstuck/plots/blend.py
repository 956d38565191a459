"""The picture of a blend study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unstuck._extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unstuck.experiments import BlendRecord, Plan

COLOURS = {"gate": "#D55E00", "baseline": "#0072B2", "control": "#7F7F7F"}
METHOD_COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#0072B2", "#000000")


def blend_figure(record: BlendRecord, plan: Plan, roles: dict[str, str]) -> Figure:
    """Draw a study: the loss of every seed and method, and how alpha moved, by data set.

    Parameters
    ----------
    record, plan
        From :func:`unstuck.experiments.run_study`.
    roles : dict of str to str
        The role of each method (gate, baseline, control), which colours it.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to a window; write it with ``figure.savefig("blend.png")``.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.

    Examples
    --------
    >>> from unstuck.experiments import Plan, run_study
    >>> least = dict(seeds=1, trials=1, tuning_seeds=1, epochs=1)
    >>> plan = Plan(data=("digits",), methods=("adam",), **least)
    >>> figure = blend_figure(run_study(plan), plan, {"adam": "baseline"})
    >>> len(figure.axes)
    2
    """
    make_figure = require("matplotlib.figure", extra="plots", purpose="the figure").Figure
    names = list(plan.data)
    figure: Figure = make_figure(figsize=(5.6 * len(names), 8.0), layout="constrained")
    axes: Any = figure.subplots(2, len(names), squeeze=False, height_ratios=(1.3, 1))
    for column, data in enumerate(names):
        _losses(axes[0, column], record, plan, roles, data)
        _alphas(axes[1, column], record, plan, roles, data)
    figure.suptitle(
        f"Blend of Adam and SGD, {plan.protocol} protocol: {plan.epochs} epochs, "
        f"{plan.trials} trials a method, {plan.seeds} seeds",
        fontweight="bold",
    )
    return figure


def _losses(axis: Any, record: BlendRecord, plan: Plan, roles: dict[str, str], data: str) -> None:
    """Draw the validation (dot) and test loss (cross) of every seed, best mean on top."""
    found: dict[str, list[tuple[float, float]]] = {}
    for method in plan.methods:
        runs = record.runs.get(f"{data}/{method}", [])
        good = [run["last"] for run in runs if run["seed"] < plan.seeds and not run["diverged"]]
        if good:
            found[method] = [(run["validation_loss"], run["test_loss"]) for run in good]
    order = sorted(found, key=lambda name: np.mean([pair[0] for pair in found[name]]), reverse=True)
    for place, method in enumerate(order):
        values = np.asarray(found[method])
        color = COLOURS[roles[method]]
        for which, (marker, shift) in enumerate((("o", 0.16), ("x", -0.16))):
            losses = values[:, which]
            axis.scatter(
                losses,
                np.full(len(losses), place + shift),
                marker=marker,
                color=color,
                s=16,
                alpha=0.6,
            )
            axis.vlines(
                losses.mean(), place + shift - 0.14, place + shift + 0.14, color=color, lw=2.5
            )
    axis.set_yticks(range(len(order)), order)
    axis.set_title(f"{data}: validation (dots) and test loss (crosses)", fontsize=11)
    axis.set_xlabel("cross-entropy (nats), last epoch")
    axis.grid(visible=True, axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _alphas(axis: Any, record: BlendRecord, plan: Plan, roles: dict[str, str], data: str) -> None:
    """Draw the mean alpha of the gates after every epoch."""
    gated = [name for name in plan.methods if roles[name] == "gate" or name == "gate-cosine"]
    for number, method in enumerate(gated):
        runs = record.runs.get(f"{data}/{method}", [])
        curves = [run["alpha"] for run in runs if run["seed"] < plan.seeds and not run["diverged"]]
        if curves:
            values = np.asarray(curves)
            epochs = np.arange(values.shape[1])
            color = METHOD_COLOURS[number % len(METHOD_COLOURS)]
            axis.plot(epochs, values.mean(axis=0), color=color, label=method)
            axis.fill_between(
                epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12, lw=0
            )
    if gated:
        axis.legend(frameon=False, fontsize=9)
    axis.set_title("alpha (1 is Adam, 0 is SGD), mean over tensors", fontsize=11)
    axis.set_xlabel("epoch")
    axis.set_ylim(-0.03, 1.03)
    axis.grid(visible=True, alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
