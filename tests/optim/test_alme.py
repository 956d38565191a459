"""ALME: Adam to the bit, when it says that it stands still, and how its course goes on."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from unstuck.ops import _native
from unstuck.ops.adam import Stat
from unstuck.optim import ALME, _alme_settings

from .alme_model import Model
from .runs import assert_same, loss_of, make_params, snapshot


# ---------------------------------------------------------------- Adam
@pytest.mark.parametrize("decoupled", [False, True], ids=["adam", "adamw"])
def test_steps_are_torchs_to_the_bit(decoupled: bool):
    if _native.cpu is None or _native.cpu.instruction_set() == "baseline":
        pytest.skip("needs fused multiply-adds, which torch's own kernels use")
    shapes = [(8, 16), (32,)]
    params, twins = make_params(shapes), make_params(shapes)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    ours = ALME(params, decoupled_weight_decay=decoupled, **settings)
    cls = torch.optim.AdamW if decoupled else torch.optim.Adam
    theirs = cls(twins, fused=True, **settings)
    for batch in range(30):
        for optimizer, mine in ((ours, params), (theirs, twins)):
            optimizer.zero_grad()
            loss_of(mine, batch).backward()
            optimizer.step()
    assert_same(params, twins)


def test_goes_on_from_a_checkpoint_of_adam_and_refuses_others():
    params, twins = make_params([(4, 16)]), make_params([(4, 16)])
    theirs = torch.optim.AdamW(twins, lr=0.01, fused=True)
    for batch in range(3):
        theirs.zero_grad()
        loss_of(twins, batch).backward()
        theirs.step()
    ours = ALME(params)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    with torch.no_grad():
        params[0].copy_(twins[0])
    for optimizer, mine in ((ours, params), (theirs, twins)):
        optimizer.zero_grad()
        loss_of(mine, 3).backward()
        optimizer.step()
    assert_same(params, twins, rtol=1e-6, atol=1e-7)
    amsgrad = torch.optim.Adam(make_params([(4, 16)]), amsgrad=True)
    with pytest.raises(ValueError, match="amsgrad=True, which ALME does not have"):
        ours.load_state_dict(amsgrad.state_dict())
    with pytest.raises(ValueError, match="not made by an Adam"):
        ours.load_state_dict(torch.optim.SGD(make_params([(4, 16)])).state_dict())
    short = ALME(make_params([(4, 16)]), grad_norm_window=4)
    with pytest.raises(ValueError, match=r"have 123 numbers, .* want 117: make it with the same"):
        short.load_state_dict(ours.state_dict())


# ---------------------------------------------------------------- stagnation
def slope(params: list[nn.Parameter]) -> Tensor:
    """A loss whose gradient norm never changes."""
    return sum(p.sum() for p in params)  # type: ignore[return-value]


def test_the_plain_mode_counts_steps_of_an_unchanged_norm():
    params = make_params([(3,)])
    optimizer = ALME(params, mode="plain", grad_norm_window=4, stagnation_patience=3)
    for step in range(1, 9):
        slope(params).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert float(optimizer.grad_norm) == pytest.approx(3**0.5)
        assert optimizer.stagnant == (step >= 4 - 1 + 3)
    assert optimizer.stagnation_count == 3
    (slope(params) * 2).backward()
    optimizer.step()
    assert not optimizer.stagnant


def test_the_plain_mode_may_want_both_tests():
    params = make_params([(3,)])
    optimizer = ALME(
        params, mode="plain", grad_norm_window=2, loss_window=4, loss_threshold=0.1, check_every=999
    )
    for step in range(20):
        optimizer.step(lambda step=step: slope(params) * 0 + slope(params).detach() * 0 + step)
    assert not optimizer.stagnant
    for _ in range(9):
        optimizer.step(lambda: slope(params) * 0)
    assert optimizer.stagnant


@pytest.mark.parametrize(
    ("fall", "noise", "flat"),
    [(0.0, 0.0, True), (1e-5, 1e-4, True), (0.01, 0.0, False), (0.01, 0.1, False), (0, 0.1, False)],
)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_adaptive_mode_tests_losses_by_their_size_and_noise(fall, noise, flat, size):
    """Standing still must be beyond doubt: where noise could hide a fall, it is not said."""
    params = make_params([(3,)])
    optimizer = ALME(params, loss_window=20, loss_threshold=1e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        for p in params:
            p.grad = torch.ones_like(p)
        shake = noise * float(torch.randn((), generator=generator))
        optimizer.record_loss(size * (1 + shake - fall * step))
        optimizer.step()
    assert optimizer.stagnant == flat


def test_an_escape_comes_when_it_is_due_and_the_budget_allows():
    model = Model(steps=0, grad_norm_window=2, grad_norm_threshold=1e9, check_every=10)
    optimizer = model.optimizer
    cost = optimizer._escapes.most
    assert cost == 11 * 3 + 12
    tried = []
    for step in range(1, 200):
        before = optimizer.attempts
        optimizer.step(model.closure)
        if optimizer.attempts > before:
            tried.append(step)
            assert optimizer.history[-1].step == step
        assert optimizer.nfev - step <= 0.5 * optimizer.nfev
        assert optimizer.nfev == step + cost * optimizer.attempts
        assert optimizer.ngev == step + 33 * optimizer.attempts
    assert tried == [50, 90, 140, 180]


def test_a_budget_of_nothing_is_adam():
    model = Model(steps=0, grad_norm_window=2, grad_norm_threshold=1e9, escape_budget=0.0)
    for _ in range(100):
        model.optimizer.step(model.closure)
    assert model.optimizer.stagnant
    assert model.optimizer.attempts == 0


def test_windows_are_filled_again_after_an_escape():
    model = Model(steps=30, grad_norm_window=4, grad_norm_threshold=1e9, check_every=999)
    assert model.optimizer.stagnant
    model.optimizer.escape(model.closure)
    for _ in range(4 - 1 + 5 - 1):
        model.optimizer.step(model.closure)
        assert not model.optimizer.stagnant
    model.optimizer.step(model.closure)
    assert model.optimizer.stagnant


# ---------------------------------------------------------------- the course
@pytest.mark.parametrize("mode", ["plain", "adaptive"])
def test_escapes_resume_bit_for_bit(mode: str):
    options = {"grad_norm_window": 2, "grad_norm_threshold": 1e9, "mode": mode, "polish": False}
    options |= {"loss_window": 4, "loss_threshold": 1e9, "scales": {0.02: 6}}
    model = Model(steps=0, **options)
    for _ in range(75):
        model.optimizer.step(model.closure)
    attempts = model.optimizer.attempts
    assert attempts > 0
    file = io.BytesIO()
    torch.save([model.model.state_dict(), model.optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other = Model(steps=0, **options)
    other.model.load_state_dict(weights)
    other.optimizer.load_state_dict(state)
    for _ in range(75):
        assert model.optimizer.step(model.closure) == other.optimizer.step(other.closure)
    assert other.optimizer.attempts == model.optimizer.attempts > attempts
    assert_same(snapshot(other.optimizer, other.params), snapshot(model.optimizer, model.params))


def test_the_best_point_is_kept_and_loaded():
    p = nn.Parameter(torch.tensor([3.0]))
    optimizer = ALME([p], lr=1.0, track_best=True, polish=False)
    losses = {}
    for _ in range(30):  # runs over the minimum and comes back
        at = p.detach().clone()
        losses[float(optimizer.step(lambda: p.square().sum()).detach())] = at
    best = min(losses)
    assert optimizer.best_loss == pytest.approx(best)
    assert optimizer.load_best() == pytest.approx(best)
    assert torch.equal(p.detach(), losses[best])
    with pytest.raises(RuntimeError, match="pass track_best=True and a closure"):
        ALME([p]).load_best()
    assert ALME([p]).best_loss is None


def test_losses_and_norms_are_told_without_a_closure():
    p = nn.Parameter(torch.ones(4))
    optimizer = ALME([p], maximize=True)
    for loss in (1.0, torch.tensor([3.0]), 2.0):
        p.grad = torch.full((4,), 2.0)
        optimizer.record_loss(loss)
        optimizer.step()
    assert float(optimizer.grad_norm) == 4.0
    assert optimizer.best_loss == 3.0
    assert optimizer._stats[Stat.SEEN_LOSSES] == 3
    assert (optimizer.nfev, optimizer.ngev, optimizer.attempts, optimizer.escapes) == (3, 3, 0, 0)


def test_defaults_are_the_sources_in_the_plain_mode():
    plain = ALME(make_params([(2,)]), mode="plain")
    assert plain._tracking == (10, 1e-6, 10, -1.0, 5, False)
    assert plain._escapes.scales == ((0.5, 2), (1.0, 3), (2.0, 3), (4.0, 1), (8.0, 1))
    assert plain._escapes.n_eval_steps == 3
    assert plain._escapes.popsize == 10
    assert _alme_settings.SCALES is not plain._escapes.scales
