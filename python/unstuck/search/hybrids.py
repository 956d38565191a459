"""Gradient descent that attention search helps out of local minima, on functions of D numbers.

Each of the four classes makes one iteration by ``step(problem)``. A problem maps points ``[N, D]``
to values ``[N]`` when called, and has ``value_and_gradient(x [D])``; those of
:mod:`unstuck.problems` do. For models see the classes of the same names in :mod:`unstuck.optim`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import trials
from unstuck.search._base import Bounds
from unstuck.search._descent import Base, Descent, Differentiable, Record, at_least, fused, whole
from unstuck.search._escape import Escaping
from unstuck.search._plateau import Plateau
from unstuck.search._rates import Rates

__all__ = [
    "Alternating",
    "AttentionRestart",
    "Descent",
    "GradientDescent",
    "LearningRateAttention",
    "ReactiveEscape",
]

OCTAVES = (-12, 3)  # K rates go from lr / 4096 to 8 lr


class GradientDescent(Descent):
    """The gradient optimizer alone: what the hybrids are compared with.

    Parameters
    ----------
    x0, sigma0, bounds, seed, base, lr
        As for :class:`ReactiveEscape`; nothing is drawn, so `sigma0` and `seed` change nothing.

    Raises
    ------
    ValueError, TypeError
        For values out of range.

    Examples
    --------
    >>> import torch
    >>> from unstuck import problems
    >>> search = GradientDescent(torch.ones(2), 1.0, base="gd", lr=0.1)
    >>> for _ in range(50):
    ...     record = search.step(problems.get("sphere", dim=2))
    >>> search.best.f < 1e-6
    True
    """

    def _advance(self, problem: Differentiable) -> Record:
        return self._gradient_step(problem)


class ReactiveEscape(Escaping):
    """Descend until plateaus in a row, look around by attention search, and descend again.

    Parameters
    ----------
    x0 : Tensor [D] or sequence of D floats
        The start.
    sigma0 : float
        Standard deviation of the first candidates, in units of `x0`.
    bounds : pair (low, high), optional
        Each a number or D numbers; no point lies outside.
    seed : int
        Seed of the noise.
    base : {"lbfgs", "gd", "momentum", "adam"} or callable
        The gradient optimizer, or a function of the parameters that makes one.
    lr : float, optional
        Its learning rate; None leaves it to its default.
    window : int
        Steps whose mean loss is compared with that of as many before.
    tol : float
        Relative fall from one window to the next that is no plateau.
    plateaus : int
        Plateaus in a row before a look around.
    escape_steps : int
        Attention steps of a look around; the best candidate is taken if it beats the point. In mode
        adaptive a look around goes on with the search of the last one, until that has converged.
    popsize : int, optional
        Candidates of an attention step; see :class:`unstuck.search.AttentionSearch`.
    mode : {"adaptive", "plain", "enhanced"}
        Kind of attention search.

    Raises
    ------
    ValueError, TypeError
        For values out of range.

    Examples
    --------
    >>> import torch
    >>> from unstuck import problems
    >>> search = ReactiveEscape(torch.full((2,), 3.0), 1.0, seed=1)
    >>> while search.nfev < 5000:
    ...     record = search.step(problems.get("rastrigin", dim=2))
    >>> search.best.f < 1e-6
    True
    """

    def __init__(
        self,
        x0: Any,
        sigma0: float,
        *,
        bounds: Bounds | None = None,
        seed: int = 0,
        base: Base = "lbfgs",
        lr: float | None = None,
        window: int = 3,
        tol: float = 1e-3,
        plateaus: int = 2,
        escape_steps: int = 20,
        popsize: int | None = None,
        mode: str = "adaptive",
    ) -> None:
        self._plateau = Plateau(whole("window", window), at_least("tol", tol, 0))
        self._plateaus = whole("plateaus", plateaus)
        self._steps = whole("escape_steps", escape_steps)
        super().__init__(
            x0, sigma0, bounds=bounds, seed=seed, base=base, lr=lr, popsize=popsize, mode=mode
        )
        self._seen = Plateau.fresh()

    def _advance(self, problem: Differentiable) -> Record:
        if self._seen["plateaus"] < self._plateaus:
            record = self._gradient_step(problem)
            self._plateau.see(self._seen, record.loss)
            return record
        record = self._look_around(problem, self._steps, forget=True)
        self._plateau.begin(self._seen, elsewhere=bool(record.accepted))
        return record


class Alternating(Escaping):
    """Descend and look around in a fixed cycle.

    Parameters
    ----------
    x0, sigma0, bounds, seed, base, lr, popsize, mode
        As for :class:`ReactiveEscape`.
    gradient_steps : int
        Gradient steps in a cycle.
    attention_steps : int
        Attention steps in a cycle, made in one iteration; the best candidate is taken if it beats
        the point.

    Raises
    ------
    ValueError, TypeError
        For values out of range.

    Examples
    --------
    >>> import torch
    >>> from unstuck import problems
    >>> search = Alternating(torch.full((2,), 3.0), 1.0, seed=1)
    >>> while search.nfev < 5000:
    ...     record = search.step(problems.get("rastrigin", dim=2))
    >>> search.best.f < 1e-6
    True
    """

    def __init__(
        self,
        x0: Any,
        sigma0: float,
        *,
        bounds: Bounds | None = None,
        seed: int = 0,
        base: Base = "lbfgs",
        lr: float | None = None,
        gradient_steps: int = 10,
        attention_steps: int = 20,
        popsize: int | None = None,
        mode: str = "adaptive",
    ) -> None:
        self._gradient_steps = whole("gradient_steps", gradient_steps)
        self._attention_steps = whole("attention_steps", attention_steps)
        super().__init__(
            x0, sigma0, bounds=bounds, seed=seed, base=base, lr=lr, popsize=popsize, mode=mode
        )

    def _advance(self, problem: Differentiable) -> Record:
        if self.nit % (self._gradient_steps + 1) < self._gradient_steps:
            return self._gradient_step(problem)
        return self._look_around(problem, self._attention_steps, forget=False)


class AttentionRestart(Escaping):
    """Descend to a minimum, re-place the start by attention search, and again.

    Parameters
    ----------
    x0, sigma0, bounds, seed, base, lr, window, tol, popsize, mode
        As for :class:`ReactiveEscape`; a descent ends with its first plateau.
    gradient_steps : int
        Gradient steps in a cycle at most.
    attention_steps : int
        Attention steps of a restart.
    growth : float
        Factor of the `sigma0` of the next search after a restart that found nothing better, at
        least 1.
    reach : float
        Where that ends, and begins again at 1.

    Raises
    ------
    ValueError, TypeError
        For values out of range.

    Examples
    --------
    >>> import torch
    >>> from unstuck import problems
    >>> search = AttentionRestart(torch.full((2,), 3.0), 0.5, seed=1)
    >>> while search.nfev < 5000:
    ...     record = search.step(problems.get("rastrigin", dim=2))
    >>> search.best.f < 1e-6
    True
    """

    def __init__(
        self,
        x0: Any,
        sigma0: float,
        *,
        bounds: Bounds | None = None,
        seed: int = 0,
        base: Base = "lbfgs",
        lr: float | None = None,
        gradient_steps: int = 200,
        window: int = 3,
        tol: float = 1e-3,
        attention_steps: int = 20,
        growth: float = 2.0,
        reach: float = 8.0,
        popsize: int | None = None,
        mode: str = "adaptive",
    ) -> None:
        self._plateau = Plateau(whole("window", window), at_least("tol", tol, 0))
        self._gradient_steps = whole("gradient_steps", gradient_steps)
        self._attention_steps = whole("attention_steps", attention_steps)
        self._growth, self._reach = at_least("growth", growth, 1), at_least("reach", reach, 1)
        super().__init__(
            x0, sigma0, bounds=bounds, seed=seed, base=base, lr=lr, popsize=popsize, mode=mode
        )
        self._seen = {**Plateau.fresh(), "descended": 0, "widened": 1.0}

    def _advance(self, problem: Differentiable) -> Record:
        seen = self._seen
        if not seen["plateaus"] and seen["descended"] < self._gradient_steps:
            record = self._gradient_step(problem)
            self._plateau.see(seen, record.loss)
            seen["descended"] += 1
            return record
        record = self._look_around(
            problem, self._attention_steps, forget=True, widened=seen["widened"]
        )
        self._plateau.begin(seen, elsewhere=bool(record.accepted))
        wider = seen["widened"] * self._growth
        seen["descended"] = 0
        seen["widened"] = 1.0 if record.accepted or wider > self._reach else wider
        return record


class LearningRateAttention(Descent):
    r"""Try K learning rates at every step, and take their softmax-weighted mean.

    With the step :math:`u` that `base` would make, :math:`L_k = L(w + f_k u)`,
    :math:`p = \mathrm{softmax}(-\beta L)` and :math:`w \leftarrow w + (\sum_k p_k f_k) u`. For the
    problems of this package all K losses take about one pass over the data.

    Parameters
    ----------
    x0, bounds, seed, base
        As for :class:`ReactiveEscape`.
    sigma0 : float
        Of K rates without `lr`, the largest moves the start by 8 times `sigma0` a coordinate (root
        mean square): a step can reach as far as candidates of attention search do.
    rates : int or sequence of float
        How many rates K, from `lr` / 4096 to 8 `lr` in equal ratios; or the rates themselves, at
        least 0.
    lr : float, optional
        Learning rate of `base`.
    beta : float, optional
        Inverse temperature in 1 / loss; by default the one that makes `share` of the rates
        effective.
    share : float
        In (0, 1]; see `beta`.

    Raises
    ------
    ValueError, TypeError
        For values out of range.

    Examples
    --------
    >>> import torch
    >>> from unstuck import problems
    >>> search = LearningRateAttention(torch.full((2,), 3.0), 1.0)
    >>> while search.nfev < 5000:
    ...     record = search.step(problems.get("sphere", dim=2))
    >>> search.best.f < 1e-6
    True
    """

    def __init__(
        self,
        x0: Any,
        sigma0: float,
        *,
        bounds: Bounds | None = None,
        seed: int = 0,
        base: Base = "gd",
        rates: int | Sequence[float] = 16,
        lr: float | None = None,
        beta: float | None = None,
        share: float = 0.1,
    ) -> None:
        self._rates = Rates.read(rates, beta, share)
        super().__init__(x0, sigma0, bounds=bounds, seed=seed, base=base, lr=lr)
        unit = float(self._base.param_groups[0]["lr"])
        self._rates.check(unit)
        self._factors = self._rates.factors(unit, *OCTAVES)
        self._seen = {"measure": lr is None and not self._rates.given}

    @property
    def popsize(self) -> int:
        """Losses that the next step evaluates, about."""
        return 1 + len(self._factors)

    def _advance(self, problem: Differentiable) -> Record:
        start = self.center.clone()
        if self._seen["measure"]:
            self._seen["measure"] = False
            self._differentiate(problem)
            assert self._w.grad is not None
            length = float(self._w.grad.norm())
            if 0 < length < math.inf:
                self._set_rate(self.sigma0 * math.sqrt(self.dim) / length)
        loss = self._descend(problem)
        back = start - self.center  # [D], subtracted
        factors = torch.tensor(self._factors, dtype=start.dtype, device=start.device)
        told = self._losses(problem, start, back, factors)
        self._counts["nfev"] += len(factors)
        weights = self._rates.weigh(told.double())
        factor = float(weights @ factors.double())
        good = bool(weights.any())
        self._move(start - factor * back if good else start)
        rate = factor * float(self._base.param_groups[0]["lr"])
        return Record("rates", loss, self.nfev, self.ngev, rate, good)

    def _set_rate(self, lr: float) -> None:
        for group in self._base.param_groups:
            group["lr"] = lr

    def _losses(self, problem: Any, w: Tensor, d: Tensor, factors: Tensor) -> Tensor:
        """Evaluate L(w - f_k d), in one pass over the data where the problem can."""
        far = w - factors.max() * d  # the other points lie between
        objective = fused(problem, len(factors)) if torch.equal(self._inside(far), far) else None
        if objective is not None:
            losses = trials.losses(objective, w, d, factors)
        else:
            losses = problem(self._inside(w - factors[:, None] * d))
        first = int(torch.where(losses.isfinite(), losses, math.inf).argmin())
        if float(losses[first]) < self._best.f:
            self._note(self._inside(w - factors[first] * d), float(losses[first]))
        return losses
