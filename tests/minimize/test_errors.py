"""What minimize refuses, and that no interrupt and no error loses the best point so far."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from unstuck import problems
from unstuck.minimize import minimize

SPHERE = problems.get("sphere", 3)


def bowl(x):
    return (x**2).sum()


def after(count, error):
    """A bowl that raises at one evaluation, and the values that it gave before."""
    given = []

    def fun(x):
        if len(given) == count:
            raise error
        given.append(float((x**2).sum()))
        return given[-1]

    return fun, given


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(fun=3), TypeError, r"fun must be callable, a problem or the name of one, not 3"),
        (dict(fun="sphre"), ValueError, r"unknown problem 'sphre': known are ackley"),
        (dict(fun="rastrigin", x0=None), ValueError, r"rastrigin is defined in every dimension"),
        (dict(fun=SPHERE, x0=[1.0]), ValueError, r"x0 has 1 coordinates, but sphere has 3"),
        (dict(device="cpux"), ValueError, r"device=cpux cannot be used here: .*"),
        (dict(device="cuda:99"), ValueError, r"device=cuda:99 cannot be used here: .*"),
        (dict(fun=SPHERE, device="meta"), ValueError, r"the problem lives on cpu, not on meta"),
        (dict(fun="eggholder", x0=[1.0]), ValueError, r"eggholder must be 2, not 1"),
        (dict(x0=None), ValueError, r"without x0 there must be bounds"),
        (dict(x0=None, bounds=[(0, None)]), ValueError, r"needs two finite bounds: give x0 or"),
        (dict(x0=[]), ValueError, r"x0 is empty, of shape \[0\]: give at least one coordinate"),
        (dict(x0=torch.zeros(2, 0)), ValueError, r"x0 is empty, of shape \[2, 0\]"),
        (dict(x0=[0.0, math.nan]), ValueError, r"x0 must be finite, but its coordinate 1 is nan"),
        (dict(x0=torch.tensor([math.inf])), ValueError, r"its coordinate 0 is inf"),
        (dict(x0="nought"), TypeError, r"x0 must be a tensor, an array or a sequence"),
        (dict(x0=[[1.0], [1.0, 2.0]]), TypeError, r"x0 must be a tensor, an array or a sequence"),
        (dict(x0=torch.zeros(2).half()), TypeError, r"float32 or float64, not torch.float16"),
        (dict(x0=torch.zeros(2) * 1j), TypeError, r"float32 or float64, not torch.complex64"),
        (dict(x0=np.zeros(2) * 1j), TypeError, r"float32 or float64, not torch.complex128"),
        (dict(bounds=[(0, 1)]), ValueError, r"bounds has 1 entries for 2 coordinates"),
        (dict(bounds=[(0, 1)] * 3), ValueError, r"bounds has 3 entries for 2 coordinates"),
        (dict(bounds=[(0, 1), (0, 1, 2)]), ValueError, r"coordinate 1 is \(0, 1, 2\): it must be"),
        (dict(bounds=[(0, 1), None]), ValueError, r"coordinate 1 is None: it must be a pair"),
        (dict(bounds=[(-1, 1), (1, -1)]), ValueError, r"coordinate 1 are 1.0 and -1.0: low must"),
        (dict(bounds=[(-1, 1), (0, 0)]), ValueError, r"coordinate 1 are 0.0 and 0.0: low must"),
        (dict(bounds=[(-1, 1), (math.nan, 1)]), ValueError, r"coordinate 1 are nan and 1.0"),
        (dict(bounds=(torch.zeros(3), 1)), ValueError, r"low bound has 3 numbers for 2 coord"),
        (dict(bounds=(-1, torch.ones(2, 2))), ValueError, r"high bound has shape \[2, 2\]"),
        (dict(bounds=[(1, 2), (-1, 1)]), ValueError, r"coordinate 0 of x0 is 0.0, outside of its"),
        (dict(bounds=7), TypeError, r"bounds must be pairs .* not 7"),
        (dict(bounds=scipy.optimize.Bounds([0] * 3, 1)), ValueError, r"low bound has 3 numbers"),
        (dict(budget=0), ValueError, r"budget must be a whole number of at least 1, not 0"),
        (dict(budget=10.5), TypeError, r"budget must be a whole number, not 10.5"),
        (dict(budget="many"), TypeError, r"budget must be a whole number, not 'many'"),
        (dict(budget=True), ValueError, r"budget must be a whole number of at least 1, not True"),
        (dict(budget=math.inf), TypeError, r"budget must be a whole number, not inf"),
        (dict(seed=-1), ValueError, r"seed must be from 0 to 2\^64 - 1, not -1"),
        (dict(seed=2**64), ValueError, r"seed must be from 0 to 2\^64 - 1, not"),
        (dict(seed=0.5), TypeError, r"seed must be a whole number or None, not 0.5"),
        (dict(tol=-1), ValueError, r"tol must be finite and at least 0, not -1"),
        (dict(tol=math.nan), ValueError, r"tol must be finite and at least 0, not nan"),
        (dict(tol="small"), TypeError, r"tol must be a number or None, not 'small'"),
        (dict(callback=3), TypeError, r"callback must be callable, not 3"),
        (dict(vectorized="yes"), TypeError, r"vectorized must be True or False, not 'yes'"),
        (dict(method="atention"), ValueError, r"unknown method 'atention': known are .*attention"),
        (dict(options={"pop": 3}), ValueError, r"unknown option 'pop' of .*known are .*popsize"),
        (dict(options={"seed": 3}), ValueError, r"unknown option 'seed' of the method 'attention'"),
        (dict(options={"x0": [3]}), ValueError, r"unknown option 'x0' of the method 'attention'"),
        (dict(options={"maxiter": 0}), ValueError, r"maxiter must be a whole number of at least 1"),
        (dict(options={"max_bytes": 0}), ValueError, r"max_bytes must be a whole number of at"),
        (dict(options={"popsize": 1}), ValueError, r"popsize must be a whole number of at least 2"),
        (dict(options={"sigma0": 0.0}), ValueError, r"sigma0 must be finite and above 0, not 0.0"),
    ],
)
def test_arguments_that_are_refused(arguments, error, message):
    calls = []

    def fun(x):
        calls.append(x)
        return (x**2).sum()

    given = {"fun": fun, "x0": [0.0, 0.0], "seed": 0, **arguments}
    if isinstance(given["fun"], (str, problems.Problem)) and "x0" not in arguments:
        given["x0"] = None
    with pytest.raises(error, match=message):
        minimize(given.pop("fun"), given.pop("x0"), **given)
    assert calls == []


@pytest.mark.parametrize(
    ("value", "vectorized", "error", "message"),
    [
        (np.zeros(3), False, ValueError, r"shape \[3\] for one point of shape \[2\]: it must ret"),
        (np.zeros((0,)), False, ValueError, r"fun returned shape \[0\] for one point"),
        (None, False, TypeError, r"fun returned NoneType: it must return a number"),
        ("low", False, TypeError, r"fun returned str: it must return a number"),
        (1j, False, TypeError, r"fun returned complex numbers"),
        (3.0, True, ValueError, r"shape \[\] for 1 points \[1, 2\]: with vectorized=True"),
        (np.zeros((1, 1)), True, ValueError, r"shape \[1, 1\] for 1 points \[1, 2\]"),
        (np.zeros(2), True, ValueError, r"shape \[2\] for 1 points"),
    ],
)
def test_values_that_are_refused(value, vectorized, error, message):
    with pytest.raises(error, match=message) as caught:
        minimize(lambda x: value, np.zeros(2), vectorized=vectorized)
    result = caught.value.result
    assert (result.success, result.status, result.nfev, result.fun) == (False, 4, 0, math.inf)
    assert np.array_equal(result.x, np.zeros(2))


class OwnError(Exception):
    pass


@pytest.mark.parametrize("count", [0, 1, 2, 40, 200])
@pytest.mark.parametrize("kind", [OwnError, ValueError, StopIteration, ZeroDivisionError])
def test_an_error_of_the_function_brings_the_best_point(count, kind):
    error = kind("broken")
    fun, given = after(count, error)
    with pytest.raises(kind) as caught:
        minimize(fun, np.full(3, 2.0), seed=0)
    assert caught.value is error
    result = error.result
    assert (result.success, result.status, result.nfev) == (False, 4, count)
    assert result.message == f"Ended by an error. {kind.__name__}: broken"
    assert result.fun == min(given, default=math.inf)
    if count:
        assert bowl(result.x) == result.fun


@pytest.mark.parametrize("count", [0, 1, 2, 40, 200])
def test_an_interrupt_returns_the_best_point(count):
    fun, given = after(count, KeyboardInterrupt())
    result = minimize(fun, np.full(3, 2.0), seed=0)
    assert (result.success, result.status, result.nfev) == (False, 2, count)
    assert result.message == "Interrupted from the keyboard; this is the best point so far."
    assert result.fun == min(given, default=math.inf)
    assert result.history.nfev[-1:] == ([count] if count else [])
    if count:
        assert bowl(result.x) == result.fun


def test_an_interrupt_of_a_vectorized_function_and_of_a_fused_problem():
    calls = []

    def fun(x):
        calls.append(len(x))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return (x**2).sum(1)

    result = minimize(fun, np.full(3, 2.0), seed=0, vectorized=True)
    assert (result.status, result.nfev) == (2, sum(calls[:-1]))

    def stop(intermediate_result):
        if intermediate_result.nit == 4:
            raise KeyboardInterrupt

    fused = minimize(SPHERE, torch.full((3,), 2.0), seed=0, callback=stop)
    assert (fused.status, fused.nit) == (2, 4)
    assert float(SPHERE(fused.x)) == pytest.approx(fused.fun)
    assert fused.fun < 12.0


def test_callback_gets_the_best_point_or_the_result():
    points, results = [], []
    last = minimize(bowl, np.full(3, 2.0), seed=0, budget=200, callback=points.append)
    assert all(isinstance(x, np.ndarray) and x.shape == (3,) for x in points)
    assert len(points) == last.nit

    def wants_result(intermediate_result):
        results.append(intermediate_result)

    minimize(bowl, np.full(3, 2.0), seed=0, budget=200, callback=wants_result)
    assert [one.nit for one in results] == list(range(1, len(results) + 1))
    assert all(np.array_equal(one.x, x) for one, x in zip(results, points, strict=True))
    assert all(bowl(one.x) == one.fun for one in results)
    assert set(results[0]) == {"x", "fun", "nfev", "ngev", "nit"}


def test_callback_may_write_into_its_point():
    def spoil(x):
        x[:] = 1e9

    clean = minimize(bowl, np.full(3, 2.0), seed=0, budget=200)
    spoilt = minimize(bowl, np.full(3, 2.0), seed=0, budget=200, callback=spoil)
    assert np.array_equal(clean.x, spoilt.x)


def raises_stop(x):
    raise StopIteration


@pytest.mark.parametrize(
    "callback", [lambda x: True, lambda intermediate_result: True, raises_stop, lambda x: np.True_]
)
def test_callback_stops(callback):
    result = minimize(bowl, np.full(3, 2.0), seed=0, callback=callback)
    assert (result.nit, result.success, result.status) == (1, False, 99)
    assert result.message == "Stopped by the callback."
    assert bowl(result.x) == result.fun


@pytest.mark.parametrize("answer", [None, False, 0, 1, "stop", np.ones(3)])
def test_callback_goes_on(answer):
    done = minimize(bowl, np.full(3, 2.0), seed=0, budget=100, callback=lambda x: answer)
    assert (done.nfev, done.status) == (100, 1)


def test_an_error_of_the_callback_brings_the_best_point():
    def broken(x):
        raise OwnError

    with pytest.raises(OwnError) as caught:
        minimize(bowl, np.full(3, 2.0), seed=0, callback=broken)
    assert (caught.value.result.nit, caught.value.result.status) == (1, 4)


BOUNDS = [
    [(-1.0, 2.0), (0.5, 3.0)],
    ((-1.0, 2.0), (0.5, 3.0)),
    np.array([[-1.0, 2.0], [0.5, 3.0]]),
    [np.array([-1.0, 2.0]), np.array([0.5, 3.0])],
    scipy.optimize.Bounds([-1.0, 0.5], [2.0, 3.0]),
    (torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 3.0])),
    (torch.tensor([-1.0, 0.5], dtype=torch.float64), torch.tensor([2, 3])),
]


@pytest.mark.parametrize("bounds", BOUNDS)
def test_bounds_in_every_form_mean_the_same(bounds):
    outside = []

    def fun(x):
        outside.append(bool((x < [-1.0, 0.5]).any() or (x > [2.0, 3.0]).any()))
        return (x - np.array([5.0, -5.0])) @ (x - np.array([5.0, -5.0]))

    result = minimize(fun, np.ones(2), bounds=bounds, seed=0, budget=600)
    assert not any(outside)
    assert result.x.tolist() == [2.0, 0.5]


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [
        ([(None, 0.0), (None, None)], [-math.inf, -math.inf], [0.0, math.inf]),
        (scipy.optimize.Bounds(-2.0, 2.0), [-2.0] * 2, [2.0] * 2),
        ((-2, 2), [-2.0] * 2, [2.0] * 2),
        ((-math.inf, 0.5), [-math.inf] * 2, [0.5] * 2),
        ((torch.tensor(-2.0), np.float64(2)), [-2.0] * 2, [2.0] * 2),
    ],
)
def test_open_bounds_and_one_for_all(bounds, low, high):
    seen = []
    result = minimize(
        lambda x: seen.append(x) or float(((x - 3) ** 2).sum()),
        np.zeros(2),
        bounds=bounds,
        seed=0,
        budget=400,
        options={"sigma0": 5.0},
    )
    points = np.stack(seen)
    assert (points >= low).all()
    assert (points <= high).all()
    ends = np.isfinite(high)
    assert np.array_equal(result.x[ends], np.array(high)[ends])
    assert (abs(result.x[~ends] - 3) < 1).all()
    assert (points[:, ~np.isfinite(low)] < -2.0).any(axis=0).all()


@pytest.mark.parametrize(
    ("bounds", "kind"),
    [
        ([(-1.0, 2.0), (0.5, 3.0)], np.ndarray),
        (scipy.optimize.Bounds([-1.0, 0.5], [2.0, 3.0]), np.ndarray),
        ((torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 3.0])), torch.Tensor),
    ],
)
def test_without_a_start_it_is_drawn_from_the_bounds(bounds, kind):
    starts = []
    for seed in (0, 0, 1):
        first = minimize(bowl, bounds=bounds, budget=1, seed=seed)
        assert isinstance(first.x, kind)
        starts.append(tuple(first.x.tolist()))
        assert -1 <= starts[-1][0] <= 2
        assert 0.5 <= starts[-1][1] <= 3
    assert starts[0] == starts[1] != starts[2]
