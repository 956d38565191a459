"""ALME's step beside torch's fused Adam, and its escape beside others' ways to make one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from unstuck.optim import ALME

Tensors = list[Parameter]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def tensors(count: int, size: int, device: str) -> Tensors:
    """Return parameters with gradients."""
    params = [Parameter(torch.randn(size, device=device)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn(size, device=device)
    return params


def torch_adam(params: Tensors) -> Callable[[], object]:
    return torch.optim.Adam(params, fused=True).step


def test_one_large(side_by_side, device: str) -> None:
    n = 10_000_000 if device == "cpu" else 100_000_000
    side_by_side(
        f"{device} 1 x {n // 10**6}M ALME",
        ALME(tensors(1, n, device)).step,
        {"torch fused Adam": torch_adam(tensors(1, n, device))},
        bytes=28 * n,
        targets={"torch fused Adam": 1.05},
        device=device,
    )


def test_many_small(side_by_side, device: str) -> None:
    """The whole step() of 500 small tensors: the host's work."""
    side_by_side(
        f"{device} 500 x 200 ALME",
        ALME(tensors(500, 200, device)).step,
        {"torch fused Adam": torch_adam(tensors(500, 200, device))},
        targets={"torch fused Adam": 0.2},
        device=device,
    )


# ---------------------------------------------------------------- an escape
class Digits:
    """An MLP 784-128-64-10 and 5000 rows, in batches of 128."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            *(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
        ).to(device)
        self.x = torch.rand(5000, 784, device=device)
        self.y = torch.randint(0, 10, (5000,), device=device)
        self.loader = DataLoader(TensorDataset(self.x, self.y), batch_size=128, shuffle=True)

    def closure(self) -> Tensor:
        """The loss of another batch at every call."""
        rows = torch.randint(0, len(self.x), (128,), device=self.x.device)
        return cross_entropy(self.model(self.x[rows]), self.y[rows])

    def optimizer(self, module: nn.Module | None) -> ALME:
        optimizer = ALME(self.model.parameters(), module=module, mode="plain")
        for _ in range(3):
            optimizer.step(self.closure)
        return optimizer


def operations() -> int:
    """Floating-point operations of an escape: 3 gradients of 11 points, and 12 losses."""
    weights = 784 * 128 + 128 * 64 + 64 * 10
    slopes = weights + weights - 784 * 128  # of the data there are none
    return 2 * 128 * (11 * 3 * (weights + slopes) + 12 * weights)


def source_escape(digits: Digits, optimizer: ALME) -> None:
    """The source's escape: an iterator for every mini-step, the whole loader for every candidate.

    Candidates share one Adam state, without bias correction.
    """
    params = list(digits.model.parameters())
    start = [p.detach().clone() for p in params]
    size = [1e-3 / (optimizer.state[p]["exp_avg_sq"].sqrt() + 1e-8) for p in params]
    best, winner = float("inf"), start
    for scale, count in ((0.5, 2), (1.0, 3), (2.0, 3), (4.0, 1), (8.0, 1)):
        for _ in range(count):
            moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
            with torch.no_grad():
                for p, w, s in zip(params, start, size, strict=True):
                    p.copy_(w + torch.randn_like(w) * w.abs() * s * scale)
            for _ in range(3):
                x, y = next(iter(digits.loader))
                loss = cross_entropy(digits.model(x), y)
                grads = torch.autograd.grad(loss, params)
                with torch.no_grad():
                    for p, g, (m, v) in zip(params, grads, moments, strict=True):
                        m.mul_(0.9).add_(g, alpha=0.1)
                        v.mul_(0.999).addcmul_(g, g, value=0.001)
                        p.addcdiv_(m, v.sqrt().add_(1e-8), value=-1e-3)
            total = 0.0
            with torch.no_grad():
                for x, y in digits.loader:
                    total += cross_entropy(digits.model(x), y).item()
            if total < best:
                best, winner = total, [p.detach().clone() for p in params]
    with torch.no_grad():
        for p, w in zip(params, winner, strict=True):
            p.copy_(w)


def test_escape(side_by_side, device: str) -> None:
    """10 candidates x 3 steps, with the incumbent among them, from the same place every time."""
    digits = Digits(device)
    together, apart = digits.optimizer(digits.model), digits.optimizer(None)
    kept = copy.deepcopy(digits.model.state_dict())

    def starting_there(escape: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            digits.model.load_state_dict(kept)
            escape()

        return run

    side_by_side(
        f"{device} escape, 10 candidates x 3 steps",
        starting_there(lambda: together.escape(digits.closure)),
        {
            "one candidate after another": starting_there(lambda: apart.escape(digits.closure)),
            "the source's way": starting_there(lambda: source_escape(digits, together)),
        },
        flops=operations(),
        targets={"one candidate after another": 0.2, "the source's way": 0.1},
        device=device,
    )
