"""Every family draws tasks that keep the protocol, and tasks are functions of their seeds."""

import itertools
import pickle

import pytest
import torch

from unstuck import problems
from unstuck.learned import (
    FAMILIES,
    Family,
    Landscape,
    Mixture,
    Network,
    Networks,
    Quadratic,
    Scaled,
    Task,
)
from unstuck.learned.networks import ACTIVATIONS
from unstuck.learned.students import Students
from unstuck.learned.task import generator, seed_of


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_families_keep_the_protocol(name):
    family = FAMILIES[name]
    assert isinstance(family, Family)
    assert family.name == name
    for seed in range(3):
        task = family.sample(seed)
        assert isinstance(task, Task)
        params = task.initial(seed)
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in params)
        for batch in (task.batch(0), task.validation(0)):
            loss = task.loss(params, batch)
            assert loss.shape == ()
            assert task.floor <= float(loss) < float("inf")


@pytest.mark.parametrize("name", FAMILIES)
def test_seeds_alone_decide(name):
    family = FAMILIES[name]
    task, again = family.sample(7), pickle.loads(pickle.dumps(family)).sample(7)
    torch.manual_seed(99)
    assert task == again == pickle.loads(pickle.dumps(task))
    before = torch.get_rng_state()
    assert same(task.initial(1), again.initial(1))
    assert same(task.batch(2), again.batch(2))
    assert same(task.validation(2), again.validation(2))
    assert torch.equal(before, torch.get_rng_state())
    assert not same(task.initial(1), task.initial(2))
    if task.batch(2):
        assert not same(task.batch(2), task.batch(3))
    drawn = {repr(family.sample(seed)) for seed in range(40)}
    assert len(drawn) == 1 if name in ("rastrigin", "rosenbrock") else len(drawn) > 3


@pytest.mark.parametrize("name", FAMILIES)
def test_students_have_the_losses_and_gradients_of_the_task(name):
    task = FAMILIES[name].sample(3)
    students, batch = Students(task), task.batch(0)
    points = students.begin([5, 6, 7])
    losses, gradients = students.value_and_gradient(points, batch)
    second = students.differentiable(points, batch)
    for k, seed in enumerate((5, 6, 7)):
        params = [p.requires_grad_() for p in task.initial(seed)]
        loss = task.loss(params, batch)
        own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])
        torch.testing.assert_close(losses[k], loss.detach(), rtol=1e-4, atol=1e-5)
        scale = float(own.abs().max())
        torch.testing.assert_close(gradients[k], own, rtol=1e-3, atol=1e-4 * scale)
        torch.testing.assert_close(second[1][k], own, rtol=1e-3, atol=1e-4 * scale)
    torch.testing.assert_close(second[0], losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(students.losses(points, batch), losses, rtol=1e-4, atol=1e-5)


def test_plain_perceptrons_in_other_units_take_the_kernels():
    task = Scaled(Network("digits"), (2.0, 0.5, 3.0, 1.0))
    students = Students(task)
    students.value_and_gradient(students.begin([0, 1]), task.batch(0))
    from unstuck.ops import mlp

    assert students._population.is_plain == mlp.native_ready(torch.device("cpu"))


def test_other_units_are_the_same_task():
    task = Network("digits", (8,), "tanh")
    scaled = Scaled(task, (3.0, 0.1, 0.5, 10.0))
    batch = task.batch(0)
    params = [p.requires_grad_() for p in task.initial(0)]
    others = [p.requires_grad_() for p in scaled.initial(0)]
    loss, other = task.loss(params, batch), scaled.loss(others, batch)
    torch.testing.assert_close(other, loss)
    gradients = torch.autograd.grad(loss, params)
    rescaled = torch.autograd.grad(other, others)
    for g, h, a in zip(gradients, rescaled, scaled.scales, strict=True):
        torch.testing.assert_close(h, a * g)


def test_units_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"positive numbers, not \(1.0, -2.0\)"):
        Scaled(Quadratic(0), (1.0, -2.0))
    with pytest.raises(ValueError, match="1 parameters, but 2 scales"):
        Scaled(Quadratic(0), (1.0, 2.0)).initial(0)


@pytest.mark.parametrize("data", problems.DATA)
@pytest.mark.parametrize("channels", [(), (4,), (4, 6)])
@pytest.mark.parametrize("depth", [0, 2])
def test_networks_of_all_shapes_learn(data, channels, depth):
    task = Network(data, (12,) * depth, channels=channels, batch_size=24)
    params = [p.requires_grad_() for p in task.initial(0)]
    assert [tuple(p.shape) for p in params] == task.shapes()
    batch = task.batch(0)
    assert batch[0].shape[0] == 24
    adam = torch.optim.Adam(params, lr=0.03)
    first = float(task.loss(params, batch).detach())
    for _ in range(15):
        adam.zero_grad()
        task.loss(params, batch).backward()
        adam.step()
    assert float(task.loss(params, batch).detach()) < 0.95 * first


def test_initial_weights_are_as_torch_begins():
    task = Network("digits", (400,))
    ours, layer = task.initial(0), torch.nn.Linear(64, 400).requires_grad_(False)
    for mine, theirs in zip(ours, (layer.weight, layer.bias), strict=False):
        assert abs(float(mine.std() / theirs.std()) - 1) < 0.15
        assert float(mine.abs().max()) <= 1 / 8
    double = Network("digits", (400,), scale=2.0).initial(0)
    torch.testing.assert_close(double[0], 2 * ours[0])
    torch.testing.assert_close(double[1], ours[1])


def test_parts_of_the_data_stay_apart():
    task, data = Network("digits"), problems.load_data("digits", seed=0)
    rows = {row.numpy().tobytes() for row in data.train.x.flatten(1)}
    drawn = list(itertools.chain.from_iterable(task.batch(seed)[0] for seed in range(5)))
    assert all(row.numpy().tobytes() in rows for row in drawn)
    held_out = {row.numpy().tobytes() for row in data.validation.x.flatten(1)}
    assert all(row.numpy().tobytes() in held_out for row in task.validation(0)[0])
    assert [len(task.everything(part)[1]) for part in ("train", "validation", "test")] == [
        1079,
        359,
        359,
    ]
    with pytest.raises(ValueError, match="unknown part 'meta'"):
        task.everything("meta")


def test_mapped_inputs_have_the_size_of_the_data():
    task = Network("mnist1d", (8,), features=100, batch_size=2000)
    x, _ = task.batch(0)
    assert x.shape == (2000, 100)
    assert 0.7 < float(x.square().mean()) < 1.4
    other = Network("mnist1d", (8,), features=100, batch_size=2000, seed=1).batch(0)[0]
    assert not torch.allclose(x, other)


def test_networks_are_drawn_within_their_ranges():
    family = Networks(
        "all",
        ("digits", "mnist1d"),
        width=(4, 20),
        depth=(0, 3),
        activations=tuple(ACTIVATIONS),
        batch=(16, 64),
        channels=((), (2,)),
        scale=(0.5, 2.0),
        features=(10, 30),
        units=1.0,
    )
    tasks = [family.sample(seed) for seed in range(300)]
    nets = [task.task for task in tasks]
    assert {net.data for net in nets} == {"digits", "mnist1d"}
    assert {len(net.hidden) for net in nets} == {0, 1, 2, 3}
    assert {net.activation for net in nets} == set(ACTIVATIONS)
    assert {net.channels for net in nets} == {(), (2,)}
    widths = [width for net in nets for width in net.hidden]
    assert (min(widths), max(widths)) == (4, 20)
    assert all(16 <= net.batch_size <= 64 and 0.5 <= net.scale <= 2 for net in nets)
    assert all(0.1 <= a <= 10 for task in tasks for a in task.scales)
    assert min(a for task in tasks for a in task.scales) < 0.15
    features = {net.features for net in nets if not net.channels}
    assert min(features) >= 10
    assert max(features) <= 30
    assert {net.features for net in nets if net.channels} == {0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network("mnits"), "unknown data set 'mnits'"),
        (lambda: Network("digits", activation="rleu"), "unknown activation 'rleu'"),
        (lambda: Network("digits", (0,)), r"hidden=\(0,\)"),
        (lambda: Network("digits", scale=float("nan")), "scale must be a positive number, not nan"),
        (lambda: Network("digits", channels=(2,), features=5), "features=5"),
        (lambda: Network("digits", channels=(2,) * 4).initial(0), "cannot be halved 4 times"),
        (lambda: Quadratic(0, dim=0), "dim must be at least 1, not 0"),
        (lambda: Landscape("rastrigni"), "unknown landscape 'rastrigni'"),
        (lambda: Mixture("none", ()), "families is empty"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_landscapes_are_those_of_problems():
    for kind in ("rastrigin", "rosenbrock", "ackley", "styblinski_tang", "eggholder"):
        task, problem = Landscape(kind), problems.get(kind, dim=2)
        start = task.initial(3)[0]
        assert bool(((problem.bounds[0] <= start) & (start <= problem.bounds[1])).all())
        torch.testing.assert_close(task.loss([start], ()), problem(start))
        assert task.floor == problem.minimum


def test_seeds_of_counters_do_not_meet():
    seeds = {seed_of(a, b, c) for a in range(5) for b in ("x", "y") for c in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    draws = torch.rand(4, generator=generator(1, "x"))
    assert torch.equal(draws, torch.rand(4, generator=generator(1, "x")))
