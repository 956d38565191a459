"""The adaptive rule for few dimensions: a full covariance matrix."""

from __future__ import annotations

import math

import numpy as np

from unstuck.search._space import Array, Space


class Covariance:
    r"""CMA-ES with active update (Hansen, *The CMA evolution strategy: a tutorial*, 2016).

    Weights are a softmax of :math:`-\log` rank (cut at the median, negative below): at the same
    effective sample size they measured as good as the softmax of the losses (BBOB, 500 D
    evaluations: 0.654 to 0.650 of the targets) and need no temperature, which a dozen candidates
    do not settle. Candidates come in antithetic pairs (Brockhoff et al. 2010), which measured
    better than independent ones (0.654 to 0.636). A candidate that was clipped enters the update
    as what it was clipped to. `why` says that the run is over.
    """

    def __init__(self, space: Space, mean: Array, sigma: float, popsize: int) -> None:
        self.space = space
        self.mean = mean.copy()
        self.sigma = self.sigma0 = sigma
        self.popsize = popsize
        self.why = ""
        self.age = self.decomposed = 0
        dim = mean.size
        raw = math.log((popsize + 1) / 2) - np.log(np.arange(1, popsize + 1))
        plus = np.maximum(raw, 0) / np.maximum(raw, 0).sum()
        minus = np.minimum(raw, 0)
        mu = self.mu = float(1 / (plus @ plus))
        against = float(minus.sum() ** 2 / (minus @ minus))
        self.c_path = (mu + 2) / (dim + mu + 5)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mu - 1) / (dim + 1)) - 1) + self.c_path
        self.c_axis = (4 + mu / dim) / (dim + 4 + 2 * mu / dim)
        self.c_one = 2 / ((dim + 1.3) ** 2 + mu)
        self.c_rank = min(1 - self.c_one, 2 * (mu + 1 / mu - 1.75) / ((dim + 2) ** 2 + mu))
        scale = min(
            1 + self.c_one / self.c_rank,
            1 + 2 * against / (mu + 2),
            (1 - self.c_one - self.c_rank) / (dim * self.c_rank),
        )
        self.plus = plus
        self.minus = minus * (scale / -minus.sum())
        self.total = float(plus.sum() + self.minus.sum())
        self.usual = math.sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim * dim))
        self.path, self.axis = np.zeros(dim), np.zeros(dim)
        self.covariance = np.eye(dim)
        self.root, self.whiten = np.eye(dim), np.eye(dim)  # C^(1/2) B^T and C^(-1/2)
        self.longest = 1.0
        self.history: list[float] = []

    def ask(self, iteration: int) -> Array:
        """Return the candidates [N, D] of `iteration`."""
        steps = self.space.normals(iteration, self.popsize) @ self.root.T
        return self.space.inside(self.mean + self.sigma * steps)

    def tell(self, losses: Array, x: Array) -> None:
        """Move and adapt, from the losses [N] of the candidates x [N, D]; inf for a bad one."""
        dim = self.mean.size
        self.age += 1
        order = losses.argsort(kind="stable")
        ranked = losses[order]
        good = self.popsize
        y = x[order]
        y -= self.mean
        y /= self.sigma
        plus, minus, total = self.plus, self.minus, self.total
        if ranked[-1] == np.inf:  # what is bad has no say
            good = int(np.isfinite(losses).sum())
            y[good:] = 0.0
            plus = np.where(np.arange(self.popsize) < good, plus, 0.0)
            plus = plus / plus.sum()
            minus = np.where(np.arange(self.popsize) < good, minus, 0.0)
            total = float(plus.sum() + self.minus.sum())
        step = plus @ y
        self.mean = self.mean + self.sigma * step
        c = self.c_path
        self.path = (1 - c) * self.path + math.sqrt(c * (2 - c) * self.mu) * (self.whiten @ step)
        length = math.sqrt(float(self.path @ self.path)) / self.usual
        steady = length / math.sqrt(1 - (1 - c) ** (2 * self.age)) < 1.4 + 2 / (dim + 1)
        c = self.c_axis
        self.axis = (1 - c) * self.axis
        if steady:
            self.axis += math.sqrt(c * (2 - c) * self.mu) * step
        white = y @ self.whiten.T
        white *= white
        sizes = np.maximum(np.add.reduce(white, 1), 1e-12)
        weights = plus + minus * (dim / sizes)
        keep = 1 - self.c_one - self.c_rank * total
        keep += 0.0 if steady else self.c_one * c * (2 - c)
        self.covariance *= keep
        self.covariance += self.c_one * (self.axis[:, None] * self.axis)
        self.covariance += self.c_rank * ((y.T * weights) @ y)
        self.sigma *= math.exp(min(1.0, self.c_path / self.damping * (length - 1)))
        if (self.age - self.decomposed) * (self.c_one + self.c_rank) * dim * 10 > 1:
            self._decompose()
        self._judge(ranked[:good])

    def _decompose(self) -> None:
        self.decomposed = self.age
        self.covariance = (self.covariance + self.covariance.T) / 2
        values, vectors = np.linalg.eigh(self.covariance)
        if not 0 < values[-1] < 1e14 * values[0]:
            self.why = "conditioncov"
            return
        roots = np.sqrt(values)
        self.root = vectors * roots
        self.whiten = (vectors / roots) @ vectors.T
        self.longest = float(roots[-1])

    def _judge(self, ranked: Array) -> None:
        """Say why the run is over, from the finite losses in order."""
        dim, size = self.mean.size, self.popsize
        self.history.append(float(ranked[0]))
        if self.sigma * self.longest < 1e-12 * self.sigma0:
            self.why = "tolx"
        if ranked[0] == ranked[min(ranked.size - 1, 1 + size // 4)]:  # a plateau: look further
            self.sigma *= math.exp(0.2 + self.c_path / self.damping)
        recent = self.history[-(10 + 30 * dim // size) :]
        if len(recent) < len(self.history):
            tolerance = max(1e-14, self.space.eps) * abs(ranked[0]) + 1e-300
            spread = max(recent) - min(recent)
            if spread <= 10 * tolerance or (
                ranked[-1] - ranked[0] <= 10 * tolerance and spread <= 1e4 * tolerance
            ):
                self.why = "tolfun"
        past = self.history
        if len(past) > 120 + 30 * dim // size and self.age % 10 == 0:
            tail = len(past) * 3 // 10
            if _median(past[-tail:]) >= _median(past[:tail]):
                self.why = "stagnation"
            self.history = past[-20000:]


def _median(values: list[float]) -> float:
    """Return what ``np.median`` does, in a tenth of its time for few values."""
    half = len(values) // 2
    ends = (half,) if len(values) % 2 else (half - 1, half)
    parts = np.partition(np.array(values), ends)
    return float(parts[list(ends)].mean())
