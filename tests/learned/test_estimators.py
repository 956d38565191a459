"""Meta-gradients: right on what can be worked out, and resumed bit for bit."""

import math

import pytest
import torch

from unstuck.learned import (
    ESTIMATORS,
    FAMILIES,
    MLP,
    Backprop,
    Evolution,
    Mixture,
    Networks,
    Objective,
    Plan,
    Quadratic,
    UpdateRule,
)
from unstuck.learned.students import MetaParameters
from unstuck.learned.unroll import Unroll


class Descent(UpdateRule):
    """Gradient descent with a learned rate for each half of the parameters, and momentum."""

    name = "descent"
    rate = 1.0
    like = ("m",)

    def __init__(self):
        super().__init__()
        self.rates = torch.nn.Parameter(torch.tensor([-4.0, -4.0, 0.0]))

    def step_tensor(self, at, told):
        m = torch.sigmoid(self.rates[2]) * at.state["m"] + at.g
        return at.moved(torch.exp(self.rates[: len(at.w)]) * m), {"m": m}


@pytest.fixture
def rule():
    torch.manual_seed(0)
    return MLP(hidden=4, control=4)


def perturbed(rule):
    """Parameters away from where an untrained rule begins, so that no gradient is 0."""
    layout = MetaParameters(rule)
    theta = layout.read()
    return theta + 0.05 * torch.randn(layout.dim)


def objective_at(rule, plan, theta, family=FAMILIES["quadratics"], key=3):
    unroll = Unroll(rule, family, plan, key, pairs=False)
    return unroll.run(theta.repeat(plan.students, 1), plan.horizon[1]).mean()


@pytest.mark.parametrize("scale", ["log", "linear"])
@pytest.mark.parametrize("validation", [0.0, 0.4])
@pytest.mark.parametrize("segment", [1, 3, 100])
def test_backprop_is_the_derivative(scale, validation, segment):
    rule = Descent()
    objective = Objective(scale, late=1.0, validation=validation)
    plan = Plan(unrolls=1, students=3, truncation=10, horizon=(10, 10), objective=objective)
    family = FAMILIES["quadratics"]
    estimator = Backprop(rule, family, plan, second_order=True, segment=segment)
    key, theta = estimator._unrolls[0].key, estimator.layout.read()
    estimate = estimator.estimate(theta)
    assert estimate.score == pytest.approx(float(objective_at(rule, plan, theta, key=key)))
    h = 1e-2
    for i in range(3):
        step = h * torch.eye(3)[i]
        ends = [objective_at(rule, plan, theta + s * step, key=key) for s in (1, -1)]
        slope = float(ends[0] - ends[1]) / (2 * h)
        assert float(estimate.gradient[i]) == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_constant_gradients_miss_only_the_second_order():
    """On a linear function gradients do not depend on the point, and both must agree."""

    class Slope:
        name, floor = "slope", -100.0

        def initial(self, seed):
            return [torch.full((2,), float(seed % 7))]

        def batch(self, seed):
            return ()

        validation = batch

        def loss(self, params, batch):
            return (params[0] * torch.tensor([1.0, 2.0])).sum()

    class Slopes:
        name = "slopes"

        def sample(self, seed):
            return Slope()

    plan = Plan(unrolls=1, students=2, truncation=6, horizon=(6, 6), objective=Objective("linear"))
    both = [
        Backprop(Descent(), Slopes(), plan, second_order=second).estimate(Descent().rates.detach())
        for second in (False, True)
    ]
    torch.testing.assert_close(both[0].gradient, both[1].gradient)
    assert float(both[0].gradient.abs().min()) > 0


@pytest.mark.parametrize(("truncation", "late"), [(8, 0.0), (3, 0.0), (3, 3.0)])
def test_evolution_strategies_agree_with_the_derivative(truncation, late):
    """Over a whole unroll, with whatever truncation, the sum of estimates is a gradient."""
    rule, family, objective = Descent(), FAMILIES["quadratics"], Objective(late=late)
    plan = Plan(1, students=2000, truncation=truncation, horizon=(8, 8), objective=objective)
    es = Evolution(rule, family, plan, sigma=0.05, normalise=False)
    key, theta = es._unrolls[0].key, es.layout.read()
    gradient = torch.zeros(3)
    for _ in range(math.ceil(8 / truncation)):
        assert es._unrolls[0].step < 8
        gradient += truncation / 8 * es.estimate(theta).gradient
    exact = torch.zeros(3)
    same = Unroll(rule, family, plan, key, pairs=True)
    leaf = theta.clone().requires_grad_()
    score, *_ = same.stretch(leaf, same.points, same.state, (0, 8), 0, 8, second_order=True)
    (exact,) = torch.autograd.grad(score.mean(), leaf)
    torch.testing.assert_close(gradient, exact, rtol=0.15, atol=0.15 * float(exact.norm()))


TINY = {
    "quadratics": FAMILIES["quadratics"],
    "mlp": Networks("mlp", ("digits",), (4, 8), (1, 2), batch=(8, 16), features=(5, 10)),
    "conv": Networks("conv", ("mnist1d",), (4, 8), (0, 1), batch=(4, 8), channels=((2,),)),
}


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("baselines", [None, 0.2])
def test_goes_on_bit_for_bit(baselines, name, family, rule):
    plan = Plan(
        unrolls=2,
        students=4,
        truncation=4,
        horizon=(6, 10),
        objective=Objective(validation=0.3, baselines=baselines),
    )
    theta = perturbed(rule)
    whole = ESTIMATORS[name](rule, TINY[family], plan, seed=5)
    for _ in range(2):
        whole.estimate(theta)
    tensors = {key: x.clone() for key, x in whole.tensors().items()}
    numbers = whole.numbers()
    expected = [whole.estimate(theta) for _ in range(3)]
    other = ESTIMATORS[name](rule, TINY[family], plan, seed=5)
    other.restore(numbers, tensors)
    for want in expected:
        got = other.estimate(theta)
        assert torch.equal(got.gradient, want.gradient)
        assert got[1:] == want[1:]
    assert float(want.gradient.norm()) > 0


def test_refuses_the_checkpoint_of_other_options(rule):
    plan = Plan(unrolls=2, students=4, truncation=4, horizon=(8, 8))
    one = Evolution(rule, FAMILIES["quadratics"], plan)
    more = Plan(unrolls=3, students=4, truncation=4, horizon=(8, 8))
    with pytest.raises(ValueError, match="has 2 unrolls, not 3"):
        Evolution(rule, FAMILIES["quadratics"], more).restore(one.numbers(), one.tensors())
    wide = Plan(unrolls=2, students=6, truncation=4, horizon=(8, 8))
    with pytest.raises(ValueError, match=r"points is torch.float32 of shape \[4, 2\]"):
        Evolution(rule, FAMILIES["quadratics"], wide).restore(one.numbers(), one.tensors())


def test_normalised_differences_give_the_same_direction_whatever_the_scale():
    plan = Plan(unrolls=1, students=40, truncation=5, horizon=(5, 5))
    parts = [
        Evolution(Descent(), FAMILIES["quadratics"], plan, normalise=normalise).estimate(
            Descent().rates.detach()
        )
        for normalise in (False, True)
    ]
    plain, normal = (part.gradient for part in parts)
    torch.testing.assert_close(plain / plain.norm(), normal / normal.norm())
    assert float(normal.norm()) > 3 * float(plain.norm())


def test_pairs_begin_alike_and_get_the_same_batches(rule):
    plan = Plan(unrolls=1, students=4, truncation=1, horizon=(5, 5), told=1.0)
    es = Evolution(rule, FAMILIES["digits"], plan)
    points = es._unrolls[0].points
    assert torch.equal(points[0], points[1])
    assert not torch.equal(points[0], points[2])
    scores = es._unrolls[0].run(es.layout.read().repeat(4, 1), 3)
    assert torch.equal(scores[0], scores[1])


def test_a_divergence_costs_the_ceiling_and_spoils_nothing(rule):
    """A rule with an enormous step diverges; estimates stay finite."""
    plan = Plan(unrolls=1, students=4, truncation=10, horizon=(20, 20))
    wild = Descent()
    theta = torch.tensor([40.0, 40.0, 0.0])
    for name in ESTIMATORS:
        estimate = ESTIMATORS[name](wild, FAMILIES["quadratics"], plan).estimate(theta)
        assert bool(estimate.gradient.isfinite().all())
        assert estimate.score <= plan.objective.ceiling


def test_horizons_are_log_uniform_and_some_are_told(rule):
    plan = Plan(unrolls=1, students=2, horizon=(10, 1000), told=0.25)
    made = [Unroll(rule, FAMILIES["quadratics"], plan, key, pairs=True) for key in range(400)]
    logs = torch.tensor([math.log10(unroll.horizon) for unroll in made])
    assert 1.0 <= float(logs.min()) < 1.05
    assert 2.95 < float(logs.max()) <= 3.0
    assert abs(float(logs.mean()) - 2.0) < 0.1
    told = [unroll._num_steps for unroll in made if unroll._num_steps is not None]
    assert 0.17 < len(told) / 400 < 0.33
    assert all(u._num_steps in (None, u.horizon) for u in made)


@pytest.mark.parametrize("own", [True, False])
def test_multipliers_are_log_uniform_and_scale_the_steps(rule, own):
    plan = Plan(unrolls=1, students=2, horizon=(5, 5), multiplier=(0.1, 10.0))
    theta = MetaParameters(rule).read()
    sizes = []
    for key in range(200):
        unroll = Unroll(rule, FAMILIES["quadratics"], plan, key, pairs=True)
        before = unroll.points
        _, after, _ = unroll.stretch(
            theta.repeat(2, 1) if own else theta, before, unroll.state, (0, 1), 0, 1
        )
        sizes.append(float((after - before).abs().max()) / MLP.rate)  # an untrained rule is Adam
    logs = torch.tensor(sizes).log10()
    assert -1.0001 < float(logs.min()) < -0.95
    assert 0.95 < float(logs.max()) < 1.0001
    assert abs(float(logs.mean())) < 0.12


def test_weights_of_steps_have_the_mean_one():
    for late in (0.0, 1.0, 3.0):
        objective = Objective(late=late)
        weights = [objective.weight(t, 200) for t in range(200)]
        assert sum(weights) / 200 == pytest.approx(1.0, rel=1e-3)
        assert (weights[0] < weights[-1]) == (late > 0)


def test_scores_do_not_depend_on_scale_and_offset():
    start, now = torch.tensor([3.0, 5.0]), torch.tensor([2.0, 1.0])
    objective = Objective()
    plain = objective.score(now, start, 0.0)
    moved = objective.score(10 * now - 7, 10 * start - 7, -7.0)
    torch.testing.assert_close(plain, moved)
    torch.testing.assert_close(
        objective.score(start, start, 0.0), torch.zeros(2), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective("lgo"), "scale must be one of log, linear, not 'lgo'"),
        (lambda: Objective(validation=1.5), "validation must be from 0 to 1, not 1.5"),
        (lambda: Objective(baselines=1.5), "baselines must be from 0 to 1, not 1.5"),
        (lambda: Objective(margin=0.3), "margin=0.3 is a distance to baselines: give baselines="),
        (lambda: Objective(margin=-1.0), "margin must be a number from 0 on, not -1.0"),
        (lambda: Objective(ceiling=0.0), "ceiling must be a positive number, not 0.0"),
        (lambda: Objective(late=-1.0), "late must be a number from 0 on, not -1.0"),
        (lambda: Plan(unrolls=0), "unrolls must be at least 1, not 0"),
        (lambda: Plan(horizon=(10, 5)), r"not \(10, 5\)"),
        (lambda: Plan(multiplier=(0.0, 1.0)), r"not \(0.0, 1.0\)"),
        (lambda: Plan(told=2.0), "told must be from 0 to 1, not 2.0"),
        (
            lambda: Evolution(MLP(), FAMILIES["quadratics"], Plan(students=3)),
            "students=3 must be even",
        ),
        (
            lambda: Evolution(MLP(), FAMILIES["quadratics"], Plan(), sigma=0.0),
            "sigma must be a positive number, not 0.0",
        ),
        (
            lambda: Backprop(MLP(), FAMILIES["quadratics"], Plan(), segment=0),
            "segment must be at least 1, not 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mixture_reaches_all_its_families():
    family = Mixture("two", (FAMILIES["quadratics"], FAMILIES["digits"]))
    kinds = {isinstance(family.sample(seed), Quadratic) for seed in range(20)}
    assert kinds == {True, False}
