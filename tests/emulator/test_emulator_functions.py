"""Device functions and the runtime API, against Python and the CUDA manuals."""

from __future__ import annotations

import math
import random
from types import ModuleType

import numpy as np
import pytest

from .support import FULL, address, wrapped

# ---------------------------------------------------------------- functions


@pytest.mark.parametrize("seed", range(6))
def test_integer_functions(kernels: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    x, y = (rng.getrandbits(64) >> rng.randrange(64) for _ in range(2))
    if seed == 0:
        x = 0
    a, b = x & FULL, y & FULL
    signed = wrapped(a, "int32") * wrapped(b, "int32") >> 32
    assert kernels.integer_functions(x, y) == [
        a.bit_count(),
        x.bit_count(),
        32 - a.bit_length(),
        64 - x.bit_length(),
        (a & -a).bit_length(),
        (x & -x).bit_length(),
        int(f"{a:032b}"[::-1], 2),
        a * b >> 32,
        signed % (1 << 32),
        x * y >> 64,
    ]


@pytest.mark.parametrize(("x", "y", "z"), [(0.7, 3.25, -1.5), (2.0, -0.3, 1e-3), (31.0, 0.5, 4.0)])
def test_float_functions(kernels: ModuleType, x: float, y: float, z: float) -> None:
    x, y, z = (float(np.float32(value)) for value in (x, y, z))
    expected = [
        *(x * y + z, x * y + z, x + y, x - y, x * y, x / y, x / y, 1 / x),
        *(math.sqrt(x), 1 / math.sqrt(x), 1 / math.sqrt(x)),
        *(math.exp(x), math.log(x), math.log2(x), x**y, math.sin(x), math.cos(x)),
        *(min(max(x, 0), 1), x, y, z, int(np.float32(x).view(np.uint32)), math.sqrt(x)),
    ]
    assert kernels.float_functions(x, y, z) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_fused_multiply_add_rounds_once(kernels: ModuleType) -> None:
    x = float(np.float32(1 + 2**-12))
    rounded_twice = float(np.float32(x * x)) - 1
    assert kernels.float_functions(x, x, -1.0)[0] == float(np.float32(x * x - 1)) != rounded_twice


def test_min_and_max(kernels: ModuleType) -> None:
    assert kernels.min_max(1.5, -2.0, 3, 9) == [-2.0, 1.5, -2.0, 3, 3, 7]
    assert kernels.min_max(math.nan, 4.0, -3, 9) == [4.0, 4.0, 4.0, 3, 9, 7]


def test_vector_loads_and_stores(kernels: ModuleType, order: str) -> None:
    data = np.arange(412, dtype=np.float32)
    start = -data.ctypes.data % 16 // 4
    values = data[start : start + 400]
    out = np.zeros(412, np.float32)
    out = out[-out.ctypes.data % 16 // 4 :][:400]
    kernels.copy_float4(address(values), address(out), 0, 100)
    np.testing.assert_array_equal(out.reshape(-1, 4), values.reshape(-1, 4)[:, ::-1])
    with pytest.raises(RuntimeError, match=r"__ldcs in thread .*: address is not aligned to 16"):
        kernels.copy_float4(address(values), address(out), 1, 99)


def test_vector_types_are_laid_out_as_in_cuda(kernels: ModuleType) -> None:
    assert kernels.alignments() == [8, 4, 16, 16, 16, 8, 16, 8, 4, 12]


def test_constant_memory(kernels: ModuleType) -> None:
    assert kernels.constants(3.0, 4.0) == 34.0


# ---------------------------------------------------------------- the runtime API

SUCCESS, INVALID_VALUE, INVALID_CONFIGURATION, NO_DEVICE, INVALID_DEVICE = 0, 1, 9, 100, 101


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "error"),
    [
        ((1, 1, 1), (1, 1, 1), 0, SUCCESS),
        ((2, 3, 4), (1024, 1, 1), 48 * 1024, SUCCESS),
        ((1, 1, 1), (4, 4, 64), 0, SUCCESS),
        ((1, 1, 1), (0, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 0, 1), (1, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (1025, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (512, 3, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (1, 1, 65), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (65536, 65536, 1), 0, INVALID_CONFIGURATION),
        ((1 << 31, 1, 1), (1, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 65536, 1), (1, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 65536), (1, 1, 1), 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (1, 1, 1), 48 * 1024 + 1, INVALID_VALUE),
    ],
)
def test_launch_limits(
    kernels: ModuleType,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    shared_bytes: int,
    error: int,
) -> None:
    assert kernels.launch(grid, block, shared_bytes, True) == error
    assert kernels.last() == SUCCESS


def test_an_error_stays_until_it_is_asked_for(kernels: ModuleType) -> None:
    assert kernels.launch([1, 1, 1], [2000, 1, 1], 0, False) == INVALID_CONFIGURATION
    assert kernels.launch([1, 1, 1], [1, 1, 1], 0, False) == INVALID_CONFIGURATION
    assert kernels.peek() == INVALID_CONFIGURATION
    assert kernels.last() == INVALID_CONFIGURATION
    assert kernels.peek() == kernels.last() == SUCCESS
    assert kernels.error_string(SUCCESS) == "no error"
    assert kernels.error_string(INVALID_CONFIGURATION) == "invalid configuration argument"
    assert kernels.error_string(12345) == "unrecognized error code"


def test_more_shared_memory_must_be_asked_for(kernels: ModuleType) -> None:
    try:
        assert kernels.opted_in_launch(100_000) == INVALID_VALUE
        assert kernels.allow_shared_bytes(227 * 1024 + 1) == INVALID_VALUE
        assert kernels.last() == INVALID_VALUE
        assert kernels.allow_shared_bytes(227 * 1024) == SUCCESS
        assert kernels.opted_in_launch(227 * 1024) == SUCCESS
        assert kernels.opted_in_launch(227 * 1024 + 1) == INVALID_VALUE
    finally:
        kernels.allow_shared_bytes(48 * 1024)


def test_static_and_dynamic_shared_memory_count_together(kernels: ModuleType) -> None:
    assert kernels.static_and_dynamic(16 * 1024) == SUCCESS
    with pytest.raises(RuntimeError, match="at least 49153 bytes of shared memory, 16385 of them"):
        kernels.static_and_dynamic(16 * 1024 + 1)


def test_large_parameters_are_each_threads_own(kernels: ModuleType, order: str) -> None:
    out = np.zeros(64, np.int32)
    assert kernels.big_parameter(address(out)) == SUCCESS
    assert out.tolist() == [105 + i + 105 for i in range(64)]


def test_devices(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.device(0) == [SUCCESS, 1, SUCCESS, SUCCESS, 0]
    assert kernels.device(1) == [SUCCESS, 1, INVALID_DEVICE, SUCCESS, 0]
    monkeypatch.setenv("CUDA_EMULATOR_DEVICES", "2")
    assert kernels.device(1) == [SUCCESS, 2, SUCCESS, SUCCESS, 1]
    assert kernels.device(0) == [SUCCESS, 2, SUCCESS, SUCCESS, 0]
    monkeypatch.setenv("CUDA_EMULATOR_DEVICES", "0")
    assert kernels.device(0) == [NO_DEVICE, 0, NO_DEVICE, NO_DEVICE, -1]
    assert kernels.launch([1, 1, 1], [1, 1, 1], 0, True) == NO_DEVICE
    monkeypatch.setenv("CUDA_EMULATOR_DEVICES", "-35")  # the driver is too old
    assert kernels.device(0) == [35, 0, 35, 35, -1]
    assert kernels.attribute(1, 0) == -35
    assert kernels.launch([1, 1, 1], [1, 1, 1], 0, True) == 35


def test_device_attributes(kernels: ModuleType) -> None:
    known = {1: 1024, 8: 49152, 10: 32, 39: 2048, 75: 9, 97: 232448}
    assert {key: kernels.attribute(key, 0) for key in known} == known
    assert kernels.attribute(16, 0) > 0
    assert kernels.attribute(9999, 0) == -INVALID_VALUE
    assert kernels.attribute(1, 3) == -INVALID_DEVICE


@pytest.mark.parametrize(
    ("threads", "shared_bytes", "blocks"),
    [(32, 0, 32), (256, 0, 8), (1024, 0, 2), (256, 40_000, 5), (2048, 0, 0), (32, 60_000, 0)],
)
def test_occupancy(kernels: ModuleType, threads: int, shared_bytes: int, blocks: int) -> None:
    assert kernels.occupancy(threads, shared_bytes) == blocks


def test_copies_and_fills(kernels: ModuleType) -> None:
    assert kernels.copies(5) == [0, 1, 2, 3, 4] + [0x01010101] * 5
