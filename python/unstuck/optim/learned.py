"""A learned update rule as an optimizer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from unstuck.learned import DEFAULT, UpdateRule, WhitenedMLP, _whitening, load
from unstuck.optim import _learned_groups as groups
from unstuck.optim import _learned_kernels as kernels
from unstuck.optim import _learned_step as steps
from unstuck.optim import _plans as plans
from unstuck.optim._closure import ClosureOptimizer

__all__ = ["Learned"]


class Learned(ClosureOptimizer):
    r"""Steps by a learned update rule.

    With the direction :math:`u` that the rule makes of gradients, parameters and its memory,

    .. math::
        w \leftarrow (1 - 10^{-3}\,\mathrm{lr}\,\lambda)\, w - 10^{-3}\, \mathrm{lr}\, u ,

    where :math:`\lambda` is `weight_decay`. The default rule, ``"whitened-v1"``, takes correlations
    of rows and columns off gradients (:class:`unstuck.learned.WhitenedMLP`) and was meta-trained on
    small classifiers (docs/meta-training.md has the commands). ``"mlp-v1"``, for
    :meth:`from_pretrained`, leaves gradients as they are, which costs less a step. A rule that was
    never trained, such as ``unstuck.learned.MLP()``, makes this ``torch.optim.Adam(lr=1e-3 * lr)``,
    or ``AdamW``.

    The MLP rules step natively, and so does the LSTM rule where parameters are contiguous and
    float32; all else goes through the rule's torch form, with the same result.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or dictionaries of parameter groups.
    rule : UpdateRule, optional
        From :mod:`unstuck.learned`; None means the pretrained ``"whitened-v1"``. The optimizer uses
        it as it is, and does not change it.
    lr : float or Tensor
        Multiplies the rule's step; schedulers drive it. The default rule was trained at 0.1 to 1:
        try 0.1, 0.3 and 1. It learned to warm up and to decay by itself, and needs no schedule.
    weight_decay : float
        Decoupled, as in ``torch.optim.AdamW``, whose rate would be ``1e-3 * lr``.
    num_steps : int, optional
        Steps of the whole run, for rules that look at the progress, as the default one does: the
        last steps, and any beyond, are then short. None where it is not known.
    maximize : bool
        Ascend instead of descend.
    foreach : bool, optional
        True is refused: there is one native step for all tensors.
    fused : bool, optional
        True insists on the native step, False uses the rule's torch form; None takes the native
        step where there is one.
    capturable : bool
        Asks for a step that a CUDA graph can capture. The native step on CUDA can be, but for
        rules that whiten; with these, and on the CPU, where there is nothing to capture, True is
        refused.
    differentiable : bool
        Let autograd run through the step, and into the rule's meta-parameters (torch form).

    Raises
    ------
    ValueError, TypeError
        For values out of range and for arguments that exclude each other.
    RuntimeError
        In :meth:`step`, for sparse gradients; parameters and state are untouched then.

    Examples
    --------
    >>> import torch
    >>> from unstuck.optim import Learned
    >>> model = torch.nn.Linear(8, 1)
    >>> optimizer = Learned(model.parameters(), lr=0.3, num_steps=100)
    >>> loss = model(torch.ones(4, 8)).square().mean()
    >>> loss.backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: UpdateRule | None = None,
        lr: float | Tensor = 1.0,
        *,
        weight_decay: float = 0,
        num_steps: int | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        if rule is not None and not isinstance(rule, UpdateRule):
            raise TypeError(
                f"rule must be an unstuck.learned.UpdateRule or None, not {rule!r}; names and "
                "files are for Learned.from_pretrained()"
            )
        if foreach:
            raise ValueError(
                "foreach=True: there is one native step for all tensors: leave foreach unset"
            )
        if differentiable and fused:
            raise ValueError("differentiable=True needs the torch form: leave fused unset")
        self.rule = load(DEFAULT) if rule is None else rule
        if fused and not kernels.has_kernel(self.rule):
            raise ValueError(
                f"fused=True, but there is no native step for {type(self.rule).__name__} with "
                f"{self.rule.config()}: leave fused unset"
            )
        if capturable and isinstance(self.rule, WhitenedMLP):
            raise ValueError(
                f"capturable=True, but {type(self.rule).__name__} decides on the host when to "
                "renew its roots: use a rule that does not whiten, such as "
                "unstuck.learned.load('mlp-v1')"
            )
        self._plan: plans.Kept | None = None
        self._whitened: list[_whitening.Entry] = []  # of the plan
        self._weights = kernels.Weights(self.rule)
        defaults = dict(
            lr=lr,
            weight_decay=weight_decay,
            num_steps=num_steps,
            maximize=maximize,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
            differentiable=differentiable,
        )
        super().__init__(params, defaults)
        self._step_supports_amp_scaling = True

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        **options: Any,
    ) -> Learned:
        """Return an optimizer whose rule comes with the package or from a file.

        Parameters
        ----------
        name_or_path : str or path
            As for :func:`unstuck.learned.load`. Nothing in a file is executed.
        params, lr, options
            As for the constructor.

        Raises
        ------
        ValueError
            For an unknown name, and for a file that is damaged or holds no rule.
        FileNotFoundError
            When there is no such file.
        """
        return cls(params, load(name_or_path), lr, **options)

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
        self._plan = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule}

    def __setstate__(self, state: dict[str, Any]) -> None:
        defaults = {**self.__dict__, **state}["defaults"]
        for group in state["param_groups"]:
            groups.adopt(group, defaults)
        rule = state.get("rule") or self.rule
        groups.check_memory(rule, state)
        self._plan = None
        self._weights = kernels.Weights(rule)
        super().__setstate__(state)
        self._step_supports_amp_scaling = True

    def _step(self) -> None:
        steps.step(self)
