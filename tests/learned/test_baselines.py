"""The baselines beside students are torch's own, and scores are taken against the best of them."""

import pytest
import torch

from unstuck.learned import FAMILIES, MLP, Objective, Plan, Scaled
from unstuck.learned.baselines import ADAM_RATES, SGD_RATES, Baselines
from unstuck.learned.functions import Landscape
from unstuck.learned.networks import Network
from unstuck.learned.students import MetaParameters
from unstuck.learned.unroll import Unroll

TASK = Network("digits", (8,), batch_size=16)


def by_hand(task, seed, horizon):
    """Train by torch's optimizers and schedule; return losses [baselines, steps] and models."""
    losses, ends = [], []
    for make, rates in (
        (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), SGD_RATES),
        (lambda p, lr: torch.optim.Adam(p, lr=lr), ADAM_RATES),
    ):
        for rate in rates:
            params = [p.requires_grad_() for p in task.initial(seed)]
            optimizer = make(params, rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, horizon)
            row = []
            for step in range(horizon):
                optimizer.zero_grad()
                loss = task.loss(params, task.batch(step))
                loss.backward()
                optimizer.step()
                schedule.step()
                row.append(loss.detach())
            losses.append(torch.stack(row))
            ends.append(task.loss(params, task.validation(horizon)).detach())
    return torch.stack(losses), torch.stack(ends)


@pytest.mark.parametrize("scaled", [False, True])
def test_they_are_torchs_optimizers_on_a_cosine(scaled):
    losses, ends = by_hand(TASK, 3, 20)
    task = Scaled(TASK, (2.0, 0.5, 1.0, 0.3)) if scaled else TASK
    baselines = Baselines(task, 3, 20, TASK.batch, TASK.validation)
    for begin, end in ((0, 8), (8, 20)):
        best = losses[:, begin:end].mean(1).argmin()
        found = baselines.over(begin, end)
        torch.testing.assert_close(found.training, losses[best, begin:end], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.validation, ends[best], rtol=1e-3, atol=1e-6)


def test_what_they_had_is_a_function_of_the_steps():
    one, other = (Baselines(TASK, 0, 12, TASK.batch, TASK.validation) for _ in range(2))
    first, second = one.over(0, 6), one.over(6, 12)
    for span, want in (((6, 12), second), ((6, 12), second), ((0, 6), first)):
        got = other.over(*span)
        assert torch.equal(got.training, want.training)
        assert torch.equal(got.validation, want.validation)


def test_one_that_diverges_is_not_the_best():
    """On Rosenbrock's function gradient descent at these rates leaves for infinity."""
    task = Landscape("rosenbrock", 2)
    baselines = Baselines(task, 0, 30, task.batch, task.validation)
    found = baselines.over(20, 30)
    assert not bool(baselines._points[: len(SGD_RATES)].isfinite().any())
    assert bool(found.training.isfinite().all())
    assert bool(found.validation.isfinite())


def test_scores_are_compared_with_a_leak_and_a_margin():
    judge = Objective(resolution=1e-9, baselines=0.25, margin=0.5)
    losses, start = torch.tensor([2.0, 0.5, float("nan")]), torch.full((3,), 4.0)
    got = judge.compared(losses, start, 0.0, torch.tensor(1.0), 0.0)
    two = torch.tensor(2.0).log()
    want = torch.stack([two, -two / 4, judge.ceiling - (torch.tensor(1.0) / 4).log()])
    torch.testing.assert_close(got, want)
    further = judge.compared(losses, start, 0.0, torch.tensor(1.0), judge.margin)
    torch.testing.assert_close(further[:2], torch.stack([two + 0.5, (0.5 - two) / 4]))
    both = judge.compared(torch.tensor([float("inf")]), start[:1], 0.0, torch.tensor(torch.inf), 0)
    assert both.tolist() == [0.0]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_without_a_leak_an_unroll_has_its_score_less_that_of_the_best(own, margin):
    """With a leak of 1 nothing is bent: the difference to a plain objective is the baseline's."""
    rule, share, late = MLP(scale=20), 0.4, 2.0
    theta = MetaParameters(rule).read()
    theta = theta.repeat(4, 1) if own else theta
    plans = [
        Plan(1, 4, 7, (14, 14), objective=Objective("log", late, share, **compared))
        for compared in ({}, {"baselines": 1.0, "margin": margin})
    ]
    plain, other = (Unroll(rule, FAMILIES["digits"], plan, 5, pairs=True) for plan in plans)
    judge = plans[0].objective
    for span in ((0, 7), (7, 14)):
        scores = []
        for unroll in (plain, other):
            score, unroll.points, unroll.state = unroll.stretch(
                theta, unroll.points, unroll.state, span, *span
            )
            scores.append(score)
        found = other.baselines.over(*span)
        weights = torch.tensor([judge.weight(step, 14) for step in range(*span)])
        training = torch.stack([judge.score(loss, other._start[0], 0.0) for loss in found.training])
        mean = (weights / weights.sum()) @ training
        held_out = judge.score(found.validation, other._start[1], 0.0)
        want = scores[0] - (1 - share) * (mean - margin) - share * held_out
        torch.testing.assert_close(scores[1], want, rtol=1e-4, atol=1e-5)
        assert float(scores[1].abs().min()) > 1e-3
