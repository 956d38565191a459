"""ALME on a loss that does not change: when it polishes, when not, what a step leaves behind."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unstuck.optim._alme_polish import AGAIN, FIRST, LARGE, LARGEST, SMALL
from unstuck.optim.alme import ALME

from .polish_model import Model, X, Y, net


@pytest.mark.parametrize("backward", [False, True])
def test_a_loss_of_all_data_is_polished_with_one_evaluation_a_step(backward):
    run = Model(backward=backward)
    run.step(FIRST)
    assert not run.polishing
    losses = run.step(150)
    assert run.polishing
    assert run.calls == FIRST + 150 == run.optimizer.ngev
    assert losses[1:] == sorted(losses[1:], reverse=True)
    assert run.loss().item() == run.optimizer._watch.search.loss == run.optimizer.best_loss
    adam = Model(polish=False)
    adam.step(FIRST + 150)
    assert run.loss() < 0.1 * adam.loss()
    assert all((p.grad is not None) == backward for p in run.model.parameters())


def test_batches_are_not_polished_and_nothing_else_changes():
    plain, tested = (
        Model(rows=lambda: torch.randperm(32)[:8], polish=polish) for polish in (False, True)
    )
    for run in (plain, tested):
        torch.manual_seed(0)
        run.step(3 * FIRST)
        assert not run.polishing
    assert torch.equal(plain.values, tested.values)
    assert tested.calls == plain.calls


def test_gradients_of_a_test_are_not_added_to_those_of_the_step():
    values = []
    for polish in (False, True):
        run = Model(polish=polish)
        torch.manual_seed(0)
        for _ in range(2 * FIRST):
            run.optimizer.zero_grad()

            def closure():
                loss = run.loss(torch.randperm(32)[:8])  # noqa: B023
                loss.backward()  # and no zero_grad
                return loss

            run.optimizer.step(closure)
        values.append(run.values)
    assert torch.equal(*values)


def test_dropout_is_not_polished():
    run = Model(net(nn.Dropout(0.2)))
    run.step(3 * FIRST)
    assert not run.polishing


def test_running_statistics_are_those_of_the_best_points():
    """A batch norm's loss does not depend on them, so it is polished."""
    run = Model(net(nn.BatchNorm1d(8, momentum=0.5)))
    run.step(150)
    assert run.polishing
    assert run.calls == 150
    norm, kinds = run.model[1], set()
    for _ in range(60):
        values, mean = run.values, norm.running_mean.clone()
        run.step()
        stays = torch.equal(run.values, values)
        assert torch.equal(norm.running_mean, mean) == stays
        kinds.add(stays)
    assert kinds == {True, False}
    hidden = run.model[0](X)
    assert (norm.running_mean - hidden.mean(0)).abs().max() < 0.1 * hidden.std(0).max()


class Whole(nn.Module):
    """A module of our own, which torch compiles in place, as it does not containers of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.parametrize("known", [False, True], ids=["outside", "in place"])
def test_running_statistics_of_compiled_modules_are_those_of_the_best_points(known):
    """Hooks of modules do not run in what torch compiles."""
    counts = []
    for compiled in (False, True):
        model = Whole(net(nn.BatchNorm1d(8)))
        norm = model.inner[1]
        if compiled:
            torch.compiler.reset()
            if known:
                model.compile(backend="eager")
            else:
                model = torch.compile(model, backend="eager")
        run = Model(model, module=model if known else None)
        run.step(250)
        assert run.polishing
        assert run.calls > norm.num_batches_tracked
        counts.append(int(norm.num_batches_tracked))
        run.optimizer.escape(run.closure)
        assert norm.num_batches_tracked == counts[-1]
    assert counts[0] == counts[1]


def test_every_batch_is_used_once(monkeypatch):
    """Also where a test found another loss: Adam's step is made by the gradient of that call."""
    monkeypatch.setattr("unstuck.optim._alme_polish.SMOOTH", (0.5, 1e9))
    monkeypatch.setattr("unstuck.optim._alme_polish.RARER", 2)
    for backward in (False, True):
        batches = iter(torch.randperm(32, generator=torch.Generator().manual_seed(0)).view(16, 2))
        run = Model(rows=lambda: next(batches), backward=backward)  # noqa: B023
        tested = 0
        for count in range(1, 17):
            before, waits = run.values, run.optimizer._watch.seen is not None
            run.step()
            tested += waits
            assert run.calls == count
            assert not run.polishing
            assert (run.values - before).abs().max() > 1e-4
        assert tested > 2
        assert next(batches, None) is None
        assert run.optimizer.nfev == run.optimizer.ngev == 16


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"polish": False}, {"mode": "plain"}])
def test_what_excludes_it(options):
    run = Model(**options)
    run.step(3 * FIRST)
    assert not run.polishing


def test_a_large_model_that_trains_well_is_left_to_adam_until_it_does_not():
    model = nn.Sequential(nn.Linear(4, 200), nn.Tanh(), nn.Linear(200, 1))
    assert sum(p.numel() for p in model.parameters()) > LARGE
    for offset in (0.0, 100.0):  # beside which every fall looks slow
        run = Model(copy.deepcopy(model))
        losses = []
        for _ in range(3 * FIRST):
            loss = run.optimizer.step(lambda: run.loss() + offset)  # noqa: B023
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.03
        assert not run.polishing
    run = Model(copy.deepcopy(model), lr=0.01)
    run.step(400)
    assert run.polishing


def test_a_small_classifier_that_trains_well_is_left_to_adam():
    torch.manual_seed(0)
    model = nn.Linear(40, 10)
    assert SMALL < sum(p.numel() for p in model.parameters()) < LARGE
    labels = torch.arange(200) % 10
    x = torch.randn(10, 40)[labels] + torch.randn(200, 40)
    optimizer = ALME(model.parameters(), lr=0.01)
    losses = [optimizer.step(lambda: F.cross_entropy(model(x), labels)) for _ in range(500)]
    assert losses[-1] < 0.02 * losses[0]
    assert optimizer._watch.search is None
    optimizer = ALME(model.parameters(), lr=0.01)
    random = torch.randint(0, 10, (200,))
    for _ in range(500):  # soon as good as it gets
        optimizer.step(lambda: F.cross_entropy(model(x), random))
    assert optimizer._watch.search is not None


def test_steps_longer_than_the_ripples_of_a_loss_do_not_hide_that_it_is_fixed():
    """The gradients of two steps of length 1 say nothing of the fall between them here."""
    x = nn.Parameter(torch.linspace(-15, 20, 10, dtype=torch.float64))

    def ackley():
        ripples = torch.cos(2 * math.pi * x).mean()
        return 20 - 20 * torch.exp(-0.2 * x.square().mean().sqrt()) + math.e - torch.exp(ripples)

    optimizer = ALME([x], lr=1.0)
    losses = [optimizer.step(ackley).item() for _ in range(300)]
    assert optimizer._watch.search is not None
    assert optimizer.nfev == 300
    assert min(losses) < 0.8 * losses[0]


def test_large_models_and_frozen_groups_are_left_alone():
    wide = nn.Linear(4, LARGEST // 4)
    run = Model(nn.Sequential(wide, nn.Flatten(0), nn.Linear(1, 1)))
    assert sum(p.numel() for p in run.model.parameters()) > LARGEST
    optimizer = ALME([{"params": [nn.Parameter(torch.ones(2))], "lr": 0.0}])
    (w,) = optimizer.param_groups[0]["params"]
    for _ in range(2 * FIRST):
        optimizer.step(lambda: w.square().sum())
    assert optimizer._watch.search is None
    assert w.tolist() == [1, 1]


def test_other_data_end_it_and_it_begins_again():
    run = Model()
    run.step(40 * FIRST)
    assert run.polishing
    low = run.loss()
    run.shift = 3 * torch.randn(32, 1, generator=torch.Generator().manual_seed(1))
    steps = 0
    while run.polishing and steps < 2 * AGAIN:
        run.step()
        assert run.loss() > low
        steps += 1
    assert 0 < steps <= AGAIN + 1
    run.step(12 * FIRST)
    assert run.polishing


def test_parameters_that_somebody_moved_end_it():
    run = Model()
    run.step(4 * FIRST)
    with torch.no_grad():
        for p in run.model.parameters():
            p.mul_(0.5)
    before = run.values
    (loss,) = run.step()
    assert not run.polishing
    assert (run.values - before).abs().max() < 0.05
    assert loss > 0


def test_an_error_leaves_the_model_where_it_was():
    run = Model()
    run.step(4 * FIRST)
    before = run.values

    def closure():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.optimizer.step(closure)
    assert torch.equal(run.values, before)
    run.step(5)
    assert run.polishing


def test_maximize():
    down, up = Model(), Model(maximize=True)
    losses, gains = down.step(60), up.step(60)
    assert up.polishing
    assert gains == [-loss for loss in losses]
    assert torch.equal(up.values, down.values)


def test_losses_that_are_not_finite_do_not_move_the_model():
    w = nn.Parameter(torch.tensor([2.0, 0.5]))
    optimizer = ALME([w], lr=1e-3)
    for _ in range(200):
        optimizer.step(lambda: (w - w.log()).sum())
    assert optimizer._watch.search is not None
    torch.testing.assert_close(w.detach(), torch.ones(2), atol=1e-3, rtol=0)
    assert math.isfinite(optimizer.best_loss)


def test_what_the_loss_does_not_depend_on_stays():
    w, other = nn.Parameter(torch.full((3,), 3.0)), nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = ALME([other, w], lr=1e-3)
    for _ in range(300):
        optimizer.step(lambda: (w.square() + 10 - 10 * (2 * torch.pi * w).cos()).sum())
    assert optimizer._watch.search.escapes > 0
    assert other.tolist() == [1.0, 2.0]
    other.requires_grad_(False)
    optimizer.step(lambda: w.square().sum())
    assert optimizer._watch.search is None


def test_an_interrupted_search_is_dropped_where_it_stands(monkeypatch):
    run = Model()
    run.step(4 * FIRST)
    before = run.values

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unstuck.optim._polish.Polish.tell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.step()
    assert torch.equal(run.values, before)
    assert not run.polishing
    assert run.step(20)[-1] <= run.loss().item() * 1.5


def test_the_best_loss_of_all_is_kept():
    run = Model(track_best=True)
    run.step(3)
    best = run.optimizer.best_loss
    for _ in range(60):
        run.optimizer.step(lambda: run.loss() + 100)
    assert run.polishing
    assert run.optimizer.load_best() == best
    assert run.loss().item() == pytest.approx(best, rel=1e-5)


class Memory(nn.Module):
    """Its output depends on a buffer that it replaces whenever it runs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


def test_a_loss_that_depends_on_what_ran_before_is_not_polished():
    run = Model(net(Memory()))
    run.step(4 * FIRST)
    assert not run.polishing
    assert run.calls == 4 * FIRST


def test_groups_of_several_rates_are_left_to_adam():
    model = net()
    groups = [
        {"params": model[0].parameters(), "lr": 1e-7},
        {"params": model[2].parameters(), "lr": 1e-3},
    ]
    optimizer, before = ALME(groups), model[0].weight.detach().clone()
    for _ in range(4 * FIRST):
        optimizer.step(lambda: F.mse_loss(model(X), Y))
    assert optimizer._watch.search is None
    torch.testing.assert_close(model[0].weight, before, rtol=0, atol=1e-4)
