"""What the stubs of both native modules share; a stub without a module."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

Row = tuple[Any, ...]

class _Plan:
    """What the plans of optimizer steps share."""

    def __len__(self) -> int: ...
    def launches(self) -> int:
        """Parallel regions or kernel launches that a step makes."""

    def ready(self, param_groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> bool:
        """Whether the plan still describes the optimizer; reads the gradients."""

    def set_gradients(self, grads: Sequence[Tensor]) -> None:
        """Take these gradients; ValueError names the one that does not fit."""

    def set_workspace(self, workspace: Tensor) -> None:
        """Lend zeroed scratch memory on the device, once."""

    def watch(self, param_groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> None:
        """Remember the optimizer that the tensors came from, for ready()."""

    def workspace_size(self) -> int:
        """float64 numbers that set_workspace() needs."""

class _RulePlan(_Plan):
    """What plans of the MLP rule's steps share."""

    def step(
        self,
        groups: Sequence[Row],
        thetas: Tensor,
        hidden: int,
        control: int,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        where: int,
    ) -> None:
        """One step; `where` is threads or the stream."""
