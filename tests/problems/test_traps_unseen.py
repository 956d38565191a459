"""Problems that trap, on which nothing was chosen: that the truth is as low as it should be."""

from __future__ import annotations

import math

import pytest
import torch

from unstuck.problems import TRAPS, load_trap
from unstuck.problems._trap_unseen import letters_left, rotated


def drawn_again(name: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw what the generator of the data drew: the truth, as parameters of the module."""

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    if name == "circuit":
        return {"w": math.pi * (2 * uniform(2, 6) - 1)}
    if name == "nonnegative":
        return {"w": (uniform(2, 12, 8) * (uniform(2, 12, 8) < 0.5)).sqrt()}
    if name == "pendulum":
        truth = torch.tensor([2.0, 0.05, 0.0, 2.8])
        return {"w": truth + uniform(4) * torch.tensor([1.5, 0.1, 1.0, 1.0])}
    if name == "decays":
        height = 0.5 + uniform(4)
        return {"w": torch.stack([height, (torch.arange(4) + 0.5 * uniform(4)) * math.log(3)])}
    if name == "thin-film":
        return {"w": ((0.05 + 0.25 * uniform(4)) / 0.2).log()}
    if name == "registration":
        normal(40, 3)
        return {"w": torch.cat([normal(4), normal(3)])}
    if name == "mixed-regressions":
        normal(400, 6)
        return {"w": normal(6, 6)}
    letter = 2 * normal(6, 6)
    return {
        "first": torch.zeros(6),
        "step": 3.5 * torch.eye(6).roll(1, 0),
        "letter": letter,
    }


NAMES = ["circuit", "nonnegative", "pendulum", "decays", "thin-film", "registration"]
NAMES += ["mixed-regressions", "hidden-chain"]


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_is_as_low_as_the_target(name):
    run = load_trap(name, 7)
    truth = drawn_again(name, torch.Generator().manual_seed(7))
    if name == "decays":  # rates are 0.2 times powers of 3
        truth["w"][1] += math.log(0.2)
    run.module.load_state_dict(truth)
    floor = run.target - TRAPS[name].target
    assert run.loss().item() == pytest.approx(floor, abs=1e-6)
    known = ("registration", "mixed-regressions", "hidden-chain")
    assert (floor != 0) == (name in known)


def test_a_circuit_keeps_the_length_of_its_state():
    signs = torch.tensor([1.0, 1.0, 1.0, -1.0])
    state = rotated(torch.tensor([[0.3, -1.2], [2.0, 0.7]]), signs)
    assert state.norm().item() == pytest.approx(1, abs=1e-6)
    half = torch.tensor([0.3, -1.2]) / 2
    one = torch.outer(
        torch.stack([half[1].cos(), half[1].sin()]),
        torch.stack([half[0].cos(), half[0].sin()]),
    )
    torch.testing.assert_close(rotated(2 * half[None], signs), one.reshape(-1) * signs)


def test_no_layer_at_all_throws_back_what_glass_does():
    run = load_trap("thin-film")
    _, loss = TRAPS["thin-film"].make(torch.Generator().manual_seed(0))
    with torch.no_grad():
        run.module.w.fill_(-30.0)
    bare = loss(run.module).item()
    with torch.no_grad():
        run.module.w.fill_(-40.0)
    assert loss(run.module).item() == pytest.approx(bare, rel=1e-4)


def test_the_likelihood_of_a_chain_adds_up_to_one():
    torch.manual_seed(0)
    first, step, letter = torch.randn(3), torch.randn(3, 3), torch.randn(3, 2)
    words = torch.cartesian_prod(*(torch.arange(2),) * 4).T
    shares = torch.exp(-4 * letters_left(words, first, step, letter))
    assert shares.sum().item() == pytest.approx(1, abs=1e-5)


def test_registration_does_not_depend_on_the_length_of_a_quaternion():
    run = load_trap("registration", 3)
    first = run.loss().item()
    with torch.no_grad():
        run.module.w[:4] *= -3
    assert run.loss().item() == pytest.approx(first, abs=1e-5)
