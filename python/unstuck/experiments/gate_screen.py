"""Screen variants of the gate at fixed rates: ``python -m unstuck.experiments.gate_screen``.

For each data set two settings of the rates near where tuning puts them, on the tuning seeds of the
blend study, so that nothing is chosen by the seeds that it reports. Prints a markdown table of the
mean validation loss; the two rows above the variants are constants.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.optim import Optimizer

from unstuck.experiments.blend import TUNING_SEED
from unstuck.experiments.gate_prototype import PrototypeBlend, Variant
from unstuck.optim import DynamicBlend
from unstuck.problems import load_data, make_model
from unstuck.training import fit, steps

RATES: Mapping[str, tuple[tuple[float, float], ...]] = MappingProxyType(
    {
        "mnist1d": ((1e-3, 0.5), (3e-4, 0.3)),
        "digits": ((1e-3, 0.12), (3e-3, 0.12)),
        "mnist": ((3e-4, 0.06), (1e-3, 0.12)),
    }
)
SLOW_BETAS = (0.98, 0.998)
VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "one alpha for all": Variant(per_tensor=False),
        "one alpha a tensor": Variant(),
        "start 0.1": Variant(init_alpha=0.1),
        "start 0.2": Variant(init_alpha=0.2),
        "start 0.2, all tensors": Variant(init_alpha=0.2, per_tensor=False),
        "start 0.2, gate lr 0.003": Variant(init_alpha=0.2, lr=0.003),
        "start 0.2, gate lr 0.03": Variant(init_alpha=0.2, lr=0.03),
        "start 0.2, not normalised": Variant(init_alpha=0.2, normalize="no"),
        "start 0.2, normalised by the model": Variant(init_alpha=0.2, normalize="all"),
        "start 0.2, slow betas": Variant(init_alpha=0.2, betas=SLOW_BETAS),
        "start 0.2, horizon 0.9": Variant(init_alpha=0.2, horizon=0.9),
        "start 0.2, horizon 0.97": Variant(init_alpha=0.2, horizon=0.97),
        "start 0.2, bias alone": Variant(init_alpha=0.2, network=False),
        "start 0.2, bias alone, gate lr 0.1": Variant(init_alpha=0.2, network=False, lr=0.1),
    }
)

Make = Callable[[nn.Module, float, float, int], Optimizer]


def main() -> None:
    """Read the options, print the table."""
    parser = argparse.ArgumentParser(description="Screen variants of the blend's gate.")
    parser.add_argument("--data", default=",".join(RATES), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = [(data, rates) for data in options.data.split(",") for rates in RATES[data]]
    head = [f"{data}, lr {lr:g}, sgd_lr {sgd_lr:g}" for data, (lr, sgd_lr) in columns]
    print("| | " + " | ".join(head) + " |\n|" + "---|" * (len(head) + 1))
    for name, make in candidates().items():
        cells = [
            f"{screen(data, rates, make, options.seeds, options.epochs):.4f}"
            for data, rates in columns
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def candidates() -> dict[str, Make]:
    """Return what is screened, by name: two constants, then every variant."""

    def constant(alpha: float) -> Make:
        return lambda model, lr, sgd_lr, total: DynamicBlend(
            model.parameters(), lr, sgd_lr=sgd_lr, alpha=alpha
        )

    def gated(variant: Variant) -> Make:
        return lambda model, lr, sgd_lr, total: PrototypeBlend(
            model.parameters(), lr, sgd_lr=sgd_lr, total_steps=total, variant=variant
        )

    found = {f"alpha {alpha:g}": constant(alpha) for alpha in (0.2, 0.5)}
    return {**found, **{name: gated(variant) for name, variant in VARIANTS.items()}}


def screen(
    name: str, rates: tuple[float, float], make: Make, seeds: int = 4, epochs: int = 10
) -> float:
    """Return the mean validation loss after the last epoch over the tuning seeds."""
    losses = []
    for seed in range(TUNING_SEED, TUNING_SEED + seeds):
        data = load_data(name, seed)
        model = make_model("mlp", data, seed)
        optimizer = make(model, *rates, steps(data, epochs, 128))
        history = fit(model, optimizer, data, epochs=epochs, batch_size=128, seed=seed)
        losses.append(history.validation_loss[-1])
    return statistics.fmean(losses)


if __name__ == "__main__":
    main()
