import pytest
import torch
from torch import nn

from unstuck.experiments.gate_prototype import PrototypeBlend, Variant
from unstuck.experiments.gate_screen import VARIANTS, candidates, screen
from unstuck.optim import DynamicBlend, Gate


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    batches = [
        (torch.randn(16, 6, generator=generator), torch.randn(16, 1, generator=generator))
        for _ in range(40)
    ]
    return model.double(), [(x.double(), y.double()) for x, y in batches]


def train(model, optimizer, batches):
    alphas = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.record_loss(loss)
        optimizer.step()
        alphas.append(torch.cat([torch.as_tensor(a).reshape(-1) for a in optimizer.alpha]))
    return torch.stack(alphas)


@pytest.mark.parametrize("per_tensor", [True, False])
@pytest.mark.parametrize("normalize", ["unit", "no"])
def test_prototype_is_the_gate_of_the_package(per_tensor, normalize):
    rates = {"lr": 1e-2, "sgd_lr": 3e-2}
    ours, batches = problem()
    variant = Variant(per_tensor=per_tensor, normalize=normalize, init_alpha=0.3)
    prototype = PrototypeBlend(ours.parameters(), **rates, total_steps=40, variant=variant)
    theirs, _ = problem()
    gate = Gate(init_alpha=0.3, normalize=normalize == "unit", total_steps=40)
    package = DynamicBlend(theirs.parameters(), **rates, gate=gate, per_tensor=per_tensor)
    alphas = train(ours, prototype, batches)
    torch.testing.assert_close(alphas, train(theirs, package, batches), rtol=1e-6, atol=1e-6)
    assert (alphas[-1] - 0.3).abs().max() > 0.01  # it has learned something


def test_horizon_sums_differences():
    model, batches = problem()
    variant = Variant(horizon=0.5, network=False)
    optimizer = PrototypeBlend(
        model.parameters(), lr=1e-2, sgd_lr=3e-2, total_steps=40, variant=variant
    )
    kept = []
    for number in range(3):
        before = optimizer._difference.clone()
        train(model, optimizer, batches[number : number + 1])
        kept.append(optimizer._difference - 0.5 * before)
    plain = Variant(network=False)
    again, _ = problem()
    one_step = PrototypeBlend(
        again.parameters(), lr=1e-2, sgd_lr=3e-2, total_steps=40, variant=plain
    )
    train(again, one_step, batches[:1])
    torch.testing.assert_close(kept[0], one_step._difference)
    assert not torch.allclose(kept[2], optimizer._difference)


def test_screen_trains_constants_and_variants():
    assert set(VARIANTS) <= set(candidates())
    for name in ("alpha 0.5", "start 0.2, horizon 0.97", "start 0.2, bias alone"):
        make = candidates()[name]
        assert screen("digits", (1e-3, 0.1), make, seeds=1, epochs=1) < 1.5, name
