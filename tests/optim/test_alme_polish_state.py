"""What a polishing ALME keeps in checkpoints, and what its steps may be given."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unstuck.optim.alme import ALME

from .polish_model import Model


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
