"""How the candidates of an escape are evaluated together: what is kept, and what is given back."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import mse_loss

from unstuck.optim import ALME, _alme_population
from unstuck.optim._alme_population import Together


def escaping(width: int) -> tuple[ALME, Together]:
    """An optimizer that has made two escapes, and its population."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 1))
    x, y = torch.randn(20, 6), torch.randn(20, 1)
    optimizer = ALME(model.parameters(), module=model, scales={1.0: 4})

    def closure() -> torch.Tensor:
        return mse_loss(model(x), y)

    for _ in range(2):
        optimizer.step(closure)
        optimizer.escape(closure)
    assert optimizer._population is not None
    return optimizer, optimizer._population


def test_memory_is_kept_between_escapes():
    optimizer, population = escaping(8)
    places = {name: x.data_ptr() for name, x in population._room.items()}
    assert sorted(places) == ["exp_avg_sqs", "exp_avgs", "points"]
    made = population._made
    optimizer.escape(lambda: mse_loss(optimizer.module(torch.ones(3, 6)), torch.ones(3, 1)))
    assert {name: x.data_ptr() for name, x in population._room.items()} == places
    assert population._made is made  # with what it knows of the model


def test_much_memory_is_given_back(monkeypatch):
    monkeypatch.setattr(_alme_population, "KEPT", 1000)
    assert not escaping(8)[1]._room


def test_a_kept_vector_is_not_that_of_the_winner():
    """Another escape writes over the memory, not over parameters and their state."""
    optimizer, population = escaping(8)
    room = [x.untyped_storage().data_ptr() for x in population._room.values()]
    for group in optimizer.param_groups:
        for p in group["params"]:
            for x in (p, *(s for s in optimizer.state[p].values() if isinstance(s, torch.Tensor))):
                assert x.untyped_storage().data_ptr() not in room
