"""Adam and SGD-momentum in one fused step, blended by a gate that learns while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

from unstuck.ops import blend
from unstuck.ops import gate as gate_ops
from unstuck.ops.gate import Header, Unit
from unstuck.optim import _blend_plan as blend_plan
from unstuck.optim import _blend_state as blend_state
from unstuck.optim import _gradient_gate as gradient_gate
from unstuck.optim import _layout as layout
from unstuck.optim import _plans as plans
from unstuck.optim import _slow_step as slow_step
from unstuck.optim._closure import ClosureOptimizer
from unstuck.optim.gate import Gate

__all__ = ["DynamicBlend"]


class DynamicBlend(ClosureOptimizer):
    r"""Blend of Adam and SGD-momentum in one fused step.

    :math:`w \leftarrow w - [\alpha\,\mathrm{lr}\,a + (1-\alpha)\,\mathrm{sgd\_lr}\,d]`, where, with
    the gradient :math:`g` at step :math:`t`,

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1-\beta_2) g^2, \qquad
        b \leftarrow \mathrm{momentum}\; b + (1-\mathrm{dampening})\, g \\
        a &= \frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}, \qquad
        d = b \;\;(\text{nesterov: } g + \mathrm{momentum}\; b).

    At :math:`\alpha = 1` this is ``torch.optim.Adam`` (``AdamW`` with `decoupled_weight_decay`), at
    :math:`\alpha = 0` ``torch.optim.SGD``. By default a small network, the gate, sets
    :math:`\alpha` from statistics of the step and learns from the exact one-step hypergradient
    :math:`\partial L'/\partial\alpha = -g'\cdot(u_{adam} - u_{sgd})`; see :class:`Gate`.

    All tensors are updated by one native pass over memory. When ``momentum == betas[0]`` and
    `dampening` is 0, :math:`b = m/(1-\beta_1)` holds exactly, no third buffer is kept, and the
    blend moves as many bytes as Adam (28 a parameter in float32, otherwise 36).

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or dictionaries of parameter groups.
    lr : float or Tensor
        Learning rate of the Adam part. Schedulers drive it, and with it `sgd_lr`.
    sgd_lr : float
        Learning rate of the SGD part. Kept as the ratio ``sgd_lr / lr`` (group entry
        ``sgd_lr_ratio``); setting ``group["sgd_lr"]`` later renews the ratio.
    betas : (float, float)
        Decay rates of the two moments, in [0, 1).
    eps : float
        Added to the root of the second moment.
    momentum, dampening, nesterov
        As in ``torch.optim.SGD``.
    weight_decay : float
        L2 penalty added to the gradient, or, with `decoupled_weight_decay`, a shrinking by
        ``1 - weight_decay * (alpha * lr + (1 - alpha) * sgd_lr)``.
    decoupled_weight_decay : bool
        See `weight_decay`.
    alpha : float, Tensor or callable, optional
        Share of Adam in [0, 1]: a constant, a tensor of one number, or a function of the step
        count. None leaves it to the gate.
    gate : Gate, optional
        How the gate looks and learns; None means ``Gate()``. Not together with `alpha`.
    per_tensor : bool
        One alpha for each tensor instead of one for each parameter group.
    maximize : bool
        Ascend instead of descend.
    foreach : bool, optional
        True uses torch's multi-tensor operations instead of the native kernel (`alpha` must be
        given).
    fused : bool, optional
        True insists on the native kernel, False uses plain torch tensor by tensor; None takes the
        native kernel where there is one.
    capturable : bool
        Asks for a step that a CUDA graph can capture. The native step on CUDA always can be; on the
        CPU there is nothing to capture and True is refused.
    differentiable : bool
        Let autograd run through the step (plain torch; `alpha` must be given).

    Raises
    ------
    ValueError, TypeError
        For values out of range and for arguments that exclude each other.
    RuntimeError
        In :meth:`step`, for sparse gradients; parameters and state are untouched then.

    Examples
    --------
    >>> import torch
    >>> from unstuck.optim import DynamicBlend
    >>> model = torch.nn.Linear(8, 1)
    >>> optimizer = DynamicBlend(model.parameters(), lr=1e-3, sgd_lr=1e-2)
    >>> x, y = torch.randn(64, 8), torch.randn(64, 1)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     loss = torch.nn.functional.mse_loss(model(x), y)
    ...     loss.backward()
    ...     optimizer.record_loss(loss)
    ...     _ = optimizer.step()
    >>> 0 < float(optimizer.alpha[0]) < 1
    True

    Notes
    -----
    The blend and its meta-learned gate follow the "dynamic optimizer" experiments on mnist1d, whose
    gate reads the flattened gradient (``Gate(features="gradient")``). The hypergradient is that of
    hypergradient descent (Baydin et al., 2018), taken with respect to the blend.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        sgd_lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.9,
        dampening: float = 0,
        nesterov: bool = False,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        alpha: float | Tensor | Callable[[int], float] | None = None,
        gate: Gate | None = None,
        per_tensor: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        if foreach and fused:
            raise ValueError("foreach and fused cannot both be True; choose one")
        if differentiable and (fused or foreach):
            raise ValueError("differentiable=True needs plain torch: leave fused and foreach unset")
        if capturable and foreach:
            raise ValueError("capturable=True needs the native step: leave foreach unset")
        self._schedules: dict[int, Callable[[int], float]] = {}
        defaults = dict(
            lr=lr,
            sgd_lr=sgd_lr,
            betas=betas,
            eps=eps,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            alpha=alpha,
            gate=gate,
            per_tensor=per_tensor,
            maximize=maximize,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
            differentiable=differentiable,
        )
        self._forget()
        super().__init__(params, defaults)
        self._step_supports_amp_scaling = not foreach

    # ------------------------------------------------------------ groups and state
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; see ``torch.optim.Optimizer``.

        A group's `alpha` puts the optimizer's `gate` aside, and the other way round.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        param_group = dict(param_group)
        for mine, other in (("alpha", "gate"), ("gate", "alpha")):
            if param_group.get(mine) is not None:
                param_group.setdefault(other, None)
        blend_state.check_group({**self.defaults, **param_group}, self.defaults)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        schedule = group["alpha"]
        try:
            blend_state.complete_group(group)
        except Exception:
            self.param_groups.pop()
            raise
        if callable(schedule):
            self._schedules[len(self.param_groups) - 1] = schedule
        self._forget()

    def _forget(self) -> None:
        """Drop everything that is derived from groups and state."""
        self._plan: blend.Plan | None = None
        self._plan_modes: list[tuple[bool, bool]] = []
        self._plan_params: list[Tensor] = []
        self._plan_groups: set[int] = set()
        self._plan_device = torch.device("cpu")
        self._sums: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_schedules": self._schedules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        defaults = {**self.__dict__, **state}["defaults"]
        for group in state["param_groups"]:
            blend_state.adopt_group(group, defaults)
        self._forget()
        self.__dict__.setdefault("_schedules", {})
        super().__setstate__(state)
        self._step_supports_amp_scaling = not self.defaults["foreach"]

    # ------------------------------------------------------------ the gate, seen from outside
    @property
    def alpha(self) -> list[Tensor]:
        """Share of Adam in the next step: one tensor a group, of shape (units,)."""
        return [
            torch.as_tensor(self._given_alpha(index)).detach().clone().reshape(1)
            if group["gate_state"] is None
            else self._records(group)[:, Unit.ALPHA].clone()
            for index, group in enumerate(self.param_groups)
        ]

    def _given_alpha(self, index: int) -> float | Tensor:
        """Return the alpha of a group without a gate, asking its schedule if it has one."""
        group = self.param_groups[index]
        if (schedule := self._schedules.get(index)) is None:
            return cast("float | Tensor", group["alpha"])
        value = float(schedule(group["schedule_step"]))
        if not 0 <= value <= 1:
            raise ValueError(
                f"the schedule of alpha returned {value} for step {group['schedule_step']}; "
                "it must be in [0, 1]"
            )
        return value

    @property
    def hypergradient(self) -> list[Tensor | None]:
        """Last dL'/dalpha: one tensor a group, of shape (units,), or None without a gate."""
        return [
            None if group["gate_state"] is None else self._records(group)[:, Unit.HYPERGRAD].clone()
            for group in self.param_groups
        ]

    @staticmethod
    def _records(group: dict[str, Any]) -> Tensor:
        return gate_ops.units_of(group["gate_state"], blend_state.hidden_of(group))

    def record_loss(self, loss: Tensor | float) -> None:
        """Tell the gate the loss of this batch, for its loss-trend feature (no host sync).

        A closure's loss is recorded by :meth:`step` itself.
        """
        for group in self.param_groups:
            if group["gate_state"] is not None:
                value = loss.detach() if isinstance(loss, Tensor) else float(loss)
                group["gate_state"][Header.LOSS] = value

    # ------------------------------------------------------------ steps
    def _hear(self, loss: Any) -> None:
        if isinstance(loss, (Tensor, float, int)):
            self.record_loss(loss)

    def _step(self) -> None:
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        plain = torch.compiler.is_compiling() or self._wants_plain_torch()
        plan = self._plan
        ready = not plain and plan is not None and plan.ready(self.param_groups, self.state)
        if found_inf is not None:
            on_host = found_inf.device.type == "cpu" or bool(self._schedules)
            if (on_host or not (ready or plain)) and bool(found_inf):
                return  # an overflow: nothing is even created (a ready plan asks the device alone)
        if plain:
            slow_step.step(self, grad_scale, found_inf)
            return
        rows = None if ready else slow_step.collect(self)  # raises before anything has changed
        modes = [blend_state.resolve_mode(self, group) for group in self.param_groups]
        if not ready or modes != self._plan_modes:
            plan = blend_plan.build(self, slow_step.collect(self) if rows is None else rows, modes)
        if plan is None:
            slow_step.step(self, grad_scale, found_inf)
            return
        active = self._plan_groups
        gated = blend_state.gradient_gated(self, active)
        for group in gated:
            gradient_gate.decide(group, grad_scale, found_inf)
        groups = [self._settings(i, active=i in active) for i in range(len(modes))]
        if self._schedules and not plan.ready(self.param_groups, self.state):
            raise RuntimeError("a schedule of alpha has changed a parameter, gradient or state")
        if active:
            device = self._plan_device
            scale, inf = (layout.scalar_on(x, device) for x in (grad_scale, found_inf))
            blend.run(plan, device, groups, scale, inf)
            plans.hold(self, device, plan)
            torch.autograd.graph.increment_version(self._plan_params)
        self._advance(active)
        for group in gated:
            gradient_gate.learn(group, found_inf)

    def _wants_plain_torch(self) -> bool:
        d = self.defaults
        return bool(d["differentiable"] or d["foreach"] or d["fused"] is False)

    def _advance(self, active: set[int]) -> None:
        """Count a step of every group that has made one and has a schedule."""
        for index in active:
            if index in self._schedules:
                self.param_groups[index]["schedule_step"] += 1

    def _settings(self, index: int, *, active: bool = True) -> blend.Group:
        """Return what the kernels need to know of one group now.

        A group without any gradient makes no step: its gate is left out.
        """
        group = self.param_groups[index]
        if not active:
            return blend_state.settings({**group, "gate_state": None, "alpha": 0.0}, None)
        if index in self._schedules:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "a schedule of alpha is a new number, and so a new compilation, at every step; "
                    "pass alpha=torch.tensor(...) and fill_() it between the compiled steps"
                )
            group["alpha"] = self._given_alpha(index)
        sums = None
        if group["gate_state"] is not None:
            sums = self._sums.get(index)
            units = len(self._records(group))
            device = group["gate_state"].device
            if sums is None or sums.device != device or sums.numel() != units * gate_ops.SUMS:
                sums = torch.zeros(units * gate_ops.SUMS, dtype=torch.float64, device=device)
                self._sums[index] = sums
        return blend_state.settings(group, sums)

    def meta_step(self, grads: list[Tensor | None] | None = None) -> None:
        """Let the gate learn from the gradient of a second batch (``Gate(mode="held-out")``).

        Call it after :meth:`step`, with the gradients taken at the parameters as they are now.

        Parameters
        ----------
        grads : list of Tensor, optional
            One gradient a parameter, in the order of the parameter groups; None takes each
            parameter's ``.grad``. Parameters whose entry is None are left out.

        Raises
        ------
        ValueError
            When no gate is in held-out mode, or a gradient does not fit its parameter.
        """
        modes = [g["gate"] and g["gate"]["mode"] for g in self.param_groups]
        if "held-out" not in modes:
            raise ValueError(
                "meta_step() needs a gate in held-out mode: pass gate=Gate(mode='held-out')"
            )
        with torch.no_grad():
            slow_step.meta_step(self, grads)
