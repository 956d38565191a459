"""What :class:`unstuck.optim.ALME` knows of its course: statistics, counts, the best point."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from unstuck.ops import adam
from unstuck.ops.adam import Stat
from unstuck.optim._alme_settings import Escape
from unstuck.optim._light import LightOptimizer


class Statistics(LightOptimizer):
    """An optimizer whose first group has statistics of stagnation, and counts."""

    _tracking: adam.Tracking
    track_best: bool
    history: deque[Escape]

    @property
    def _search(self) -> dict[str, Any]:
        return self.param_groups[0]["alme"]  # type: ignore[no-any-return]

    @property
    def _stats(self) -> Tensor:
        return self.param_groups[0]["stagnation"]  # type: ignore[no-any-return]

    @property
    def _sign(self) -> float:
        return -1.0 if self.defaults["maximize"] else 1.0

    @property
    def _moving(self) -> list[Tensor]:
        """The parameters that may move."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @property
    def stagnant(self) -> bool:
        """Whether it stands still: the tests said so `stagnation_patience` steps in a row."""
        return float(self._stats[Stat.FLAT_STEPS]) >= self._tracking.patience

    @property
    def grad_norm(self) -> Tensor:
        """Norm of the last gradient, of all parameters together; on its device."""
        return self._stats[Stat.LAST_NORM].clone()

    @property
    def best_loss(self) -> float | None:
        """The lowest loss that was told (with `maximize` the highest), or None."""
        known = bool(self._stats[Stat.HAS_BEST])
        return float(self._stats[Stat.BEST_LOSS]) * self._sign if known else None

    @property
    def stagnation_count(self) -> int:
        """Steps at which it stood still."""
        return int(self._stats[Stat.STAGNANT_STEPS])

    @property
    def attempts(self) -> int:
        """Escapes that were tried."""
        return int(self._search["attempts"])

    @property
    def escapes(self) -> int:
        """Escapes that were accepted."""
        return int(self._search["escapes"])

    @property
    def nfev(self) -> int:
        """Losses evaluated so far: one a step, and those of escapes."""
        return int(self._stats[Stat.TOTAL_STEPS]) + int(self._search["nfev"])

    @property
    def ngev(self) -> int:
        """Gradients evaluated so far: one a step, and those of escapes."""
        return int(self._stats[Stat.TOTAL_STEPS]) + int(self._search["ngev"])

    def record_loss(self, loss: Tensor | float) -> None:
        """Tell the loss of this batch, for the test of losses (no host sync).

        A closure's loss is recorded by :meth:`step` itself.
        """
        value = loss.detach().double().reshape(()) if isinstance(loss, Tensor) else float(loss)
        self._stats[Stat.LAST_LOSS] = value * self._sign
        self._stats[Stat.LOSS_WAITS] = 1.0

    # ------------------------------------------------------------ the best point
    def _keep_best(self, loss: Tensor | float) -> None:
        """Copy the parameters where `track_best` and their loss is the lowest so far."""
        if not self.track_best:
            return
        best = self.best_loss
        if best is None or float(loss) * self._sign < best * self._sign:
            for p in self._moving:
                self.state[p]["best"] = p.detach().clone()

    def load_best(self) -> float:
        """Write the best parameters that were seen back into the model, and return their loss.

        Raises
        ------
        RuntimeError
            When none were kept.
        """
        if (best := self.best_loss) is None or not self.track_best:
            raise RuntimeError(
                "no best parameters were kept; pass track_best=True and a closure to step()"
            )
        with torch.no_grad():
            for p in self._moving:
                if "best" in self.state[p]:
                    p.copy_(self.state[p]["best"])
        return best
