import numpy as np
import pytest

from unstuck.plots import race_figure
from unstuck.training import race


@pytest.fixture(scope="module")
def result():
    return race("adam,sgd,sgd:lr=1e38", model="logistic", epochs=3, seeds=3)


def panel(figure, title):
    (axis,) = [axis for axis in figure.axes if axis.get_title().startswith(title)]
    return axis


@pytest.mark.parametrize(
    ("title", "curve"),
    [
        ("Training loss", lambda history: history.train_loss),
        ("Validation loss", lambda history: history.validation_loss),
        ("Validation error", lambda h: [100 * (1 - share) for share in h.validation_accuracy]),
    ],
)
def test_lines_are_means_and_bands_the_range_over_seeds(result, title, curve):
    figure = race_figure(result)
    axis = next(axis for axis in figure.axes if axis.get_title() == title)
    lines = [line for line in axis.lines if len(line.get_xdata())]
    bands = axis.collections
    assert len(lines) == len(bands) == 2  # the diverged one has none
    for label, line, band in zip(["adam", "sgd"], lines, bands, strict=True):
        values = np.array([curve(history) for history in result.histories(label)])
        np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
        assert line.get_xdata().tolist() == [0, 1, 2, 3]
        low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
        assert (low, high) == pytest.approx((values.min(), values.max()))
    assert axis.get_yscale() == "log"
    assert axis.get_xlabel() == "epoch"


def test_time_panel_runs_over_seconds(result):
    axis = panel(race_figure(result), "Validation loss by time")
    ends = [line.get_xdata()[-1] for line in axis.lines]
    expected = [np.mean([h.seconds[-1] for h in result.histories(x)]) for x in ("adam", "sgd")]
    assert ends == pytest.approx(expected)


def test_test_losses_are_dots_with_their_mean_named(result):
    axis = panel(race_figure(result), "Test loss")
    losses = [history.test_loss[-1] for history in result.histories("sgd")]
    assert axis.collections[2].get_offsets()[:, 1].tolist() == pytest.approx(losses)
    names = [text.get_text() for text in axis.get_xticklabels()]
    assert names[1] == f"sgd\n{np.mean(losses):#.3g}"
    assert names[2] == "sgd\nlr=1e38\n-"


def test_legend_names_everyone_and_counts_divergence(result):
    (legend,) = race_figure(result).legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["adam", "sgd", "sgd:lr=1e38 (3 of 3 diverged)"]


def test_probes_get_panels():
    result = race("blend,sgd", model="logistic", epochs=2, seeds=2)
    axis = panel(race_figure(result), "Blend: alpha")
    values = np.mean([h.probes["alpha"] for h in result.histories("blend")], axis=0)
    (line,) = axis.lines
    np.testing.assert_allclose(line.get_ydata(), values)
    assert not any(axis.get_title().startswith("Test error") for axis in race_figure(result).axes)


@pytest.mark.parametrize("names", ["adam", "adam,adamw,sgd,nadam,radam,adamax,rmsprop,adagrad"])
def test_renders_with_one_and_with_many(tmp_path, names):
    result = race(names, model="logistic", epochs=1, seeds=1)
    race_figure(result).savefig(tmp_path / "race.png", dpi=40)
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw(result):
    def stop(_):
        raise KeyboardInterrupt

    empty = race("sgd", seeds=1, epochs=1, progress=stop)
    with pytest.raises(ValueError, match="no run has finished"):
        race_figure(empty)
