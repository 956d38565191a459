"""Kernels that are wrong, and who finds that: the emulator or a sanitizer."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from .build import build_module, sanitizer_environment
from .support import INCLUDE, KERNELS, address, in_new_process

# ---------------------------------------------------------------- kernels that are wrong

SMALL = [KERNELS / name for name in ("block.cu", "faults.cu", "bind_small.cpp")]

PLACE = r"block \([01], 0, [012]\)"
FAULTS = {
    "early_return": (
        rf"deadlock or divergent barrier in {PLACE} of 64 threads:\n"
        r"  3 threads returned, the first is \(0, 0, 0\)\n"
        r"  61 threads at __syncthreads \(.*faults.cu:\d+\), the first is \(3, 0, 0\)"
    ),
    "two_barriers": (
        rf"divergent barrier in {PLACE}.*\n"
        r"  32 threads at __syncthreads \(.*faults.cu:\d+\), the first is \(0, 0, 0\)\n"
        r"  32 threads at __syncthreads \(.*faults.cu:\d+\), the first is \(32, 0, 0\)"
    ),
    "absent_lane": (
        r"31 threads at __shfl_down_sync \(.*faults.cu:\d+, mask 0xffffffff\).*\n"
        r"  33 threads at __syncthreads \(.*\), the first is \(7, 0, 0\)"
    ),
    "two_masks": (
        r"  32 threads at __shfl_xor_sync \(.*, mask 0xffffffff\), the first is \(0, 0, 0\)\n"
        r"  32 threads at __syncthreads \(.*\), the first is \(16, 0, 0\)"
    ),
    "foreign_mask": (
        rf"__shfl_sync at .*faults.cu:\d+ in thread \(\d+, 0, 0\) of {PLACE}: "
        r"mask 0xffff does not name the calling lane (1[6-9]|2\d|3[01])$"
    ),
    "empty_mask": r"__any_sync at .*faults.cu:\d+ in thread .*: the mask is 0",
    "odd_width": r"__shfl_sync at .* in thread .*: width 12 is not a power of two up to 32",
    "dynamic_overrun": rf"{PLACE} wrote past its 64 bytes of dynamic shared memory",
    "spins": r"in thread .*: threads spin and nothing changes",
    "traps": rf"__trap in thread \(9, 0, 0\) of {PLACE}: called",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_kernel_is_reported_with_its_place(
    kernels: ModuleType, order: str, name: str
) -> None:
    out = np.zeros(64, np.int32)
    with pytest.raises(RuntimeError, match=FAULTS[name]) as caught:
        kernels.fault(name, address(out))
    assert str(caught.value).startswith(f"cuda emulator: kernel kernel, order {order}: ")
    assert kernels.launch([2, 1, 1], [64, 1, 1], 0, True) == 0  # and the next one runs


def test_an_exception_reaches_the_launch_and_unwinds_every_thread(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for order, started in (("forward", 6), ("reverse", 64 - 5)):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", order)
        with pytest.raises(IndexError, match=r"^thread five$"):
            kernels.fault("throws", 0)
        # Warps go one at a time: in reverse, the lanes of the upper one and of the lower one
        # down to thread 5 have started.
        assert kernels.destructors_run() == started


def test_a_guard_page_lies_below_every_stack(kernels: ModuleType) -> None:
    done = in_new_process(Path(kernels.__file__), "m.fault('deep_stack', address)")
    assert done.returncode == -11  # a segmentation fault, not a wrong answer


# ---------------------------------------------------------------- sanitizers


@pytest.fixture(scope="module")
def sanitized() -> Path:
    return build_module("emulator_small", SMALL, INCLUDE, sanitize=True)


# Right kernels, and threads that are ended in the middle, several times over.
EXERCISE = """
values = np.ones(1000)
for _ in range(3):
    m.block_sum(values.ctypes.data, address, 1000, 2, 96)
    assert (out[0] + out[2], out[1]) == (1000, 96)
    for name in ("throws", "early_return", "foreign_mask", "two_masks"):
        try:
            m.fault(name, address)
        except RuntimeError:
            pass
        else:
            raise AssertionError(name)
print("all right")
"""


def test_sanitizers_accept_right_kernels_and_exceptions(sanitized: Path) -> None:
    done = in_new_process(sanitized, EXERCISE, sanitizer_environment())
    assert (done.stdout, done.stderr) == ("all right\n", "")


def test_the_portable_switch_between_fibers() -> None:
    module = build_module("emulator_small", SMALL, INCLUDE, {"CUDA_EMULATOR_UCONTEXT": "1"})
    done = in_new_process(module, EXERCISE)
    assert (done.stdout, done.stderr) == ("all right\n", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("static_overrun", "global-buffer-overflow"),
        ("dynamic_overrun", "heap-buffer-overflow"),
        ("deep_stack", "stack-overflow"),
        ("misaligned_vector", "misaligned address"),
    ],
)
def test_sanitizers_find(sanitized: Path, name: str, message: str) -> None:
    done = in_new_process(sanitized, f"m.fault({name!r}, address)", sanitizer_environment())
    assert done.returncode != 0
    assert message in done.stderr
    assert "faults.cu" in done.stderr
