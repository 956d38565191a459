"""minimize on torch and numpy functions and on named problems: what it finds, counts and keeps."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from unstuck import problems
from unstuck.minimize import METHODS, OptimizeResult, minimize
from unstuck.minimize.arguments import read_budget

TARGET = 1.5


def torch_bowl(x):
    return (x - TARGET).square().sum()


def torch_bowls(x):
    return (x - TARGET).square().flatten(1).sum(1)


def numpy_bowl(x):
    return ((x - TARGET) ** 2).sum()


def numpy_bowls(x):
    return ((x - TARGET) ** 2).reshape(len(x), -1).sum(axis=1)


def counted(fun):
    """A function that notes how many points it was given."""

    def call(x):
        call.points += len(x) if call.batched else 1
        call.sizes.append(len(x))
        return fun(x)

    call.points, call.sizes, call.batched = 0, [], fun in (torch_bowls, numpy_bowls)
    return call


FUNCTIONS = [
    pytest.param(torch_bowl, torch.zeros(4), False, id="torch"),
    pytest.param(torch_bowls, torch.zeros(4), True, id="torch-vectorized"),
    pytest.param(numpy_bowl, np.zeros(4), False, id="numpy"),
    pytest.param(numpy_bowls, np.zeros(4), True, id="numpy-vectorized"),
    pytest.param(lambda x: float(torch_bowl(x)), torch.zeros(4), False, id="float"),
    pytest.param(lambda x: [numpy_bowl(x)], np.zeros(4), False, id="one-number"),
]


@pytest.mark.parametrize(("fun", "x0", "vectorized"), FUNCTIONS)
def test_finds_the_minimum(fun, x0, vectorized):
    result = minimize(fun, x0, seed=1, budget=4000, vectorized=vectorized)
    assert (result.success, result.status) == (False, 1), result.message
    assert result.fun < 1e-6
    assert abs(np.asarray(result.x) - TARGET).max() < 1e-3
    assert type(result.x) is type(x0)
    assert (result.nfev <= 4000, result.ngev) == (True, 0)
    assert not np.any(np.asarray(x0))


def test_scipy_call_works_unchanged():
    x0, bounds = [1.3, 0.7, 0.8], [(-2.0, 2.0)] * 3
    arguments = dict(bounds=bounds, tol=1e-10, callback=lambda xk: None, options={"maxiter": 2000})
    theirs = scipy.optimize.minimize(scipy.optimize.rosen, x0, **arguments)
    ours = minimize(scipy.optimize.rosen, x0, seed=0, budget=3000, **arguments)
    assert ours.fun < 0.5
    assert {"x", "fun", "success", "status", "message", "nfev", "nit"} <= set(theirs) & set(ours)
    assert (type(ours.x), ours.x.dtype, ours.x.shape) == (type(theirs.x), theirs.x.dtype, (3,))
    assert isinstance(ours.fun, float)


@pytest.mark.parametrize(
    ("x0", "kind", "dtype", "shape"),
    [
        (torch.zeros(3), torch.Tensor, torch.float32, (3,)),
        (torch.zeros(3, dtype=torch.float64), torch.Tensor, torch.float64, (3,)),
        (torch.zeros(2, 3), torch.Tensor, torch.float32, (2, 3)),
        (torch.zeros(6).reshape(3, 2).t(), torch.Tensor, torch.float32, (2, 3)),
        (torch.tensor(0.0), torch.Tensor, torch.float32, (1,)),
        (torch.zeros(3, requires_grad=True), torch.Tensor, torch.float32, (3,)),
        (torch.nn.Parameter(torch.zeros(3)), torch.Tensor, torch.float32, (3,)),
        (torch.zeros(3, dtype=torch.int64), torch.Tensor, torch.float32, (3,)),
        (np.zeros(3), np.ndarray, np.float64, (3,)),
        (np.zeros(3, np.float32), np.ndarray, np.float32, (3,)),
        (np.zeros(3, np.int32), np.ndarray, np.float64, (3,)),
        (np.zeros((2, 3))[:, ::2], np.ndarray, np.float64, (2, 2)),
        ([0, 0, 0], np.ndarray, np.float64, (3,)),
        ((0.0, 0.0), np.ndarray, np.float64, (2,)),
        (0.0, np.ndarray, np.float64, (1,)),
        (np.float32(0), np.ndarray, np.float32, (1,)),
    ],
)
@pytest.mark.parametrize("vectorized", [False, True])
def test_points_are_what_the_start_is(x0, kind, dtype, shape, vectorized):
    seen = []

    def fun(x):
        seen.append((type(x), x.dtype, tuple(x.shape)[vectorized:], getattr(x, "requires_grad", 0)))
        return ((x - 1) ** 2).reshape(len(x), -1).sum(1) if vectorized else ((x - 1) ** 2).sum()

    result = minimize(fun, x0, budget=40, seed=0, vectorized=vectorized)
    dtype = dtype if kind is torch.Tensor else np.dtype(dtype)
    assert set(seen) == {(kind, dtype, shape, False)}
    assert (type(result.x), result.x.dtype, tuple(result.x.shape)) == (kind, dtype, shape)


@pytest.mark.parametrize(("fun", "x0"), [(torch_bowl, torch.zeros(3)), (numpy_bowl, np.zeros(3))])
def test_a_function_may_write_into_its_point(fun, x0):
    def writes(x):
        value = fun(x)
        x[:] = 77.0
        return value

    clean = minimize(fun, x0, budget=500, seed=3)
    written = minimize(writes, x0, budget=500, seed=3)
    assert np.array_equal(np.asarray(clean.x), np.asarray(written.x))
    assert clean.fun == written.fun


@pytest.mark.parametrize("budget", [1, 2, 3, 17, 100, 333])
@pytest.mark.parametrize("fun", [torch_bowl, torch_bowls, numpy_bowl, numpy_bowls])
def test_budget_is_spent_to_the_last_evaluation_and_not_exceeded(budget, fun):
    call = counted(fun)
    x0 = torch.zeros(3) if fun in (torch_bowl, torch_bowls) else np.zeros(3)
    result = minimize(call, x0, budget=budget, seed=0, vectorized=call.batched)
    assert (result.nfev, call.points) == (budget, budget)
    assert (result.status, result.success) == (1, False)
    assert result.message == f"The budget of {budget} evaluations is spent."
    assert result.history.nfev[-1] == budget


@pytest.mark.parametrize("budget", [1, 2, 17, 333])
def test_budget_of_a_fused_problem(budget):
    result = minimize("rastrigin", torch.full((6,), 3.0), budget=budget, seed=0)
    assert result.nfev == budget
    assert result.fun <= 54.0
    assert float(problems.get("rastrigin", 6)(result.x)) == pytest.approx(result.fun, rel=1e-6)


def test_default_budget():
    assert [read_budget(None, dim) for dim in (1, 10, 11)] == [10_000, 10_000, 11_000]


@pytest.mark.parametrize("max_bytes", [1, 100, 4000, 10**9])
def test_batches_stay_in_the_memory_budget(max_bytes):
    call = counted(torch_bowls)
    plain = minimize(torch_bowls, torch.zeros(5), budget=400, seed=2, vectorized=True)
    result = minimize(
        call, torch.zeros(5), budget=400, seed=2, vectorized=True, options={"max_bytes": max_bytes}
    )
    assert max(call.sizes) <= max(1, max_bytes // 20)
    assert max(call.sizes) > 1 or max_bytes < 40
    assert torch.equal(result.x, plain.x)


def test_vectorized_or_not_gives_the_same():
    one = minimize(numpy_bowl, np.zeros(5), budget=600, seed=2)
    many = minimize(numpy_bowls, np.zeros(5), budget=600, seed=2, vectorized=True)
    np.testing.assert_allclose(one.x, many.x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["rastrigin", "ackley", "griewank", "rosenbrock", "levy"])
def test_fused_problem_goes_the_way_of_the_same_function(name):
    problem = problems.get(name, 5, dtype=torch.float64)
    start = problem.bounds[1] * 0.7
    options = {"return_all": True, "maxiter": 8, "sigma0": 0.5}
    fused = minimize(problem, start, seed=4, options=options)
    called = minimize(
        lambda x: problem(x), start, seed=4, options=options, vectorized=True, bounds=problem.bounds
    )
    assert (fused.nit, fused.nfev) == (called.nit, called.nfev) == (8, fused.history.nfev[-1])
    for mine, other in zip(fused.allvecs, called.allvecs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-7)
    assert fused.fun == pytest.approx(called.fun, rel=1e-7)


def test_fused_problem_is_not_called_row_by_row(monkeypatch):
    sizes = []
    call = problems.Problem.__call__
    monkeypatch.setattr(
        problems.Problem, "__call__", lambda self, x: sizes.append(x.shape[:-1]) or call(self, x)
    )
    minimize("sphere", torch.ones(4), budget=1 + 320, seed=0, options={"popsize": 32})
    assert sizes == [(1,)]  # the start alone


@pytest.mark.parametrize(
    ("fun", "x0", "dtype"),
    [
        (problems.get("sphere", 3), np.ones(3), np.float32),
        (problems.get("sphere", 3, dtype=torch.float64), np.ones(3, np.float32), np.float64),
        ("sphere", np.ones(3), np.float64),
        ("sphere", [1, 1, 1], np.float64),
        ("sphere", torch.ones(3), torch.float32),
        ("sphere", torch.ones(3, dtype=torch.float64), torch.float64),
        (problems.get("sphere", 3), None, torch.float32),
    ],
)
def test_problem_takes_arrays_and_tensors(fun, x0, dtype):
    result = minimize(fun, x0, budget=1500, seed=0)
    assert result.x.dtype == dtype
    assert isinstance(result.x, torch.Tensor) == isinstance(dtype, torch.dtype)
    assert result.fun < 1e-2


def test_problem_of_two_dimensions_by_name_alone():
    result = minimize("egg_box_bowl", budget=2000, seed=0)
    assert result.fun == pytest.approx(-0.7945823, abs=1e-5)


def test_problem_with_data():
    torch.set_num_threads(1)  # products this small gain nothing from more
    problem = problems.get("linear-regression", 5, dtype=torch.float64)
    result = minimize(problem, np.zeros(5), budget=2500, seed=0)
    assert result.fun == pytest.approx(problem.minimum, rel=1e-3)


def test_box_of_a_problem_and_how_to_take_it_away():
    problem = problems.get("styblinski_tang", 2)
    edge = torch.tensor([4.9, 4.9])
    kept = minimize(lambda x: -x.sum(), edge, bounds=problem.bounds, budget=2000, seed=0)
    assert kept.x.max() <= 5.0
    line = problems.get("schwefel", 2)  # far outside its box it goes below its minimum
    inside = minimize(line, torch.full((2,), 420.0), budget=4000, seed=0)
    assert inside.fun > -1e-3
    wide = {"sigma0": 2000.0}
    free = minimize(line, torch.full((2,), 420.0), bounds=(-math.inf, math.inf), options=wide)
    assert free.fun < -100.0
    assert free.x.abs().max() > 500.0


def test_never_worse_than_the_start():
    result = minimize(numpy_bowl, np.full(3, TARGET), budget=100, seed=0)
    assert result.fun == 0.0
    assert np.array_equal(result.x, np.full(3, TARGET))


def test_seed_decides_the_run():
    options = {"local": False}  # whose first moves draw nothing
    runs = [
        minimize("ackley", torch.ones(3), budget=400, seed=seed, options=options)
        for seed in (5, 5, 6)
    ]
    assert torch.equal(runs[0].x, runs[1].x)
    assert not torch.equal(runs[0].x, runs[2].x)
    assert runs[0].seed == 5


def test_without_a_seed_the_generator_of_torch_decides():
    torch.manual_seed(3)
    one, two = (minimize("ackley", torch.ones(3), budget=400) for _ in range(2))
    torch.manual_seed(3)
    again = minimize("ackley", torch.ones(3), budget=400)
    assert one.seed == again.seed != two.seed
    assert torch.equal(one.x, again.x)
    assert torch.equal(minimize("ackley", torch.ones(3), budget=400, seed=two.seed).x, two.x)


def test_a_seed_leaves_the_global_generators_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    minimize("ackley", bounds=[(-3, 3)] * 2, budget=200, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_history_and_allvecs():
    result = minimize("griewank", torch.full((3,), 9.0), seed=0, options={"return_all": True})
    history = result.history
    assert len(history.nfev) == len(history.fun) == len(history.seconds)
    assert len(history.nfev) - result.nit in (1, 2)
    assert (history.nfev[0], history.nfev[-1]) == (1, result.nfev)
    assert history.fun == sorted(history.fun, reverse=True)
    assert history.fun[-1] == result.fun
    assert history.seconds == sorted(history.seconds)
    assert len(result.allvecs) == len(history.nfev)
    assert torch.equal(result.allvecs[0], torch.full((3,), 9.0))
    assert "allvecs" not in minimize("sphere", torch.ones(2), budget=50)


def test_maxiter_ends_the_run():
    result = minimize(torch_bowl, torch.zeros(3), seed=0, options={"maxiter": 7})
    assert (result.nit, result.status) == (7, 1)
    assert result.message == "All maxiter=7 iterations are done."


def test_tol_ends_the_run_when_the_best_value_stays():
    options = {"local": False}  # a descent solves a bowl at once, whatever tol
    loose = minimize(torch_bowl, torch.zeros(3), seed=0, tol=1e-3, options=options)
    tight = minimize(torch_bowl, torch.zeros(3), seed=0, tol=1e-9, options=options)
    assert (loose.status, tight.status) == (0, 0)
    assert (loose.success, tight.success) == (True, True)
    assert "<= tol in" in loose.message
    assert loose.nfev < tight.nfev < 10_000
    assert tight.fun < 1e-8 < 1e-1


@pytest.mark.parametrize("fused", [False, True])
def test_values_that_are_not_numbers_are_never_best(fused):
    def holes(x):
        value = (x - TARGET).square().sum(1)
        return torch.where(x[:, 0] < 0.5, torch.tensor(math.nan), value)

    result = minimize(holes, torch.ones(3), seed=0, budget=3000, vectorized=True)
    assert result.fun < 1e-4
    everywhere = minimize(
        lambda x: x.sum() * math.inf if fused else math.nan, torch.ones(3), seed=0, budget=300
    )
    assert (everywhere.success, everywhere.status) == (False, 3)
    assert everywhere.message.startswith("No value was finite. ")
    assert everywhere.fun == math.inf or fused
    assert torch.equal(everywhere.x, torch.ones(3))


@pytest.mark.parametrize("dim", [2, 40])
def test_a_start_without_a_value_is_left(dim):
    def holes(x):
        return math.nan if x[0] > 2.5 else float(x @ x)

    result = minimize(holes, np.full(dim, 3.0), seed=0, budget=4000)
    assert (result.status, result.nfev) == (1, 4000)
    assert result.fun < 1.0


def test_whole_numbers_and_booleans_are_values():
    result = minimize(lambda x: int((x.round() ** 2).sum()), np.full(2, 4.0), budget=500, seed=0)
    assert result.fun == 0.0
    truth = minimize(lambda x: bool((x > 1).any()), np.full(2, 1.1), budget=500, seed=0)
    assert truth.fun == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_functions_of_every_kind(method):
    for fun, x0 in ((torch_bowl, torch.zeros(3)), (numpy_bowl, np.zeros(3))):
        result = minimize(fun, x0, method=method, budget=3000, seed=0)
        assert isinstance(result, OptimizeResult)
        assert result.fun < 0.05, method
        assert result.nfev <= 3000
        assert type(result.x) is type(x0)
    fused = minimize("sphere", torch.full((3,), 2.0), method=method, budget=777, seed=0)
    assert fused.nfev <= 777
    assert fused.fun < 0.05


def test_device(device):
    result = minimize(torch_bowl, torch.zeros(3), device=device, budget=2000, seed=0)
    assert result.x.device == device
    assert result.fun < 1e-4
    arrays = minimize(numpy_bowl, np.zeros(3), device=device, budget=2000, seed=0)
    assert isinstance(arrays.x, np.ndarray)
    assert minimize("sphere", torch.ones(3), device=device, budget=2000, seed=0).fun < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("array", [False, True])
def test_bounds_of_very_different_widths(method, array):
    low, high = torch.tensor([-1.0, 1e-6, -1000.0]), torch.tensor([1.0, 1e-3, 3000.0])
    best = torch.tensor([0.3, 4e-4, 700.0])

    def fun(x):
        place = (np.asarray(x) - best.numpy()) if array else (x - best)
        return ((place / (high - low if not array else (high - low).numpy())) ** 2).sum()

    seen = []

    def watched(x):
        seen.append(x.tolist())
        return fun(x)

    bounds = list(zip(low.tolist(), high.tolist(), strict=True)) if array else (low, high)
    x0 = np.array([0.9, 9e-4, 2900.0]) if array else torch.tensor([0.9, 9e-4, 2900.0])
    result = minimize(watched, x0, method=method, bounds=bounds, budget=1500, seed=0)
    assert result.fun < 1e-4
    np.testing.assert_allclose(result.x, best, rtol=0.05)
    points = np.array(seen)
    np.testing.assert_allclose(points[0], x0, rtol=1e-6)
    limits = low.double().numpy(), high.double().numpy()
    assert (points >= limits[0]).all()
    assert (points <= limits[1]).all()


def test_uneven_bounds_of_a_problem():
    problem = problems.get("rastrigin", 2)
    bounds = (torch.tensor([-1.0, -5.0]), torch.tensor([2.0, 5.0]))
    result = minimize(problem, bounds=bounds, budget=3000, seed=0)
    assert result.fun < 1e-4
    assert float(problem(result.x)) == pytest.approx(result.fun, abs=1e-6)
