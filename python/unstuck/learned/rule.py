"""What a learned update rule is: a module whose meta-parameters turn gradients into steps."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unstuck.learned import _file
from unstuck.learned._moments import TensorStep

__all__ = ["State", "TensorStep", "UpdateRule"]

State = dict[str, list[Tensor]]


class UpdateRule(nn.Module, ABC):
    r"""A function of gradients and memory that returns new parameters.

    With meta-parameters :math:`\theta` (the module's parameters), gradient :math:`g_t` and state
    :math:`s_t`,

    .. math::
        (u_t, s_{t+1}) = \mathrm{rule}_\theta(g_t, w_t, s_t), \qquad
        w_{t+1} = w_t - \mathrm{lr}\cdot\mathrm{rate}\cdot u_t .

    A rule is functional: it writes nothing, autograd runs through it, and ``torch.func.vmap`` maps
    it over students and, with ``torch.func.functional_call``, over meta-parameters.

    A class says in :meth:`step_tensor` how one tensor steps, in :meth:`memory` what it keeps beside
    tensors of the parameter's shape, and in :meth:`between` what tensors tell each other. It has a
    `name` and keyword arguments of plain numbers, texts and lists, which it hands to
    this class's constructor; these are what :meth:`save` writes beside the weights.

    Parameters
    ----------
    config
        Those arguments.
    """

    name: ClassVar[str]
    """How files name the class."""
    rate: ClassVar[float] = 1e-3
    """The step of a direction of 1 at ``lr=1``."""
    like: ClassVar[tuple[str, ...]]
    """Names of the state's tensors that have the parameter's shape."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Names of those that have another one."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self._config = config

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, fit for JSON."""
        return dict(self._config)

    # ------------------------------------------------------------ what a class fills in
    @abstractmethod
    def step_tensor(self, at: TensorStep, told: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one tensor's new parameter, ``at.moved(u)``, and its new state by name.

        Parameters
        ----------
        at : TensorStep
            The tensor, its gradient and its state.
        told
            What :meth:`between` has returned for it.
        """

    def memory(self, p: Tensor) -> dict[str, Tensor]:
        """Return a tensor's state of the names :attr:`beside` before the first step."""
        return {}

    def between(self, tensors: Sequence[TensorStep]) -> Sequence[Any]:
        """Return what each tensor is told before it steps, by all together; there is at least one.

        Rules in which every tensor steps for itself leave this as it is: None for each.
        """
        return [None] * len(tensors)

    # ------------------------------------------------------------ what every rule does
    def init_state(self, params: Sequence[Tensor]) -> State:
        """Return the state before the first step.

        Parameters
        ----------
        params : sequence of Tensor
            The parameters, of any shapes.

        Returns
        -------
        dict of str to list of Tensor
            One tensor a parameter under each name: those of :attr:`like` and :attr:`beside` with
            the parameter's dtype, and ``"step"``, a float32 count without dimensions.
        """
        state: State = {key: [torch.zeros_like(p) for p in params] for key in self.like}
        further = [self.memory(p) for p in params]
        state.update({key: [each[key] for each in further] for key in self.beside})
        state["step"] = [p.new_zeros((), dtype=torch.float32) for p in params]
        return state

    def forward(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        state: State,
        *,
        lr: float | Tensor = 1.0,
        num_steps: float | Tensor | None = None,
    ) -> tuple[list[Tensor], State]:
        """Return parameters and state after one step.

        Parameters
        ----------
        params, grads : sequence of Tensor
            Parameters, and gradients of the loss that falls; alike in shape and dtype.
        state : dict of str to list of Tensor
            As from :meth:`init_state` or from the last step.
        lr : float or Tensor
            Multiplies the step.
        num_steps : float or Tensor, optional
            Steps of the whole run, for rules that look at the progress; None where unknown.

        Raises
        ------
        ValueError
            When there are not as many gradients and states as parameters.
        """
        counts = len(params), len(grads), len(state.get("step", ()))
        if len(set(counts)) > 1:
            raise ValueError(
                "{} parameters need as many gradients and states, not {} and {}; "
                "init_state(params) makes a state".format(*counts)
            )
        tensors = [
            TensorStep(
                w,
                g,
                {k: v[i] for k, v in state.items()},
                state["step"][i] + 1,
                num_steps,
                self.rate * lr,
            )
            for i, (w, g) in enumerate(zip(params, grads, strict=True))
        ]
        moved: list[Tensor] = []
        new: State = {key: [] for key in state}
        told = self.between(tensors) if tensors else []
        for at, word in zip(tensors, told, strict=True):
            w, after = self.step_tensor(at, word)
            moved.append(w)
            for key, value in after.items():
                new[key].append(value.to(w.dtype))
            new["step"].append(at.t)
        return moved, new

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write class, configuration and meta-parameters as one safetensors file.

        Raises
        ------
        ValueError
            When the meta-parameters are not all finite.
        """
        tensors = {k: v.detach().cpu() for k, v in self.state_dict().items()}
        for key, value in tensors.items():
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{key} has values that are not finite; such a rule is of no use")
        _file.write(path, tensors, {"rule": self.name, "config": self.config()})
