"""What a population makes of closures and parameters, leaves alone and refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unstuck.ops.candidates import Draw, Region
from unstuck.population import PopulationLoss

from .small import X, Y, in_turn, mse, points_around, small


# ---------------------------------------------------------------- chunks
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_chunks_do_not_change_losses(chunk):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 2))
    whole = PopulationLoss(model, lambda: mse(model))
    parts = PopulationLoss(model, lambda: mse(model), chunk=chunk)
    points, rates, draw = points_around(whole), torch.rand(5), Draw(1)
    torch.testing.assert_close(parts.losses(points), whole.losses(points))
    for found, wanted in zip(
        parts.value_and_gradient(points), whole.value_and_gradient(points), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    d = torch.randn(whole.dim)
    torch.testing.assert_close(parts.line(d, rates), whole.line(d, rates))
    torch.testing.assert_close(parts.low_rank(draw, 0.1, 5), whole.low_rank(draw, 0.1, 5))
    region = Region(whole.point(), 0.1)
    torch.testing.assert_close(parts.candidates(region, draw, 5), whole.candidates(region, draw, 5))


def test_memory_decides_how_many_are_evaluated_together():
    model = nn.Sequential(nn.Linear(100, 50), nn.Softplus(), nn.Linear(50, 1))
    x, sizes = torch.randn(200, 100), []

    def closure() -> Tensor:
        calls.append(1)
        return model(x).square().mean()

    calls: list[int] = []
    each = 4 * 5101 + 4 * 200 * (50 + 50)  # the parameters, and two activations of the first layer
    for memory in (1, 4 * each, 8 * each, 1 << 30):
        population = PopulationLoss(model, closure, memory=memory)
        points = points_around(population, 16)
        population.losses(points)
        calls.clear()
        population.losses(points)
        sizes.append(16 / len(calls))
    assert sizes[0] == 1
    assert 2 <= sizes[1] <= 4
    assert sizes[1] < sizes[2] <= 8
    assert sizes[3] == 16


def test_no_candidates():
    model = small()
    population = PopulationLoss(model, lambda: mse(model))
    nothing = torch.empty(0, population.dim)
    assert population.losses(nothing).shape == (0,)
    assert population.value_and_gradient(nothing)[1].shape == (0, population.dim)
    assert population.line(torch.zeros(population.dim), torch.empty(0)).shape == (0,)


# ---------------------------------------------------------------- closures
def test_a_closure_may_clear_gradients_and_call_backward():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = mse(model)
        loss.backward()
        return loss

    closure()
    grads = [p.grad.clone() for p in model.parameters()]
    population = PopulationLoss(model, closure)
    points = points_around(population)
    losses, gradients = population.value_and_gradient(points)
    torch.testing.assert_close(losses, population.losses(points))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    point = points[2].clone().requires_grad_()
    sizes = [p.numel() for p in model.parameters()]
    named = zip(model.named_parameters(), torch.split(point, sizes), strict=True)
    values = {name: part.view(p.shape) for (name, p), part in named}
    F.mse_loss(torch.func.functional_call(model, values, X), Y).backward()
    torch.testing.assert_close(gradients[2], point.grad)


def test_parameters_that_the_closure_captured_are_swapped():
    model = small()
    params = list(model.parameters())

    def closure() -> Tensor:
        return (
            mse(model)
            + sum(p.square().sum() for p in params)
            + torch.cat([p.flatten() for p in params]).abs().sum()
        )

    population = PopulationLoss(model, closure)
    points = points_around(population)
    torch.testing.assert_close(population.losses(points), in_turn(model, closure, points))
    rates, d = torch.rand(4), torch.randn(population.dim)
    along = population.point() - rates[:, None] * d
    torch.testing.assert_close(population.line(d, rates), in_turn(model, closure, along))


class Double(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return 2 * g


def test_a_function_of_ones_own_sees_the_candidate():
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, Double.apply(self.weight))

    model = Layer()
    population = PopulationLoss(model, lambda: mse(model))
    points = points_around(population)
    torch.testing.assert_close(
        population.losses(points), in_turn(model, lambda: mse(model), points)
    )
    rates, d = torch.rand(4), torch.randn(population.dim)
    along = population.point() - rates[:, None] * d
    losses = population.line(d, rates)
    torch.testing.assert_close(losses, in_turn(model, lambda: mse(model), along))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_module_that_hides_its_parameters_is_found_out():
    model = small()
    scripted = torch.jit.script(model)  # its layers are called where no mode sees it
    population = PopulationLoss(scripted, lambda: mse(scripted))
    points = points_around(population)
    plain = PopulationLoss(model, lambda: mse(model))
    torch.testing.assert_close(population.losses(points), plain.losses(points))
    d, rates = torch.randn(population.dim), 1 + torch.rand(4)
    with pytest.warns(RuntimeWarning, match="It returns the loss"):
        losses = population.line(d, rates)
    torch.testing.assert_close(losses, plain.line(d, rates))


def test_frozen_parameters_and_a_choice_of_parameters():
    model = small()
    model[0].weight.requires_grad_(False)
    population = PopulationLoss(model, lambda: mse(model))
    assert population.dim == 3 + 6 + 2
    chosen = [model[2].bias, model[0].weight]
    population = PopulationLoss(model, lambda: mse(model), params=chosen)
    assert population.dim == 2 + 12
    assert torch.equal(population.point()[:2], model[2].bias)
    points = points_around(population, 3)
    losses, gradients = population.value_and_gradient(points)
    for point, loss, gradient in zip(points, losses, gradients, strict=True):
        values = {"2.bias": point[:2].clone(), "0.weight": point[2:].view(3, 4).clone()}
        for value in values.values():
            value.requires_grad_()
        wanted = F.mse_loss(torch.func.functional_call(model, values, X), Y)
        slopes = torch.autograd.grad(wanted, list(values.values()))
        torch.testing.assert_close(loss, wanted.detach())
        torch.testing.assert_close(gradient, torch.cat([s.flatten() for s in slopes]))


def test_unused_parameters_have_zero_gradients():
    model = small()
    population = PopulationLoss(model, lambda: model[0](X).square().mean())
    gradient = population.value_and_gradient(points_around(population))[1]
    assert gradient[:, :15].abs().sum() > 0
    assert torch.equal(gradient[:, 15:], torch.zeros(5, 8))
    constant = PopulationLoss(model, lambda: torch.tensor(2.0))
    losses, gradient = constant.value_and_gradient(points_around(constant))
    assert torch.equal(losses, torch.full((5,), 2.0))
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_other_dtypes(dtype):
    weight = nn.Parameter(torch.randn(3, dtype=dtype))
    model = nn.ParameterList([weight])
    target = torch.randn(3, dtype=dtype)

    def closure() -> Tensor:
        return (weight - target).abs().square().sum().to(torch.float64)

    population = PopulationLoss(model, closure)
    assert population.dim == (6 if dtype.is_complex else 3)
    point = population.point()
    assert point.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    losses, gradients = population.value_and_gradient(torch.stack([point, 0 * point]))
    torch.testing.assert_close(losses[0], closure().detach().to(point.dtype), rtol=1e-2, atol=1e-2)
    goal = torch.view_as_real(target).flatten() if dtype.is_complex else target
    torch.testing.assert_close(gradients[1], -2 * goal.to(point.dtype), rtol=2e-2, atol=1e-2)
    population.write(0 * point)
    assert not weight.any()


def test_candidates_that_diverge_do_not_touch_the_others():
    model = small()
    population = PopulationLoss(model, lambda: mse(model))
    points = points_around(population)
    losses, gradients = population.value_and_gradient(points)
    bad = points.clone()
    bad[1], bad[3] = torch.nan, torch.inf
    found, slopes = population.value_and_gradient(bad)
    assert found[1].isnan()
    assert not found[3].isfinite()
    keep = [0, 2, 4]
    torch.testing.assert_close(found[keep], losses[keep])
    torch.testing.assert_close(slopes[keep], gradients[keep])
    torch.testing.assert_close(population.losses(bad)[keep], losses[keep])


def test_different_random_numbers_for_each_candidate():
    model = nn.Sequential(nn.Linear(4, 100), nn.Dropout(0.5))

    def closure() -> Tensor:
        return model(X).square().sum()

    same = PopulationLoss(model, closure).losses(
        PopulationLoss(model, closure).point().repeat(4, 1)
    )
    assert (same == same[0]).all()
    different = PopulationLoss(model, closure, randomness="different", chunk=2)
    assert len(different.losses(different.point().repeat(4, 1)).unique()) == 4


# ---------------------------------------------------------------- what is left alone
def state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers(), torch.get_rng_state()]


@pytest.mark.parametrize("fails", [0, 1, 2, 3])
def test_everything_is_as_it_was_even_after_an_error(fails):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    mse(model).backward()
    calls = itertools.count(1)

    def closure() -> Tensor:
        loss = mse(model)
        if next(calls) == fails < 3:
            raise KeyError("the closure's own")
        return loss * loss.item() if fails == 3 else loss

    population = PopulationLoss(model, closure, chunk=2)
    before = [x.clone() for x in state(model)]
    versions = [p._version for p in model.parameters()]
    grads = [p.grad for p in model.parameters()]
    addresses = [p.data_ptr() for p in model.parameters()]
    points = points_around(population)
    before[-1] = torch.get_rng_state()
    if fails == 3:
        with pytest.warns(RuntimeWarning, match="item"):
            population.losses(points)
    elif fails:
        with pytest.raises(KeyError):
            population.losses(points)
    else:
        population.value_and_gradient(points)
        population.line(torch.randn(population.dim), torch.rand(3))
        before[-1] = torch.get_rng_state()
        population.low_rank(Draw(0), 0.1, 3)
    for x, y in zip(state(model), before, strict=True):
        assert torch.equal(x, y)
    assert versions == [p._version for p in model.parameters()]
    assert all(a is p.grad for a, p in zip(grads, model.parameters(), strict=True))
    assert addresses == [p.data_ptr() for p in model.parameters()]


def test_buffers_that_a_forward_writes_are_each_candidates_own():
    class Power(nn.Module):
        """A spectral norm that writes its vector as it goes."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))
            self.register_buffer("u", F.normalize(torch.randn(3), dim=0))

        def forward(self, x: Tensor) -> Tensor:
            v = F.normalize(self.weight.t() @ self.u, dim=0)
            with torch.no_grad():
                self.u.copy_(F.normalize(self.weight @ v, dim=0))
            return x @ self.weight.t() / (self.u @ self.weight @ v)

    model = Power()
    start = model.u.clone()

    def closure() -> Tensor:
        return model(X).square().mean()

    population = PopulationLoss(model, closure)
    points = points_around(population)
    wanted = []
    for point in points:
        wanted.append(in_turn(model, closure, point[None])[0])
        model.u.copy_(start)
    torch.testing.assert_close(population.losses(points), torch.stack(wanted))
    assert torch.equal(model.u, start)


# ---------------------------------------------------------------- what is refused
def test_arguments_that_do_not_fit():
    model = small()
    population = PopulationLoss(model, lambda: mse(model))
    P = population.dim
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        PopulationLoss(mse, lambda: mse(model))
    with pytest.raises(TypeError, match="loss must be callable"):
        PopulationLoss(model, 3)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        PopulationLoss(nn.ReLU(), lambda: mse(model))
    with pytest.raises(ValueError, match="twice"):
        PopulationLoss(model, lambda: mse(model), params=[model[0].bias] * 2)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        PopulationLoss(model, lambda: mse(model), params=[torch.arange(3)])
    for name in ("memory", "chunk"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
            PopulationLoss(model, lambda: mse(model), **{name: 0})
    with pytest.raises(ValueError, match="'same' or 'different', not 'error'"):
        PopulationLoss(model, lambda: mse(model), randomness="error")
    for call in (population.losses, population.value_and_gradient):
        with pytest.raises(ValueError, match=rf"\[K, {P}\], not \[{P}\]"):
            call(population.point())
        with pytest.raises(ValueError, match="float64"):
            call(population.point()[None].double())
        with pytest.raises(TypeError, match="not list"):
            call([population.point()])
    with pytest.raises(ValueError, match="like each parameter"):
        population.line([torch.zeros(2)], torch.rand(2))
    with pytest.raises(ValueError, match="floats"):
        population.line(torch.zeros(P), torch.ones(2, 2))
    with pytest.raises(TypeError, match="rates must be"):
        population.line(torch.zeros(P), [0.1])
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, not 0"):
        population.low_rank(Draw(0), 0.1, 4, rank=0)
    with pytest.raises(ValueError, match=r"sigma must be .*4"):
        population.low_rank(Draw(0), torch.ones(3), 4)
    with pytest.raises(ValueError, match=r"region\.mean"):
        population.candidates(Region(torch.zeros(3), 0.1), Draw(0), 4)
    with pytest.raises(ValueError, match="reduce the loss"):
        PopulationLoss(model, lambda: model(X)).losses(points_around(population))
    with pytest.raises(TypeError, match="must return the loss"):
        PopulationLoss(model, lambda: None).losses(points_around(population))


def test_a_direction_may_be_a_list_of_tensors():
    model = small()
    population = PopulationLoss(model, lambda: mse(model))
    d = [torch.randn_like(p) for p in model.parameters()]
    flat = torch.cat([x.flatten() for x in d])
    rates = torch.rand(3)
    assert torch.equal(population.line(d, rates), population.line(flat, rates))
