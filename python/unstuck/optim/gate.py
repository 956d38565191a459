"""What sets alpha in :class:`unstuck.optim.DynamicBlend`, and how it learns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Gate"]

_FEATURES = ("summary", "gradient")
_MODES = ("online", "held-out", "frozen")


@dataclass(frozen=True)
class Gate:
    r"""Configuration of the network that sets alpha.

    The gate is a network of one hidden layer, :math:`\alpha = \sigma(w_2 \cdot
    \mathrm{relu}(W_1 \varphi + b_1) + b_2)`, trained by Adam along the exact one-step
    hypergradient :math:`\partial L'/\partial\alpha = -g' \cdot (u_{adam} - u_{sgd})`, where
    :math:`g'` is the gradient of a second batch at the parameters after the step.

    Parameters
    ----------
    features : {"summary", "gradient"}
        What the gate sees. ``"summary"``: nine numbers that neither grow with the model nor depend
        on the scale of its loss (cosines between gradient, momentum and Adam direction, norms over
        their running means, trend of the loss, progress), taken from the step before, in the same
        pass over memory. ``"gradient"``: the flattened gradient itself, as first proposed; the
        first layer is then `hidden` times the model, so this is for small models.
    mode : {"online", "held-out", "frozen"}
        Where :math:`g'` comes from: the next training batch, inside the next step; a second batch
        that you hand to :meth:`DynamicBlend.meta_step`; or nowhere, and the gate stays as it is.
    hidden : int
        Width of the hidden layer.
    lr : float
        Learning rate of the gate's own Adam (betas 0.9 and 0.99).
    init_alpha : float
        What every alpha starts at, in (0, 1). The default did better than 0.5 on mnist1d and as
        well elsewhere (docs/blend.md).
    normalize : bool
        Divide the hypergradient by :math:`|g'| |u_{adam} - u_{sgd}|`, so that the gate learns
        equally fast whatever the scale of loss and updates.
    total_steps : int, optional
        Length of the run, for the progress feature; without it progress is t / (t + 1000).
    seed : int
        Seed of the first layer's initial weights.

    Raises
    ------
    ValueError
        When a value is out of its range.

    Examples
    --------
    >>> from unstuck.optim import Gate
    >>> Gate(mode="held-out", lr=0.003).hidden
    32
    """

    features: str = "summary"
    mode: str = "online"
    hidden: int = 32
    lr: float = 1e-2
    init_alpha: float = 0.2
    normalize: bool = True
    total_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features not in _FEATURES:
            raise ValueError(f"features must be one of {_FEATURES}, not {self.features!r}")
        if self.mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, not {self.mode!r}")
        if not 1 <= self.hidden <= 4096:
            raise ValueError(f"hidden must be between 1 and 4096, not {self.hidden}")
        if not (self.lr >= 0 and math.isfinite(self.lr)):
            raise ValueError(f"the gate's lr must be finite and at least 0, not {self.lr}")
        if not 0 < self.init_alpha < 1:
            raise ValueError(
                f"init_alpha must lie strictly between 0 and 1, not {self.init_alpha}; "
                "for a constant pass alpha= instead of a gate"
            )
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, not {self.total_steps}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dictionary of plain values, as parameter groups keep them."""
        return asdict(self)
