"""What the optimizers that draw candidates have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from unstuck.optim._candidates import Settings, search_around
from unstuck.optim._hybrid import Base, Batch, Hybrid, Record


class Escaping(Hybrid):
    """A gradient optimizer that now and then looks around by attention steps."""

    def __init__(
        self,
        params: Iterable[Any],
        base: Base,
        lr: float | Tensor | None,
        candidates: Settings,
        search: dict[str, Any],
        module: nn.Module | None,
    ) -> None:
        candidates.check()
        self._candidates = candidates
        counters = {"iteration": 0, "attempts": 0, "escapes": 0}
        super().__init__(params, base, lr, {**counters, **search}, module)

    @property
    def escapes(self) -> int:
        """How often a better place was found and taken."""
        return int(self._search["escapes"])

    @property
    def attempts(self) -> int:
        """How often one was looked for."""
        return int(self._search["attempts"])

    def _descend(self, batch: Batch) -> Tensor:
        """Let the gradient optimizer make a step; return the loss before it, to be lowered."""
        before = batch.start()
        self._base_step(batch)
        self.history.append(Record("gradient", before * self._sign))
        return before

    def _look_around(self, batch: Batch, steps: int, sigma: float, forget: bool) -> bool:
        """Make attention steps on one batch, and keep the best place if it beats this one.

        Otherwise parameters stay bit for bit, and with them the gradient optimizer's state. Where
        `forget`, an escape clears that state.
        """
        search, trials = self._search, batch.trials()
        with trials:
            before = trials.loss()
            batch.loss = trials.value
            found = search_around(
                trials,
                self._candidates,
                sigma=sigma,
                before=float(before) * self._sign,
                steps=steps,
                iteration=search["iteration"],
                sign=self._sign,
                population=self._population_of(batch),
            )
        escaped = found.values is not None
        trials.write(trials.start if found.values is None else found.values)
        search["nfev"] += trials.count
        search["iteration"] += found.iterations
        search["attempts"] += 1
        search["escapes"] += escaped
        if escaped and forget:
            self.state.clear()
        self.history.append(Record("escape", before, None, escaped, found.reason))
        return escaped
