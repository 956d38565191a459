"""Fixtures of the whole test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test starts from the same random numbers and leaves torch's global settings alone."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest) -> int:
    """Run the test with one thread and with two."""
    torch.set_num_threads(request.param)
    return int(request.param)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Run the test on the CPU, and on a GPU where there is one with a CUDA build."""
    if request.param == "cuda":
        from unstuck.ops import blend

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        if not blend.native_ready(torch.device("cuda")):
            pytest.skip("unstuck was built without CUDA")
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
