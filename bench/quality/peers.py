"""The methods that are compared: each maps (evaluate, start, sigma0, bounds, seed) to a run.

``evaluate`` takes points [N, D] and raises :class:`SpentError` when the budget is used up.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch

from unstuck.search import AttentionSearch

Evaluate = Callable[[np.ndarray], np.ndarray]


class SpentError(Exception):
    """The budget is used up, or nothing is left to find."""


def attention(evaluate, x0, sigma0, bounds, seed, **options):
    """Our search; in ``options``, e.g. ``mode="plain"``."""
    search = AttentionSearch(
        torch.from_numpy(x0), sigma0, bounds=tuple(bounds), seed=seed, **options
    )
    while True:
        search.tell(torch.from_numpy(evaluate(search.ask().numpy())))


def plain(evaluate, x0, sigma0, bounds, seed):
    """Attention search as first described: beta = 1, one fixed sigma of 0.3."""
    attention(evaluate, x0, 0.15 * sigma0, bounds, seed, mode="plain")


def diagonal(evaluate, x0, sigma0, bounds, seed):
    """Our adaptive rule for many dimensions, used in few."""
    attention(evaluate, x0, sigma0, bounds, seed, covariance="diagonal", popsize=16)


def covariance(evaluate, x0, sigma0, bounds, seed):
    """Our covariance runs alone, without local runs and the search along coordinates."""
    attention(evaluate, x0, sigma0, bounds, seed, local=False)


def uniform(evaluate, x0, sigma0, bounds, seed):
    """Random points of the box."""
    draw = np.random.default_rng(seed)
    while True:
        evaluate(draw.uniform(*bounds, (100, x0.size)))


def pycma(evaluate, x0, sigma0, bounds, seed, **options):
    """CMA-ES of pycma, restarted with a doubled population (IPOP) at a random point."""
    import cma

    draw = np.random.default_rng(seed)
    size, x = 4 + int(3 * math.log(x0.size)), x0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while True:
            settings = {"verbose": -9, "seed": int(draw.integers(1, 2**31)), "popsize": size}
            es = cma.CMAEvolutionStrategy(x, sigma0, {**settings, **options})
            while not es.stop():
                points = es.ask()
                es.tell(points, evaluate(np.asarray(points)))
            size, x = 2 * size, draw.uniform(*(0.8 * np.asarray(bounds)), x0.size)


def pycma_bipop(evaluate, x0, sigma0, bounds, seed):
    """``cma.fmin2`` with ``bipop=True`` and nine restarts, again and again."""
    import cma

    draw = np.random.default_rng(seed)

    def one(x):
        return float(evaluate(np.asarray(x)[None])[0])

    def start():
        return draw.uniform(*(0.8 * np.asarray(bounds)), x0.size)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while True:
            settings = {"verbose": -9, "seed": int(draw.integers(1, 2**31))}
            cma.fmin2(one, start, sigma0, settings, restarts=9, bipop=True)


def basin_hopping(evaluate, x0, sigma0, bounds, seed):
    """SciPy's basin hopping with L-BFGS-B on differences, restarted at random points."""
    from scipy.optimize import basinhopping

    draw, x = np.random.default_rng(seed), x0

    def one(point):
        return float(evaluate(np.asarray(point)[None])[0])

    while True:
        basinhopping(one, x, niter=1000, rng=draw, minimizer_kwargs={"method": "L-BFGS-B"})
        x = draw.uniform(*(0.8 * np.asarray(bounds)), x0.size)


METHODS = {
    "unstuck attention (default)": attention,
    "unstuck, covariance runs alone": covariance,
    "unstuck, diagonal": diagonal,
    "unstuck, plain": plain,
    "pycma, IPOP restarts": pycma,
    "pycma, BIPOP restarts": pycma_bipop,
    "SciPy basin hopping": basin_hopping,
    "uniform random": uniform,
}
