"""The study of training problems that trap, small: counting, choice of rates, file and table."""

from __future__ import annotations

import json

import pytest
import torch

from unstuck.experiments.alme_traps import (
    HIGHER,
    METHODS,
    RATES,
    SpentError,
    TrapsPlan,
    Trial,
    run_traps,
)
from unstuck.experiments.alme_traps_report import GROUPS, traps_markdown
from unstuck.problems import TRAPS, load_trap


def test_a_trial_counts_and_ends():
    trial = Trial(load_trap("xor"), budget=3)
    for _ in range(3):
        assert trial().item() == trial.best
    with pytest.raises(SpentError):
        trial()
    assert (trial.used, trial.reached) == (3, None)
    assert all(p.grad is not None for p in trial.run.module.parameters())


def test_a_trial_ends_at_the_target():
    run = load_trap("phase-retrieval", 7)
    generator = torch.Generator().manual_seed(7)
    torch.randn(56, 16, generator=generator)
    run.module.load_state_dict({"w": torch.randn(16, generator=generator)})
    trial = Trial(run, budget=3)
    with pytest.raises(SpentError):
        trial()
    assert (trial.used, trial.reached) == (1, 1)


def test_every_method_spends_the_budget_and_no_more(tmp_path):
    plan = TrapsPlan(("two-spirals",), seeds=2, tuning_seeds=1, budget=40)
    lines = []
    path = tmp_path / "traps.json"
    record = run_traps(plan, path, lambda line, number, total: lines.append((line, number, total)))
    assert [entry[1:] for entry in lines] == [(k + 1, len(METHODS)) for k in range(len(METHODS))]
    for name, cell in record.cells.items():
        assert cell["evaluations"] == [None, None], name
        assert len(cell["losses"]) == len(cell["seconds"]) == 2
        assert cell["losses"][0] != cell["losses"][1]
    assert record.cells["two-spirals/adam"]["rate"] in (*RATES, *HIGHER)
    assert json.loads(path.read_text())["cells"] == record.cells
    text = traps_markdown(record, plan)
    assert text.count("0 of 2: loss") == len(METHODS)
    assert "| all made on | | 0 of 2 |" in text


def test_restarts_get_out_where_one_descent_does_not():
    plan = TrapsPlan(("xor",), ("lbfgs", "lbfgs-restarts", "basin-hopping"), seeds=6)
    record = run_traps(plan)
    reached = {
        method: sum(n is not None for n in record.cells[f"xor/{method}"]["evaluations"])
        for method in plan.methods
    }
    assert reached["lbfgs"] < reached["lbfgs-restarts"] == 6
    assert reached["basin-hopping"] >= reached["lbfgs"]
    assert f"| xor | 0.01 | {reached['lbfgs']} of 6" in traps_markdown(record, plan)


def test_what_was_not_run_is_named_and_not_counted():
    plan = TrapsPlan(("xor", "parity"), ("lbfgs", "alme"), seeds=1, budget=60)
    record = run_traps(TrapsPlan(("xor",), ("lbfgs", "alme"), seeds=1, budget=60))
    text = traps_markdown(record, plan)
    assert text.count("not run") == 2
    reached = [record.cells[f"xor/{m}"]["evaluations"][0] is not None for m in plan.methods]
    assert f"| all made on | | {reached[0]:d} of 1 | {reached[1]:d} of 1 |" in text
    assert "| all mended on | | 0 of 0 | 0 of 0 |" in text


def test_only_what_is_asked_for_is_run_again(tmp_path):
    path, settings = tmp_path / "traps.json", {"seeds": 1, "budget": 60}
    run_traps(TrapsPlan(("xor",), ("lbfgs", "basin-hopping"), **settings), path)
    stale = json.loads(path.read_text())
    for cell in stale["cells"].values():
        cell["losses"], cell["commit"] = [-1.0], "long-ago"
    path.write_text(json.dumps(stale))
    plan = TrapsPlan(("xor",), ("lbfgs",), **settings)
    assert run_traps(plan, path).cells == stale["cells"]
    again = run_traps(plan, path, again=True).cells
    assert again["xor/lbfgs"]["losses"] != [-1.0]
    assert again["xor/basin-hopping"] == stale["cells"]["xor/basin-hopping"]
    assert json.loads(path.read_text())["cells"] == again
    both = TrapsPlan(("xor",), ("lbfgs", "basin-hopping"), **settings)
    assert "commit long-ago" in traps_markdown(run_traps(both, path), both)


def test_a_rate_at_the_edge_leads_to_higher_ones(monkeypatch):
    tried = []

    def runs(plan, problem, method, rate, seeds):
        tried.append(rate)
        return {"evaluations": [None], "losses": [abs(rate - best)], "seconds": [0.0]}

    monkeypatch.setattr("unstuck.experiments.alme_traps._runs", runs)
    for best, expected in ((0.1, RATES), (1.0, (*RATES, *HIGHER))):
        tried.clear()
        plan = TrapsPlan(("xor",), ("adam",), seeds=1)
        assert run_traps(plan).cells["xor/adam"]["rate"] == best
        assert tried == [*expected, best]


def test_a_negative_loss_orders_rates(monkeypatch):
    def runs(plan, problem, method, rate, seeds):
        return {"evaluations": [None], "losses": [-rate], "seconds": [0.0]}

    monkeypatch.setattr("unstuck.experiments.alme_traps._runs", runs)
    plan = TrapsPlan(("lennard-jones",), ("adam",), seeds=1)
    assert run_traps(plan).cells["lennard-jones/adam"]["rate"] == HIGHER[-1]


def test_every_problem_is_in_one_group():
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(TRAPS)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"problems": ("maze",)}, "unknown trap 'maze'"),
        ({"methods": ("cma",)}, "unknown method 'cma'"),
        ({"seeds": 0}, "seeds=0"),
    ],
)
def test_plans_that_cannot_be_run(settings, text):
    with pytest.raises(ValueError, match=text):
        TrapsPlan(**settings)
