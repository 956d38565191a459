"""An escape of ALME: candidates, their mini-optimisation, who goes on, and what is undone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstuck.optim import ALME, _alme_candidates, _alme_escape
from unstuck.population._flat import Flat

from .alme_model import Model, X, Y
from .runs import assert_same, snapshot

WAYS = pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])


# ---------------------------------------------------------------- candidates
def points_of(optimizer: ALME) -> tuple[Tensor, Tensor, Flat]:
    iteration = optimizer._search["iteration"]
    with torch.no_grad():
        crowd = _alme_candidates.Candidates(optimizer, optimizer._moving)
        points = crowd.points(0, len(crowd))
    optimizer._search["iteration"] = iteration
    return crowd.start, points, crowd.flat


def test_candidates_spread_by_the_size_and_the_effective_step():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(50_000) * 3)
    scales = {0.5: 1, 4.0: 1}
    optimizer = ALME([p], lr=0.02, mode="plain", betas=(0.8, 0.99), scales=scales)
    for _ in range(3):
        optimizer.step(lambda: (p * torch.linspace(0.1, 2, 50_000)).sum())
    start, points, _ = points_of(optimizer)
    assert torch.equal(points[0], start)
    assert torch.equal(points[1], start)
    v = optimizer.state[p]["exp_avg_sq"]
    s = 0.02 * math.sqrt(1 - 0.99**3) / (1 - 0.8**3) / (v.sqrt() + 1e-8)
    for point, scale in zip(points[2:], (0.5, 4.0), strict=True):
        noise = (point - start) / (start.abs() * s * scale)
        assert abs(float(noise.mean())) < 0.02
        assert abs(float(noise.std()) - 1) < 0.02
        assert float((noise**4).mean()) == pytest.approx(3, abs=0.2)


def test_the_adaptive_mode_bounds_the_spread_and_moves_zeros():
    for mode in ("plain", "adaptive"):
        p = nn.Parameter(torch.tensor([0.0, 1.0, -3.0]))
        optimizer = ALME([p], lr=0.1, mode=mode)
        optimizer.step(lambda p=p: (p * torch.tensor([1e-6, 1e-6, 10.0])).sum())
        with torch.no_grad():
            spread = _alme_candidates.spreads(optimizer, [p], Flat([p]))
        w = p.detach().abs()
        if mode == "plain":
            root = 0.001**0.5
            s = root / (root * torch.tensor([1e-6, 1e-6, 10.0]) + 1e-8)
            torch.testing.assert_close(spread, w * s, rtol=1e-3, atol=0.0)
        else:
            size = w.clamp_min(float(w.square().mean().sqrt()) / 10)
            assert size[0] > w[0]
            torch.testing.assert_close(
                spread, size * torch.tensor([1.0, 1.0, 0.1]), rtol=1e-4, atol=0
            )


def test_scales_that_do_well_get_more_of_the_next_candidates():
    model = Model(mode="adaptive", scales={0.5: 2, 1.0: 4, 2.0: 2})
    optimizer = model.optimizer
    draw, learn = _alme_candidates.draw_scales, _alme_candidates.learn
    assert draw(optimizer) == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0]
    for _ in range(10):
        scales = draw(optimizer)
        learn(optimizer, scales, torch.tensor([float(s < 2) for s in scales]))
        assert sum(optimizer._search["weights"]) == pytest.approx(1)
    assert draw(optimizer) == [0.5, 1.0, *[2.0] * 6]
    before = list(optimizer._search["weights"])
    learn(optimizer, draw(optimizer), torch.full((8,), math.inf))
    assert optimizer._search["weights"] == before
    assert draw(Model(scales={0.5: 2, 1.0: 3}).optimizer) == [0.5, 0.5, 1.0, 1.0, 1.0]


# ---------------------------------------------------------------- an escape
@WAYS
@pytest.mark.parametrize("grouped", [False, True])
def test_the_winner_is_that_of_separate_adam_runs(together: bool, grouped: bool):
    """Every candidate goes its own way, with bias correction, and the best of them goes on."""
    model = Model(together=together, scales={0.02: 3, 0.05: 3}, n_eval_steps=4, steps=0)
    if grouped:
        first, second = model.params[:2], model.params[2:]
        groups = [{"params": first}, {"params": second, "lr": 0.003, "weight_decay": 0.1}]
        module = model.model if together else None
        settings = {"scales": {0.02: 3, 0.05: 3}, "n_eval_steps": 4, "mode": "plain"}
        model.optimizer = ALME(groups, lr=0.01, module=module, **settings)
    for _ in range(3):
        model.optimizer.step(model.closure)
    scales = [0.02] * 3 + [0.05] * 3
    start, points, flat = points_of(model.optimizer)
    ends, twin = [], copy.deepcopy(model.model)
    for i, point in enumerate(points):
        with torch.no_grad():
            for p, value in zip(twin.parameters(), flat.split(point), strict=True):
                p.copy_(value)
        ps = list(twin.parameters())
        rest = {"lr": 0.003, "weight_decay": 0.1} if grouped else {}
        adam = torch.optim.AdamW(
            [{"params": ps[:2]}, {"params": ps[2:], **rest}], lr=0.01, weight_decay=0.0
        )
        for _ in range(4 if i else 0):
            adam.zero_grad()
            F.mse_loss(twin(X), Y).backward()
            adam.step()
        with torch.no_grad():
            ends.append((float(F.mse_loss(twin(X), Y)), copy.deepcopy(ps), adam.state_dict()))
    best = min(range(2, len(ends)), key=lambda i: ends[i][0])
    stay = min(ends[0][0], ends[1][0])
    taken = model.optimizer.escape(model.closure)
    record = model.optimizer.history[-1]
    assert record.before == pytest.approx(stay, rel=1e-5)
    assert record.after == pytest.approx(ends[best][0], rel=1e-5)
    assert record.scale == scales[best - 2]
    assert taken == (ends[best][0] < stay)
    if not taken:
        assert_same([p.detach() for p in model.params], flat.split(start))
        return
    assert_same(model.params, ends[best][1], rtol=1e-4, atol=1e-6)
    for p, state in zip(model.params, ends[best][2]["state"].values(), strict=True):
        mine = model.optimizer.state[p]
        assert_same(mine["exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-6)
        assert_same(mine["exp_avg_sq"], state["exp_avg_sq"], rtol=1e-3, atol=1e-8)
        assert mine["step"] == 4


@WAYS
@pytest.mark.parametrize("backward", [False, True])
def test_what_is_no_better_is_undone_bit_for_bit(together: bool, backward: bool):
    model = Model(nn.BatchNorm1d(8), nn.Dropout(0.2), together=together, scales={1e3: 4})
    for p in model.params:
        p.grad = torch.full_like(p, 7.0)
    before = snapshot(model.optimizer, model.params)
    kept = copy.deepcopy(model.model.state_dict())
    random = torch.get_rng_state()

    def closure() -> Tensor:
        loss = model.closure()
        if backward:
            model.optimizer.zero_grad()
            loss.backward()
        return loss

    assert not model.optimizer.escape(closure)
    assert model.optimizer.history[-1].reason == "nothing better was found"
    after = snapshot(model.optimizer, model.params)
    assert_same(after["params"], before["params"])
    assert_same(after["optimizer"]["state"], before["optimizer"]["state"])
    assert_same(dict(model.model.state_dict()), dict(kept))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p.grad, torch.full_like(p, 7.0)) for p in model.params)


@WAYS
def test_a_better_place_is_taken_and_beats_staying_on_the_same_batch(together: bool):
    """A double well, from the bottom of the worse one."""
    torch.manual_seed(1)
    model = nn.ParameterList([nn.Parameter(torch.full((3,), 0.8))])

    def closure() -> Tensor:
        return ((model[0] ** 2 - 1) ** 2 + 0.3 * model[0]).sum()

    optimizer = ALME(
        model.parameters(), lr=0.01, module=model if together else None, scales={40.0: 30}
    )
    while float(torch.linalg.vector_norm(torch.autograd.grad(closure(), model[0])[0])) > 1e-2:
        optimizer.step(lambda: closure() + 0 * torch.rand(()))
    before = float(closure().detach())
    assert any(optimizer.escape(closure) for _ in range(10))
    record = optimizer.history[-1]
    assert float(closure().detach()) == pytest.approx(record.after)
    assert record.after < record.before <= before
    assert record.distance > 0.5
    assert optimizer.escapes == 1


@WAYS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_weigh_nothing(together: bool, bad: float):
    model = Model(together=together, scales={1.0: 6})
    start = torch.cat([p.detach().flatten() for p in model.params])

    def closure() -> Tensor:
        moved = sum((p - q).square().sum() for p, q in zip(model.params, first, strict=True))
        return torch.where(moved > 0.5, bad, model.closure())

    first = [p.detach().clone() for p in model.params]
    assert not model.optimizer.escape(closure)
    assert model.optimizer.history[-1].reason == "no candidate has a finite loss"
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.params]), start)
    assert math.isfinite(model.optimizer.history[-1].before)


def test_anything_finite_beats_a_place_whose_loss_is_not():
    p = nn.Parameter(torch.ones(4))
    optimizer = ALME([p], lr=0.1, scales={1.0: 4}, mode="plain")
    optimizer.step(lambda: p.sum())

    def closure() -> Tensor:
        here = (p - place).abs().max() < 1e-3
        return torch.where(here, math.nan, p.square().sum())

    place = p.detach().clone()
    assert optimizer.escape(closure)
    assert optimizer.history[-1].before == math.inf


@WAYS
def test_every_mini_step_sees_a_fresh_batch_and_all_candidates_the_same(together: bool):
    model = Model(together=together)
    random = torch.get_rng_state()
    model.optimizer.escape(model.drawing)  # the first one learns what the closure is
    assert torch.equal(torch.get_rng_state(), random)
    model.drawn.clear()
    model.optimizer.escape(model.drawing)
    distinct = {tuple(rows.tolist()) for rows in model.drawn}
    assert len(distinct) == 3 + 1
    assert torch.equal(torch.get_rng_state(), random)
    if not together:
        assert len(model.drawn) == 11 * 3 + 12 + 1


def test_where_batches_differ_a_better_place_must_be_so_beyond_their_noise():
    """Losses of four batches tell; on the same one every time there is one to tell by."""
    there, here = torch.tensor([1.0, 1.2, 0.8, 1.0]), torch.tensor([1.1, 1.1, 1.1, 1.1])
    better = _alme_escape._is_better
    assert not better(there, here)
    assert better(there, here + 0.2)
    assert better(there[:1], here[:1])
    assert not better(here[:1], here[:1])
    assert not better(torch.tensor([math.inf]), torch.tensor([math.inf]))
    assert better(there, torch.tensor([math.inf, 1.0, 1.0, 1.0]))
    model = Model(mode="adaptive", steps=0)
    model.optimizer.escape(model.closure)
    assert model.optimizer.nfev == 33 + 2 * 12
    model.optimizer.escape(model.drawing)
    assert model.optimizer.nfev == 2 * 33 + (2 + 4) * 12


@WAYS
def test_a_validation_closure_decides(together: bool):
    model = Model(together=together, scales={0.1: 6})
    target = nn.utils.parameters_to_vector(model.params).detach()

    def distance() -> Tensor:
        """Less wherever the parameters are not what they were."""
        parts = torch.split(target, [p.numel() for p in model.params])
        pairs = zip(model.params, parts, strict=True)
        return -sum((p - q.view_as(p)).square().sum() for p, q in pairs)

    assert model.optimizer.escape(model.closure, distance)
    record = model.optimizer.history[-1]
    assert record.after == pytest.approx(-(record.distance**2), rel=1e-3)


def test_both_ways_of_evaluating_agree():
    models = [Model(together=way, scales={0.05: 5}) for way in (True, False)]
    for model in models:
        model.optimizer.escape(model.closure)
    first, second = (m.optimizer.history[-1] for m in models)
    assert first[:6] == pytest.approx(second[:6], rel=1e-4)
    assert_same(models[0].params, models[1].params, rtol=1e-4, atol=1e-5)


def test_maximize_looks_for_a_higher_loss():
    down, up = Model(scales={0.05: 5}), Model(scales={0.05: 5}, maximize=True)
    assert down.optimizer.escape(down.closure) == up.optimizer.escape(up.closure)
    first, second = down.optimizer.history[-1], up.optimizer.history[-1]
    assert (first.before, first.after) == pytest.approx((-second.before, -second.after), rel=1e-5)
    assert_same(down.params, up.params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64], ids=str)
@WAYS
def test_parameters_of_other_dtypes(dtype: torch.dtype, together: bool):
    torch.manual_seed(0)
    model = nn.ParameterList([nn.Parameter(torch.randn(6).to(dtype)), nn.Parameter(torch.ones(2))])

    def closure() -> Tensor:
        wide = torch.view_as_real(model[0]) if dtype.is_complex else model[0]
        return (wide.double() - 3).square().sum() + model[1].double().square().sum()

    module = model if together else None
    optimizer = ALME(model.parameters(), lr=0.1, module=module, mode="plain", scales={0.5: 8})
    optimizer.step(closure)
    before = [p.detach().clone() for p in model]
    assert optimizer.escape(closure)
    assert [p.dtype for p in model] == [dtype, torch.float32]
    assert all(not torch.equal(p, q) for p, q in zip(model, before, strict=True))
    optimizer.step(closure)
    assert all(torch.isfinite(torch.view_as_real(p) if p.is_complex() else p).all() for p in model)


def test_what_has_never_been_stepped_and_what_is_frozen_stay():
    model = Model(scales={0.1: 6}, steps=0)
    late, frozen = model.params[1], model.params[0]
    frozen.requires_grad_(False)
    frozen_at = frozen.detach().clone()
    for p in model.params[2:]:
        p.grad = torch.ones_like(p)
    model.optimizer.step()
    late_at = late.detach().clone()
    _, points, flat = points_of(model.optimizer)
    for point in points:
        assert torch.equal(flat.split(point)[0], late_at)
    model.optimizer.escape(model.closure)
    assert torch.equal(frozen, frozen_at)
    assert frozen not in model.optimizer.state


def test_an_error_in_the_closure_leaves_everything():
    for together in (True, False):
        model = Model(together=together)
        before = snapshot(model.optimizer, model.params)
        calls = 0

        def closure(model: Model = model) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > 2:
                raise KeyError("no batch left")
            return model.closure()

        with pytest.raises(KeyError):
            model.optimizer.escape(closure)
        assert_same([p.detach() for p in model.params], before["params"])
        assert_same(model.optimizer.state_dict()["state"], before["optimizer"]["state"])


def test_an_escape_says_what_it_needs():
    model = Model()
    with pytest.raises(
        TypeError, match=r"needs a closure that returns the loss: optimizer\.escape"
    ):
        model.optimizer.escape(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must return the loss"):
        model.optimizer.escape(lambda: None)
