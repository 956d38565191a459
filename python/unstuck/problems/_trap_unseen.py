"""Training problems that trap, on which nothing was chosen: they show how far a rule carries."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstuck.problems._trap_losses import Made, Output, Point


def rotated(angles: Tensor, signs: Tensor) -> Tensor:
    """State [2^Q] of layers of rotations by angles [L, Q], each followed by controlled signs."""
    state = torch.zeros(len(signs))
    state[0] = 1.0
    cosine, sine = (0.5 * angles).cos(), (0.5 * angles).sin()
    turns = torch.stack([cosine, -sine, sine, cosine], 2).reshape(*angles.shape, 2, 2)
    for layer in turns:
        for k, turn in enumerate(layer):
            state = (turn @ state.reshape(-1, 2, 1 << k)).reshape(-1)
        state = state * signs
    return state


def circuit(generator: torch.Generator, qubits: int = 6, layers: int = 2) -> Made:
    """Angles of a circuit that makes the state of another, from how much the states overlap."""
    bits = (torch.arange(2**qubits)[:, None] >> torch.arange(qubits)) & 1
    signs = (1 - 2 * (bits[:, :-1] & bits[:, 1:])).prod(1).float()
    truth = math.pi * (2 * torch.rand(layers, qubits, generator=generator) - 1)
    wanted = rotated(truth, signs)

    def loss(module: Output) -> Tensor:
        overlap: Tensor = rotated(module(), signs) @ wanted
        return 1 - overlap.square()

    return lambda: Point(layers, qubits, scale=2.0), loss


def registration(generator: torch.Generator, rows: int = 40) -> Made:
    """Turn and shift that bring points in space onto others, some of which are not there."""
    x = torch.randn(rows, 3, generator=generator) * torch.tensor([1.5, 1.0, 0.6])
    w = torch.cat([torch.randn(4, generator=generator), torch.randn(3, generator=generator)])

    def moved(w: Tensor) -> Tensor:
        q = w[:4] / w[:4].norm()
        cross = torch.linalg.cross(q[1:].expand_as(x), x, dim=1)
        turned: Tensor = (
            x + 2 * q[0] * cross + 2 * torch.linalg.cross(q[1:].expand_as(x), cross, dim=1)
        )
        return turned + w[4:]

    y = moved(w) + 0.02 * torch.randn(rows, 3, generator=generator)
    y[: rows // 4] = 3 * torch.randn(rows // 4, 3, generator=generator)

    def overlap(w: Tensor) -> Tensor:
        away = (moved(w)[:, None] - y).square().sum(2)
        return -torch.exp(-away / (2 * 0.3**2)).sum() / rows

    return lambda: Point(7), lambda module: overlap(module()), float(overlap(w))


def nonnegative(generator: torch.Generator, dim: int = 12, rank: int = 8) -> Made:
    """Factors of squares; half the entries of the true ones are zero."""
    truth = torch.rand(2, dim, rank, generator=generator)
    truth = truth * (torch.rand(2, dim, rank, generator=generator) < 0.5)
    y = truth[0] @ truth[1].T
    unit = y.square().mean()

    def loss(module: Output) -> Tensor:
        w = module().square()
        return F.mse_loss(w[0] @ w[1].T, y) / unit

    return lambda: Point(2, dim, rank, scale=0.7), loss


def pendulum(generator: torch.Generator, steps: int = 24, width: float = 0.25) -> Made:
    """Length, friction and first state of a pendulum that goes over the top, from its angles."""
    drawn = torch.rand(4, generator=generator)
    truth = torch.tensor([2.0, 0.05, 0.0, 2.8]) + drawn * torch.tensor([1.5, 0.1, 1.0, 1.0])

    def course(w: Tensor) -> Tensor:
        strength, friction, angle, speed = w.unbind()
        path = []
        for _ in range(steps):
            speed = speed - width * (strength * torch.sin(angle) + friction * speed)
            angle = angle + width * speed
            path.append(angle)
        return torch.stack(path)

    y = course(truth)

    def loss(module: Output) -> Tensor:
        return (1 - torch.cos(course(module()) - y)).mean()

    return lambda: Point(4, scale=2.0), loss


def decays(generator: torch.Generator, count: int = 4) -> Made:
    """Heights and rates of a sum of exponential decays."""
    t = torch.linspace(0, 5, 60)
    height = 0.5 + torch.rand(count, generator=generator)
    rate = 0.2 * 3.0 ** (torch.arange(count) + 0.5 * torch.rand(count, generator=generator))
    y = torch.exp(-rate[:, None] * t).T @ height
    unit = y.square().mean()

    def loss(module: Output) -> Tensor:
        w = module()
        return F.mse_loss(torch.exp(-w[1].exp()[:, None] * t).T @ w[0], y) / unit

    return lambda: Point(2, count), loss


def letters_left(words: Tensor, first: Tensor, step: Tensor, letter: Tensor) -> Tensor:
    """Minus the log-likelihood a letter [N] of words [T, N] by a hidden Markov chain of logits."""
    letter = letter.log_softmax(1).T
    step = step.log_softmax(1)
    state = first.log_softmax(0) + letter[words[0]]
    for word in words[1:]:
        state = torch.logsumexp(state[:, :, None] + step, 1) + letter[word]
    return -torch.logsumexp(state, 1) / len(words)


class Hidden(nn.Module):
    """A hidden Markov chain: first, transitions and letters, as logits."""

    def __init__(self, states: int, letters: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(states))
        self.step = nn.Parameter(torch.randn(states, states))
        self.letter = nn.Parameter(torch.randn(states, letters))

    def forward(self, words: Tensor) -> Tensor:
        """Return minus the log-likelihood a letter [N] of words [T, N]."""
        return letters_left(words, self.first, self.step, self.letter)


def hidden_chain(generator: torch.Generator, states: int = 6, letters: int = 6) -> Made:
    first, step = torch.zeros(states), 3.5 * torch.eye(states).roll(1, 0)
    letter = 2 * torch.randn(states, letters, generator=generator)
    words = torch.empty(12, 100, dtype=torch.long)
    state = torch.randint(states, (100,), generator=generator)
    for row in words:
        row.copy_(torch.multinomial(letter.softmax(1)[state], 1, generator=generator)[:, 0])
        state = torch.multinomial(step.softmax(1)[state], 1, generator=generator)[:, 0]

    def loss(module: Output) -> Tensor:
        return module(words).mean()

    floor = float(letters_left(words, first, step, letter).mean())
    return lambda: Hidden(states, letters), loss, floor


def thin_film(generator: torch.Generator, layers: int = 4, waves: int = 60) -> Made:
    """Thicknesses of layers on glass, of two kinds in turn, from how much light they throw back."""
    wave = torch.linspace(0.4, 0.8, waves)  # micrometres
    index = torch.tensor([2.3, 1.46]).repeat(layers)[:layers]
    glass = 1.52
    truth = 0.05 + 0.25 * torch.rand(layers, generator=generator)

    def reflected(depth: Tensor) -> Tensor:
        angle = 2 * math.pi * (index * depth)[:, None] / wave
        cosine, sine = angle.cos(), angle.sin()
        a, d = torch.ones(waves), torch.ones(waves)
        b, c = torch.zeros(waves), torch.zeros(waves)  # times i
        for k in range(layers):
            up, down = index[k] * sine[k], sine[k] / index[k]
            a, b = a * cosine[k] - b * up, a * down + b * cosine[k]
            c, d = c * cosine[k] + d * up, d * cosine[k] - c * down
        top = (a - d * glass).square() + (b * glass - c).square()
        return top / ((a + d * glass).square() + (b * glass + c).square())

    y = reflected(truth)
    unit = y.var()

    def loss(module: Output) -> Tensor:
        return F.mse_loss(reflected(0.2 * module().exp()), y) / unit

    return lambda: Point(layers, scale=0.5), loss


def mixed_regressions(
    generator: torch.Generator, lines: int = 6, dim: int = 6, rows: int = 400
) -> Made:
    """Coefficients of several linear laws, where it is not said which row follows which."""
    x = torch.randn(rows, dim, generator=generator)
    truth = torch.randn(lines, dim, generator=generator)
    noise = 0.05 * torch.randn(rows, generator=generator)
    y = (x * truth[torch.arange(rows) % lines]).sum(1) + noise

    def nearest(w: Tensor) -> Tensor:
        return (y - w @ x.T).square().min(0).values.mean()

    return (
        lambda: Point(lines, dim),
        lambda module: nearest(module()),
        float(nearest(truth)),
    )
