import math

import pytest

from unstuck.plots import meta_training_figure


def curve(steps):
    return {
        "step": list(range(1, steps + 1)),
        "score": [-0.01 * i for i in range(steps)],
        "gradient_norm": [1.0 / (i + 1) for i in range(steps)],
        "judged": [-0.02 * i if i % 10 == 0 else None for i in range(steps)],
        "student_steps": [100 * (i + 1) for i in range(steps)],
        "seconds": [0.5 * (i + 1) for i in range(steps)],
    }


def test_draws_what_the_curve_holds(tmp_path):
    figure = meta_training_figure(curve(100))
    upper, lower = figure.axes
    points, mean, judged = upper.get_lines()
    assert len(points.get_xdata()) == 100
    assert list(judged.get_xdata()) == list(range(1, 101, 10))
    assert judged.get_ydata()[-1] == pytest.approx(-1.8)
    assert mean.get_ydata()[-1] == pytest.approx(-0.97)  # of the last five
    assert lower.get_yscale() == "log"
    assert upper.get_title() == "100 meta-steps, 10,000 student steps, 0.8 minutes"
    figure.savefig(tmp_path / "x.png")


def test_draws_a_single_step():
    judged = meta_training_figure(curve(1)).axes[0].get_lines()[2]
    assert not math.isnan(judged.get_ydata()[0])


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no meta-step has been made"):
        meta_training_figure({"step": []})
