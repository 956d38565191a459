"""Fixtures of the emulator's own tests."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from .build import ORDERS, build_module, load_module
from .support import INCLUDE, KERNELS


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    sources = [*sorted(KERNELS.glob("*.cu")), KERNELS / "bind.cpp"]
    return load_module(build_module("emulator_selftest", sources, INCLUDE), "emulator_selftest")


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test once in every order."""
    monkeypatch.setenv("CUDA_EMULATOR_ORDER", request.param)
    return str(request.param)


@pytest.fixture
def in_all_orders(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[Any]]:
    """Calls a function in every order and returns what it returned."""

    def call(function: Callable[[], Any]) -> list[Any]:
        results = []
        for name in ORDERS:
            monkeypatch.setenv("CUDA_EMULATOR_ORDER", name)
            results.append(function())
        return results

    return call
