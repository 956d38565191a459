"""What threads, warps and blocks do, against answers computed in Python."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from .build import ORDERS
from .support import FULL, address, wrapped

# ---------------------------------------------------------------- the warp


def shuffled(kind: str, values: np.ndarray, offsets: np.ndarray, width: int) -> list[Any]:
    """What the CUDA programming guide says of a full warp; None: undefined."""
    result: list[Any] = []
    for i, offset in enumerate(offsets):
        lane, warp = i % 32, i - i % 32
        first = lane - lane % width
        source = {
            "index": first + offset % width,
            "up": lane - offset if lane - offset >= first else lane,
            "down": lane + offset if lane + offset < first + width else lane,
            "xor": lane ^ offset if lane ^ offset < first + width else lane,
        }[kind]
        result.append(values[warp + source] if warp + source < len(values) else None)
    return result


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", "float32", "float64"])
@pytest.mark.parametrize("kind", ["index", "up", "down", "xor"])
def test_shuffle_of_every_kind_type_and_width(
    kernels: ModuleType, order: str, kind: str, dtype: str
) -> None:
    rng = np.random.default_rng(3)
    for width in (1, 2, 4, 8, 16, 32):
        values = (rng.random(96) * 1e9).astype(dtype)
        offsets = rng.integers(0, 32, 96).astype(np.int32)
        out = np.zeros_like(values)
        kernels.shuffle(
            kind, dtype, address(values), address(offsets), address(out), 96, FULL, width
        )
        np.testing.assert_array_equal(out, shuffled(kind, values, offsets, width))


def test_shuffle_among_some_lanes_leaves_the_others_out(kernels: ModuleType, order: str) -> None:
    values = np.arange(32, dtype=np.int32)
    offsets = np.full(32, 2, dtype=np.int32)
    out = np.full(32, -7, dtype=np.int32)
    even = 0x55555555
    kernels.shuffle("xor", "int32", address(values), address(offsets), address(out), 32, even, 32)
    assert out.tolist() == [i ^ 2 if i % 2 == 0 else -7 for i in range(32)]


def test_shuffle_from_a_lane_that_takes_no_part_gives_garbage(
    kernels: ModuleType, order: str
) -> None:
    values, offsets = np.ones(48, np.float32), np.ones(48, np.int32)
    out = np.zeros(48, np.float32)
    args = (address(values), address(offsets), address(out), 48)
    kernels.shuffle("down", "float32", *args, FULL, 32)  # lane 48 does not exist
    assert np.isnan(out).tolist() == [i == 47 for i in range(48)]
    out[:] = 0
    kernels.shuffle("xor", "float32", *args, 0x55555555, 32)  # the odd lanes stay away
    assert np.isnan(out).tolist() == [i % 2 == 0 for i in range(48)]


@pytest.mark.parametrize("threads", [32, 64, 40])
@pytest.mark.parametrize("split", [0xFFFFFFFF, 0x0000FFFF, 0x13579BDF, 0x80000001])
def test_votes_of_two_groups_in_one_warp(
    kernels: ModuleType, order: str, threads: int, split: int
) -> None:
    rng = np.random.default_rng(split)
    for share in (0.0, 0.5, 1.0):
        predicates = (rng.random(threads) < share).astype(np.int32) * 5
        out = np.zeros((threads, 3), np.uint32)
        kernels.vote(address(predicates), address(out), threads, split)
        for i in range(threads):
            warp = range(i - i % 32, min(threads, i - i % 32 + 32))
            group = [j for j in warp if (split >> j % 32 & 1) == (split >> i % 32 & 1)]
            ballot = sum(1 << j % 32 for j in group if predicates[j])
            expected = [
                ballot,
                any(predicates[j] for j in group),
                all(predicates[j] for j in group),
            ]
            assert out[i].tolist() == expected


@pytest.mark.parametrize("first", [0, 1, 13, 32])
def test_active_mask_holds_the_lanes_of_the_branch(
    kernels: ModuleType, order: str, first: int
) -> None:
    out = np.zeros(32, np.uint32)
    kernels.active_lanes(address(out), first)
    assert out.tolist() == [(1 << first) - 1] * first + [0] * (32 - first)


# ---------------------------------------------------------------- the block


@pytest.mark.parametrize(
    ("grid", "block"), [((1, 1, 1), (1, 1, 1)), ((3, 2, 4), (5, 3, 2)), ((2, 1, 1), (4, 8, 32))]
)
def test_every_thread_runs_once_and_knows_where_it_is(
    kernels: ModuleType, order: str, grid: tuple[int, ...], block: tuple[int, ...]
) -> None:
    places = np.array(kernels.indices(grid, block)).reshape(-1, 6)
    sides = [range(n) for n in (*reversed(grid), *reversed(block))]
    expected = [[bx, by, bz, x, y, z] for bz, by, bx, z, y, x in itertools.product(*sides)]
    assert places.tolist() == expected


@pytest.mark.parametrize("threads", [1, 33, 256])
@pytest.mark.parametrize("chosen", [0, 1, "all"])
def test_barriers_that_vote(
    kernels: ModuleType, order: str, threads: int, chosen: int | str
) -> None:
    count = threads if chosen == "all" else int(chosen)
    predicates = np.zeros(threads, np.int32)
    predicates[threads - count :] = -3
    out = np.zeros((threads, 3), np.int32)
    kernels.block_votes(address(predicates), address(out), threads)
    assert (out == [count, count > 0, count == threads]).all()


@pytest.mark.parametrize(("n", "blocks", "threads"), [(1, 1, 32), (1000, 3, 96), (5000, 2, 1024)])
def test_reduction_is_right_and_the_same_in_every_order(
    kernels: ModuleType,
    in_all_orders: Callable[[Callable[[], Any]], list[Any]],
    n: int,
    blocks: int,
    threads: int,
) -> None:
    values = np.random.default_rng(n).standard_normal(n)

    def run() -> np.ndarray:
        out = np.zeros((blocks, 2))
        kernels.block_sum(address(values), address(out), n, blocks, threads)
        return out

    results = in_all_orders(run)
    assert results[0][:, 0].sum() == pytest.approx(values.sum(), abs=1e-10)
    assert (results[0][:, 1] == threads).all()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_shared_memory_starts_as_garbage_in_every_block(kernels: ModuleType, order: str) -> None:
    blocks = 5
    for _ in range(2):
        out = np.zeros((blocks, 4), np.uint32)
        kernels.shared_garbage(address(out), blocks)
        assert (out == FULL).all()


def test_block_orders(
    kernels: ModuleType, in_all_orders: Callable[[Callable[[], Any]], list[Any]]
) -> None:
    blocks = 40

    def run() -> list[int]:
        out = np.zeros(1 + blocks, np.int32)
        kernels.block_order(address(out), blocks)
        return list(out[1:])

    forward, reverse, one, two = in_all_orders(run)
    assert forward == list(range(blocks))
    assert reverse == forward[::-1]
    assert sorted(one) == sorted(two) == forward
    assert len({tuple(x) for x in (forward, reverse, one, two)}) == 4
    assert in_all_orders(run)[2] == one  # a seed fixes the order


def test_an_order_that_does_not_exist_is_refused(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("sideways", "shuffle:", "shuffle:-1", "shuffle:1e3", ""):
        monkeypatch.setenv("CUDA_EMULATOR_ORDER", text)
        with pytest.raises(ValueError, match="use forward, reverse, shuffle or shuffle:SEED"):
            kernels.indices([1, 1, 1], [1, 1, 1])


def test_the_last_block_sees_what_all_left(kernels: ModuleType, order: str) -> None:
    blocks = 9
    values = np.arange(blocks, dtype=np.int32)
    counter = np.zeros(1, np.uint32)
    for _ in range(2):
        out = np.zeros(1 + blocks, np.int32)
        kernels.last_block(address(values), address(out), address(counter), blocks)
        assert out[0] == 2 * values.sum()
        assert counter[0] == 0


def test_a_spinning_thread_gives_way(kernels: ModuleType, order: str) -> None:
    out = np.zeros(70, np.int32)
    kernels.spin_for_neighbour(address(out), 70)
    assert out.all()


# ---------------------------------------------------------------- missing barriers are caught


@pytest.mark.parametrize("threads", [32, 256])
def test_a_missing_block_barrier_shows(
    kernels: ModuleType,
    in_all_orders: Callable[[Callable[[], Any]], list[Any]],
    threads: int,
) -> None:
    values = np.arange(1.0, threads + 1)

    def run(synchronise: bool) -> np.ndarray:
        out = np.zeros(threads)
        kernels.reverse(address(values), address(out), threads, synchronise)
        return out

    for result in in_all_orders(lambda: run(True)):
        np.testing.assert_array_equal(result, values[::-1])
    for result in in_all_orders(lambda: run(False)):
        assert np.isnan(result).any()


def test_a_missing_warp_barrier_shows(
    kernels: ModuleType, in_all_orders: Callable[[Callable[[], Any]], list[Any]]
) -> None:
    def run(synchronise: bool) -> list[int]:
        out = np.zeros(32, np.int32)
        kernels.warp_handover(address(out), synchronise)
        return out.tolist()

    right = [(i - 1) % 32 for i in range(32)]
    assert in_all_orders(lambda: run(True)) == [right] * len(ORDERS)
    assert any(result != right for result in in_all_orders(lambda: run(False)))


# ---------------------------------------------------------------- atomics

BITS = {
    "add": lambda old, v, i: old + v,
    "sub": lambda old, v, i: old - v,
    "min": lambda old, v, i: min(old, v),
    "max": lambda old, v, i: max(old, v),
    "and": lambda old, v, i: old & v,
    "or": lambda old, v, i: old | v,
    "xor": lambda old, v, i: old ^ v,
    "exch": lambda old, v, i: v,
    "cas": lambda old, v, i: v if old == i else old,
    "inc": lambda old, v, i: 0 if old >= v else old + 1,
    "dec": lambda old, v, i: v if old == 0 or old > v else old - 1,
}
SUPPORTED = [
    *((name, "int32") for name in BITS if name not in ("inc", "dec")),
    *((name, "uint32") for name in BITS),
    *((name, "uint64") for name in BITS if name not in ("sub", "inc", "dec")),
    *((name, "int64") for name in ("min", "max")),
]


@pytest.mark.parametrize(("name", "dtype"), SUPPORTED)
def test_atomic_against_the_same_steps_in_python(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str
) -> None:
    monkeypatch.setenv("CUDA_EMULATOR_ORDER", "forward")
    rng = random.Random(7)
    threads, limits = 100, np.iinfo(dtype)
    values = np.array([rng.randint(limits.min, limits.max) for _ in range(threads)], dtype)
    if name == "cas":
        values = (np.arange(threads) + 1).astype(dtype)
        values[50] = 0  # so that the later ones do not swap
    if name in ("inc", "dec"):
        values = np.full(threads, 12, dtype)
    target, old = np.zeros(1, dtype), np.zeros(threads, dtype)
    apply = kernels.atomic_32 if limits.bits == 32 else kernels.atomic_64
    apply(name, dtype.startswith("int"), address(target), address(values), address(old), threads)
    number, seen = 0, []
    for i, value in enumerate(values.tolist()):
        seen.append(number)
        number = wrapped(BITS[name](number, value, i), dtype)
    assert old.tolist() == seen
    assert target[0] == number


def test_atomic_sum_in_every_order(kernels: ModuleType, order: str) -> None:
    values = np.arange(1, 201, dtype=np.int32)
    target, old = np.zeros(1, np.int32), np.zeros(200, np.int32)
    kernels.atomic_32("add", True, address(target), address(values), address(old), 200)
    assert target[0] == values.sum()
    # Each thread saw another sum, so no two came at once.
    assert len(set(old.tolist())) == 200


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_atomic_add_of_floats(kernels: ModuleType, order: str, dtype: str) -> None:
    values = np.random.default_rng(5).standard_normal(300).astype(dtype)
    target = np.array([2.5], dtype)
    kernels.atomic_float(dtype, address(target), address(values), 300)
    assert target[0] == pytest.approx(2.5 + values.astype("float64").sum(), abs=1e-4)


def test_a_lock_keeps_others_out(kernels: ModuleType, order: str) -> None:
    lock, counter = np.zeros(1, np.int32), np.zeros(1, np.int32)
    kernels.locked_increments(address(lock), address(counter), 3, 256)
    assert (counter[0], lock[0]) == (3 * 8, 0)
