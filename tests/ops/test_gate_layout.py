"""The gate's vector: native code and ops/gate.py must mean the same numbers by the same places."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unstuck.ops import gate
from unstuck.ops.gate import Header, Unit

from .cases import assert_close, gate_numbers, make_case, with_group


def test_sizes(native: ModuleType) -> None:
    layout = native.gate_layout()
    assert layout == {
        "header": gate.HEADER,
        "features": gate.FEATURES,
        "unit": gate.UNIT,
        "sums": gate.SUMS,
    }
    for hidden in (0, 1, 2, 7, 32, 512, 4096):
        for units in (0, 1, 2, 33, 5000):
            assert native.gate_size(hidden, units) == gate.size(hidden, units)


@pytest.mark.parametrize(
    ("enum", "ours", "prefix"),
    [("GateHeader", Header, "k"), ("GateUnit", Unit, "k")],
)
def test_places_have_the_names_of_the_header_file(enum: str, ours: type, prefix: str) -> None:
    """The C++ enums list the same names in the same order."""
    source = Path(__file__).resolve().parents[2] / "csrc/math/gate.hpp"
    body = re.search(rf"enum {enum} \{{(.*?)\}};", source.read_text(), re.DOTALL)
    assert body is not None
    names = re.findall(rf"^\s*{prefix}(\w+)\s*[,=]", body[1], re.MULTILINE)
    snake = [re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper() for name in names]
    assert snake[: len(ours)] == [place.name for place in ours]
    assert [int(place) for place in ours] == list(range(len(ours)))


@pytest.mark.parametrize("hidden", [0, 1, 5, 32])
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("per_tensor", [False, True])
def test_a_training_goes_the_same_way(native, hidden: int, learn: bool, per_tensor: bool) -> None:
    """Thirty steps and ten held-out steps in float64: every number that is not scratch agrees."""
    shapes = [(3, 4), (5,), (), (0,)]
    mine = make_case(
        shapes,
        torch.float64,
        gated=True,
        per_tensor=per_tensor,
        hidden=hidden,
        learn=learn,
        count=0,
        total_steps=100.0,
        momentum=0.7,
    )
    numels = [12, 5, 1, 0] if per_tensor else [18]
    fresh = gate.create(hidden, numels, 0.3, seed=7, device=torch.device("cpu"))
    mine = with_group(mine, gate=fresh)
    mine.had_previous = [False] * 4
    theirs = mine.copy()
    generator = torch.Generator().manual_seed(3)
    alphas = set()
    for step in range(30):
        for case in (mine, theirs):
            case.group.gate[Header.LOSS] = math.nan if step % 5 == 4 else 2.0 / (step + 1)
        for a, b in zip(mine.grads, theirs.grads, strict=True):
            b.copy_(a.copy_(torch.randn(a.shape, generator=generator, dtype=a.dtype)))
        mine.step()
        theirs.reference_step()
        assert_close(mine, theirs)
        mine.had_previous = theirs.had_previous = [True] * 4
        if step % 3 == 2:
            mine.hypergradient()
            theirs.reference_hypergradient()
            assert_close(mine, theirs)
        alphas.add(float(gate.units_of(mine.group.gate, hidden)[0, Unit.ALPHA]))
    assert bool(gate_numbers(mine)[Header.META_STEPS]) == (learn and hidden > 0)
    assert (len(alphas) > 1) == (learn and hidden > 0), "alpha moves when a network learns"


@pytest.mark.parametrize("normalize", [False, True])
def test_numbers_that_say_nothing_leave_the_network_alone(way: str, normalize: bool) -> None:
    """An infinite gradient makes no NaN of the gate; it learns nothing from that step."""
    case = make_case([(3,)], torch.float64, gated=True, count=2, normalize=normalize)
    case.grads[0][1] = math.inf
    before = case.group.gate.clone()
    case.step()
    network = slice(gate.HEADER, gate.HEADER + 3 * gate.parameters(case.group.hidden))
    assert torch.equal(case.group.gate[network], before[network])
    records = gate.units_of(case.group.gate, case.group.hidden)
    assert records[:, gate.PHI :].isfinite().all()
    assert 0 < records[0, Unit.ALPHA] < 1


@pytest.mark.parametrize("gated", [False, True])
def test_an_infinite_parameter_stays(way: str, gated: bool) -> None:
    """As a mask may have them; neither the others nor the gate take notice."""
    case = make_case([(5,)], gated=gated, count=2)
    case.params[0][1:3] = torch.tensor([math.inf, -math.inf])
    case.grads[0][1:3] = case.exp_avgs[0][1:3] = 0
    plain = case.copy()
    plain.params[0][1:3] = 0
    case.step()
    plain.step()
    assert case.params[0][1:3].tolist() == [math.inf, -math.inf]
    assert torch.equal(case.params[0][[0, 3, 4]], plain.params[0][[0, 3, 4]])
    if gated:
        numbers = gate_numbers(case), gate_numbers(plain)
        torch.testing.assert_close(*numbers, rtol=0, atol=0, equal_nan=True)


def test_found_inf_changes_nothing(way: str) -> None:
    case = make_case(gated=True, nesterov=True, momentum=0.5, count=2)
    case.found_inf = torch.tensor(1.0)
    case.keep_storages()
    before = case.bytes()
    case.step()
    assert case.bytes() == before
