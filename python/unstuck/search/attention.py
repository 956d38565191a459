"""Attention search: candidates around a point, weighted by a softmax of their losses."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from torch import Tensor

from unstuck.search._base import Best, Bounds, Search, evaluate
from unstuck.search._diagonal import DiagonalRule
from unstuck.search._options import check_options
from unstuck.search._phases import PhasedRule
from unstuck.search._plain import PlainRule, two_groups
from unstuck.search._space import Array, Space

_FULL_UP_TO = 40  # coordinates


class AttentionSearch(Search):
    r"""Move a point to the softmax-weighted mean of candidates drawn around it.

    One iteration draws :math:`w_i = w + \sigma_i \epsilon_i`, weighs the candidates by
    :math:`a = \mathrm{softmax}(-\beta L)` and moves to :math:`w + \eta \sum_i a_i (w_i - w)`.

    Mode ``"plain"`` is just that, with a fixed `beta` and one fixed sigma. ``"enhanced"`` has two
    groups of candidates: half exploit with a small sigma, half explore with a large one.
    ``"adaptive"``, the one to use, sets everything from the losses:

    - `covariance` ``"diagonal"`` (default above 40 coordinates): the temperature holds the
      effective sample size :math:`1 / \sum a_i^2` at `ess` of the candidates, a cumulative path
      sets the step size, one variance a coordinate adapts, noise comes in antithetic pairs. All
      formulas and their sources: ``unstuck/ops/reference_attention.py``. An objective of
      ``unstuck.ops`` runs fused, without storing a candidate.
    - `covariance` ``"full"`` (default up to 40): CMA-ES with active update, antithetic pairs and
      BIPOP restarts, which shares the evaluations with local runs (BFGS on differences) and a
      search along coordinates where the objective is a sum over them. The number of candidates
      then changes from one :meth:`ask` to the next. On the 24 BBOB functions each part measured
      better than without it; the table is ``bench/results/quality_bbob.json``.

    Parameters
    ----------
    x0 : Tensor [D] or sequence of D floats
        The start; its dtype and device are those of the candidates.
    sigma0 : float
        Initial standard deviation of the candidates, in the units of `x0`: about a quarter of the
        range where the minimum is expected.
    popsize : int, optional
        Candidates an iteration, at least 2, doubled by restarts. Default: 100 in modes plain and
        enhanced, 4 + 3 log D with a full covariance, 16 + 8 sqrt D but at most 256 with a diagonal.
    bounds : pair (low, high), optional
        Each a number or D numbers; no candidate lies outside.
    seed : int
        Seed of the noise.
    mode : {"adaptive", "plain", "enhanced"}
        See above.
    beta : float, optional
        Inverse temperature, in 1 / loss (modes plain and enhanced; default 1).
    eta : float, optional
        Damping of the step, in (0, 1] (modes plain and enhanced; default 1).
    spread : pair of floats, optional
        Mode enhanced: sigmas of the groups over `sigma0` (default ``(0.3, 1.5)``).
    covariance : {"full", "diagonal"}, optional
        Mode adaptive: see above.
    ess : float, optional
        Diagonal covariance: effective sample size over `popsize`, in (0, 1) (default 0.5).
    local : bool, optional
        Full covariance: whether to make local runs and try the coordinates by themselves. Default:
        yes, unless `popsize` is given.
    restarts : bool, optional
        Mode adaptive: whether to start again at a random point (of the bounds, else within
        2 `sigma0` of `x0`) when a run has converged (default), or to :meth:`stop`.
    bound : {"clip", "reflect"}
        What happens to a candidate outside the bounds.

    Raises
    ------
    ValueError
        When a value is out of its range, or belongs to another mode.

    Examples
    --------
    >>> import torch
    >>> search = AttentionSearch(torch.full((3,), 2.0), 0.5, popsize=32, seed=1, mode="plain")
    >>> for _ in range(50):
    ...     search.tell(search.ask().square().sum(1))
    >>> search.best.f < 0.1
    True

    Notes
    -----
    ``stop()`` may name ``"nonfinite"`` (rounds in a row without a finite loss, during which the
    point stays) and, with ``restarts=False``, ``"tolx"``, ``"tolfun"``, ``"flat"``,
    ``"conditioncov"`` or ``"stagnation"``.
    """

    def __init__(
        self,
        x0: Any,
        sigma0: float,
        *,
        popsize: int | None = None,
        bounds: Bounds | None = None,
        seed: int = 0,
        mode: str = "adaptive",
        beta: float | None = None,
        eta: float | None = None,
        spread: tuple[float, float] | None = None,
        covariance: str | None = None,
        ess: float | None = None,
        local: bool | None = None,
        restarts: bool | None = None,
        bound: str = "clip",
    ) -> None:
        super().__init__(x0, bounds=bounds, seed=seed)
        given: dict[str, Any] = {
            "beta": beta,
            "eta": eta,
            "spread": spread,
            "covariance": covariance,
            "ess": ess,
            "local": local,
            "restarts": restarts,
        }
        given = {name: value for name, value in given.items() if value is not None}
        check_options(mode, sigma0, popsize, bound, given)
        self._rule = self._build(mode, float(sigma0), popsize, bound, given)

    def _build(
        self, mode: str, sigma0: float, popsize: int | None, bound: str, given: dict[str, Any]
    ) -> PlainRule | DiagonalRule | PhasedRule:
        limits = (self._low, self._high, bound)
        if mode != "adaptive":
            size = popsize or 100
            spread = given.get("spread", (0.3, 1.5))
            sigma = two_groups(size, sigma0, spread, self._x0) if mode == "enhanced" else sigma0
            beta, eta = given.get("beta", 1.0), given.get("eta", 1.0)
            return PlainRule(self._x0, sigma, size, limits, self._seed, beta, eta)
        full = given.get("covariance", "full" if self.dim <= _FULL_UP_TO else "diagonal") == "full"
        restarts = given.get("restarts", True)
        if not full:
            if "local" in given:
                raise ValueError("local belongs to covariance='full': leave it out")
            size = popsize or min(256, 16 + 2 * int(4 * math.sqrt(self.dim)))
            ess = given.get("ess", 0.5)
            space = functools.partial(self._space, sigma0, bound)
            return DiagonalRule(self._x0, sigma0, size, limits, space, self._seed, ess, restarts)
        if "ess" in given:
            raise ValueError("ess belongs to covariance='diagonal': leave it out")
        size = popsize or 4 + int(3 * math.log(self.dim))
        local = given.get("local", popsize is None)
        return PhasedRule(self._space(sigma0, bound), size, self._x0, local, restarts)

    def _space(self, sigma0: float, bound: str) -> Space:
        def array(x: Tensor | None, fill: float) -> Array:
            return np.full(self.dim, fill) if x is None else x.double().cpu().numpy()

        low, high = array(self._low, -math.inf), array(self._high, math.inf)
        x0 = array(self._x0, 0.0)
        return Space(x0, sigma0, low, high, bound == "reflect", self._seed, self._x0.dtype)

    @property
    def center(self) -> Tensor:
        """The point [D] that the candidates lie around."""
        return self._rule.mean

    @property
    def popsize(self) -> int:
        """How many candidates the next :meth:`ask` returns."""
        if isinstance(self._rule, PhasedRule):
            return len(self._rule.points(self._nit))
        return self._rule.popsize

    def stop(self) -> dict[str, Any]:
        """Return why to stop: reason to the value that set it, ``{}`` when there is no reason."""
        return self._rule.stop()

    def step(self, objective: Any) -> None:
        """Ask, evaluate and tell in one call.

        Parameters
        ----------
        objective : objective of ``unstuck.ops`` or callable
            An objective of ``unstuck.ops`` is evaluated without storing a candidate; the result is
            that of ask and tell to rounding. A callable maps candidates [N, D] to losses [N].
        """
        if callable(objective) or self._asked is not None:
            super().step(objective)
        elif isinstance(self._rule, PhasedRule):  # few candidates: stored, but not handed out
            points = self._rule.points(self._nit)
            x = self._rule.tensor(points)
            losses = evaluate(objective, x).double().cpu().numpy()
            self._rule.tell(losses, points)
            self._record(losses, lambda index: x[index])
        else:
            report = self._rule.fused(objective, self._nit, self._best.f)
            if report.x is not None:
                self._best = Best(report.x, report.best)
            self._nfev += report.losses.numel()
            self._nit += 1

    def _candidates(self) -> Tensor:
        return self._rule.candidates(self._nit)

    def _update(self, losses: Tensor) -> None:
        self._rule.update(losses, self.ask())

    def _rule_state(self) -> dict[str, Any]:
        return self._rule.state()

    def _load_rule(self, state: dict[str, Any]) -> None:
        self._rule.load(state)
