"""The build report: what was built, what runs, and the remedy where something is missing."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

import unstuck
from unstuck.ops import _native

_REINSTALL = "pip install --force-reinstall --no-deps ."  # in the folder of the sources
_NO_DRIVER, _NO_DEVICE = 35, 100  # cudaErrorInsufficientDriver, cudaErrorNoDevice


class _Section(NamedTuple):
    """One kind of tensors: what runs for them, what is known about it, and how to mend it."""

    title: str
    facts: list[tuple[str, str]]
    remedies: list[str]


def report() -> str:
    """Describe this installation, in lines for a reader.

    Returns
    -------
    str
        The versions; for tensors on the CPU and on CUDA devices what was built for them, which
        backend runs, and the remedy where something is missing.

    Examples
    --------
    >>> print(report())  # doctest: +ELLIPSIS
    unstuck ...
    """
    lines = [
        f"unstuck {unstuck.__version__} in {Path(unstuck.__file__).parent}",
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.system()} {platform.machine()}",
    ]
    for title, facts, remedies in (_cpu(), _cuda()):
        width = max((len(name) for name, _ in facts), default=0)
        lines += ["", title, *(f"  {name:{width}}  {text}" for name, text in facts)]
        lines += [f"  remedy: {remedy}" for remedy in remedies]
    return "\n".join(lines)


def _build_info() -> ModuleType | None:
    try:
        from unstuck import _build_info
    except ImportError:  # a source tree that was never installed
        return None
    return _build_info


def _cpu() -> _Section:
    info, module = _build_info(), _native.cpu
    if module is None:
        remedy = _load_remedy(_native.cpu_missing, f"install a C++17 compiler, then {_REINSTALL}")
        return _Section(
            "CPU tensors: plain torch operations, since the CPU module is missing",
            [("module", f"none ({_native.cpu_missing})")],
            [remedy],
        )
    facts, remedies, threads = [], _version_remedy(module), torch.get_num_threads()
    if info is not None:
        openmp = "OpenMP" if info.openmp else "no OpenMP"
        sanitized = ", with AddressSanitizer and UBSan (slow)" if info.sanitized else ""
        facts.append(("module", f"built with {info.cxx}, {openmp}{sanitized}"))
        if not info.openmp:
            threads = 1
            remedies.append(
                f"install the compiler's OpenMP library (libomp-dev for clang), then {_REINSTALL}"
            )
    facts.append(("instruction set", module.instruction_set()))
    facts.append(("threads", str(threads)))
    if "_C" in _native.direct:
        facts.append(("tensors", "read through the DLPack exchange API"))
    else:
        facts.append(("tensors", "read through Python calls, which is slower"))
        remedies.append("install torch 2.10 or newer: pip install --upgrade torch")
    return _Section("CPU tensors: native kernels", facts, remedies)


def _cuda() -> _Section:
    info, module, driver = _build_info(), _native.cuda, _driver_version()
    facts, remedies = [], []
    if module is None:
        backend = "plain torch operations, since the CUDA module is missing"
        facts.append(("module", f"none ({_native.cuda_missing})"))
        remedies.append(
            _load_remedy(
                _native.cuda_missing,
                "to run on a GPU, put nvcc (CUDA toolkit 11.8 or newer) on PATH or name it with "
                f"CUDACXX=/path/to/nvcc, then UNSTUCK_CUDA=ON {_REINSTALL}",
            )
        )
    else:
        nvcc = info.nvcc if info is not None else "unknown"
        built_for = info.cuda_architectures if info is not None else ""
        facts.append(("module", f"built with nvcc {nvcc}"))
        facts.append(("architectures", built_for))
        code, text, count = module.device_status()
        facts.append(("devices", str(count) if code == 0 else f"none ({text})"))
        backend, remedy = _device_verdict(code, text, driver, nvcc)
        remedies += _version_remedy(module)
        remedies += [remedy] if remedy else []
        uncovered = _uncovered(built_for)
        if uncovered:
            backend = "not every GPU that is here can run the kernels of this build"
            remedies.append(
                f'rebuild for all of them: CUDAARCHS="{uncovered}" UNSTUCK_CUDA=ON {_REINSTALL}'
            )
    facts.append(("driver", f"supports CUDA {driver}" if driver else "none (no libcuda.so.1)"))
    if torch.version.hip is not None:
        backend = "plain torch operations, since this torch is for ROCm and our kernels for CUDA"
    elif torch.version.cuda is None:
        backend = "there are none, since this torch was built without CUDA"
        if driver:
            remedies.append("install a torch that is built for CUDA, see pytorch.org")
    return _Section(f"CUDA tensors: {backend}", facts, remedies)


def _device_verdict(code: int, text: str, driver: str, nvcc: str) -> tuple[str, str]:
    """What the CUDA runtime's answer means for our kernels, and the remedy."""
    if code == 0:
        return "native kernels", ""
    if code == _NO_DRIVER and driver:
        return (
            f"unusable, since the driver is older than CUDA {nvcc}, which the module needs",
            f"update the NVIDIA driver, or put an nvcc of CUDA {driver} or older on PATH, "
            f"then UNSTUCK_CUDA=ON {_REINSTALL}",
        )
    if code == _NO_DRIVER:
        return "unusable, since there is no NVIDIA driver", "to run on a GPU, install its driver"
    if code == _NO_DEVICE:
        return (
            "unusable, since the driver sees no GPU",
            "check nvidia-smi, and CUDA_VISIBLE_DEVICES if it is set",
        )
    return f"unusable, since the CUDA runtime says: {text}", "check that nvidia-smi works"


def _uncovered(built_for: str) -> str:
    """The architectures of the GPUs that torch sees, if `built_for` leaves one of them out."""
    if not torch.cuda.is_available():
        return ""
    present = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    if all(_covers(built_for, capability) for capability in present):
        return ""
    return ";".join(f"{major}{minor}" for major, minor in sorted(present))


def _driver_version() -> str:
    """The newest CUDA that the installed driver supports, or "" without a driver."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version = ctypes.c_int()
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return ""
    return "" if failed else f"{version.value // 1000}.{version.value % 1000 // 10}"


def _covers(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether code built for `architectures`, as CMake names them, runs on a device."""
    names = architectures.replace("(", " ").replace(")", " ").split()
    return any(_runs(name, *capability) for name in names)


def _runs(architecture: str, major: int, minor: int) -> bool:
    """Whether one architecture's code runs on a device: binaries within their major, PTX later."""
    number, _, kind = architecture.partition("-")
    digits = number.rstrip("af")
    if not digits.isdigit():  # all-major, native
        return False
    built_major, built_minor = divmod(int(digits), 10)
    exact = (built_major, built_minor) == (major, minor)
    newer = built_major == major and built_minor <= minor
    if number.endswith("a"):  # 90a: for that very device
        return exact
    if number.endswith("f"):  # 100f: for that family
        return newer
    as_ptx = kind != "real" and (built_major, built_minor) <= (major, minor)
    return as_ptx or (kind != "virtual" and newer)


def _load_remedy(reason: str, otherwise: str) -> str:
    """The remedy for a module that is missing for this reason."""
    if "UNSTUCK_NATIVE" in reason:
        return "unset UNSTUCK_NATIVE"
    if "cannot be loaded" in reason:
        return _REINSTALL
    return otherwise


def _version_remedy(module: ModuleType) -> list[str]:
    """The remedy for a module left over from another version, if it is one."""
    if module.__version__ == unstuck.__version__:
        return []
    return [f"{module.__name__} was built for unstuck {module.__version__}: {_REINSTALL}"]
