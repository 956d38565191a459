"""What rules read of a tensor: its state at a step, and Adam's moments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPS = 1e-8


class TensorStep(NamedTuple):
    """One tensor at one step: what a rule sees of it."""

    w: Tensor  # parameter
    g: Tensor  # gradient
    state: dict[str, Tensor]  # by name
    t: Tensor  # float32 count of steps, with this one
    num_steps: float | Tensor | None  # of the whole run, where it is known
    length: float | Tensor  # of a step of direction 1

    def moved(self, u: Tensor) -> Tensor:
        """Return the parameter after a step against the direction `u`."""
        return (widened(self.w) - self.length * u).to(self.w.dtype)

    def progress(self, dtype: torch.dtype) -> Tensor:
        """Return how much of the run is done, up to 1; 0 where its length is unknown."""
        t = self.t.to(dtype)
        if self.num_steps is None:
            return torch.zeros_like(t)
        return (t / self.num_steps).clamp(max=1)

    def rest(self, dtype: torch.dtype) -> Tensor:
        """Return how much of the run is left, this step with it; 1 where its length is unknown."""
        t = self.t.to(dtype)
        if self.num_steps is None:
            return torch.ones_like(t)
        return (self.num_steps - t + 1).clamp(min=1) / self.num_steps


class Moments(NamedTuple):
    """A parameter, its gradient and its moments after a step, in the type that computes."""

    w: Tensor
    g: Tensor
    m: Tensor
    v: Tensor
    t: Tensor  # float32 count of steps

    @property
    def root(self) -> Tensor:
        """The square root of the second moment, free of bias, and a little more."""
        return root(self.v / free(BETAS[1], self.t, self.v.dtype)) + EPS

    @property
    def direction(self) -> Tensor:
        """Adam's direction."""
        return self.m / free(BETAS[0], self.t, self.m.dtype) / self.root


def advance(at: TensorStep) -> Moments:
    """Return Adam's moments with the gradient of this step."""
    w, g, m, v = (widened(x) for x in (at.w, at.g, at.state["exp_avg"], at.state["exp_avg_sq"]))
    m = m + (1 - BETAS[0]) * (g - m)
    v = BETAS[1] * v + (1 - BETAS[1]) * g * g
    return Moments(w, g, m, v, at.t)


def free(beta: float, t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what a moment of decay `beta` has to be divided by after `t` steps."""
    return (1 - beta ** t.double()).to(dtype)


def widened(x: Tensor) -> Tensor:
    """Return 16-bit numbers as float32, others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def root(x: Tensor) -> Tensor:
    """Return the square root, with slope 0 at 0."""
    positive = x > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, x, 1)), 0)


def bend(x: Tensor) -> Tensor:
    """Return tanh(log x), from -1 at 0 to 1."""
    return 1 - 2 / (1 + x * x)
