"""The compiled modules that every kernel test runs on: the CPU's, CUDA's emulated, CUDA's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unstuck.ops import _native

from ..emulator.build import build_module, load_module

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = [CSRC / "bind_cuda.cpp", *sorted((CSRC / "cuda").glob("*.cu"))]
SOURCES += sorted((CSRC / "core").glob("*.cpp"))


def emulated(parameter_bytes: int) -> ModuleType:
    """Return unstuck._cuda compiled for the CPU, with this many bytes of kernel arguments."""
    defines = {"UNSTUCK_EMULATED": "1", "UNSTUCK_VERSION": '"emulated"'}
    defines["UNSTUCK_KERNEL_PARAMETERS"] = str(parameter_bytes)
    path = build_module("_cuda_emulated", SOURCES, [CSRC], defines)
    module = load_module(path, "_cuda_emulated")
    module.init(torch)
    return module


@dataclass
class Backend:
    """One compiled module, in place of the one that the package would take for `device`."""

    module: ModuleType
    device: torch.device
    is_cuda_code: bool


NAMES = ["cpu", "emulated", "emulated-4k", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Run the test on every backend there is."""
    if request.param == "cuda":
        if not torch.cuda.is_available() or _native.cuda is None:
            pytest.skip("needs a CUDA device and a CUDA build")
        return Backend(_native.cuda, torch.device("cuda", torch.cuda.current_device()), True)
    if request.param == "cpu":
        if _native.cpu is None:
            pytest.skip(f"no CPU module: {_native.cpu_missing}")
        return Backend(_native.cpu, torch.device("cpu"), False)
    module = emulated(4096 if request.param.endswith("4k") else 32764)
    monkeypatch.setattr(_native, "cpu", module)
    return Backend(module, torch.device("cpu"), True)
