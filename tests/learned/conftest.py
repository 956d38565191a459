"""Fixtures of the tests of learned rules."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    """Networks of some hundred parameters gain nothing from a second thread."""
    torch.set_num_threads(1)
