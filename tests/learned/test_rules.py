"""What every update rule promises: Adam before training, functional steps, symmetries, vmap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim.lr_scheduler import LambdaLR

from unstuck.learned import (
    LSTM,
    MLP,
    RULES,
    FeatureMLP,
    Preconditioner,
    Transformer,
    UpdateRule,
    WhitenedMLP,
)

SHAPES = ((4, 3), (5,), (), (2, 3, 2))
MAKERS = {
    "mlp": MLP,
    "mlp-wide": lambda: MLP(hidden=9, control=5),
    "whitened-mlp": WhitenedMLP,
    "feature-mlp": FeatureMLP,
    "feature-mlp-long": lambda: FeatureMLP(
        6, 1, momenta=(0.1, 0.5, 0.99, 0.999, 0.9999), factored=(0, 0.5, 0.8, 0.9, 0.99, 0.999)
    ),
    "lstm-gradient": lambda: LSTM("gradient", hidden=6),
    "lstm-log": lambda: LSTM("log", hidden=6, scale=0.5),
    "lstm-rich": lambda: LSTM("rich", hidden=6),
    "transformer": lambda: Transformer(width=8, history=3),
    "transformer-alone": lambda: Transformer(width=6, heads=3, history=2, nominal=False),
    "preconditioner": lambda: Preconditioner(width=8, rank=2),
}
NOMINAL = (
    "mlp",
    "mlp-wide",
    "feature-mlp",
    "feature-mlp-long",
    "lstm-rich",
    "transformer",
    "preconditioner",
)
every_rule = pytest.mark.parametrize("name", MAKERS)


def make(name: str, *, trained: bool = True, seed: int = 0) -> UpdateRule:
    torch.manual_seed(seed)
    rule = MAKERS[name]()
    if trained:
        with torch.no_grad():
            for p in rule.parameters():
                p.add_(0.2 * torch.randn_like(p))
    return rule


def tensors(seed: int, shapes=SHAPES, dtype=torch.float32, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        scale * torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes
    ]


def unroll(rule, params, grads, *, state=None, **options):
    """Steps by given gradients, one list of them a step."""
    state = rule.init_state(params) if state is None else state
    for g in grads:
        params, state = rule(params, g, state, **options)
    return params, state


def everything(state):
    return [x for column in state.values() for x in column]


def gradients(count: int, **options) -> list[list[Tensor]]:
    return [tensors(100 + i, **options) for i in range(count)]


def test_every_rule_of_the_registry_is_tested():
    assert {type(make(name)) for name in MAKERS} == set(RULES.values())
    assert all(rule.name == name for name, rule in RULES.items())


@pytest.mark.parametrize("name", NOMINAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_untrained_rule_is_adam(name: str, dtype: torch.dtype):
    params = tensors(1, dtype=dtype)
    twins = [torch.nn.Parameter(p.clone()) for p in params]
    adam = torch.optim.Adam(twins, lr=3e-3)
    steps = gradients(12, dtype=dtype)
    with torch.no_grad():
        params, state = unroll(make(name, trained=False), params, steps, lr=3.0, num_steps=12)
    for g in steps:
        for q, x in zip(twins, g, strict=True):
            q.grad = x
        adam.step()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q.detach(), rtol=tolerance, atol=tolerance)
    assert [float(t) for t in state["step"]] == [12.0] * len(SHAPES)


@pytest.mark.parametrize("num_steps", [None, 12])
def test_an_mlp_rule_may_begin_with_longer_steps_and_a_linear_schedule(num_steps: int | None):
    twins = [torch.nn.Parameter(p.clone()) for p in tensors(1)]
    adam = torch.optim.Adam(twins, lr=0.02)
    plan = LambdaLR(adam, lambda t: 1 - t / num_steps if num_steps else 1.0)
    steps = gradients(12)
    with torch.no_grad():
        params, _ = unroll(MLP(scale=40.0, fade=1), tensors(1), steps, lr=0.5, num_steps=num_steps)
    for g in steps:
        for q, x in zip(twins, g, strict=True):
            q.grad = x
        adam.step()
        plan.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm-gradient", "lstm-log", "transformer-alone"])
def test_an_untrained_rule_without_a_nominal_step_stands_still(name: str):
    params, _ = unroll(make(name, trained=False), tensors(1), gradients(3))
    for p, q in zip(params, tensors(1), strict=True):
        assert torch.equal(p, q)


@every_rule
def test_a_step_writes_nothing_and_keeps_forms(name: str):
    rule = make(name)
    params, grads = tensors(1), tensors(2)
    state = rule.init_state(params)
    copies = [x.clone() for x in (*params, *grads, *everything(state))]
    moved, after = rule(params, grads, state)
    for x, y in zip((*params, *grads, *everything(state)), copies, strict=True):
        assert torch.equal(x, y)
    assert set(state) == {*rule.like, *rule.beside, "step"} == set(after)
    for key, column in after.items():
        for x, y, p in zip(column, state[key], params, strict=True):
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
            assert key not in rule.like or x.shape == p.shape
    assert all(not torch.equal(p, q) for p, q in zip(moved, params, strict=True))


@every_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_go_the_same_way(name: str, dtype: torch.dtype):
    rule = make(name)
    exact, _ = unroll(rule, tensors(1), gradients(3), num_steps=5)
    params, state = unroll(rule, tensors(1, dtype=dtype), gradients(3, dtype=dtype), num_steps=5)
    tolerance = 1e-5 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps
    for p, q in zip(params, exact, strict=True):
        assert p.dtype == dtype
        torch.testing.assert_close(p.float(), q, rtol=tolerance, atol=tolerance)
    assert {x.dtype for key in rule.like for x in state[key]} == {dtype}


@every_rule
def test_vmap_over_students_and_meta_parameters(name: str):
    """K students with K rules at once go as each goes alone."""
    rule, count = make(name), 3
    thetas = {k: torch.stack([p + 0.05 * i for i in range(count)]) for k, p in named(rule)}
    params = [torch.stack([p + 0.1 * i for i in range(count)]) for p in tensors(1)]
    steps = [[torch.stack([g * (i + 1) for i in range(count)]) for g in t] for t in gradients(3)]

    def step(theta, w, g, s):
        return functional_call(rule, theta, (w, g, s), {"num_steps": 7, "lr": 2.0})

    w, state = params, torch.vmap(rule.init_state)(params)
    for g in steps:
        w, state = torch.vmap(step)(thetas, w, g, state)
    for i in range(count):
        alone = [p[i] for p in params]
        s = rule.init_state(alone)
        for g in steps:
            alone, s = step({k: x[i] for k, x in thetas.items()}, alone, [x[i] for x in g], s)
        for x, y in zip(w, alone, strict=True):
            torch.testing.assert_close(x[i], y, rtol=1e-5, atol=1e-6)


def named(rule):
    return [(k, p.detach()) for k, p in rule.named_parameters()]


@every_rule
def test_gradients_through_an_unroll_are_those_of_differences(name: str):
    """Of the loss after four steps, with gradients that depend on where the student is."""
    rule = make(name).double()

    def final(theta: Tensor) -> Tensor:
        values, at = {}, 0
        for key, p in rule.named_parameters():
            values[key] = theta[at : at + p.numel()].reshape(p.shape)
            at += p.numel()
        w = tensors(1, dtype=torch.float64)
        state = rule.init_state(w)
        for _ in range(4):
            g = [torch.sin(x) for x in w]
            w, state = functional_call(rule, values, (w, g, state), {"lr": 30.0, "num_steps": 4})
        return sum((1 - torch.cos(x)).sum() for x in w)

    theta = torch.nn.utils.parameters_to_vector(rule.parameters()).detach()
    (slope,) = torch.autograd.grad(final(theta.requires_grad_()), theta)
    assert torch.isfinite(slope).all()
    torch.manual_seed(5)
    with torch.no_grad():
        for _ in range(3):
            direction = torch.randn_like(theta)
            h = 1e-6  # so small that no unit switches in between
            difference = (final(theta + h * direction) - final(theta - h * direction)) / (2 * h)
            torch.testing.assert_close(difference, slope @ direction, rtol=1e-4, atol=1e-6)
    assert slope.abs().max() > 1e-6


@every_rule
def test_zero_gradients_have_finite_slopes(name: str):
    """Dead units have gradients of exactly zero, where roots have no slope."""
    rule = make(name)
    w = tensors(1)
    state = rule.init_state(w)
    scale = torch.ones((), requires_grad=True)
    for _ in range(3):
        w, state = rule(w, [0 * scale * x for x in w], state)
    sum(x.square().sum() for x in w).backward()
    assert torch.isfinite(scale.grad)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in rule.parameters())


@every_rule
def test_tensors_of_no_and_of_one_element(name: str):
    shapes = [(0, 3), (3, 0), (0,), (1,), (1, 1)]
    params, state = unroll(make(name), tensors(1, shapes), gradients(3, shapes=shapes))
    assert [tuple(p.shape) for p in params] == shapes
    assert all(torch.isfinite(x).all() for x in (*params, *everything(state)))


TOGETHER = ("preconditioner", "whitened-mlp")


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in TOGETHER])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_coordinate_that_is_not_finite_keeps_to_itself(name: str, value: float):
    """Rules whose coordinates look at each other are not of this kind."""
    rule, shapes = make(name), [(4, 3), (5,)]
    steps = gradients(3, shapes=shapes)
    steps[1][0][2, 1] = steps[1][1][3] = value
    params, _ = unroll(rule, tensors(1, shapes), steps)
    for p, q, at in zip(params, tensors(1, shapes), ((2, 1), (3,)), strict=True):
        moved = (p - q).abs()
        moved[at] = 0
        assert moved.max() < 0.05


@every_rule
def test_lists_of_other_lengths_are_refused(name: str):
    rule, params = make(name), tensors(1)
    state = rule.init_state(params)
    for bad in ((params, params[1:], state), (params, params, {}), (params[1:], params[1:], state)):
        with pytest.raises(ValueError, match=r"parameters need as many .* init_state\(params\)"):
            rule(*bad)


@every_rule
def test_coordinates_may_be_renumbered(name: str):
    rule, order = make(name), torch.randperm(12)
    params, steps = tensors(1, [(12,)]), gradients(4, shapes=[(12,)])
    plain, _ = unroll(rule, params, steps)
    mixed, _ = unroll(rule, [params[0][order]], [[g[0][order]] for g in steps])
    torch.testing.assert_close(mixed[0], plain[0][order], rtol=1e-5, atol=1e-6)


@every_rule
def test_tensors_may_be_reordered(name: str):
    rule = make(name)
    plain, _ = unroll(rule, tensors(1), gradients(4))
    turned, _ = unroll(rule, tensors(1)[::-1], [g[::-1] for g in gradients(4)])
    for p, q in zip(plain, turned[::-1], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_the_mlp_rule_is_odd():
    rule = make("mlp")
    plain, _ = unroll(rule, tensors(1), gradients(5))
    other, _ = unroll(rule, tensors(1, scale=-1), gradients(5, scale=-1))
    for p, q in zip(plain, other, strict=True):
        torch.testing.assert_close(p, -q)


def test_the_mlp_rule_is_blind_to_the_scale_of_losses():
    rule = make("mlp")
    plain, _ = unroll(rule, tensors(1), gradients(5))
    other, _ = unroll(rule, tensors(1), gradients(5, scale=1e3))
    for p, q in zip(plain, other, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@every_rule
def test_progress_and_rate_are_read(name: str):
    rule = make(name)
    plain, _ = unroll(rule, tensors(1), gradients(3))
    still, _ = unroll(rule, tensors(1), gradients(3), lr=0.0)
    for p, q in zip(still, tensors(1), strict=True):
        assert torch.equal(p, q)
    told, _ = unroll(rule, tensors(1), gradients(3), num_steps=3)
    reads = name not in ("lstm-gradient", "lstm-log")
    assert all(torch.equal(p, q) != reads for p, q in zip(plain, told, strict=True))


def test_preconditioners_act_along_their_factors():
    """With a factor along one axis and a curvature of ln 3, steps are three times as long there."""
    rule = Preconditioner(width=8, rank=1)
    with torch.no_grad():
        rule.factor_out.weight.zero_()
        rule.curvature_out.bias.fill_(torch.log(torch.tensor(3.0)))
        rule.keep.fill_(50.0)
    w, g = [torch.zeros(4)], [torch.ones(4)]
    state = rule.init_state(w)
    state["factors"][0][0, 2] = 0.7
    moved, _ = rule(w, g, state)
    torch.testing.assert_close(moved[0], -1e-3 * torch.tensor([1.0, 1.0, 3.0, 1.0]))


def test_the_transformer_sees_no_further_than_its_history():
    rule = make("transformer-alone")  # two steps and the present
    early = unroll(rule, [torch.zeros(3)], gradients(4, shapes=[(3,)]))
    other = unroll(rule, [torch.zeros(3)], [tensors(9, [(3,)]), *gradients(4, shapes=[(3,)])[1:]])
    for state in (early[1], other[1]):
        for key in rule.like:  # only the history may tell them apart
            state[key][0].fill_(0.5)
    last = tensors(50, [(3,)])
    a, _ = rule([torch.zeros(3)], last, early[1])
    b, _ = rule([torch.zeros(3)], last, other[1])
    assert not torch.equal(early[1]["history"][0], other[1]["history"][0])
    kept = [s["history"][0].clone() for s in (early[1], other[1])]
    assert torch.equal(kept[0].isfinite(), kept[1].isfinite())
    assert not torch.equal(a[0], b[0])
    early[1]["history"][0].copy_(kept[1])
    c, _ = rule([torch.zeros(3)], last, early[1])
    assert torch.equal(b[0], c[0])


@pytest.mark.parametrize(
    ("maker", "error", "text"),
    [
        (lambda: MLP(hidden=0), ValueError, r"hidden: 0; it must be in \[1, 64\]"),
        (lambda: MLP(hidden=2.0), TypeError, "hidden must be a whole number, not 2.0"),
        (lambda: MLP(control=1000), ValueError, r"control: 1000; it must be in \[1, 256\]"),
        (lambda: MLP(scale=0.0), ValueError, r"scale: 0.0; it must be in \[0.01, 100\]"),
        (lambda: MLP(fade=True), TypeError, "fade must be a number, not True"),
        (lambda: FeatureMLP(layers=3), ValueError, r"layers: 3; it must be in \[1, 2\]"),
        (
            lambda: FeatureMLP(momenta=(0.5, 1.0)),
            ValueError,
            r"among momenta: 1\.0; .* in \[0, 1\)",
        ),
        (lambda: FeatureMLP(factored=(0.9,)), ValueError, "Adam's with them: 3, not 1"),
        (lambda: FeatureMLP(factored="abc"), TypeError, "a sequence of numbers, not 'abc'"),
        (lambda: LSTM("all"), ValueError, "'all'; they are one of .'gradient', 'log', 'rich'."),
        (lambda: LSTM(hidden=True), TypeError, "hidden must be a whole number, not True"),
        (lambda: LSTM(scale=0.0), ValueError, r"scale: 0\.0; it must be finite and above 0"),
        (lambda: LSTM(nominal="no"), TypeError, "nominal must be True, False or None, not 'no'"),
        (lambda: Transformer(width=9), ValueError, "a multiple of heads, not 9 and 2"),
        (lambda: Transformer(history=0), ValueError, "history: 0"),
        (lambda: Preconditioner(rank=17), ValueError, r"rank: 17; it must be in \[1, 16\]"),
    ],
)
def test_bad_arguments(maker, error, text):
    with pytest.raises(error, match=text):
        maker()
