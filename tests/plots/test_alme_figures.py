"""The pictures of ALME's study draw what the results hold."""

import numpy as np
import pytest

from unstuck.plots import (
    alme_comparison_figure,
    alme_landscapes_figure,
    escape_distances_figure,
    escapes_figure,
)

HISTORY = [[2, 1.0, 0.5, True, 0.3, 2.0], [3, 0.9, 1.5, False, 0.7, 0.5]]


def training(seed, history, **more):
    return {
        "seed": seed,
        "train": [2.0, 1.0 + seed],
        "validation": [2.0, 1.5],
        "test": [2.0, 1.25 + seed],
        "accuracy": 0.75,
        "seconds": 0.5,
        "history": history,
        "attempts": len(history),
        "escapes": sum(one[3] for one in history),
        "trace": {"step": [1, 2, 3], "loss": [2.0, 1.0, 1.0], "norm": [3.0, 0.1, 0.2]},
        **more,
    }


@pytest.fixture
def cells():
    eager = [training(0, HISTORY), training(1, HISTORY[:1])]
    runs = {"alme-aggressive": eager, "adamw": [training(0, []), training(1, [])]}
    for run in runs["adamw"]:
        for name in ("attempts", "escapes", "history"):
            del run[name]
    ends = [{"best": [4.0, 1e-20]}, {"best": [4.0, 1e-2]}, {"best": [4.0, 1e-1]}]
    return {
        "training/digits/smooth": {"runs": runs},
        "escape/digits/mlp": {},
        "function/ackley/2": {"runs": {"adamw": ends, "lbfgs": ends[:1]}},
    }


def test_escapes_stand_over_loss_and_gradient_norm(cells):
    figure = escapes_figure(cells, "digits/smooth")
    loss, norm = figure.axes
    assert list(loss.lines[0].get_ydata()) == [2.0, 1.0, 1.0]
    assert list(norm.lines[0].get_ydata()) == [3.0, 0.1, 0.2]
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert labels == ["escape, accepted (1)", "escape, undone (1)"]
    assert [list(line.get_xdata()) for line in norm.lines[1:]] == [[2, 2], [3, 3]]
    marks = {line.get_marker(): line.get_xydata().tolist() for line in loss.lines}
    assert marks["v"] == [[2.0, 0.5]]
    assert marks["x"] == [[3.0, 1.5]]
    figure.canvas.draw()
    with pytest.raises(KeyError):
        escapes_figure(cells, "mnist/mlp")


def test_distances_and_counts_of_all_seeds(cells):
    figure = escape_distances_figure(cells)
    left, right = figure.axes
    points = [dots.get_offsets().tolist() for dots in left.collections]
    assert points == [[[2.0, 0.3], [2.0, 0.3]], [[3.0, 0.7]]]
    tried, accepted = right.lines
    assert tried.get_ydata().tolist() == [0.0, 0.5, 1.0, 1.5]  # a run, of two
    assert accepted.get_ydata().tolist() == [0.0, 0.5, 1.0]
    figure.canvas.draw()
    with pytest.raises(ValueError, match="no training"):
        escape_distances_figure({})


def test_six_panels_compare(cells):
    figure = alme_comparison_figure(cells, "digits/smooth")
    assert len(figure.axes) == 6
    assert figure.axes[0].lines[1].get_ydata().tolist() == [2.0, 1.5]  # mean of 1 and 2
    heights = [bar.get_height() for bar in figure.axes[5].patches]
    assert heights == [1.5, 1.0, 0.0, 0.0]
    figure.canvas.draw()


def test_a_panel_for_every_landscape(cells):
    figure = alme_landscapes_figure(cells)
    trained, function = figure.axes
    assert [trained.get_title(), function.get_title()] == ["digits/smooth", "ackley/2"]
    assert trained.collections[0].get_offsets()[:, 1].tolist() == [1.25, 2.25]
    assert [line.get_ydata().tolist() for line in function.lines] == [[4.0, 1e-2], [4.0, 1e-12]]
    assert np.all(function.lines[0].get_xdata() == [0.5, 1.0])
    figure.canvas.draw()
    with pytest.raises(ValueError, match="nothing to draw"):
        alme_landscapes_figure({"escape/digits/mlp": {}})
