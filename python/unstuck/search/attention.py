"""Attention search: candidates around a point, weighted by a softmax of their losses."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from unstuck.search._base import Bounds, Search
from unstuck.search._diagonal import DiagonalRule
from unstuck.search._plain import PlainRule, two_groups

_MODES = ("adaptive", "plain", "enhanced")


class AttentionSearch(Search):
    r"""Move a point to the softmax-weighted mean of candidates drawn around it.

    One iteration draws :math:`w_i = w + \sigma_i \epsilon_i`, weighs the candidates by
    :math:`a = \mathrm{softmax}(-\beta L)` and moves to :math:`w + \eta \sum_i a_i (w_i - w)`.

    Parameters
    ----------
    x0 : Tensor [D] or sequence of D floats
        The start; its dtype and device are those of the candidates.
    sigma0 : float
        Initial standard deviation of the candidates, in the units of `x0`: about a quarter of the
        range where the minimum is expected.
    popsize : int, optional
        Candidates an iteration, at least 2.
    bounds : pair (low, high), optional
        Each a number or D numbers; no candidate lies outside.
    seed : int
        Seed of the noise.
    mode : {"adaptive", "plain", "enhanced"}
        ``"plain"``: fixed `beta`, one fixed sigma. ``"enhanced"``: two groups, half of the
        candidates exploit with sigma ``spread[0] * sigma0``, half explore with
        ``spread[1] * sigma0``. ``"adaptive"``: temperature and step size adapt.
    beta : float, optional
        Inverse temperature, in 1 / loss (modes plain and enhanced; default 1).
    eta : float, optional
        Damping of the step, in (0, 1] (modes plain and enhanced; default 1).
    spread : pair of floats, optional
        Mode enhanced: sigmas of the groups over `sigma0` (default ``(0.3, 1.5)``).
    ess : float, optional
        Mode adaptive: effective sample size over `popsize`, in (0, 1).
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
        ess: float | None = None,
        bound: str = "clip",
    ) -> None:
        super().__init__(x0, bounds=bounds, seed=seed)
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, not {mode!r}")
        if not (sigma0 > 0 and math.isfinite(sigma0)):
            raise ValueError(f"sigma0 must be finite and above 0, not {sigma0}")
        if bound not in ("clip", "reflect"):
            raise ValueError(f"bound must be 'clip' or 'reflect', not {bound!r}")
        if popsize is not None and popsize < 2:
            raise ValueError(f"popsize must be at least 2, not {popsize}")
        limits = (self._low, self._high, bound)
        self._rule: PlainRule | DiagonalRule
        if mode == "adaptive":
            size = popsize or 2 * (4 + int(3 * math.log(self.dim)))
            self._rule = DiagonalRule(self._x0, sigma0, size, limits, seed, ess or 0.5)
        else:
            size = popsize or 100
            sigma: float | Tensor = sigma0
            if mode == "enhanced":
                sigma = two_groups(size, sigma0, spread or (0.3, 1.5), self._x0)
            self._rule = PlainRule(
                self._x0, sigma, size, limits, seed, 1.0 if beta is None else beta, eta or 1.0
            )

    @property
    def center(self) -> Tensor:
        """The point [D] that the candidates lie around."""
        return self._rule.mean

    @property
    def popsize(self) -> int:
        """How many candidates the next :meth:`ask` returns."""
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
        else:
            self._rule.fused(objective, self._nit, self._record)

    def _candidates(self) -> Tensor:
        return self._rule.candidates(self._nit)

    def _update(self, losses: Tensor) -> None:
        self._rule.update(losses, self.ask())

    def _rule_state(self) -> dict[str, Any]:
        return self._rule.state()

    def _load_rule(self, state: dict[str, Any]) -> None:
        self._rule.load(state)
