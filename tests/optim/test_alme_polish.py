"""ALME on a loss that does not change: when it polishes, when not, what a step leaves behind."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unstuck.optim._alme_polish import AGAIN, FIRST, LARGEST, SMALL
from unstuck.optim.alme import ALME

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.sin(X.sum(1, keepdim=True))


def net(*extra):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), *extra, nn.Tanh(), nn.Linear(8, 1))


class Model:
    """A net, an optimizer, and a closure on some rows that counts its calls."""

    def __init__(self, model=None, rows=lambda: slice(None), backward=False, lr=1e-3, **options):
        self.model = net() if model is None else model
        self.optimizer = ALME(self.model.parameters(), lr=lr, **options)
        self.rows, self.backward, self.calls = rows, backward, 0
        self.shift = 0.0
        self.sign = -1.0 if options.get("maximize") else 1.0

    def loss(self, rows=slice(None)):
        return self.sign * F.mse_loss(self.model(X[rows]), Y[rows] + self.shift)

    def closure(self):
        self.calls += 1
        if self.backward:
            self.optimizer.zero_grad()
        loss = self.loss(self.rows())
        if self.backward:
            loss.backward()
        return loss

    def step(self, count=1):
        return [self.optimizer.step(self.closure).item() for _ in range(count)]

    @property
    def polishing(self):
        return self.optimizer._watch.search is not None

    @property
    def values(self):
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])


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
    assert sum(p.numel() for p in model.parameters()) > SMALL
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


def saved(run):
    file = io.BytesIO()
    torch.save([run.model.state_dict(), run.optimizer.state_dict()], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 13, 57, 90])
def test_a_checkpoint_goes_on_bit_for_bit(steps):
    run = Model()
    run.step(steps)
    model, optimizer = saved(run)
    other = Model(seed=0)
    other.model.load_state_dict(model)
    other.optimizer.load_state_dict(optimizer)
    twin = copy.deepcopy(run)
    assert run.step(60) == other.step(60) == twin.step(60)
    assert run.polishing
    assert other.polishing
    assert torch.equal(run.values, other.values)
    assert torch.equal(run.values, twin.values)
    counts = [(o.nfev, o.attempts, o.escapes) for o in (x.optimizer for x in (run, other, twin))]
    assert counts[0] == counts[1] == counts[2]


def test_a_checkpoint_of_a_long_search_goes_on():
    """With challengers, their draws, and the search for a better unit."""
    w = nn.Parameter(torch.tensor([2.2, -3.1]))
    v = nn.Parameter(w.detach().clone())

    def loss(x):
        return (x.square() - 10 * torch.cos(2 * math.pi * x) + 10).sum()

    one, other = ALME([w], seed=5), ALME([v])
    for _ in range(333):
        one.step(lambda: loss(w))
    assert one.attempts > 5
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        v.copy_(w)
    for _ in range(200):
        assert one.step(lambda: loss(w)) == other.step(lambda: loss(v))
    assert torch.equal(v, w)
    assert one.attempts == other.attempts


def test_a_checkpoint_of_another_model_begins_anew():
    run = Model()
    run.step(20)
    other = ALME([nn.Parameter(torch.ones(n)) for n in (3, 1, 4, 1)])
    other.load_state_dict(run.optimizer.state_dict())
    assert other._watch.search is None


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


# ---------------------------------------------------------------- what a step may be given
def test_a_loss_of_its_own_to_judge_by_leaves_steps_to_adam():
    runs = [Model(polish=polish) for polish in (False, True)]
    for run in runs:
        for _ in range(20):
            run.optimizer.step(run.closure, run.loss)
    assert torch.equal(runs[0].values, runs[1].values)
    run = Model()
    run.step(20)
    assert run.polishing
    before = run.values
    run.optimizer.step(run.closure, run.loss)
    assert not run.polishing
    assert 0 < (run.values - before).abs().max() < 0.02


@pytest.mark.parametrize("backward", [False, True])
def test_gradients_that_were_there_before_the_step_are_kept(backward):
    """Somebody adds the gradient of another loss: Adam's step takes both, the search ends."""
    run = Model(backward=backward)
    run.step(20)
    assert run.polishing
    run.optimizer.zero_grad(set_to_none=False)
    run.step()
    assert run.polishing

    def closure():
        loss = run.loss()
        loss.backward()
        return loss

    extra = 1e6 * torch.ones_like(run.model[0].weight)
    run.optimizer.zero_grad()
    run.model[0].weight.grad = extra.clone()
    before = run.model[0].weight.detach().clone()
    run.optimizer.step(closure)
    assert not run.polishing
    assert (run.model[0].weight.grad - extra).abs().max() < 1e4
    assert (run.model[0].weight < before).all()


def test_mixed_precision_of_parameters_and_complex_ones():
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)
    wide = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
    narrow = nn.Parameter(torch.tensor([0.1, 0.5, 0.2]))
    turned = nn.Parameter(torch.tensor([0.5 + 0.2j, 0.1 - 0.4j]))
    optimizer = ALME([narrow, wide, turned])

    def closure():
        line = wide[0] * x + wide[1] + narrow.double().sum() * x.square()
        return (line - 1 - x).square().mean() + (turned.square() - 2j).abs().square().sum()

    for _ in range(120):
        loss = optimizer.step(closure)
    assert optimizer._watch.search is not None
    assert loss < 1e-10
    torch.testing.assert_close(turned.abs().detach(), torch.full((2,), 2**0.5))
    assert narrow.dtype is torch.float32
    assert closure().item() == pytest.approx(optimizer.best_loss, rel=1e-6)


# ---------------------------------------------------------------- what has no gradient
class Words(nn.Module):
    """An embedding, some rows of it never asked for, pruned weights, and units that are dead."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(6, 3, padding_idx=0)
        self.hidden = nn.Linear(3, 4)
        self.out = nn.Linear(4, 2)
        self.register_buffer("mask", (torch.arange(12).view(4, 3) % 5 > 0).float())
        with torch.no_grad():
            self.hidden.bias[1:] = -50.0

    def forward(self, x):
        weight = self.hidden.weight * self.mask
        return self.out(F.relu(F.linear(self.words(x), weight, self.hidden.bias)))


def test_what_never_had_a_gradient_keeps_its_value_and_dead_units_revive():
    model = Words()
    x, y = torch.tensor([0, 1, 2, 3]), torch.tensor([[1.0, -1], [3, -2], [0, 0], [-2, -2]])
    optimizer = ALME(model.parameters())
    words, weight = model.words.weight.detach().clone(), model.hidden.weight.detach().clone()
    for _ in range(800):
        optimizer.step(lambda: F.mse_loss(model(x), y))
    assert optimizer.escapes > 0
    assert (model.hidden.bias[1:] > -25).any()
    assert torch.equal(model.words.weight[[0, 4, 5]], words[[0, 4, 5]])
    idle = model.mask == 0
    assert torch.equal(model.hidden.weight[idle], weight[idle])
    assert (model.hidden.weight != weight)[~idle].any()


@pytest.mark.filterwarnings("error")
def test_a_loss_that_differentiates_itself_is_polished_without_a_word():
    """A physics-informed net: no population is wanted, so nothing has to be said about one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    t = torch.linspace(0, 1, 20)[:, None].requires_grad_()

    def closure():
        u = model(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return (slope + u).square().mean() + (u[0] - 1).square().sum()

    optimizer = ALME(model.parameters(), module=model)
    for _ in range(400):
        loss = optimizer.step(closure)
    assert optimizer._watch.search is not None
    assert loss < 1e-4
    assert optimizer.ngev == optimizer.nfev == 400
