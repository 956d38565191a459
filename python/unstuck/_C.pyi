"""unstuck's kernels on the CPU."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

__version__: str

class BlendPlan:
    """The tensors of a blend step, checked once and watched between steps."""

    def __init__(
        self,
        params: Sequence[Tensor],
        exp_avgs: Sequence[Tensor],
        exp_avg_sqs: Sequence[Tensor],
        momentum_buffers: Sequence[Tensor | None],
        directions: Sequence[Tensor | None],
        steps: Sequence[Tensor],
        groups: Sequence[int],
        units: Sequence[int],
        had_previous: Sequence[bool],
    ) -> None: ...
    def __len__(self) -> int: ...
    def hypergradient(self, groups: Sequence[tuple[Any, ...]], finish: bool, where: int) -> None:
        """Sums of another batch's gradients against the last update."""

    def launches(self) -> int:
        """Parallel regions or kernel launches that a step makes."""

    def ready(self, param_groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> bool:
        """Whether the plan still describes the optimizer; reads the gradients."""

    def set_gradients(self, grads: Sequence[Tensor]) -> None:
        """Take these gradients; ValueError names the one that does not fit."""

    def set_workspace(self, workspace: Tensor) -> None:
        """Lend zeroed scratch memory on the device, once."""

    def step(
        self,
        groups: Sequence[tuple[Any, ...]],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        finish: bool,
        where: int,
    ) -> None:
        """One step; `where` is threads or the stream."""

    def watch(self, param_groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> None:
        """Remember the optimizer that the tensors came from, for ready()."""

    def workspace_size(self) -> int:
        """float64 numbers that set_workspace() needs."""

def gate_layout() -> dict[str, int]:
    """Sizes of the gate's vector; unstuck.ops.gate holds the same layout."""

def gate_size(hidden: int, units: int) -> int:
    """The length of the gate's vector."""

def init(torch: ModuleType, dlpack: bool = True, handles: bool = True) -> bool:
    """Bind to the imported torch; True when tensors are read through the DLPack exchange API."""

def instruction_set() -> str:
    """The clone that the loader chose."""
