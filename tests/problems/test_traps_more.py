"""Training problems that trap: that what made the data is as low as the target says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from unstuck.problems import TRAPS, load_trap
from unstuck.problems._trap_estimates import Mixture, clusters, predators
from unstuck.problems._trap_physics import Wave


def drawn_again(name: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw what the generator of the data drew first: the truth, as parameters of the module."""
    if name == "gaussian-mixture":
        centres, _ = clusters(generator, 8, 400, side=16.0, deviation=1.0)
        return {"centre": centres, "logit": torch.zeros(8)}
    if name == "k-means":
        return {"w": clusters(generator, 10, 300, side=8.0, deviation=0.3)[0]}
    if name == "localization":
        return {"w": torch.rand(20, 2, generator=generator) - 0.5}
    if name == "lotka-volterra":
        low, high = torch.tensor([1.5, 0.6, 1.2, 0.4]), torch.tensor([2.5, 1.2, 2.0, 0.9])
        return {"w": (low + (high - low) * torch.rand(4, generator=generator)).log()}
    torch.randn(2, 24, 8, generator=generator)
    return {"w": torch.randn(2, 8, generator=generator)}


@pytest.mark.parametrize(
    "name",
    ["gaussian-mixture", "k-means", "localization", "lotka-volterra", "blind-deconvolution"],
)
def test_the_truth_is_as_low_as_the_target(name):
    run = load_trap(name, 7)
    run.module.load_state_dict(drawn_again(name, torch.Generator().manual_seed(7)))
    floor = run.target - TRAPS[name].target
    assert run.loss().item() == pytest.approx(floor, abs=1e-8)
    assert (floor > 0) == (name in ("gaussian-mixture", "k-means"))


def test_clusters_keep_away_from_each_other():
    centres, x = clusters(torch.Generator().manual_seed(0), 6, 60, side=10.0, deviation=0.0)
    apart = torch.cdist(centres, centres) + 100 * torch.eye(6)
    assert apart.min() > 0.6 * 10 / math.sqrt(6)
    assert torch.equal(x[:6], centres)


def test_the_density_of_a_mixture():
    torch.manual_seed(0)
    mixture, x = Mixture(3), torch.randn(5, 2)
    normal = torch.distributions.MultivariateNormal(mixture.centre, torch.eye(2))
    mixed = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mixture.logit), normal
    )
    torch.testing.assert_close(mixture(x), -mixed.log_prob(x))


def test_a_resting_point_of_prey_and_predators():
    """Growth equals loss where both are one: a start in equilibrium stays there."""
    assert predators(torch.tensor([0.3, 0.3, -0.2, -0.2])).abs().max() < 1e-5


def test_the_icosahedron_is_the_lowest_cluster():
    """The known lowest energy of 13 atoms; one left outside costs more than the target."""
    run = load_trap("lennard-jones")
    golden = (1 + math.sqrt(5)) / 2
    corners = [
        tuple(torch.tensor([0.0, a, b * golden]).roll(k).tolist())
        for a, b, k in itertools.product((-1, 1), (-1, 1), range(3))
    ]
    x = torch.tensor([(0.0, 0.0, 0.0), *corners])
    run.module.load_state_dict({"w": x * (1.0819 / x[1].norm())})
    assert run.loss().item() == pytest.approx(-44.3268, abs=1e-3)
    assert run.loss().item() < run.target
    with torch.no_grad():
        run.module.w[1] *= 2
    assert run.loss().item() > run.target


def test_a_twisted_ring_is_a_trap():
    run = load_trap("oscillators")
    run.module.load_state_dict({"w": 2 * math.pi * torch.arange(40) / 40})
    loss = run.loss()
    loss.backward()
    assert run.module.w.grad.abs().max() < 1e-6
    assert loss.item() > run.target
    run.module.load_state_dict({"w": torch.ones(40)})
    assert run.loss().item() == 0


def test_second_derivatives_of_the_wave():
    torch.manual_seed(0)
    net, points = Wave(5, 5), torch.rand(7, requires_grad=True)
    u, bend = net(points)
    (first,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), points)
    torch.testing.assert_close(bend, second)


class Sine(nn.Module):
    def forward(self, x):
        angle = 4 * math.pi * x
        return torch.sin(angle), -((4 * math.pi) ** 2) * torch.sin(angle)


def test_the_sine_solves_the_equation():
    _, loss = TRAPS["helmholtz"].make(torch.Generator())
    assert loss(Sine()).item() < 1e-10


def test_sums_of_two_marked_numbers():
    _, loss = TRAPS["adding"].make(torch.Generator().manual_seed(0))

    class Adder(nn.Module):
        def forward(self, sequences):
            assert (sequences[:, :, 1].sum(0) == 2).all()
            return sequences.prod(2).sum(0)

    class Mean(nn.Module):
        def forward(self, sequences):
            return sequences.prod(2).sum(0).mean().expand(sequences.shape[1])

    assert loss(Adder()).item() < 1e-12
    assert loss(Mean()).item() == pytest.approx(1, rel=0.01)


def test_batch_norms_are_in_training():
    """Running statistics move, and the loss does not depend on them."""
    run = load_trap("normed-parity")
    first, before = run.loss().item(), run.module[1].running_mean.clone()
    assert run.loss().item() == first
    assert not torch.equal(run.module[1].running_mean, before)
