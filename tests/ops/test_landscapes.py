"""Native values of the landscapes against the formulas in float64."""

from __future__ import annotations

import pytest
import torch

from unstuck.ops import _native
from unstuck.ops import reference_landscapes as reference
from unstuck.ops.landscapes import NAMES, Landscape, value, value_and_gradient

DIMS = (1, 2, 3, 16, 17, 100, 511, 512, 513, 1500)


def landscapes(dims=DIMS):
    for name in NAMES:
        formula = reference.TABLE[name]
        for dim in dims:
            if formula.least <= dim <= (formula.most or dim):
                yield pytest.param(Landscape(name, dim), id=f"{name}-{dim}")


# How far float32 arithmetic may be off, in units of what the terms add up to. The phase of
# Michalewicz's function grows with the coordinate's number, and its error with it.
def tolerance(name: str, dtype: torch.dtype, dim: int) -> float:
    if dtype == torch.float64:
        return 1e-13 * (dim if name == "michalewicz" else 1)
    return 1e-6 * (dim if name in ("michalewicz", "griewank") else 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("landscape", [*landscapes()])
def test_native_values(native, landscape: Landscape, dtype: torch.dtype) -> None:
    torch.manual_seed(landscape.dim)
    for size in (0.3, 3.0, 30.0):
        x = (torch.randn(7, landscape.dim, dtype=torch.float64) * size).to(dtype)
        found = value(landscape, x)
        exact = reference.value(landscape.name, landscape.parameters, x.double())
        largest = x.double().square().sum(-1) + landscape.dim * 20 + exact.abs()
        if landscape.name == "zakharov":  # the tilt is a sum that cancels
            tilt = (torch.arange(1, landscape.dim + 1) / 2 * x.double().abs()).sum(-1)
            largest = largest + tilt**4
        error = (found.double() - exact).abs() / largest
        assert found.dtype == dtype
        assert error.max() < tolerance(landscape.name, dtype, landscape.dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("landscape", [*landscapes((1, 2, 3, 17, 100, 700))])
def test_native_gradients(native, landscape: Landscape, dtype: torch.dtype) -> None:
    torch.manual_seed(landscape.dim)
    for size in (0.3, 3.0):
        x = (torch.randn(5, landscape.dim, dtype=torch.float64) * size).to(dtype)
        values, gradients = value_and_gradient(landscape, x)
        exact, slopes = reference.value_and_gradient(
            landscape.name, landscape.parameters, x.double()
        )
        assert torch.equal(values, value(landscape, x))
        scale = 20 + slopes.abs().amax(-1, keepdim=True) + exact.abs()[:, None] / landscape.dim
        error = (gradients.double() - slopes).abs() / scale
        # The phase of Michalewicz's function, and so its error, grows with the coordinate's
        # number, and its slope once more.
        worse = landscape.dim if landscape.name in ("michalewicz", "zakharov") else 1
        assert error.max() < (1e-13 if dtype == torch.float64 else 2e-5) * worse


@pytest.mark.parametrize("landscape", [*landscapes((2, 10))])
def test_gradient_is_that_of_autograd(backend: str, landscape: Landscape) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, landscape.dim, dtype=torch.float64, requires_grad=True)
    values, gradients = value_and_gradient(landscape, x)
    exact = reference.value(landscape.name, landscape.parameters, x.detach())
    torch.testing.assert_close(values, exact, rtol=1e-11, atol=1e-11)
    (wanted,) = torch.autograd.grad(value(landscape, x).sum(), x)
    torch.testing.assert_close(gradients, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["rastrigin", "ackley", "griewank", "sphere", "zakharov"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_is_exact(backend: str, name: str, dtype: torch.dtype) -> None:
    """Where the formulas cancel, the minimum is 0 and not what rounding leaves."""
    assert float(value(Landscape(name, 300), torch.zeros(300, dtype=dtype))) == 0
    near = value(Landscape(name, 300), torch.full((300,), 1e-6, dtype=dtype))
    assert 0 < float(near) < 1e-3 or name == "griewank"


def test_far_points_and_bad_numbers(backend: str) -> None:
    """A large argument of a sine is reduced exactly; what is not finite stays so."""
    for far in (1e4, 1e7, 1e30):
        found = float(value(Landscape("rastrigin", 2), torch.tensor([far, 0.0])))
        assert 0.999 * far**2 < found < 1.001 * far**2 or found == float("inf")
    for bad in (float("nan"), float("inf")):
        for name in NAMES:
            landscape = Landscape(name, 2)
            found = value(landscape, torch.tensor([[bad, 0.5], [0.5, bad]]))
            finite = torch.isfinite(found)
            exact = reference.value(
                name, landscape.parameters, torch.tensor([[bad, 0.5], [0.5, bad]])
            )
            assert torch.equal(finite, torch.isfinite(exact)), name


def test_shapes_and_layouts(backend: str) -> None:
    landscape = Landscape("rosenbrock", 4)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    exact = reference.value("rosenbrock", (), x)
    torch.testing.assert_close(value(landscape, x), exact)
    torch.testing.assert_close(value(landscape, x[1, 2]), exact[1, 2])
    torch.testing.assert_close(value(landscape, x.mT.contiguous().mT), exact)
    assert value(landscape, x[:0]).shape == (0, 5)
    torch.testing.assert_close(torch.func.vmap(lambda y: value(landscape, y))(x), exact)
    assert torch.func.grad(lambda y: value(landscape, y))(x[0, 0]).shape == (4,)


def test_other_dtypes_and_devices() -> None:
    x = torch.ones(3, dtype=torch.bfloat16)
    assert value(Landscape("sphere", 3), x) == 3
    assert value(Landscape("sphere", 3), x.to("meta")).shape == ()


def test_compiles_as_a_whole() -> None:
    landscape = Landscape("ackley", 5)
    x = torch.randn(6, 5)
    whole = torch.compile(lambda y: value(landscape, y) + 1, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x), value(landscape, x) + 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("spheer", 2), "unknown landscape 'spheer'"),
        (("sphere", 0), "dim of sphere must be at least 1, not 0"),
        (("sphere", 2.0), "dim must be an integer, not 2.0"),
        (("eggholder", 3), "dim of eggholder must be 2, not 3"),
        (("rosenbrock", 1), "at least 2"),
        (("ravine", 2, (1,)), "ravine has 2 parameters"),
        (("ravine", 2, (1, float("nan"))), "finite"),
        (("sphere", 2, (1,)), "sphere has 0 parameters"),
    ],
)
def test_refused(arguments, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Landscape(*arguments)


def test_points_are_checked(backend: str) -> None:
    landscape = Landscape("sphere", 2)
    with pytest.raises(ValueError, match="must have 2 coordinates"):
        value(landscape, torch.ones(3))
    with pytest.raises(TypeError, match="floating point"):
        value(landscape, torch.ones(2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor"):
        value_and_gradient(landscape, [1.0, 2.0])


def test_without_a_module_there_is_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(_native, "cpu", None)
    monkeypatch.setattr(_native, "_warned", set())
    with pytest.warns(RuntimeWarning, match="plain torch operations"):
        value(Landscape("sphere", 2), torch.ones(2))
