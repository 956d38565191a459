"""The counted function: gradients, counts, and the best point of a batch cut short."""

import numpy as np
import pytest
import torch

from unstuck import problems
from unstuck.minimize.function import BudgetSpentError, Form, Function

X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)


def make(fun, *, array=False, vectorized=False, budget=100, rows=2, high=None, x=X, shape=None):
    form = Form(shape or tuple(x.shape), array)
    return Function(fun, form, x, vectorized=vectorized, budget=budget, rows=rows, high=high)


def cubic(x):
    return (x**3).sum(-1)


class Analytic:
    def __call__(self, x):
        return (x**3).sum()

    def value_and_gradient(self, x):
        return (x**3).sum(), 3 * x**2


@pytest.mark.parametrize(
    ("function", "counts", "tolerance"),
    [
        (make(cubic), (1, 1), 1e-15),
        (make(cubic, vectorized=True), (1, 1), 1e-15),
        (make(Analytic()), (1, 1), 1e-15),
        (make(Analytic(), array=True), (1, 1), 1e-15),
        (make(cubic, array=True), (4, 1), 1e-6),
        (make(cubic, array=True, vectorized=True), (4, 1), 1e-6),
        (make(cubic, array=True, high=X), (4, 1), 1e-6),
    ],
)
def test_gradient_from_the_best_source_there_is(function, counts, tolerance):
    value, gradient = function.value_and_gradient(X)
    assert (function.nfev, function.ngev) == counts
    assert (value.dtype, gradient.dtype, gradient.shape) == (torch.float64, X.dtype, (3,))
    assert float(value) == pytest.approx(float((X**3).sum()), rel=1e-15)
    torch.testing.assert_close(gradient, 3 * X**2, rtol=tolerance, atol=tolerance)
    assert not gradient.requires_grad
    assert function.best_f <= float(value)


def test_differences_stay_below_the_upper_bound():
    seen = []
    function = make(lambda x: seen.append(x.copy()) or float(cubic(x)), array=True, high=X)
    function.value_and_gradient(X)
    assert (np.stack(seen) <= X.numpy()).all()


def test_gradient_of_a_point_with_a_shape():
    x = torch.arange(6, dtype=torch.float64)
    function = make(lambda w: (w[0] * w[1]).sum(), x=x, shape=(2, 3))
    _, gradient = function.value_and_gradient(x)
    assert gradient.tolist() == [3.0, 4.0, 5.0, 0.0, 1.0, 2.0]


def test_gradient_of_a_problem():
    problem = problems.get("rosenbrock", 3, dtype=torch.float64)
    function = make(problem, vectorized=True)
    value, gradient = function.value_and_gradient(X)
    expected = problem.value_and_gradient(X)
    assert (float(value), gradient.tolist()) == (float(expected[0]), expected[1].tolist())


def test_function_without_a_gradient_says_how_to_get_one():
    function = make(lambda x: x.detach().sum())
    with pytest.raises(ValueError, match=r"fun gives no gradient: .* or pass a numpy x0"):
        function.value_and_gradient(X)


def test_gradient_of_a_wrong_shape():
    bad = Analytic()
    bad.value_and_gradient = lambda x: (x.sum(), torch.ones(2))
    with pytest.raises(ValueError, match=r"a gradient of 2 numbers for a point of 3"):
        make(bad).value_and_gradient(X)


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_counts_to_the_budget_and_no_further(vectorized, rows):
    points = torch.arange(10.0, 0.0, -1)[:, None] * torch.ones(3)  # each better than the last
    called = []

    def fun(x):
        called.append(1 if x.ndim == 1 else len(x))
        return (x**2).sum(-1)

    function = make(fun, vectorized=vectorized, budget=7, rows=rows, x=points[0])
    assert function(points[:3]).tolist() == [300.0, 243.0, 192.0]
    with pytest.raises(BudgetSpentError):
        function(points[3:])
    assert sum(called) == function.nfev == 7
    assert max(called) <= (rows if vectorized else 1)
    assert function.best_x.tolist() == [4.0] * 3
    assert function.best_f == 48.0
    with pytest.raises(BudgetSpentError):
        function(points[:1])
    with pytest.raises(BudgetSpentError):
        function.value_and_gradient(points[0])
    assert (function.nfev, function.ngev) == (7, 0)
