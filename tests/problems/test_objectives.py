"""The problems with data: their data, their known minima, and what makes them hard."""

from __future__ import annotations

import pytest
import torch

from unstuck import problems
from unstuck.ops.objectives import LogisticRegression, Trapped
from unstuck.problems import _optimum
from unstuck.problems.objectives import OBJECTIVES, classification_data, regression_data

DOUBLE = torch.float64


def descend(problem, x, *, steps: int, lr: float):
    for _ in range(steps):
        x = x - lr * problem.value_and_gradient(x)[1]
    return x


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_problems_by_name(name: str, dtype: torch.dtype) -> None:
    problem = problems.get(name, dtype=dtype)
    assert problem.name == name
    low, high = problem.bounds
    assert low.shape == high.shape == (problem.dim,)
    assert bool((low < high).all())
    assert problem.dtype == dtype
    x = torch.randn(4, problem.dim, dtype=dtype)
    values = problem(x)
    assert values.shape == (4,)
    torch.testing.assert_close(values[1], problem(x[1]))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(problem(x).sum(), x)
    torch.testing.assert_close(slope, problem.value_and_gradient(x.detach())[1])
    again = problems.get(name, dtype=dtype)
    assert torch.equal(again.objective.X, problem.objective.X)
    other = problems.get(name, dtype=dtype, seed=1)
    assert not torch.equal(other.objective.X, problem.objective.X)


@pytest.mark.parametrize("name", ["trapped", "linear-regression", "logistic-regression"])
@pytest.mark.parametrize("dim", [1, 2, 30])
def test_minima_are_minima(name: str, dim: int) -> None:
    problem = problems.get(name, dim, dtype=DOUBLE, samples=2000)
    assert problem.minimum is not None
    w = problem.minimizer
    assert bool((w >= problem.bounds[0]).all() and (w <= problem.bounds[1]).all())
    assert problem(w) == problem.minimum
    assert problem.value_and_gradient(w)[1].abs().max() < 1e-5
    around = w + 10.0 ** -torch.arange(1, 7.0)[:, None, None].to(DOUBLE) * torch.randn(
        1, 200, dim, dtype=DOUBLE
    )
    assert float(problem(around.reshape(-1, dim)).min()) >= problem.minimum - 1e-12


@pytest.mark.parametrize(
    ("lam", "kappa"), [(1.0, 5.0), (-1.0, 5.0), (0.3, 20.0), (0.0, 5.0), (2.0, 0.1), (1.0, -3.0)]
)
@pytest.mark.parametrize("dim", [2, 3])
def test_the_trapped_minimum_is_the_lowest_of_a_grid(dim: int, lam: float, kappa: float) -> None:
    """No point of a fine grid over the box is lower, and the best of them comes close."""
    problem = problems.get("trapped", dim, dtype=DOUBLE, lam=lam, kappa=kappa)
    points = 201 if dim == 2 else 35
    side = torch.linspace(-1, 1, points, dtype=DOUBLE)
    grid = torch.cartesian_prod(*[side] * dim) * problem.bounds[1]
    near = problem.minimizer + 0.02 * grid / problem.bounds[1]
    assert float(problem(grid).min()) >= problem.minimum
    assert problem.minimum <= float(problem(near).min()) < problem.minimum + 0.01 * (1 + abs(lam))


def test_gradient_descent_is_trapped() -> None:
    """It stops on a ring, far above the minimum; without rings it arrives."""
    problem = problems.get("trapped", 11, dtype=DOUBLE)
    start = torch.full((11,), 0.01, dtype=DOUBLE)
    end = descend(problem, start, steps=3000, lr=0.005)
    assert problem.value_and_gradient(end)[1].norm() < 1e-3
    assert float(problem(end)) > problem.minimum + 2
    free = problems.get("trapped", 11, dtype=DOUBLE, lam=0.0)
    assert float(free(descend(free, start, steps=3000, lr=0.05))) < free.minimum + 1e-9
    assert free.minimum == pytest.approx(
        problems.get("linear-regression", 11, dtype=DOUBLE).minimum
    )


def test_least_squares_of_fewer_rows_than_columns() -> None:
    problem = problems.get("linear-regression", 30, samples=10, dtype=DOUBLE)
    assert problem.minimum == pytest.approx(0, abs=1e-20)


def test_trapped_with_fewer_rows_than_columns() -> None:
    """Directions that no row sees are free, and the rings still decide."""
    X, y = regression_data(3, 5, dtype=DOUBLE)
    objective = Trapped(X, y, 1.0, 4.0)
    w = _optimum.trapped(objective)
    from unstuck.ops.objectives import value

    lowest = float(value(objective, w))
    assert lowest >= -1
    assert float(value(objective, 3 * torch.randn(20000, 5, dtype=DOUBLE)).min()) >= lowest


def test_separable_classes_have_no_minimum() -> None:
    X, y = classification_data(50, 3, noise=0.0, dtype=DOUBLE)
    assert _optimum.logistic(LogisticRegression(X, y)) is None
    problem = problems.get("logistic-regression", 3, noise=0.0, samples=50)
    assert problem.minimum is None
    assert problem.minimizer is None


def test_the_small_net_learns() -> None:
    problem = problems.get("two-layer-net")
    assert problem.dim == 41  # 10 x 2 + 10 + 10 + 1
    assert problem.objective.X.shape == (20, 2)
    start = 0.3 * torch.randn(41)
    end = descend(problem, start, steps=500, lr=0.5)
    assert float(problem(end)) < 0.6 < float(problem(start)) + 0.1


def test_data() -> None:
    X, y = regression_data(5000, 4, seed=2, noise=0.5, dtype=DOUBLE)
    assert X[:, -1].unique().tolist() == [1]
    assert X[:, :-1].mean().abs() < 0.05
    assert X[:, :-1].std() == pytest.approx(1, abs=0.05)
    residual = y - X @ _optimum.least_squares(X, y)
    assert residual.std() == pytest.approx(0.5, rel=0.05)
    labels = classification_data(5000, 4, seed=2)[1]
    assert labels.unique().tolist() == [0, 1]
    assert 0.05 < labels.mean() < 0.95


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("trapped", dict(lam=float("inf")), "lam must be a finite number, not inf"),
        ("trapped", dict(samples=0), "samples must be at least 1, not 0"),
        ("trapped", dict(noise=-1.0), "noise must be at least 0, not -1"),
        ("trapped", dict(rings=3), "no parameter 'rings'"),
        ("two-layer-net", dict(dim=10), "41 parameters .* not dim=10: choose features and hidden"),
        ("two-layer-net", dict(hidden=0), "hidden must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_refused(name: str, arguments, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        problems.get(name, **arguments)
