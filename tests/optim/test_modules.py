"""Hybrids that are given the module evaluate all candidates at once, with the same outcome."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unstuck.ops import mlp
from unstuck.optim import Alternating, AttentionRestart, LearningRateAttention, ReactiveEscape

DATA = torch.Generator().manual_seed(1)  # with some seeds no candidate is better
X = torch.randn(32, 4, generator=DATA)
Y = torch.randint(3, (32,), generator=DATA)

HYBRIDS: dict[str, tuple[type, dict[str, Any]]] = {
    "reactive": (ReactiveEscape, {"window": 2, "tol": 1.0, "escape_steps": 2, "popsize": 8}),
    "alternating": (Alternating, {"gradient_steps": 2, "popsize": 8}),
    "restart": (AttentionRestart, {"gradient_steps": 2, "attention_steps": 2, "popsize": 8}),
    "rates": (LearningRateAttention, {}),
}


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def train(name: str, make: Any, given: bool, **settings: Any) -> tuple[Any, nn.Module, list[int]]:
    torch.manual_seed(0)
    model = make().double()
    kind, options = HYBRIDS[name]
    options = {**options, **settings, **({"module": model} if given else {})}
    optimizer = kind(model.parameters(), torch.optim.SGD, lr=0.05, **options)
    calls = [0]

    def closure() -> Tensor:
        calls[0] += 1
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X.double()), Y)
        loss.backward()
        return loss

    for _ in range(8):
        optimizer.step(closure)
    return optimizer, model, calls


@pytest.mark.parametrize("make", [plain, dropping])
@pytest.mark.parametrize("name", HYBRIDS)
def test_the_module_changes_the_time_alone(name, make):
    one, single, calls = train(name, make, given=False)
    all_, together, fewer = train(name, make, given=True)
    for a, b in zip(single.state_dict().values(), together.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert one.nfev == all_.nfev
    assert [r.accepted for r in one.history] == [r.accepted for r in all_.history]
    assert any(r.accepted for r in all_.history)
    assert fewer[0] < 0.8 * calls[0]


@pytest.mark.parametrize("name", HYBRIDS)
def test_losses_may_be_raised(name):
    torch.manual_seed(0)
    model = plain()
    kind, options = HYBRIDS[name]
    base = lambda p, lr: torch.optim.SGD(p, lr=lr, maximize=True)  # noqa: E731
    optimizer = kind(model.parameters(), base, lr=0.05, module=model, **options)
    losses = [
        float(optimizer.step(lambda: -F.cross_entropy(model(X), Y)).detach()) for _ in range(20)
    ]
    assert losses[-1] > losses[0]


@pytest.mark.parametrize("name", HYBRIDS)
def test_copies_take_the_module_with_them(name):
    optimizer, model, _ = train(name, plain, given=True)
    model2, optimizer2 = copy.deepcopy((model, optimizer))
    assert optimizer2.module is model2
    buffer = io.BytesIO()
    torch.save((model, optimizer), buffer)
    buffer.seek(0)
    model3, optimizer3 = torch.load(buffer, weights_only=False)
    for m, o in ((model, optimizer), (model2, optimizer2), (model3, optimizer3)):
        for _ in range(3):
            o.step(lambda m=m: F.cross_entropy(m(X.double()), Y))
    for a, b, c in zip(model.parameters(), model2.parameters(), model3.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("name", HYBRIDS)
def test_parameters_that_come_later_and_modules_that_are_none(name):
    kind, options = HYBRIDS[name]
    model = plain()
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module or None, not 3"):
        kind(model.parameters(), lr=0.1, module=3, **options)
    optimizer = kind(model[0].parameters(), lr=0.1, module=model, **options)
    for step in range(8):
        if step == 4:
            optimizer.add_param_group({"params": model[2].parameters()})
        optimizer.step(lambda: F.cross_entropy(model(X), Y))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_closures_that_vmap_cannot_do_go_on_with_a_warning():
    torch.manual_seed(0)
    model = plain()
    optimizer = LearningRateAttention(model.parameters(), lr=0.1, module=model)

    def closure() -> Tensor:
        loss = F.cross_entropy(model(X), Y)
        return loss if loss.item() > 0 else -loss

    with pytest.warns(RuntimeWarning, match="one at a time"):
        first = optimizer.step(closure)
    for _ in range(5):
        last = optimizer.step(closure)
    assert last < first


def test_rates_of_a_plain_net_are_tried_on_its_line(monkeypatch):
    lines = []

    def line_losses(net, w, d, rates):
        lines.append(len(rates))
        return mlp.line_losses(net, w, d, rates)

    monkeypatch.setattr("unstuck.population.loss.mlp", SimpleNamespace(line_losses=line_losses))
    model = plain()
    optimizer = LearningRateAttention(
        model.parameters(), base=torch.optim.Adam, rates=16, lr=1e-2, module=model
    )
    for _ in range(3):
        optimizer.step(lambda: F.cross_entropy(model(X), Y))
    assert lines == [16] * 3
