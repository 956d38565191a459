"""Where the regressions are lowest: solved once, in float64, when a problem is made."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unstuck.ops.objectives import LogisticRegression, Trapped, value, value_and_gradient

NEWTON_STEPS = 50
POINTS_A_RING = 64
MOST_POINTS = 1 << 16


def least_squares(X: Tensor, y: Tensor) -> Tensor:
    """Return the w ``[D]`` of least norm that makes ``norm(X w - y)`` least."""
    w: Tensor = torch.linalg.lstsq(X, y[:, None], driver="gelsd").solution[:, 0]
    return w


def logistic(objective: LogisticRegression) -> Tensor | None:
    """Return the minimiser ``[D]`` by Newton's method, or None where the classes are separable.

    Then the loss falls for ever along a direction, and there is no minimum.
    """
    X, w = objective.X, torch.zeros(objective.dim, dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        loss, gradient = value_and_gradient(objective, w)
        z = X @ w
        if bool((z * (2 * objective.y - 1) > 0).all()):
            return None
        if gradient.abs().max() < 1e-12:
            return w
        p = z.sigmoid()
        hessian = (X.T * (p * (1 - p))) @ X / len(X)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if failed:
            return None
        way = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        slope, rate = float(gradient @ way), 1.0
        while value(objective, w - rate * way) > loss - 1e-4 * rate * slope and rate > 1e-6:
            rate /= 2
        w = w - rate * way
    return w if gradient.abs().max() < 1e-9 else None


def trapped(objective: Trapped) -> Tensor:
    """Return the global minimiser ``[D]`` of the trapped loss.

    With ``A = X^T X / n`` and ``b = X^T y / n`` the loss is a quadratic plus a function of
    ``s = norm(w)^2`` alone. On a sphere of given s the quadratic is least where
    ``(A + mu I) w = b`` with ``A + mu I`` positive (the trust-region problem), so the minimum is on
    the curve ``w(mu)``, along which s falls. Nor can it be where the quadratic is more than
    ``2 abs(lam)`` above least squares. What is left is a function of one number, looked at closely
    enough to see every ring, and refined around its lowest point.
    """
    X, y, n = objective.X, objective.y, len(objective.y)
    eigenvalues, basis = torch.linalg.eigh(X.T @ X / n)
    b = basis.T @ (X.T @ y / n)
    offset = y.square().mean()

    def curve(mu: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and the quadratic, ``[G]``."""
        parts = [_at(eigenvalues, b, part) for part in torch.split(mu, 256)]
        return torch.cat([s for s, _ in parts]), torch.cat([q for _, q in parts]) + offset

    def loss(mu: Tensor) -> Tensor:
        s, quadratic = curve(mu)
        return quadratic + objective.lam * (objective.kappa * s).sin()

    floor = max(float(eigenvalues[0]), 0.0)
    ends = [
        _farthest(lambda mu: curve(mu)[1], end, 2 * abs(objective.lam))
        for end in (-floor * (1 - 1e-9), abs(objective.lam * objective.kappa))
    ]
    coarse = torch.linspace(ends[0], ends[1], 4097, dtype=torch.float64)
    s = curve(coarse)[0]
    rings = abs(objective.kappa) * float(s[0] - s[-1]) / (2 * math.pi)
    points = min(MOST_POINTS, 4097 + math.ceil(POINTS_A_RING * rings))
    even = torch.linspace(float(s[-1]), float(s[0]), points, dtype=torch.float64)
    mu = torch.cat([coarse, _interpolate(even, s.flip(0), coarse.flip(0))]).sort().values
    best = int(loss(mu).argmin())
    low, high = mu[max(best - 1, 0)], mu[min(best + 1, len(mu) - 1)]
    for _ in range(40):  # a finer grid between the neighbours of the lowest
        grid = low + (high - low) * torch.linspace(0, 1, 9, dtype=torch.float64)
        best = int(loss(grid).argmin())
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 8)]
    w: Tensor = basis @ (b / (eigenvalues + (low + high) / 2))
    return w


def _at(eigenvalues: Tensor, b: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """``norm(w)^2`` and ``w A w - 2 b w`` on the curve, at every mu."""
    w = b / (eigenvalues + mu[:, None])
    return w.square().sum(1), (w * (eigenvalues * w - 2 * b)).sum(1)


def _farthest(quadratic: Callable[[Tensor], Tensor], end: float, allowed: float) -> float:
    """Return the mu farthest from 0 towards `end` where the quadratic is `allowed` above its least.

    It rises with the distance of mu from 0, so the interval can be halved.
    """
    least = quadratic(torch.zeros(1, dtype=torch.float64))

    def fits(share: float) -> bool:
        mu = torch.tensor([share * end], dtype=torch.float64)
        return bool(quadratic(mu) - least <= allowed)

    inside, outside = 0.0, 1.0
    if fits(outside):
        return end
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if fits(middle) else (inside, middle)
    return end * outside


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear interpolation; `xs` rises."""
    right = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    x0, x1, y0, y1 = xs[right - 1], xs[right], ys[right - 1], ys[right]
    share = torch.where(x1 > x0, (x - x0) / (x1 - x0), 0.0).clamp(0, 1)
    return y0 + share * (y1 - y0)
