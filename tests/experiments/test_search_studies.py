"""The studies of attention search and of the hybrids, small: what is run, written and compared."""

from __future__ import annotations

import json

import pytest

from unstuck import problems
from unstuck.experiments.attention import (
    REPORTED,
    AttentionPlan,
    attention_markdown,
    run_attention,
)
from unstuck.experiments.attention_net import TARGETS, NetPlan, net_markdown, run_net
from unstuck.experiments.cells import CellRecord, spread
from unstuck.experiments.hybrids import HybridsPlan, hybrids_markdown, race_of, run_hybrids
from unstuck.training.problem_race import RACERS

SMALL = {"functions": ("sphere", "ackley"), "dims": (2, 3), "seeds": 2, "budget": 300}


def test_the_table_of_attention_search(tmp_path):
    plan = AttentionPlan(**SMALL)
    seen = []
    path = tmp_path / "a.json"
    record = run_attention(plan, path, lambda line, number, cells: seen.append((number, cells)))
    assert seen == [(k + 1, 16) for k in range(16)]
    for key, cell in record.cells.items():
        assert len(cell["losses"]) == len(cell["seconds"]) == 2
        assert all(n <= plan.budget for n in cell["nfev"]), key
    assert max(record.cells["sphere/3/gd"]["losses"]) < 1e-12
    text = attention_markdown(record, plan)
    assert "| 2 | 10.1 | 1.44 |" in text
    assert "| 3 |  |  |" in text
    assert "attention figures that the mean of adaptive" in text
    content = json.loads(path.read_text())
    assert content["cells"] == record.cells


def test_what_the_file_holds_is_not_run_again(tmp_path):
    path = tmp_path / "a.json"
    plan = AttentionPlan(("sphere",), ("gd",), (2,), seeds=1, budget=50)
    run_attention(plan, path)
    content = json.loads(path.read_text())
    content["cells"]["sphere/2/gd"]["losses"] = [123.0]
    path.write_text(json.dumps(content))
    wider = AttentionPlan(("sphere",), ("gd", "plain"), (2,), seeds=1, budget=50)
    record = run_attention(wider, path)
    assert record.cells["sphere/2/gd"]["losses"] == [123.0]
    assert set(record.cells) == {"sphere/2/gd", "sphere/2/plain"}
    other = AttentionPlan(("sphere",), ("gd",), (2,), seeds=2, budget=50)
    with pytest.raises(ValueError, match=r"is of attention with \{'seeds': 1"):
        run_attention(other, path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="is not the file of a study"):
        run_attention(plan, path)


def test_reported_figures_are_of_functions_that_are_run():
    assert set(REPORTED) == set(AttentionPlan().functions) <= set(problems.names())
    assert all(set(rows) <= set(AttentionPlan().dims) for rows in REPORTED.values())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"functions": ("cube",)}, "unknown function 'cube'"),
        ({"methods": ("cma",)}, "unknown method 'cma'"),
        ({"seeds": 0}, "seeds=0"),
        ({"functions": ()}, "at least one function"),
    ],
)
def test_plans_that_cannot_be_run(settings, text):
    with pytest.raises(ValueError, match=text):
        AttentionPlan(**settings)
    with pytest.raises(ValueError, match="seeds=0, most=3000, repeats=5: at least 1"):
        NetPlan(0)
    with pytest.raises(ValueError, match=r"dims=\(\)"):
        HybridsPlan(dims=())


def test_the_net_and_the_rate(tmp_path):
    record = run_net(NetPlan(1, most=40, repeats=2), tmp_path / "n.json")
    for goal in TARGETS:
        for name in ("gd", "gd-bare", "gd-analytic", "attention", "plain"):
            (run,) = record.cells[f"net/{goal}"][name]
            assert run["reached"] is (run["train"] <= goal)
            assert run["seconds"] > 0
    gd = record.cells["net/0.52"]["gd"][0]
    for name in ("gd-bare", "gd-analytic"):
        other = record.cells["net/0.52"][name][0]
        assert gd["iterations"] == other["iterations"]
        assert gd["train"] == pytest.approx(other["train"], rel=1e-3)
    losses = [record.cells["rate"][name][0]["loss"] for name in ("grid", "random", "attention")]
    assert max(losses) < 1.1 * min(losses)
    text = net_markdown(record)
    assert "| reported gd | 0.755 | 96 |  | 70 |" in text
    assert "| reported attention | 0.1169 |" in text


def test_the_six_optimizers(tmp_path):
    plan = HybridsPlan(dims=(3, 4), seeds=1, budget=1200)
    path = tmp_path / "h.json"
    record = run_hybrids(plan, path)
    for dim in plan.dims:
        race = race_of(record, dim)
        assert len(race.runs) == len(RACERS)
        assert len(race.evaluations) == 40
        assert race.evaluations[3::36] == [120, 1200]  # a tenth, which the table reads, and all
        assert {len(run.best) for run in race.runs} == {40}
        best_of_gd = min(race.final("gd"))
        for method in set(RACERS) - {"gd"}:
            assert max(race.final(method)) < best_of_gd, method
    again = CellRecord.open(path, "hybrids", plan.fixed)
    assert race_of(again, 3) == race_of(record, 3)
    text = hybrids_markdown(record, plan)
    assert text.count("the most direct; extremely slow") == 2
    assert "## 4 dimensions" in text


def test_spread():
    assert spread([1.0, 3.0]) == "2 ± 1.4"
    assert spread([2.0]) == "2"
    assert spread([2.0, float("inf"), None]) == "2 (2 not finite)"
    assert spread([float("nan")]) == "none finite"
