"""Adam that notices when it stands still, and then looks for a better place around."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unstuck.optim import _alme_escape as escapes
from unstuck.optim import _alme_groups as groups
from unstuck.optim import _alme_polish as polishes
from unstuck.optim import _alme_step as steps
from unstuck.optim import _closure as closures
from unstuck.optim import _plans as plans
from unstuck.optim._alme_population import Together
from unstuck.optim._alme_settings import SCALES, Escape, Settings, scales_of, tracking_of
from unstuck.optim._alme_statistics import Statistics
from unstuck.optim._hybrid import HISTORY
from unstuck.optim._light import hooked
from unstuck.optim._trials import Closure

__all__ = ["ALME"]


class ALME(Statistics):
    r"""Adam with population escape from local minima.

    While nothing is wrong this is ``torch.optim.Adam`` (``AdamW`` with `decoupled_weight_decay`,
    the default), bit for bit its ``fused=True`` step, and it costs as much: the gradient norm and
    the statistics of stagnation are made in the same pass over memory, on the parameters' device.

    When these say that it stands still, and :meth:`step` has a closure, it looks for a better
    place. Candidates around the parameters w,

    .. math::
        w_i = w + \epsilon_i\, |w|\, s\, \mathrm{scale}_i, \qquad
        s = \frac{\mathrm{lr} \sqrt{1 - \beta_2^t}}{(1 - \beta_1^t)(\sqrt v + \epsilon)},

    make `n_eval_steps` steps of Adam, each with moments of its own, all at once where `module` is
    given; every such step calls the closure once, so a closure that draws a batch gives them a
    fresh one. Their losses are compared with those of staying and of going on by Adam, on the same
    batches. The best candidate is taken if it beats both; else nothing has happened.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or dictionaries of parameter groups.
    lr : float or Tensor
        Learning rate.
    betas : (float, float)
        Decay rates of the two moments, in [0, 1).
    eps : float
        Added to the root of the second moment.
    weight_decay : float
        Shrinks parameters by ``1 - lr * weight_decay``, or, without `decoupled_weight_decay`, is an
        L2 penalty added to the gradient.
    decoupled_weight_decay : bool
        See `weight_decay`.
    module : nn.Module, optional
        The model that closures evaluate. With it all candidates are evaluated together
        (:class:`unstuck.population.PopulationLoss`), else one after another; their batches are then
        the same where the closure draws them by torch's generators, or not at all.
    mode : str
        ``"plain"`` is the source's rule: absolute tests of stagnation, scales as given.
        ``"adaptive"`` tests relative to the norm and the loss themselves, bounds s by 1 and |w|
        from below by a tenth of its tensor's root mean square, and gives scales that did well more
        of the candidates. Where batches differ, it compares on four of them, and takes what is
        better by twice the standard error.
    grad_norm_window, grad_norm_threshold
        The gradient norm stands still when its mean absolute change over the last
        `grad_norm_window` steps is below the threshold: 1e-6, in the adaptive mode 0.01 times the
        mean norm.
    loss_window, loss_threshold
        The same for the loss, over 10 steps; without a threshold there is no such test. In the
        adaptive mode the loss decides as soon as there are enough, 100: it stands still when its
        fall from the older half of the window to the newer, and twice the standard error of that,
        are together below 0.01 of its size.
    stagnation_patience : int
        Steps in a row that the tests must say so.
    scales : dict
        Number of candidates of each scale, by default ``{0.5: 2, 1: 3, 2: 3, 4: 1, 8: 1}``.
    n_eval_steps : int
        Steps of Adam that each candidate makes.
    escape_budget : float
        In [0, 1): share of all evaluations that escapes may take.
    check_every : int
        Steps after which the statistics are looked at, which waits for a GPU.
    track_best : bool
        Keep a copy of the parameters that had the lowest loss, for :meth:`load_best`.
    polish : bool
        Where the closure's loss is seen not to change from step to step (all data, no dropout), go
        on by L-BFGS descents, one evaluation a step. Not in the plain mode, with weight decay, or
        where groups have several rates.
    memory : int, optional
        Bytes that candidates may take at once. Where their vectors (points, gradients, moments)
        take more, by default 1 GiB, they come one after another, as without `module`. Else one call
        of the closure evaluates all; several, which must see the same batch, where activations
        exceed a given bound.
    seed : int
        Key of the noise, 0 to 2^64 - 1. The same seed gives the same candidates on every device,
        and after loading a state.
    maximize : bool
        Ascend instead of descend.
    foreach, differentiable
        Refused: there is one native step for all tensors, without a graph.
    fused : bool, optional
        True insists on the native kernel, False uses plain torch tensor by tensor; None takes the
        native kernel where there is one.
    capturable : bool
        Asks for a step that a CUDA graph can capture. The native step on CUDA always can be; on the
        CPU there is nothing to capture and True is refused.

    Attributes
    ----------
    history : deque of Escape
        What escapes did: losses before and after, distance, scale, and why one was not taken.

    Raises
    ------
    ValueError, TypeError
        For values out of range and for arguments that exclude each other.
    RuntimeError
        In :meth:`step`, for sparse gradients; parameters and state are untouched then.

    Examples
    --------
    >>> import torch
    >>> from unstuck.optim import ALME
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    >>> optimizer = ALME(model.parameters(), lr=1e-2, module=model)
    >>> x = torch.randn(256, 8)
    >>> def closure():
    ...     batch = x[torch.randint(0, 256, (32,))]
    ...     return (model(batch) - batch.sum(1, keepdim=True)).square().mean()
    >>> for _ in range(20):
    ...     loss = optimizer.step(closure)
    >>> optimizer.stagnant, optimizer.attempts
    (False, 0)

    Notes
    -----
    After an escape Adam goes on from the winner's own moments, whose age is `n_eval_steps`. What
    never had a gradient (masks, padding) stays, but for units that are dead as a whole. A candidate
    whose loss is NaN or infinite is never taken. Escapes leave gradients, buffers and generators as
    they were. On several processes the closure must return the same loss on all (all-reduce it);
    shards (DTensor) are stepped and tracked, but not moved by escapes.

    ALME ("adaptive local minima escape"), mended: the source lets candidates share one Adam state
    and one batch, does not correct the bias, takes the best candidate even when it is worse than
    staying, and waits for the device at every step.
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
        pairs = scales_of(SCALES if scales is None else scales)
        self._escapes = Settings(
            mode, pairs, n_eval_steps, escape_budget, check_every, seed, memory
        )
        self._escapes.check()
        self._tracking = tracking_of(
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
        self._plan: plans.Kept | None = None
        self._population: Together | None = None
        self._watch = polishes.Watch()

    _settings = ("_escapes", "_tracking", "module", "track_best", "polish", "history")

    def __getstate__(self) -> dict[str, Any]:
        mine = {name: self.__dict__[name] for name in self._settings}
        return {**super().__getstate__(), **mine, "searched": polishes.state(self)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with that of a search; see ``torch.optim.Optimizer``."""
        saved = super().state_dict()
        saved["param_groups"][0]["searched"] = polishes.state(self)
        return saved

    def __setstate__(self, state: dict[str, Any]) -> None:
        defaults = {**self.__dict__, **state}["defaults"]
        loading = "_escapes" not in state  # load_state_dict
        for i, group in enumerate(state["param_groups"]):
            groups.adopt(group, defaults, self._fresh() if loading and i == 0 else None)
        searched = (state["param_groups"][0] if loading else state).pop("searched", None)
        stats = state["param_groups"][0]["stagnation"]
        size = self._tracking.size if loading else state["_tracking"].size
        if stats.numel() != size:
            raise ValueError(
                f"the loaded statistics have {stats.numel()} numbers, but the windows of this "
                f"optimizer want {size}: make it with the same grad_norm_window and loss_window"
            )
        self._forget()
        super().__setstate__(state)
        if searched is not None:
            polishes.load(self, searched)
        self._step_supports_amp_scaling = True

    @property
    def escape_due(self) -> bool:
        """Whether an escape is to be made now: it stands still, and the budget allows it.

        Looks every `check_every` steps only. Where steps get no closure, ask after each of them,
        and call :meth:`escape`.
        """
        return escapes.due(self)

    @property
    def evaluates_together(self) -> bool:
        """Whether one call of the closure evaluates all candidates, so that it may draw any batch.

        Else, without `module` or where `memory` is too little, it must draw each batch repeatedly.
        """
        return escapes.together(self)

    # ------------------------------------------------------------ steps
    @hooked
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
            larger batch. None takes `closure`. With it nothing is polished, as `closure` is not
            what counts.

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
        called = polishes.step(self, closure, eval_closure)
        if called is not None and called.done:
            return called.value
        own = called is not None and called.own
        evaluate = closure if called is None else lambda: called.value
        with closures.evaluated(self, evaluate, own=own) as loss, torch.no_grad():
            told = isinstance(loss, (Tensor, float, int)) and not isinstance(loss, bool)
            if told:
                if eval_closure is None:
                    polishes.watch(self, loss)
                self._keep_best(loss)
                self.record_loss(loss)
            steps.step(self)
            if told and self.escape_due:
                escapes.escape(self, closure, eval_closure)
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
            Without a closure that returns one real number, and for shards (DTensor).
        """
        if not callable(closure):
            raise TypeError(
                "ALME.escape needs a closure that returns the loss: "
                "optimizer.escape(lambda: loss_fn(model(x), y))"
            )
        if not escapes.escapable(self._moving):
            raise TypeError(
                "ALME.escape moves whole parameters and cannot step shards (DTensor); replicate "
                "the model, or use step() alone"
            )
        with torch.no_grad():
            return escapes.escape(self, closure, eval_closure).accepted
