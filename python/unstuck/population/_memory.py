"""How much memory one evaluation takes, and how many of them fit."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CACHED = 16 << 20  # bytes of candidates and activations together: they stay in the cache
SHARED = 32 << 20  # with gradients and where products are shared
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of sums in another order; 5e-2 below


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures the most bytes that results of operations held at once, and their precision.

    Saved tensors of a graph are among them while it lives. Work space within operations is not.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self._now = 0
        self.tolerance = TOLERANCE[torch.float64]
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note what an operation returns."""
        before = {x._cdata for x in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.is_floating_point():
                self.tolerance = max(self.tolerance, TOLERANCE.get(x.dtype, 5e-2))
        for storage in _storages(result):
            if storage._cdata not in before and storage._cdata not in self._alive:
                self._note(storage)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            self._now -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, gone)
        self._now += size
        self.bytes = max(self.bytes, self._now)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    tensors = [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
    return [x.untyped_storage() for x in tensors if x.layout == torch.strided]


def budget(device: torch.device, shared: bool) -> int:
    """Return the bytes that evaluations may take where the user says nothing.

    On the CPU candidates are to stay in the cache, on a GPU it is a quarter of what is free.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 4
    return SHARED if shared else CACHED
