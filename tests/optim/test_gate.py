"""The gate's settings, where alpha starts, and what is told of it."""

from __future__ import annotations

import pytest
import torch

from unstuck.optim import DynamicBlend, Gate

from .runs import assert_same, make_params, snapshot, train


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"features": "all"}, r"features must be one of \('summary', 'gradient'\), not 'all'"),
        ({"mode": "off"}, r"mode must be one of .*'frozen'\), not 'off'"),
        ({"hidden": 0}, "hidden must be between 1 and 4096, not 0"),
        ({"lr": -1.0}, r"lr must be finite and at least 0, not -1\.0"),
        ({"lr": float("inf")}, "not inf"),
        ({"init_alpha": 1.0}, r"strictly between 0 and 1, not 1\.0; for a constant pass alpha="),
        ({"init_alpha": float("nan")}, "not nan"),
        ({"total_steps": 0}, "total_steps must be at least 1, not 0"),
    ],
)
def test_bad_settings_name_value_and_remedy(kwargs, text):
    with pytest.raises(ValueError, match=text):
        Gate(**kwargs)


def test_a_gate_on_the_gradient_refuses_large_models():
    p = torch.nn.Parameter(torch.empty(2_000_000, device="meta"))
    with pytest.raises(ValueError, match=r"32 x 2000000 weights.*use features='summary'"):
        DynamicBlend([p], gate=Gate(features="gradient"))


@pytest.mark.parametrize("features", ["summary", "gradient"])
@pytest.mark.parametrize("init_alpha", [0.01, 0.3, 0.99])
def test_alpha_starts_where_it_is_told(features, init_alpha):
    params = make_params()
    gate = Gate(features=features, init_alpha=init_alpha, lr=0.0)
    optimizer = DynamicBlend(params, gate=gate)
    for batch in range(3):
        assert float(optimizer.alpha[0]) == pytest.approx(init_alpha, rel=1e-6)
        train(optimizer, params, [batch])


@pytest.mark.parametrize("features", ["summary", "gradient"])
def test_the_seed_sets_the_weights(features):
    def state(seed):
        optimizer = DynamicBlend(make_params(), gate=Gate(features=features, seed=seed))
        train(optimizer, optimizer.param_groups[0]["params"], range(8))
        return optimizer.alpha

    assert_same(state(3), state(3))
    assert not torch.equal(state(3)[0], state(4)[0])


def test_making_an_optimizer_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    DynamicBlend(make_params(), gate=Gate(features="gradient"))
    DynamicBlend(make_params())
    assert torch.equal(torch.get_rng_state(), before)


def test_alpha_and_hypergradient_have_one_tensor_a_group():
    groups = [
        {"params": make_params(seed=0)},
        {"params": make_params(seed=1), "alpha": 0.25},
        {"params": make_params(seed=2), "per_tensor": True},
        {"params": make_params(seed=3), "alpha": lambda step: 0.125},
    ]
    optimizer = DynamicBlend(groups)
    train(optimizer, [p for g in optimizer.param_groups for p in g["params"]], range(3))
    assert [a.shape for a in optimizer.alpha] == [(1,), (1,), (4,), (1,)]
    assert [float(optimizer.alpha[i]) for i in (1, 3)] == [0.25, 0.125]
    assert [h is None for h in optimizer.hypergradient] == [False, True, False, True]
    assert len(set(optimizer.alpha[2].tolist())) == 4


def test_a_groups_alpha_puts_the_gate_aside_and_the_other_way_round():
    gated = DynamicBlend(
        [{"params": make_params()}, {"params": make_params(seed=1), "alpha": 0.25}],
        gate=Gate(init_alpha=0.75),
    )
    assert [float(a) for a in gated.alpha] == [0.75, 0.25]
    fixed = DynamicBlend(
        [{"params": make_params()}, {"params": make_params(seed=1), "gate": Gate(init_alpha=0.75)}],
        alpha=0.25,
    )
    assert [float(a) for a in fixed.alpha] == [0.25, 0.75]


def test_what_is_handed_out_is_a_copy():
    params = make_params()
    optimizer = DynamicBlend(params)
    train(optimizer, params, range(3))
    before = snapshot(optimizer, params)
    optimizer.alpha[0].fill_(0.0)
    optimizer.hypergradient[0].fill_(0.0)
    assert_same(snapshot(optimizer, params), before)


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize(("better", "rises"), [("adam", True), ("sgd", False)])
def test_alpha_goes_to_the_better_part(better, rises, per_tensor):
    """With one rate at nothing the gate finds the part that moves."""
    params = make_params()
    rates = {"lr": 1e-2, "sgd_lr": 1e-9} if better == "adam" else {"lr": 1e-9, "sgd_lr": 1e-2}
    optimizer = DynamicBlend(params, gate=Gate(lr=0.05), per_tensor=per_tensor, **rates)
    for _ in range(60):
        train(optimizer, params, [0])
    alpha = optimizer.alpha[0]
    assert (alpha > 0.8).all() if rises else (alpha < 0.2).all()


@pytest.mark.parametrize("loss", [1.5, torch.tensor(1.5), torch.tensor([1.5])], ids=str)
def test_losses_are_recorded_as_numbers_and_tensors(loss):
    params, twins = make_params(), make_params()
    ours, plain = DynamicBlend(params), DynamicBlend(twins)
    for optimizer, mine, value in ((ours, params, loss), (plain, twins, 1.5)):
        for p in mine:
            p.grad = torch.ones_like(p)
        optimizer.record_loss(value)
        optimizer.step()
    assert_same(snapshot(ours, params), snapshot(plain, twins))


def test_a_loss_that_is_not_finite_is_not_taken_in():
    params, twins = make_params(), make_params()
    ours, plain = DynamicBlend(params), DynamicBlend(twins)
    for step in range(4):
        for optimizer, mine in ((ours, params), (plain, twins)):
            for p in mine:
                p.grad = torch.ones_like(p)
            if step != 2:
                optimizer.record_loss(1.0 + step)
        if step == 2:
            ours.record_loss(float("nan"))
        ours.step()
        plain.step()
    assert_same(snapshot(ours, params), snapshot(plain, twins))
