"""What Learned adds to the contracts: Adam before training, other rules, changing weights."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from unstuck.learned import LSTM, MLP, FeatureMLP, Preconditioner, Transformer, WhitenedMLP
from unstuck.optim import Learned
from unstuck.optim._learned_step import settings

from .registry import trained
from .runs import assert_changed, assert_same, backward, make_params, snapshot, train

# said once where there is no compiled module
pytestmark = pytest.mark.filterwarnings("ignore:unstuck. .*plain torch operations are used")


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_untrained_rule_is_adamw_under_a_schedule(fused, dtype):
    params, twins = make_params(dtype=dtype), make_params(dtype=dtype)
    ours = Learned(params, MLP(), lr=3.0, weight_decay=0.1, fused=fused)
    adamw = torch.optim.AdamW(twins, lr=3e-3, weight_decay=0.1)
    plans = [schedulers.CosineAnnealingLR(o, 12) for o in (ours, adamw)]
    for batch in range(12):
        train(ours, params, [batch])
        train(adamw, twins, [batch])
        for plan in plans:
            plan.step()
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    assert_same(params, twins, rtol=tolerance, atol=tolerance)


RULES = [
    WhitenedMLP,
    FeatureMLP,
    lambda: LSTM("rich", hidden=5),
    lambda: Transformer(width=4, history=2),
    lambda: Preconditioner(width=4, rank=2),
]


@pytest.mark.parametrize("make", RULES)
def test_other_rules_train_and_resume(make):
    """With complex, 16-bit and transposed parameters, through a checkpoint, bit for bit."""
    rule = trained(make())

    def fresh():
        x = make_params([(4, 3)], seed=2)[0].detach().t()
        return [
            *make_params(),
            nn.Parameter(x),
            *make_params([(3,)], torch.complex64),
            *make_params([(5,)], torch.float16),
        ]

    params = fresh()
    optimizer = Learned(params, rule, lr=5.0, num_steps=9, weight_decay=0.1)
    train(optimizer, params, range(3))
    assert_changed([p.detach() for p in fresh()], params)
    saved = deepcopy((params, optimizer.state_dict()))
    again = Learned(saved[0], rule)
    again.load_state_dict(saved[1])
    train(optimizer, params, range(3, 6))
    train(again, saved[0], range(3, 6))
    assert_same(snapshot(again, saved[0]), snapshot(optimizer, params))


@pytest.mark.parametrize(
    ("small", "large", "key"),
    [
        (FeatureMLP, lambda: FeatureMLP(2, 1, (0.5,), (0.9, 0.99)), "momenta"),
        (lambda: LSTM(hidden=2), lambda: LSTM(hidden=3), "hidden"),
        (lambda: Transformer(4, 1, 2), lambda: Transformer(4, 1, 3), "history"),
        (lambda: Preconditioner(4, 1), lambda: Preconditioner(4, 2), "factors"),
    ],
)
def test_a_state_of_a_rule_of_another_size_is_refused(small, large, key):
    params, others = make_params(), make_params(seed=1)
    optimizer, other = Learned(params, small(), lr=2.0), Learned(others, large(), lr=5.0)
    train(optimizer, params, [0])
    train(other, others, [0])
    before = snapshot(other, others)
    with pytest.raises(ValueError, match=rf"loaded state '{key}' has shape .* saved with"):
        other.load_state_dict(optimizer.state_dict())
    assert_same(snapshot(other, others), before)
    assert other.param_groups[0]["lr"] == 5.0
    other.load_state_dict(Learned(params, large(), lr=3.0).state_dict())  # no state: no matter


def _written(rule):
    rule.hidden_out.weight.add_(0.3)


def _with_other_memory(rule):
    rule.hidden_out.weight.data = rule.hidden_out.weight.data + 0.3


def _replaced(rule):
    rule.hidden_out.weight = nn.Parameter(rule.hidden_out.weight + 0.3)


def _with_another_layer(rule):
    old, rule.hidden_out = rule.hidden_out, deepcopy(rule.hidden_out)
    rule.hidden_out.weight.add_(0.3)
    assert old is not rule.hidden_out


CHANGES = [_written, _with_other_memory, _replaced, _with_another_layer]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_weights_that_change_are_used_at_once(change):
    """A rule may be trained on between steps; a plan is not made for one state of it."""
    rule = trained(MLP())
    params, twins = make_params(), make_params()
    ours, plain = Learned(params, rule), Learned(twins, rule, fused=False)
    for batch in range(4):
        train(ours, params, [batch])
        train(plain, twins, [batch])
        assert_same(params, twins, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            change(rule)


def test_a_rate_in_a_tensor_goes_where_the_kernel_runs():
    """Of another kind of device as a number, as in torch's optimizers; else as a tensor."""
    group = Learned(make_params(), MLP(), lr=torch.tensor(0.25)).param_groups[0]
    assert torch.equal(settings(group, torch.device("cpu")).lr, group["lr"])
    assert type(settings(group, torch.device("cuda")).lr) is float
    assert settings(group, torch.device("cuda")).lr == 0.25


def test_autograd_reaches_meta_parameters():
    rule = trained(MLP())
    p = make_params([(3, 2)])[0].detach().clone()
    optimizer = Learned([p], rule, differentiable=True, lr=30.0)
    for batch in range(3):
        p.grad = torch.cos(p.detach() + batch)
        optimizer.step()
    p.square().sum().backward()
    for value in rule.parameters():
        assert torch.isfinite(value.grad).all()
    assert rule.hidden_out.weight.grad.abs().max() > 0


def test_fused_insists_on_a_kernel():
    params = make_params()
    with pytest.raises(ValueError, match=r"no native step for Transformer .*leave fused unset"):
        Learned(params, Transformer(), fused=True)
    with pytest.raises(TypeError, match=r"not 'mlp-v1'; names .* Learned\.from_pretrained"):
        Learned(params, "mlp-v1")


def test_a_parameter_that_is_not_finite_keeps_to_itself():
    p = nn.Parameter(torch.ones(6))
    optimizer = Learned([p], trained(MLP()))
    backward([p], 0)
    p.grad[2] = float("nan")
    optimizer.step()
    stats = optimizer.state[p]["stats"].clone()
    train(optimizer, [p], range(1, 3))
    assert p.isnan().tolist() == [False, False, True, False, False, False]
    assert_same(optimizer.state[p]["stats"], stats)
