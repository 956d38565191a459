"""Rules on functions in three phases, small: what is trained, judged, kept and written."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.optim import Adam

from unstuck.experiments import learned_functions
from unstuck.experiments.cells import CellRecord
from unstuck.experiments.learned_functions import (
    BASELINES,
    GROUPS,
    JUDGED,
    PATHS,
    PHASES,
    SHIFT,
    UNIT,
    FunctionsPlan,
    Moved,
    rastrigin,
    run_functions,
)
from unstuck.experiments.learned_functions_report import functions_markdown
from unstuck.experiments.learned_meta import Budget
from unstuck.learned import MLP, Task
from unstuck.learned.functions import Landscape
from unstuck.plots import learned_trajectories_figure

BUDGET = Budget("evolution", 2, unrolls=1, students=4, truncation=3, horizon=3)
SMALL = FunctionsPlan(("mlp",), meta_seeds=1, starts=8, steps=3, budget=BUDGET)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_functions, "RATES", (1e-3, 0.1))
        yield run_functions(SMALL, tmp_path_factory.mktemp("functions") / "f.json")


def test_what_is_kept(record):
    assert sorted(record.cells) == ["baselines", "mlp/0"]
    assert set(record.cells["baselines"]) == set(BASELINES)
    phases = record.cells["mlp/0"]
    assert list(phases) == list(PHASES)
    for phase in phases.values():
        assert phase["meta"]["student_steps"] == 2 * 4 * 3
        assert set(phase["judged"]) == set(JUDGED)
        assert [len(way) for way in phase["ways"]] == [SMALL.steps + 1] * PATHS
    starts = torch.tensor([way[0] for way in phases["generalist"]["ways"]])
    for cell in (*phases.values(), *record.cells["baselines"].values()):
        assert (torch.tensor([way[0] for way in cell["ways"]]) - starts).abs().max() < 0.002
        for found in cell["judged"].values():
            if found["diverged"] < SMALL.starts:
                assert 0 <= found["lower"] <= found["median"] <= found["upper"]
    again = CellRecord.open(record.path, "learned-functions", SMALL.fixed)
    assert json.loads(json.dumps(record.cells)) == again.cells


def test_what_the_file_holds_is_not_run_again(record, tmp_path):
    path = tmp_path / "f.json"
    content = json.loads(record.path.read_text())
    content["cells"]["mlp/0"]["generalist"]["judged"]["rastrigin"]["found"] = 0.625
    path.write_text(json.dumps(content))
    told = []
    run_functions(SMALL, path, told.append)
    assert "mlp, meta-seed 0, generalist" in told[3]
    assert "62.5%" in told[3]
    other = FunctionsPlan(("mlp",), meta_seeds=1, starts=16, steps=3, budget=BUDGET)
    with pytest.raises(ValueError, match="is of learned-functions with"):
        run_functions(other, path)


def test_a_moved_landscape():
    for seed in range(5):
        moved, task = Moved("rastrigin", seed), Landscape("rastrigin")
        assert isinstance(moved, Task)
        shift = moved.initial(1)[0] - task.initial(1)[0]
        assert 0 < float(shift.abs().max()) <= SHIFT
        assert float(moved.loss([shift], moved.batch(0))) == pytest.approx(moved.floor, abs=1e-4)
        assert float(moved.loss([torch.zeros(2)], ())) > 0.1
    assert Moved("rastrigin", 0) != Moved("rastrigin", 1)


def test_an_untrained_rule_is_adam_in_units():
    task, kind = Landscape("rosenbrock"), "rosenbrock"
    steps, starts = 20, 8
    rule = learned_functions._values(kind, 0, starts, learned_functions._by_rule(MLP(), steps))
    baseline = learned_functions._by_optimizer("adam", 1e-3 * UNIT, steps)
    adam = learned_functions._values(kind, 0, starts, baseline)
    assert rule["median"] == pytest.approx(adam["median"], rel=1e-3)
    _, points = learned_functions._points(task, 0, starts)
    points.requires_grad_()
    optimizer = Adam([points], lr=1e-3 * UNIT)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(task.loss([point], ()) for point in points).backward()
        optimizer.step()
    losses = torch.stack([task.loss([point], ()) for point in points.detach()])
    assert adam["mean"] == pytest.approx(float(losses.mean()), rel=1e-3)


def test_figures_of_values():
    ends = torch.tensor([0.0, 0.005, 1.0, math.nan])

    def run(task, first, count):
        assert count == 4
        return ends

    found = learned_functions._values("rastrigin", 0, 4, run)
    assert found["found"] == 0.5
    assert found["diverged"] == 1
    assert found["median"] == pytest.approx(0.005)
    places = []
    learned_functions._values(
        "rastrigin-moved", 0, 8, lambda task, first, n: places.append((task, first, n)) or ends
    )
    assert len({task for task, _, _ in places}) == GROUPS
    assert [(first, n) for _, first, n in places] == [(0, 2), (2, 2), (4, 2), (6, 2)]
    none = learned_functions._values("rastrigin", 0, 4, lambda *_: torch.full((4,), math.inf))
    assert none["median"] is None
    assert none["diverged"] == 4


def test_tables_and_picture(record):
    text = functions_markdown(record, SMALL)
    assert text.count("| mlp | specialist | the generalist, then Rastrigin |") == len(JUDGED)
    assert "finds" in text
    wider = FunctionsPlan(meta_seeds=1, starts=8, steps=3, budget=BUDGET)
    assert "| lstm | generalist | quadratics | not run" in functions_markdown(record, wider)
    figure = learned_trajectories_figure(record.cells, ["mlp"], rastrigin)
    assert len(figure.axes) == PATHS
    drawn = figure.axes[1].get_lines()[0].get_xydata().tolist()
    assert drawn == record.cells["mlp/0"]["generalist"]["ways"][1]
    with pytest.raises(ValueError, match="there is no rule"):
        learned_trajectories_figure(record.cells, [], rastrigin)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rules": ("oracle",)}, "unknown rule 'oracle'"),
        ({"starts": 9}, "starts=9"),
        ({"meta_seeds": 0}, "meta_seeds=0"),
    ],
)
def test_plans_that_cannot_be_run(settings, text):
    with pytest.raises(ValueError, match=text):
        FunctionsPlan(**settings)
    with pytest.raises(ValueError, match="unknown estimator 'guess'"):
        Budget("guess")
    with pytest.raises(ValueError, match="meta_steps must be at least 1, not 0"):
        Budget(meta_steps=0)
