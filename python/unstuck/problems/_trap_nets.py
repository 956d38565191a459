"""Training problems that trap: nets with memory, and with norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstuck.problems._trap_losses import Made, Output, bit_rows


class Recurrent(nn.Module):
    """A tanh net that reads a sequence, and an affine function of where it ends."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.cell = nn.RNNCell(inputs, width)
        self.out = nn.Linear(width, 1)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return one number [N] for sequences [T, N, inputs]."""
        state = sequences.new_zeros(sequences.shape[1], self.cell.hidden_size)
        for row in sequences:
            state = self.cell(row, state)
        out: Tensor = self.out(state)
        return out[:, 0]


def adding(generator: torch.Generator, length: int = 12, rows: int = 128) -> Made:
    values = torch.rand(length, rows, generator=generator)
    marks = torch.zeros(length, rows)
    half = length // 2
    for start in (0, half):
        where = start + torch.randint(half, (1, rows), generator=generator)
        marks.scatter_(0, where, 1.0)
    x = torch.stack([values, marks], 2)
    y = (values * marks).sum(0)
    unit = y.var()

    def loss(module: Output) -> Tensor:
        return F.mse_loss(module(x), y) / unit

    return lambda: Recurrent(2, 8), loss


def normed_parity(bits: int = 4, width: int = 4) -> Made:
    x, y = bit_rows(bits)

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs in (bits, width):
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, 1))

    def loss(module: Output) -> Tensor:
        return F.binary_cross_entropy_with_logits(module(x)[:, 0], y)

    return build, loss
