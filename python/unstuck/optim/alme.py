"""Adam that notices when it stands still, and then looks for a better place around."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unstuck.ops import adam
from unstuck.ops.adam import Stat
from unstuck.optim import _alme_escape as escapes
from unstuck.optim import _alme_groups as groups
from unstuck.optim import _alme_polish as polishes
from unstuck.optim import _alme_step as steps
from unstuck.optim import _validate as validate
from unstuck.optim._alme_escape import Escape, Settings
from unstuck.optim._alme_population import Together
from unstuck.optim._hybrid import HISTORY
from unstuck.optim._trials import Closure

__all__ = ["ALME"]

SCALES = {0.5: 2, 1.0: 3, 2.0: 3, 4.0: 1, 8.0: 1}
THRESHOLDS = {"plain": (1e-6, -1.0), "adaptive": (1e-2, 1e-3)}  # of gradient norms, of losses
WINDOWS = {"plain": 10, "adaptive": 20}  # of losses


class ALME(Optimizer):
    r"""Adam with population escape from local minima.

    DOC
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = True,
        module: nn.Module | None = None,
        mode: str = "adaptive",
        grad_norm_window: int = 10,
        grad_norm_threshold: float | None = None,
        loss_window: int | None = None,
        loss_threshold: float | None = None,
        stagnation_patience: int = 5,
        scales: Mapping[float, int] | None = None,
        n_eval_steps: int = 3,
        escape_budget: float = 0.5,
        check_every: int = 10,
        track_best: bool = False,
        polish: bool = True,
        memory: int | None = None,
        seed: int = 0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        if foreach:
            raise ValueError("ALME has one native step for all tensors: leave foreach unset")
        if differentiable:
            raise ValueError(
                "ALME cannot be differentiated through; use DynamicBlend(differentiable=True)"
            )
        if module is not None and not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module or None, not {module!r}")
        pairs = escapes.scales_of(SCALES if scales is None else scales)
        self._escapes = Settings(
            mode, pairs, n_eval_steps, escape_budget, check_every, seed, memory
        )
        self._escapes.check()
        self._tracking = _tracking(
            mode,
            grad_norm_window,
            grad_norm_threshold,
            loss_window,
            loss_threshold,
            stagnation_patience,
        )
        self.module, self.track_best, self.polish = module, track_best, polish
        self.history: deque[Escape] = deque(maxlen=HISTORY)
        self._forget()
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
            differentiable=differentiable,
        )
        super().__init__(params, defaults)
        self.param_groups[0].update(self._fresh())
        self._step_supports_amp_scaling = True

    # ------------------------------------------------------------ groups and state
    def _fresh(self) -> dict[str, Any]:
        """Return what the first group has besides the others: statistics and counts."""
        params = self.param_groups[0]["params"]
        device = params[0].device if params else torch.device("cpu")
        stats = torch.zeros(
            self._tracking.size,
            dtype=torch.float64,
            device="cpu" if device.type == "meta" else device,
        )
        counts = ("steps", "nfev", "ngev", "attempts", "escapes", "iteration")
        return {"stagnation": stats, "alme": dict.fromkeys(counts, 0)}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; see ``torch.optim.Optimizer``."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        groups.check({**self.defaults, **param_group}, self.defaults)
        super().add_param_group(dict(param_group))
        try:
            groups.check_parameters(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise
        self._forget()

    def _forget(self) -> None:
        """Drop everything that is derived from groups and state."""
        self._plan: steps.Kept | None = None
        self._population: Together | None = None
        self._watch = polishes.Watch()

    _settings = ("_escapes", "_tracking", "module", "track_best", "polish", "history")

    def __getstate__(self) -> dict[str, Any]:
        mine = {name: self.__dict__[name] for name in self._settings}
        return {**super().__getstate__(), **mine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        defaults = {**self.__dict__, **state}["defaults"]
        loading = "_escapes" not in state  # load_state_dict
        for i, group in enumerate(state["param_groups"]):
            groups.adopt(group, defaults, self._fresh() if loading and i == 0 else None)
        stats = state["param_groups"][0]["stagnation"]
        size = self._tracking.size if loading else state["_tracking"].size
        if stats.numel() != size:
            raise ValueError(
                f"the loaded statistics have {stats.numel()} numbers, but the windows of this "
                f"optimizer want {size}: make it with the same grad_norm_window and loss_window"
            )
        self._forget()
        super().__setstate__(state)
        self._step_supports_amp_scaling = True

    @property
    def _search(self) -> dict[str, Any]:
        return self.param_groups[0]["alme"]  # type: ignore[no-any-return]

    @property
    def _stats(self) -> Tensor:
        return self.param_groups[0]["stagnation"]  # type: ignore[no-any-return]

    @property
    def _moving(self) -> list[Tensor]:
        """The parameters that may move."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @property
    def _escapable(self) -> bool:
        return escapes.escapable(self._moving)

    @property
    def _sign(self) -> float:
        return -1.0 if self.defaults["maximize"] else 1.0

    # ------------------------------------------------------------ what is known
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

    # ------------------------------------------------------------ steps
    def step(self, closure: Closure | None = None, eval_closure: Closure | None = None) -> Any:
        """Make one step of Adam, and an escape when one is due.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model and returns the loss. It may call backward itself. When it leaves
            every parameter without a gradient, backward is called here, and the gradients are
            cleared again after the step. Without it, no escape is made.
        eval_closure : callable, optional
            Measures the candidates of an escape in the end: the loss of a validation set, or of a
            larger batch. None takes `closure`.

        Returns
        -------
        The closure's loss, or None.

        Raises
        ------
        RuntimeError
            When a gradient is sparse.
        ValueError
            When a gradient does not fit its parameter, or parameters share memory.
        """
        if closure is None:
            with torch.no_grad():
                steps.step(self)
            return None
        polished, loss = polishes.step(self, closure)
        if polished:
            return loss
        with torch.enable_grad():
            loss = closure()
            own_gradients = self._needs_backward(loss)
            if own_gradients:
                loss.backward()
        told = isinstance(loss, (Tensor, float, int)) and not isinstance(loss, bool)
        with torch.no_grad():
            if told:
                polishes.watch(self, loss)
                self._keep_best(loss)
                self.record_loss(loss)
            steps.step(self)
            if told and escapes.due(self):
                escapes.escape(self, closure, eval_closure)
        if own_gradients:
            self.zero_grad()
        return loss

    def escape(self, closure: Closure, eval_closure: Closure | None = None) -> bool:
        """Look for a better place now, whatever the statistics and the budget say.

        Parameters
        ----------
        closure, eval_closure
            As in :meth:`step`.

        Returns
        -------
        bool
            Whether one was found and taken.

        Raises
        ------
        TypeError
            When there is no closure, it does not return one real number, or parameters are shards
            of larger ones (DTensor).
        """
        if not callable(closure):
            raise TypeError(
                "ALME.escape needs a closure that returns the loss: "
                "optimizer.escape(lambda: loss_fn(model(x), y))"
            )
        if not self._escapable:
            raise TypeError(
                "ALME.escape moves whole parameters and cannot step shards (DTensor); replicate "
                "the model, or use step() alone"
            )
        with torch.no_grad():
            return escapes.escape(self, closure, eval_closure).accepted

    def _needs_backward(self, loss: Any) -> bool:
        return (
            isinstance(loss, Tensor)
            and loss.requires_grad
            and all(p.grad is None for group in self.param_groups for p in group["params"])
        )

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


def _tracking(
    mode: str,
    norm_window: int,
    norm_threshold: float | None,
    loss_window: int | None,
    loss_threshold: float | None,
    patience: int,
) -> adam.Tracking:
    """Return the tests of stagnation, with the defaults of a mode."""
    norm, loss = THRESHOLDS[mode]
    if norm_threshold is not None:
        validate.non_negative("grad_norm_threshold", norm_threshold)
        norm = norm_threshold
    if loss_threshold is not None:
        validate.non_negative("loss_threshold", loss_threshold)
        loss = loss_threshold
    losses = WINDOWS[mode] if loss_window is None else loss_window
    for name, value, least in (
        ("grad_norm_window", norm_window, 2),
        ("loss_window", losses, 4),
        ("stagnation_patience", patience, 1),
    ):
        validate.positive(name, value)
        if value < least:
            raise ValueError(f"Invalid {name}: {value}; it must be at least {least}")
    return adam.Tracking(norm_window, norm, losses, loss, patience, mode == "adaptive")
