"""Offsets above 2^31 elements, on a machine with little memory.

The first 2^31 elements of each tensor are one small block of zeros, mapped again and again; only
what lies beyond has memory of its own. The kernel walks over all of it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from unstuck.ops import blend, gate, reference

from .cases import gate_for, settings

BEYOND = 2**31
TAIL = 40_003  # several chunks, and an end that fills no vector
BLOCK = 2**24
PRIVATE, SHARED, FIXED, ANONYMOUS, NORESERVE = 0x02, 0x01, 0x10, 0x20, 0x4000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="maps memory as Linux does"),
]


class Arena:
    """Address space in which `repeat` times the same block is followed by memory of its own."""

    def __init__(self, repeated: int, own: int) -> None:
        self.size = repeated + -(-own // BLOCK) * BLOCK
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        sizes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int)
        self.libc.mmap.argtypes = (*sizes, ctypes.c_long)
        self.libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self.start = self._map(None, self.size, PRIVATE | ANONYMOUS | NORESERVE, -1)
        block = os.memfd_create("zeros")
        os.ftruncate(block, BLOCK)
        for at in range(0, repeated, BLOCK):
            self._map(self.start + at, BLOCK, SHARED | FIXED, block)
        os.close(block)

    def _map(self, address: int | None, size: int, flags: int, file: int) -> int:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        found = self.libc.mmap(address, size, access, flags, file, 0)
        if found in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap failed")
        return int(found)

    def tensor(self, dtype: torch.dtype, numel: int) -> Tensor:
        buffer = (ctypes.c_uint8 * (numel * dtype.itemsize)).from_address(self.start)
        return torch.frombuffer(buffer, dtype=dtype)

    def free(self) -> None:
        self.libc.munmap(self.start, self.size)


@pytest.fixture
def arenas() -> Iterator[list[Arena]]:
    made: list[Arena] = []
    yield made
    for arena in made:
        arena.free()


def giant(arenas: list[Arena], tail: Tensor) -> Tensor:
    """Return a tensor of 2^31 zeros and then `tail`."""
    try:
        arenas.append(Arena(BEYOND * tail.element_size(), tail.numel() * tail.element_size()))
    except OSError as error:
        pytest.skip(f"no address space for {BEYOND} elements: {error}")
    x = arenas[-1].tensor(tail.dtype, BEYOND + tail.numel())
    x[BEYOND:].copy_(tail)
    return x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_step_beyond_2_31_elements(native: ModuleType, arenas, dtype: torch.dtype) -> None:
    """Parameters, moments, buffer and sums, beside a small tensor; then a hypergradient."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(TAIL, generator=generator).to(dtype) for _ in range(5)]
    draw[3].square_()
    small = [torch.randn(5, generator=generator).to(dtype).square() for _ in range(5)]
    vector = gate_for([BEYOND + TAIL + 5], 3, generator)
    group = settings(momentum=0.5, gate=vector, hidden=3, units=1, learn=True, meta_lr=0.1)

    def columns(tails: list[Tensor]) -> tuple[list[Tensor], ...]:
        return tuple([x, s.clone()] for x, s in zip(tails, small, strict=True))

    def arguments(tails: list[Tensor]) -> tuple[list, blend.Group]:
        params, grads, exp_avgs, exp_avg_sqs, buffers = columns(tails)
        steps = [torch.tensor(2.0), torch.tensor(2.0)]
        rows = [params, grads, exp_avgs, exp_avg_sqs, buffers, [], steps, [0, 0], [True, True]]
        sums = torch.zeros(gate.SUMS, dtype=torch.float64)
        return rows, group._replace(gate=vector.clone(), sums=sums)

    mine, my_group = arguments([giant(arenas, x) for x in draw])
    theirs, their_group = arguments([x.clone() for x in draw])
    for name in ("step", "hypergradient"):
        getattr(blend, name)(*mine, my_group)
        getattr(reference, f"blend_{name}")(*theirs, their_group)
        tolerance = dict(rtol=1e-2, atol=1e-2) if dtype == torch.bfloat16 else {}
        for big, plain in zip(mine[:5], theirs[:5], strict=True):
            torch.testing.assert_close(big[0][BEYOND:], plain[0], **tolerance)
            torch.testing.assert_close(big[1], plain[1], **tolerance)
        torch.testing.assert_close(my_group.sums, their_group.sums, rtol=2e-3, atol=2e-3)
        assert my_group.sums[0] > TAIL / 2, "the tail's gradient is in the sums"
    block = mine[0][0][: BLOCK // dtype.itemsize]
    assert not block.any(), "zeros that are not decayed stay zeros"
