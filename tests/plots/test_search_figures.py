import numpy as np
import pytest
import torch

from unstuck import problems
from unstuck.minimize import History, OptimizeResult, minimize
from unstuck.plots import convergence_figure, trajectory_figure

TRACED = {"return_all": True}
BOX = (np.full(2, -3.0), np.full(2, 3.0))


def bowl(x):
    return (x**2).sum(-1)


@pytest.fixture(scope="module")
def results():
    return {
        f"run{seed}": minimize(
            bowl, np.full(2, 2.0), vectorized=True, budget=200, seed=seed, options=TRACED
        )
        for seed in range(4)
    }


def made(values, nfev=None):
    nfev = list(range(1, len(values) + 1)) if nfev is None else nfev
    return OptimizeResult(fun=values[-1], history=History(nfev, values, [0.1 * n for n in nfev]))


def test_convergence_draws_the_history(results):
    figure = convergence_figure(results, minimum=0.0, title="bowl, D = 2")
    left, right = figure.axes
    assert figure.get_suptitle() == "bowl, D = 2"
    assert [axis.get_xlabel() for axis in (left, right)] == ["evaluations", "seconds"]
    assert left.get_ylabel() == "best value above the minimum"
    assert left.get_yscale() == right.get_yscale() == "log"
    for line, result in zip(left.lines, results.values(), strict=True):
        assert line.get_xdata().tolist() == result.history.nfev
        assert line.get_ydata().tolist() == result.history.fun
    for line, result in zip(right.lines, results.values(), strict=True):
        assert line.get_xdata().tolist() == result.history.seconds
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == [f"{name}: {one.fun:.7g}" for name, one in results.items()]
    assert len({line.get_color() for line in left.lines}) == 4


@pytest.mark.parametrize(
    ("values", "minimum", "scale", "drawn"),
    [
        ([5.0, 3.0, 2.0], 1.0, "log", [4.0, 2.0, 1.0]),
        ([5.0, 3.0, 1.0], 1.0, "log", [4.0, 2.0, 0.2]),  # the minimum itself: a decade below
        ([5.0, 3.0, 1.0], None, "log", [5.0, 3.0, 1.0]),
        ([5.0, 3.0, -1.0], None, "linear", [5.0, 3.0, -1.0]),
        ([1.0, 1.0], 1.0, "linear", [0.0, 0.0]),
        ([np.inf, 3.0, 1.0], None, "log", [np.inf, 3.0, 1.0]),
    ],
)
def test_scale_and_offset(values, minimum, scale, drawn):
    axis = convergence_figure({"one": made(values)}, minimum=minimum).axes[0]
    assert axis.get_yscale() == scale
    assert axis.lines[0].get_ydata().tolist() == pytest.approx(drawn)


def test_trajectories_one_panel_each(results):
    figure = trajectory_figure(results, bowl, BOX, minimizer=np.zeros(2), title="bowl")
    assert len(figure.axes) == 4
    for axis, (name, result) in zip(figure.axes, results.items(), strict=True):
        assert axis.get_title() == f"{name}: {result.fun:.7g}"
        path = np.column_stack(axis.lines[0].get_data())
        assert path.tolist() == [point.tolist() for point in result.allvecs]
        assert axis.get_xlim() == (-3.0, 3.0)
        by_label = {line.get_label(): np.column_stack(line.get_data()) for line in axis.lines}
        assert by_label["start"].tolist() == [[2.0, 2.0]]
        assert by_label["best"].tolist() == [result.x.tolist()]
        assert by_label["minimum"].tolist() == [[0.0, 0.0]]
        assert axis.collections, "there are contours"
    figure.canvas.draw()


@pytest.mark.parametrize("name", ["rosenbrock", "gaussian_peaks", "scaled_saddle"])
def test_draws_problems_and_tensors(name):
    problem = problems.get(name, 2)
    result = minimize(problem, budget=200, seed=0, options=TRACED)
    box = tuple(side.numpy() for side in problem.bounds)
    values = lambda points: problem(torch.as_tensor(points).float()).numpy()  # noqa: E731
    figure = trajectory_figure({name: result}, values, box)
    figure.canvas.draw()
    assert "minimum" not in [line.get_label() for line in figure.axes[0].lines]


@pytest.mark.parametrize("values", [lambda x: 0 * x[:, 0], lambda x: 1.0 + 0 * x[:, 0]])
def test_flat_functions_are_drawn(values, results):
    trajectory_figure({"flat": results["run0"]}, values, BOX).canvas.draw()


def test_nothing_to_draw(results):
    with pytest.raises(ValueError, match="there is no result"):
        convergence_figure({})
    with pytest.raises(ValueError, match="there is no result"):
        trajectory_figure({}, bowl, BOX)
    untraced = minimize(bowl, np.ones(2), vectorized=True, budget=20)
    with pytest.raises(ValueError, match=r"two has no trajectory: .*'return_all': True"):
        trajectory_figure({"one": results["run0"], "two": untraced}, bowl, BOX)
    wide = minimize(bowl, np.ones(3), vectorized=True, budget=20, options=TRACED)
    with pytest.raises(ValueError, match="three has 3 coordinates: a contour plot needs 2"):
        trajectory_figure({"three": wide}, bowl, BOX)
