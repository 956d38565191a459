"""Optimizers that try several places: what they leave alone and what they undo."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from unstuck.optim import Alternating, AttentionRestart, LearningRateAttention, ReactiveEscape

from .registry import MOMENTUM
from .runs import assert_same, loss_of, make_params, snapshot

LOOKING = (  # each looks around at its third step
    (ReactiveEscape, {"window": 1, "tol": 1e9, "plateaus": 1, "escape_steps": 2}),
    (Alternating, {"gradient_steps": 2, "attention_steps": 1}),
    (AttentionRestart, {"gradient_steps": 2, "attention_steps": 2}),
)
LATE = {"window": 1, "tol": 1e9, "plateaus": 2, "escape_steps": 2}  # at its fourth


def looking(**more):
    return pytest.mark.parametrize(
        ("cls", "settings"),
        [pytest.param(c, {**s, "popsize": 8, **more}, id=c.__name__) for c, s in LOOKING],
    )


def hilly(w):
    return (10 + w**2 - 10 * torch.cos(2 * torch.pi * w)).sum()


# ---------------------------------------------------------------- what trials leave alone
def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1)
    )


def batch_of(number):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(16, 4, generator=generator)
    return x, x.sum(1, keepdim=True).sin()


@looking(sigma=0.2)
@pytest.mark.parametrize("backward", [False, True])
def test_a_look_around_leaves_buffers_generators_and_gradients(cls, settings, backward):
    model = network()
    optimizer = cls(model.parameters(), lr=0.01, **settings)
    x, y = batch_of(0)
    masks = []
    model[2].register_forward_hook(lambda _, __, out: masks.append(out.detach() == 0))

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        if backward:
            loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    grads = [p.grad for p in model.parameters()]
    buffers = deepcopy(list(model.buffers()))
    generator = torch.get_rng_state()
    masks.clear()
    optimizer.step(closure)
    assert optimizer.history[-1].phase == "escape"
    assert len(masks) > 8
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert_same(list(model.buffers()), buffers)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_rates_leave_buffers_and_generators_as_one_evaluation_does():
    model = network()
    twin = deepcopy(model)
    x, y = batch_of(0)
    optimizer = LearningRateAttention(model.parameters(), lr=0.01)
    torch.manual_seed(5)
    optimizer.step(lambda: nn.functional.mse_loss(model(x), y))
    after = torch.get_rng_state()
    torch.manual_seed(5)
    twin(x)
    assert torch.equal(torch.get_rng_state(), after)
    assert_same(list(model.buffers()), list(twin.buffers()))


def test_the_losses_of_rates_are_those_of_separate_evaluations():
    model = network()
    x, y = batch_of(0)
    factors = (0.0, 0.5, 1.0, 3.0)
    optimizer = LearningRateAttention(
        model.parameters(), MOMENTUM, lr=0.1, rates=[0.1 * f for f in factors], beta=30.0
    )
    for _ in range(3):
        start = deepcopy(model)
        optimizer.zero_grad()
        state = torch.get_rng_state()
        nn.functional.mse_loss(start(x), y).backward()
        other = MOMENTUM(start.parameters(), lr=0.1)
        other.load_state_dict(deepcopy(optimizer.state_dict()))
        before = [p.detach().clone() for p in start.parameters()]
        other.step()
        update = [p.detach() - b for p, b in zip(start.parameters(), before, strict=True)]
        losses = []
        for factor in factors:
            tried = deepcopy(model)
            torch.set_rng_state(state)
            with torch.no_grad():
                for p, b, u in zip(tried.parameters(), before, update, strict=True):
                    p.copy_(b + factor * u)
            losses.append(nn.functional.mse_loss(tried(x), y).detach())
        p = torch.softmax(-30 * torch.stack(losses), 0)
        wanted = float(p @ torch.tensor(factors))
        torch.set_rng_state(state)
        optimizer.step(lambda: nn.functional.mse_loss(model(x), y))
        assert optimizer.history[-1].rate == pytest.approx(0.1 * wanted, rel=1e-4)
        moved = [b + wanted * u for b, u in zip(before, update, strict=True)]
        assert_same(
            list(model.parameters()), [nn.Parameter(m) for m in moved], rtol=1e-5, atol=1e-6
        )


@looking(sigma=0.5)
def test_an_enclosing_autocast_does_not_keep_old_weights(cls, settings):
    """Its cache of cast weights would give every candidate the same loss."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 1)
    x, y = batch_of(0)
    optimizer = cls(layer.parameters(), lr=0.0, **settings)
    losses = []

    def closure():
        loss = nn.functional.mse_loss(layer(x).float(), y)
        losses.append(loss.item())
        return loss

    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(2):
            optimizer.step(closure)
        losses.clear()
        optimizer.step(closure)
    assert len(set(losses)) > 5


# ---------------------------------------------------------------- what is undone, what is kept
@looking(sigma=1.0)
@pytest.mark.parametrize("base", [MOMENTUM, torch.optim.Adam, torch.optim.LBFGS])
def test_what_is_no_better_is_undone_bit_for_bit(cls, settings, base):
    w = nn.Parameter(torch.zeros(3))
    bias = nn.Parameter(torch.tensor([1e-30, 0.1, 3.0]), requires_grad=False)
    optimizer = cls([w, bias], base, lr=1e-3, **settings)
    for _ in range(2):  # the minimum, and gradients of zero
        optimizer.step(lambda: w.square().sum())
    before = snapshot(optimizer, [w, bias])
    optimizer.step(lambda: w.square().sum())
    after = snapshot(optimizer, [w, bias])
    assert optimizer.history[-1].accepted is False
    assert optimizer.history[-1].reason == "nothing better was found"
    assert (optimizer.attempts, optimizer.escapes) == (1, 0)
    assert_same(after["params"], before["params"])
    assert_same(after["optimizer"]["state"], before["optimizer"]["state"])


@looking(sigma=0.5)
def test_what_is_taken_beats_where_it_stood_on_the_same_batch(cls, settings):
    w = nn.Parameter(torch.tensor([2.99, 1.99]))
    optimizer = cls([w], lr=1e-3, **settings)
    taken = 0
    for _ in range(40):
        before = float(hilly(w).detach())
        optimizer.step(lambda: hilly(w))
        record = optimizer.history[-1]
        assert float(record.loss) == pytest.approx(before, rel=1e-6)
        if record.phase == "escape":
            assert (float(hilly(w).detach()) < before) is record.accepted
            taken += record.accepted
    assert taken == optimizer.escapes > 0
    assert float(hilly(w).detach()) < 6


def test_an_escape_clears_the_moments_and_alternating_keeps_them():
    for cls, settings in LOOKING:
        w = nn.Parameter(torch.tensor([2.99, 1.99]))
        optimizer = cls([w], torch.optim.Adam, lr=1e-4, sigma=0.5, popsize=64, **settings)
        for _ in range(3):
            optimizer.step(lambda w=w: hilly(w))
        assert optimizer.history[-1].accepted
        assert bool(optimizer.state) is (cls is Alternating)


@looking(sigma=0.3)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_losses_that_are_not_finite_weigh_nothing(cls, settings, bad):
    """Half of the plane is forbidden: nothing there is taken, nor is the mean spoiled."""
    w = nn.Parameter(torch.tensor([0.05, 2.0]))

    def closure():
        loss = w.square().sum()
        return torch.where(w[0] > 0, loss, bad)

    optimizer = cls([w], lr=1e-4, **settings)
    for _ in range(20):
        optimizer.step(closure)
        assert float(w.detach()[0]) > 0
        assert bool(torch.isfinite(w).all())
    assert optimizer.escapes > 0
    assert float(closure().detach()) < 3


@looking()
def test_nothing_is_finite(cls, settings):
    w = nn.Parameter(torch.ones(3))
    optimizer = cls([w], lr=0.0, **settings)
    for _ in range(4):
        optimizer.step(lambda: w.sum() * float("nan"))
        w.grad = None
    looked = [record for record in optimizer.history if record.phase == "escape"]
    assert looked
    assert looked[-1].reason == "no candidate has a finite loss"


def test_rates_stay_where_the_gradient_or_every_rate_is_bad():
    w = nn.Parameter(torch.ones(3))
    optimizer = LearningRateAttention([w], MOMENTUM, lr=0.1)
    optimizer.step(lambda: w.square().sum())
    before = snapshot(optimizer, [w])
    optimizer.step(lambda: (w * float("inf")).sum())
    assert optimizer.history[-1].reason == "loss or gradient not finite"
    after = snapshot(optimizer, [w])
    assert_same(after["params"], before["params"])
    assert_same(after["optimizer"]["state"], before["optimizer"]["state"])
    first = w.detach().clone()
    optimizer.step(lambda: torch.where((w == first).all(), w.square().sum(), float("nan")))
    assert optimizer.history[-1].reason == "no rate has a finite loss"
    assert_same(w.detach(), first)


# ---------------------------------------------------------------- noise
@looking(sigma=0.3)
def test_the_seed_decides(cls, settings):
    ends = []
    for seed in (1, 1, 2):
        w = nn.Parameter(torch.tensor([2.9, 1.9, 3.1]))
        torch.manual_seed(len(ends))  # torch's generator has no say
        optimizer = cls([w], lr=1e-4, seed=seed, **settings)
        for _ in range(6):
            optimizer.step(lambda w=w: hilly(w))
        ends.append(w.detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@looking(sigma=0.3)
def test_complex_parameters_are_pairs(cls, settings):
    pairs = torch.randn(4, 3, 2)
    z, w = nn.Parameter(torch.view_as_complex(pairs.clone())), nn.Parameter(pairs.clone())
    ours, other = cls([z], lr=1e-3, **settings), cls([w], lr=1e-3, **settings)
    for _ in range(6):
        ours.step(lambda: hilly(torch.view_as_real(z)))
        other.step(lambda: hilly(w))
    assert_same(torch.view_as_real(z.detach()), w.detach(), rtol=1e-5, atol=1e-6)


@looking(sigma=0.3)
@pytest.mark.parametrize("cut", [[3, 9], [12], [1, 5, 6]], ids=str)
def test_noise_does_not_depend_on_how_parameters_are_cut(cls, settings, cut):
    values = torch.linspace(1, 3, 12)
    parts = [nn.Parameter(part.clone()) for part in values.split(cut)]
    whole = nn.Parameter(values.clone())
    ours, other = cls(parts, lr=1e-4, **settings), cls([whole], lr=1e-4, **settings)
    for _ in range(4):
        ours.step(lambda: hilly(torch.cat(parts)))
        other.step(lambda: hilly(whole))
    torch.testing.assert_close(torch.cat(parts).detach(), whole.detach(), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- bases and states
def test_a_base_that_is_made_already_is_stepped():
    params, twins = make_params(), make_params()
    base = torch.optim.Adam(params, lr=0.02)
    ours = LearningRateAttention(params, base, rates=1)
    plain = torch.optim.Adam(twins, lr=0.02)
    for batch in range(5):
        ours.step(lambda batch=batch: loss_of(params, batch))
        plain.zero_grad()
        loss_of(twins, batch).backward()
        plain.step()
    assert_same([p.detach() for p in params], [p.detach() for p in twins])
    assert base.state is ours.state
    with pytest.raises(ValueError, match=r"lr=0\.1 and a base that is made already"):
        LearningRateAttention(params, base, lr=0.1)
    with pytest.raises(ValueError, match="the base Adam has other parameters"):
        LearningRateAttention(twins, base)


def tried(**more):
    """Return the rates that a step tries, from where they lead a parameter with gradient 1."""
    w = nn.Parameter(torch.zeros(()))
    optimizer = LearningRateAttention([w], torch.optim.SGD, **more)
    optimizer.step(lambda: w * 1.0)  # where it stands
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    seen = []
    for _ in range(2):
        places = []
        start = w.item()
        optimizer.step(lambda places=places: places.append(w.item()) or w * 1.0)
        seen.append([start - place for place in places[1:]])
        scheduler.step()
    return seen


def test_so_many_rates_are_around_lr_and_given_ones_are_taken():
    octaves = [2.0**k for k in range(-4, 5)]
    for more, wanted in (
        ({"lr": 0.1}, [0.1 * f for f in octaves]),
        ({"lr": 0.1, "rates": 9}, [0.1 * f for f in octaves]),
        ({"lr": 0.1, "rates": 3}, [0.1 / 16, 0.1, 1.6]),
        ({"lr": 0.1, "rates": 1}, [0.1]),
        ({"lr": 0.1, "rates": (0.0, 0.3)}, [0.0, 0.3]),
        ({"rates": torch.tensor([0.25, 0.5])}, [0.25, 0.5]),
    ):
        first, later = tried(**more)
        assert first == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert later == pytest.approx([0.5 * rate for rate in wanted], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("cls", [ReactiveEscape, Alternating, AttentionRestart])
def test_gradient_steps_are_those_of_the_base(cls):
    settings = LATE if cls is ReactiveEscape else {"gradient_steps": 3}
    params, twins = make_params(), make_params()
    ours = cls(params, torch.optim.Adam, lr=0.05, **settings)
    plain = torch.optim.Adam(twins, lr=0.05)
    for batch in range(3):
        ours.step(lambda batch=batch: loss_of(params, batch))
        plain.zero_grad()
        loss_of(twins, batch).backward()
        plain.step()
    assert [record.phase for record in ours.history] == ["gradient"] * 3
    assert_same([p.detach() for p in params], [p.detach() for p in twins])
    ours.step(lambda: loss_of(params, 3))
    assert ours.history[-1].phase == "escape"


def test_states_of_others():
    params = make_params()
    plain = torch.optim.Adam(params, lr=0.05)
    loss_of(params, 0).backward()
    plain.step()
    ours = ReactiveEscape(make_params(), torch.optim.Adam, lr=0.1)
    ours.load_state_dict(plain.state_dict())  # the moments of a plain run
    assert ours.param_groups[0]["lr"] == 0.05
    assert len(ours.state) == len(params)
    assert ours.attempts == 0
    other = Alternating(make_params(), torch.optim.Adam)
    with pytest.raises(ValueError, match="saved by another optimizer"):
        other.load_state_dict(ours.state_dict())


def test_groups_agree_on_the_direction():
    first, second = make_params(), make_params(seed=1)
    groups = [{"params": first, "maximize": True}, {"params": second}]
    with pytest.raises(ValueError, match="maximize is True in one parameter group"):
        ReactiveEscape(groups)
    optimizer = ReactiveEscape([{"params": first}])
    with pytest.raises(ValueError, match="maximize is True in one"):
        optimizer.add_param_group({"params": second, "maximize": True})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="one parameter group: it cannot get more"):
        LearningRateAttention(first, torch.optim.LBFGS).add_param_group({"params": second})
