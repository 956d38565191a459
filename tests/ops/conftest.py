"""The ways in which an op runs: native, native without the exchange API, plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, settings

from unstuck.ops import _native

settings.register_profile(
    "ops",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("ops")


@pytest.fixture(scope="session")
def native() -> ModuleType:
    """Return unstuck._C."""
    if _native.cpu is None:
        pytest.skip(f"no CPU module: {_native.cpu_missing}")
    return _native.cpu


@pytest.fixture(params=["handles", "dlpack", "slow"])
def reading(request: pytest.FixtureRequest, native: ModuleType) -> Iterator[str]:
    """Read tensors with and without handles through the exchange API, and by their methods."""
    direct = native.init(torch, dlpack=request.param != "slow", handles=request.param == "handles")
    try:
        if request.param != "slow" and not direct:
            pytest.skip("this torch has no DLPack exchange API")
        yield request.param
    finally:
        native.init(torch)


@pytest.fixture(params=["dlpack", "slow", "fallback"])
def way(
    request: pytest.FixtureRequest, native: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Run the ops natively with both readers, and in plain torch."""
    if request.param == "fallback":
        monkeypatch.setattr(_native, "cpu", None)
        monkeypatch.setattr(_native, "_warned", {"cpu", "meta"})
    native.init(torch, dlpack=request.param != "slow")
    yield request.param
    native.init(torch)


@pytest.fixture(params=["native", "fallback"])
def backend(
    request: pytest.FixtureRequest, native: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Run the ops natively, and in plain torch."""
    if request.param == "fallback":
        monkeypatch.setattr(_native, "cpu", None)
        monkeypatch.setattr(_native, "_warned", {"cpu"})
    return str(request.param)
