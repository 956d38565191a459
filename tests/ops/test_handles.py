"""Handles are a cheaper look at the states: they hold on to nothing and forbid nothing."""

from __future__ import annotations

import gc
import weakref
from types import ModuleType

import pytest
import torch
from torch.nn import Parameter

from .stand import Stand


def test_looking_is_silent_and_holds_on_to_no_state(
    native: ModuleType, reading: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stand = Stand(native)
    states = [weakref.ref(x) for x in (*stand.case.exp_avgs, *stand.case.steps)]
    stand.state[stand.params[0]]["exp_avg"].untyped_storage().resize_(0)
    assert not stand.ready()
    del stand
    gc.collect()
    assert [x() for x in states] == [None] * len(states)
    assert capfd.readouterr() == ("", "")


def test_a_parameter_can_still_be_swapped(native: ModuleType, reading: str) -> None:
    """torch refuses to swap a tensor that has hidden references."""
    stand = Stand(native)
    assert stand.ready()
    p = stand.params[0]
    torch.utils.swap_tensors(p, Parameter(p.detach().clone()))
    assert not stand.ready()
