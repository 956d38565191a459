"""What an escape of ALME may move: no mask, no padding, nothing frozen; but dead units."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from unstuck.optim import ALME
from unstuck.optim._alme_alive import movable

WAYS = pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = torch.sin(2 * X.sum(1, keepdim=True))


def stepped(model: nn.Module, loss: Callable[[], Tensor], together: bool) -> ALME:
    """Return an ALME that takes any candidate whose loss is not worse by far."""
    optimizer = ALME(
        model.parameters(),
        lr=0.01,
        module=model if together else None,
        scales={4.0: 4, 8.0: 4},
        polish=False,
    )
    for _ in range(5):
        optimizer.step(loss)
    return optimizer


def taken(optimizer: ALME, loss: Callable[[], Tensor]) -> None:
    """Make escapes until one is taken: by the distance from where we are, which all reduce."""
    params = optimizer._moving
    start = [p.detach().clone() for p in params]

    def away() -> Tensor:
        return -sum((p - q).square().sum() for p, q in zip(params, start, strict=True))

    assert optimizer.escape(loss, away)
    assert optimizer.history[-1].distance > 0


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


@WAYS
def test_the_padding_row_and_tokens_that_were_never_seen_stay(together: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 5, padding_idx=2), nn.Flatten(), nn.Linear(15, 1))
    tokens = torch.randint(0, 7, (32, 3))  # 7 and 8 never come
    tokens[::2, 0] = 2
    target = torch.randn(32, 1)

    def loss() -> Tensor:
        return F.mse_loss(model(tokens), target)

    optimizer = stepped(model, loss, together)
    table = model[0].weight
    before = table.detach().clone()
    taken(optimizer, loss)
    assert not table[2].any()
    assert torch.equal(table[7:], before[7:])
    assert not torch.equal(table[:2], before[:2])


@WAYS
def test_pruned_weights_stay_with_whole_units_of_them(together: bool):
    model = net()
    mask = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[3] = False  # a whole row, whose bias lives
    prune.custom_from_mask(model[2], "weight", mask)

    def loss() -> Tensor:
        return F.mse_loss(model(X), Y)

    optimizer = stepped(model, loss, together)
    original = model[2].weight_orig
    before = original.detach().clone()
    taken(optimizer, loss)
    assert torch.equal(original[~mask], before[~mask])
    assert (original[mask] != before[mask]).float().mean() > 0.5


@WAYS
def test_what_a_hook_freezes_stays_in_the_mini_steps_too(together: bool):
    """A candidate's gradient has not gone through the hook of the parameter."""
    model = net()
    keep = torch.zeros(8, 4)
    keep[2:] = 1
    model[0].weight.register_hook(lambda g: g * keep)
    model[0].bias.register_hook(lambda g: g * keep[:, 0])

    def loss() -> Tensor:
        return F.mse_loss(model(X), Y)

    optimizer = stepped(model, loss, together)
    before = [p.detach().clone() for p in model[0].parameters()]
    taken(optimizer, loss)
    for p, q in zip(model[0].parameters(), before, strict=True):
        assert torch.equal(p[:2], q[:2])
        assert not torch.equal(p[2:], q[2:])
        assert not optimizer.state[p]["exp_avg_sq"][:2].any()


@WAYS
def test_the_weights_of_an_input_that_never_comes_stay(together: bool):
    model = net()
    x = X.clone()
    x[:, 1] = 0

    def loss() -> Tensor:
        return F.mse_loss(model(x), Y)

    optimizer = stepped(model, loss, together)
    before = model[0].weight.detach().clone()
    taken(optimizer, loss)
    assert torch.equal(model[0].weight[:, 1], before[:, 1])
    assert not torch.equal(model[0].weight[:, 0], before[:, 0])


@WAYS
def test_dead_units_move_with_what_goes_out_from_them(together: bool):
    model = net()
    with torch.no_grad():
        model[2].bias[:3] = -100

    def loss() -> Tensor:
        return F.mse_loss(model(X), Y)

    optimizer = stepped(model, loss, together)
    before = [p.detach().clone() for p in model.parameters()]
    assert not optimizer.state[model[2].weight]["exp_avg_sq"][:3].any()
    taken(optimizer, loss)
    after = list(model.parameters())
    for row in range(3):
        assert not torch.equal(after[2][row], before[2][row])
        assert after[3][row] != before[3][row]
        assert after[4][0, row] != before[4][0, row]


def test_a_net_whose_layer_is_dead_comes_back():
    model = net()
    with torch.no_grad():
        model[2].bias.sub_(3.0)

    def loss() -> Tensor:
        return F.mse_loss(model(X), Y)

    assert not torch.autograd.grad(loss(), model[0].weight)[0].any()
    optimizer = stepped(model, loss, True)
    for _ in range(20):
        optimizer.escape(loss)
    assert torch.autograd.grad(loss(), model[0].weight)[0].any()
    for _ in range(300):
        optimizer.step(loss)
    assert loss() < 0.8 * Y.var(correction=0)  # what a net without these units is left with


def test_what_counts_as_a_dead_unit():
    """The next parameter of the group says so, whatever the layers are; hooks say no."""

    def masks(*shapes: tuple[int, ...], hook: bool = False) -> list[Tensor]:
        params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
        if hook:
            params[0].register_hook(lambda g: g)
        optimizer = ALME(params)
        for p in params:
            p.grad = torch.ones_like(p)
            p.grad[0] = 0  # row 0, and entry 0
        if params[-1].ndim > 1:
            params[-1].grad[:] = 1
            params[-1].grad[:, : params[-1].shape[1] // shapes[0][0]] = 0  # what comes from unit 0
        optimizer.step()
        return movable(optimizer, params)

    for dead in masks((3, 4), (3,)), masks((3, 2, 5, 5), (3,)), masks((3, 4), (3,), (2, 3)):
        assert all(bool(mask.all()) for mask in dead)
    assert all(bool(mask.all()) for mask in masks((3, 2, 5), (3,), (7, 12)))  # flattened channels
    for alive in masks((3, 4), (4,)), masks((4,), (3, 4)), masks((3, 4), (3,), hook=True):
        assert not alive[0].reshape(len(alive[0]), -1)[0].any()
        assert alive[0][1:].all()
    stays = masks((3, 4), (3,), (2, 4))[2]  # nothing that goes out from the units
    assert not stays[:, 0].any()


def test_nothing_is_movable_before_the_first_step():
    model = net()
    optimizer = ALME(model.parameters())
    assert not any(bool(mask.any()) for mask in movable(optimizer, list(model.parameters())))
