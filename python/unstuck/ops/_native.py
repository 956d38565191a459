"""Loads the compiled modules and says which of them can run where.

Nothing else in the package imports `unstuck._C` or `unstuck._cuda`.
"""

from __future__ import annotations

import importlib
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch

__all__ = [
    "cpu",
    "cpu_missing",
    "cuda",
    "cuda_missing",
    "direct",
    "lend",
    "module_for",
    "on",
    "warn_fallback",
    "where",
]

direct: set[str] = set()  # the modules that read tensors through the DLPack exchange API


def _load(name: str) -> tuple[ModuleType | None, str]:
    """Return the module and an empty text, or None and the reason."""
    if os.environ.get("UNSTUCK_NATIVE", "1") == "0":
        return None, "switched off by UNSTUCK_NATIVE=0"
    try:
        module = importlib.import_module(f"unstuck.{name}")
    except ModuleNotFoundError:
        return None, "not built"
    except ImportError as error:
        return None, f"built, but it cannot be loaded: {error}"
    if module.init(torch):
        direct.add(name)
    return module, ""


def _load_cuda() -> tuple[ModuleType | None, str]:
    module, reason = _load("_cuda")
    if module is None and reason == "not built":
        try:
            from unstuck import _build_info

            reason = _build_info.why_no_cuda or reason
        except ImportError:
            pass
    return module, reason


cpu, cpu_missing = _load("_C")
cuda, cuda_missing = _load_cuda()
_warned: set[str] = set()


def module_for(device: torch.device) -> ModuleType | None:
    """Return the module whose kernels run on `device`, or None."""
    if device.type == "cpu":
        return cpu
    if device.type == "cuda" and torch.version.hip is None:
        return cuda
    return None


def missing_for(device: torch.device) -> str:
    """Say why `module_for` has nothing for `device`."""
    if device.type == "cpu":
        return f"the CPU module is missing ({cpu_missing})"
    if device.type == "cuda":
        return f"the CUDA module is missing ({cuda_missing})"
    return f"there are no native kernels for {device.type} devices"


def warn_fallback(device: torch.device) -> None:
    """Warn, once a kind of device, that plain torch does the work."""
    if device.type in _warned:
        return
    _warned.add(device.type)
    warnings.warn(
        f"unstuck: {missing_for(device)}; plain torch operations are used instead, with the same "
        "results, but slower. Run `python -m unstuck` for the remedy.",
        RuntimeWarning,
        stacklevel=3,
    )


def where(device: torch.device) -> int:
    """Threads on the CPU, the current stream on CUDA."""
    if device.type == "cpu":
        return torch.get_num_threads()
    return int(torch.cuda.current_stream(device).cuda_stream)


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def lend(plan: Any, device: torch.device) -> Any:
    """Return the plan of a step with the scratch memory that it needs on its device."""
    if size := plan.workspace_size():
        plan.set_workspace(torch.zeros(size, dtype=torch.float64, device=device))
    return plan
