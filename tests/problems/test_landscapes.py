"""The landscapes against formulas written here, autograd, published minima and random sampling."""

import math

import numpy as np
import pytest
import torch

from unstuck import problems
from unstuck.ops import landscapes

E = math.e
TAU = 2 * math.pi
NAMES = list(landscapes.NAMES)
PLANAR = {"eggholder", "gaussian_peaks", "egg_box_bowl", "ravine", "scaled_saddle"}
PEAKS = [(2, 2), (2, -2), (-2, 2), (-2, -2), (0, 0)]


def levy(x):
    w = 1 + (x - 1) / 4
    inner = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)).sum()
    return np.sin(np.pi * w[0]) ** 2 + inner + (w[-1] - 1) ** 2 * (1 + np.sin(TAU * w[-1]) ** 2)


def zakharov(x):
    tilt = (0.5 * np.arange(1, len(x) + 1) * x).sum()
    return (x**2).sum() + tilt**2 + tilt**4


def michalewicz(x):
    i = np.arange(1, len(x) + 1)
    return -(np.sin(x) * np.sin(i * x**2 / np.pi) ** 20).sum()


def eggholder(v):
    x, y = v
    first = -(y + 47) * np.sin(np.sqrt(abs(x / 2 + y + 47)))
    return first - x * np.sin(np.sqrt(abs(x - (y + 47))))


def ackley(x):
    waves = np.exp(np.cos(TAU * x).mean())
    return -20 * np.exp(-0.2 * np.sqrt((x**2).mean())) - waves + 20 + E


# One point [D] at a time, as the literature writes them.
FORMULAS = {
    "sphere": lambda x: (x**2).sum(),
    "rastrigin": lambda x: 10 * len(x) + (x**2 - 10 * np.cos(TAU * x)).sum(),
    "ackley": ackley,
    "griewank": lambda x: (
        1 + (x**2).sum() / 4000 - np.prod(np.cos(x / np.sqrt(np.arange(1, len(x) + 1))))
    ),
    "rosenbrock": lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(),
    "eggholder": eggholder,
    "gaussian_peaks": lambda x: (
        -sum(math.exp(-3 * ((x[0] - a) ** 2 + (x[1] - b) ** 2)) for a, b in PEAKS)
    ),
    "egg_box_bowl": lambda x: math.sin(x[0]) * math.cos(x[1]) + 0.1 * (x**2).sum(),
    "ravine": lambda x: x[0] ** 2 + 2 * x[1] ** 2,
    "scaled_saddle": lambda x: (
        0.01 * x[0] ** 2 + 100 * x[1] ** 2 * math.sin(0.1 * x[0]) * math.cos(0.1 * x[1])
    ),
    "schwefel": lambda x: 418.982887272434 * len(x) - (x * np.sin(np.sqrt(abs(x)))).sum(),
    "levy": levy,
    "styblinski_tang": lambda x: 0.5 * (x**4 - 16 * x**2 + 5 * x).sum(),
    "michalewicz": michalewicz,
    "zakharov": zakharov,
}
# Value and minimiser as printed; digits as given.
PUBLISHED = [
    ("eggholder", 2, -959.6407, 5e-5),
    ("schwefel", 5, 0.0, 1e-9),
    ("styblinski_tang", 10, -391.6617, 1e-4),
    ("michalewicz", 2, -1.8013, 5e-5),
    ("michalewicz", 5, -4.687658, 5e-7),
    ("michalewicz", 10, -9.66015, 5e-6),
    ("gaussian_peaks", 2, -1.0, 1e-9),
]


def dims(name):
    return [2] if name in PLANAR else [2, 3, 17] if name == "rosenbrock" else [1, 2, 3, 17]


def cases():
    for name in NAMES:
        for dim in dims(name):
            yield pytest.param(name, dim, id=f"{name}-{dim}")


def inside(problem, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, high = problem.bounds
    drawn = torch.rand(count, problem.dim, generator=generator, dtype=problem.dtype)
    return low + (high - low) * drawn


def test_every_landscape_has_a_row():
    assert set(NAMES) == set(FORMULAS)
    assert set(NAMES) <= set(problems.names())


@pytest.mark.parametrize(("name", "dim"), list(cases()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_values_are_those_of_the_formula(name, dim, dtype):
    problem = problems.get(name, dim, dtype=dtype)
    x = inside(problem, 50)
    values = problem(x)
    assert values.dtype == dtype
    assert values.shape == (50,)
    expected = torch.tensor(
        [FORMULAS[name](row) for row in x.double().numpy()], dtype=torch.float64
    )
    tight = dtype == torch.float64
    scale = expected.abs().max() + 1
    assert (values.double() - expected).abs().max() <= (1e-13 if tight else 3e-6) * scale
    one = problem(x[3])
    assert one.shape == ()
    torch.testing.assert_close(one, values[3])


@pytest.mark.parametrize(("name", "dim"), list(cases()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_gradient_is_that_of_autograd(name, dim, dtype):
    exact = problems.get(name, dim, dtype=torch.float64)
    problem = problems.get(name, dim, dtype=dtype)
    x = inside(problem, 40, seed=1)
    wanted = x.double().requires_grad_()
    (slope,) = torch.autograd.grad(landscapes.value(exact.objective, wanted).sum(), wanted)
    values, gradients = problem.value_and_gradient(x)
    torch.testing.assert_close(values, problem(x))
    assert gradients.shape == x.shape
    tight = dtype == torch.float64
    size = slope.abs().max() + 1
    assert (gradients.double() - slope).abs().max() <= (1e-12 if tight else 1e-5) * size


@pytest.mark.parametrize("name", NAMES)
def test_calling_is_differentiable(name):
    problem = problems.get(name, dims(name)[-1], dtype=torch.float64)
    x = inside(problem, 3, seed=2).requires_grad_()
    (problem(x) * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
    _, gradients = problem.value_and_gradient(x)
    expected = gradients * torch.tensor([[1.0], [-2.0], [0.5]])
    torch.testing.assert_close(x.grad, expected)
    single = inside(problem, 1)[0].requires_grad_()
    assert torch.autograd.gradcheck(problem, single, eps=1e-7, atol=1e-3, rtol=1e-4)
    assert not problem(inside(problem, 1)[0]).requires_grad


@pytest.mark.parametrize(("name", "dim"), [*cases(), pytest.param("michalewicz", 60, id="m60")])
def test_minimizer_has_the_minimum(name, dim):
    problem = problems.get(name, dim, dtype=torch.float64)
    low, high = problem.bounds
    best = problem.minimizer
    assert ((best >= low) & (best <= high)).all()
    value, gradient = problem.value_and_gradient(best)
    assert float(value) == pytest.approx(problem.minimum, abs=1e-10, rel=1e-12)
    free = (best > low) & (best < high)
    assert gradient[free].abs().max() < 1e-5 if free.any() else True
    assert (gradient[best == low] >= 0).all()  # on the edge the way down leads out
    assert (gradient[best == high] <= 0).all()


@pytest.mark.parametrize(("name", "dim"), list(cases()))
def test_nothing_in_the_box_is_lower(name, dim):
    problem = problems.get(name, dim, dtype=torch.float64)
    low, high = problem.bounds
    floor = problem.minimum - 1e-9 * max(1, abs(problem.minimum))
    assert problem(inside(problem, 20000)).min() >= floor
    noise = torch.randn(4000, dim, dtype=torch.float64)
    for reach in (1e-6, 1e-3, 0.05):
        near = problem.minimizer + reach * (high - low) * noise
        assert problem(torch.clamp(near, low, high)).min() >= floor


@pytest.mark.parametrize(("name", "dim", "value", "slack"), PUBLISHED)
def test_published_minima(name, dim, value, slack):
    assert problems.get(name, dim).minimum == pytest.approx(value, abs=slack)


def test_best_tooth_of_michalewicz_in_every_coordinate():
    best = problems.get("michalewicz", 300, dtype=torch.float64).minimizer
    grid = torch.linspace(0, math.pi, 400_001, dtype=torch.float64)
    for i in (1, 2, 3, 4, 5, 6, 7, 50, 299, 300):
        comb = torch.sin(grid) * torch.sin(i * grid**2 / math.pi) ** 20
        x = best[i - 1]
        mine = torch.sin(x) * torch.sin(i * x**2 / math.pi) ** 20
        assert mine >= comb.max() - 1e-12


def test_ravine_takes_its_slopes():
    problem = problems.get("ravine", a=10.0, b=1.0)
    assert float(problem(torch.tensor([2.0, 3.0]))) == 49.0


def test_large_dimension_and_minimum():
    problem = problems.get("rastrigin", dim=100_000)
    assert float(problem(problem.minimizer)) == 0.0
    assert problem(torch.ones(2, 100_000)).shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="rastrign", dim=2), r"unknown problem 'rastrign': known are ackley, "),
        (dict(name="rastrigin"), r"every dimension from 1 on: give one, as in problems.get\('ras"),
        (dict(name="eggholder", dim=3), r"eggholder must be 2, not 3"),
        (dict(name="rosenbrock", dim=1), r"rosenbrock must be at least 2, not 1"),
        (dict(name="sphere", dim=0), r"whole number of at least 1, not 0"),
        (dict(name="sphere", dim=2.0), r"whole number of at least 1, not 2.0"),
        (dict(name="sphere", dim=True), r"whole number of at least 1, not True"),
        (dict(name="sphere", dim=2, a=1.0), r"sphere has no parameter 'a': known are none"),
        (dict(name="ravine", c=1.0), r"ravine has no parameter 'c': known are a, b"),
        (dict(name="ravine", a=-1.0), r"ravine: a must be a finite number above 0, not -1.0"),
        (dict(name="ravine", b=math.inf), r"b must be a finite number above 0, not inf"),
        (dict(name="sphere", dim=2, dtype=torch.float16), r"float32 or torch.float64, not torch.f"),
    ],
)
def test_impossible_problems(arguments, message):
    with pytest.raises(ValueError, match=message):
        problems.get(**arguments)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([0.0, 0.0], TypeError, r"takes a tensor, not list: use torch.as_tensor"),
        (torch.zeros(3), ValueError, r"points \[2\] or \[N, 2\], not \[3\]"),
        (torch.zeros(2, 2, 2), ValueError, r"not \[2, 2, 2\]"),
        (torch.tensor(0.0), ValueError, r"not \[\]"),
        (torch.zeros(2, dtype=torch.float64), TypeError, r"takes torch.float32 on cpu, not torch"),
    ],
)
def test_points_that_do_not_fit(x, error, message):
    problem = problems.get("sphere", 2)
    for call in (problem, problem.value_and_gradient):
        with pytest.raises(error, match=message):
            call(x)
