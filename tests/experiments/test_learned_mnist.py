"""What an LSTM rule must see, small: the sampled meta-gradient, what is run and written."""

from __future__ import annotations

import json

import pytest
import torch

from unstuck.experiments import learned_mnist
from unstuck.experiments.learned_meta import Budget, One, block_means, meta_train
from unstuck.experiments.learned_mnist import MULTIPLIERS, MnistPlan, run_mnist
from unstuck.experiments.learned_mnist_report import mnist_lines, mnist_markdown
from unstuck.experiments.learned_sampled import SampledBackprop
from unstuck.learned import LSTM, MLP, Backprop, Network, Plan
from unstuck.learned.objective import Objective
from unstuck.plots import learned_mnist_figure

TASK = Network("digits", (4,))
BUDGET = Budget("sampled", meta_steps=2, unrolls=1, truncation=3, horizon=5)
SMALL = MnistPlan(("gradient", "log"), 2, 1, steps=4, task=TASK, hidden=3, budget=BUDGET)


def _plan(**changed):
    defaults = {"unrolls": 1, "students": 1, "truncation": 3, "horizon": (7, 7), "told": 0.0}
    return Plan(**{**defaults, **changed})


def _rule(features):
    torch.manual_seed(0)
    rule = LSTM(features, 4)
    torch.nn.init.normal_(rule.out.weight)
    return rule


@pytest.mark.parametrize("features", ["gradient", "log", "rich"])
@pytest.mark.parametrize("objective", [Objective("linear"), Objective("log", late=2.0)])
def test_all_coordinates_give_what_backprop_gives(monkeypatch, features, objective):
    dim = sum(p.numel() for p in TASK.initial(0))
    plan = _plan(objective=objective)
    whole = Backprop(_rule(features), One(TASK), plan)
    sampled = SampledBackprop(_rule(features), One(TASK), plan, coordinates=dim)
    theta = whole.layout.read()
    draw = torch.randint
    monkeypatch.setattr(
        torch, "randint", lambda n, *a, **k: torch.arange(dim) if n == dim else draw(n, *a, **k)
    )
    for _ in range(4):  # over the end of an unroll
        one, other = whole.estimate(theta), sampled.estimate(theta)
        assert other.student_steps == one.student_steps
        assert other.score == pytest.approx(one.score, rel=1e-4, abs=1e-5)
        assert (one.gradient - other.gradient).norm() <= 1e-4 * one.gradient.norm()


def test_some_coordinates_give_it_on_average():
    plan = _plan(truncation=2, horizon=(2, 2))
    exact = Backprop(_rule("log"), One(TASK), plan).estimate(_theta()).gradient
    unroll = [
        SampledBackprop(_rule("log"), One(TASK), plan, coordinates=2000).estimate(_theta()).gradient
        for _ in range(2)
    ]
    assert torch.equal(*unroll)  # seeded
    errors = []
    for coordinates in (100, 100_000):
        one = SampledBackprop(_rule("log"), One(TASK), plan, coordinates=coordinates)
        errors.append(float((one.estimate(_theta()).gradient - exact).norm() / exact.norm()))
    assert errors[1] < min(0.05, errors[0])


def _theta():
    return Backprop(_rule("log"), One(TASK), _plan()).layout.read()


def test_what_cannot_be_sampled():
    with pytest.raises(TypeError, match="must be an LSTM, which is coordinatewise, not 'mlp'"):
        SampledBackprop(MLP(), One(TASK), _plan())
    for plan in (
        _plan(students=2),
        _plan(told=0.5),
        _plan(objective=Objective(validation=0.1)),
    ):
        with pytest.raises(ValueError, match="must be 1, 0, 0 and at least 1"):
            SampledBackprop(LSTM(), One(TASK), plan)
    with pytest.raises(ValueError, match="coordinates=0"):
        SampledBackprop(LSTM(), One(TASK), _plan(), coordinates=0)


def test_a_student_that_diverges_teaches_nothing():
    rule = LSTM("gradient", 3, scale=1e30)
    torch.nn.init.ones_(rule.out.weight)
    sampled = SampledBackprop(rule, One(TASK), _plan())
    found = sampled.estimate(sampled.layout.read())
    assert found.gradient.isfinite().all()


def test_meta_training_moves_the_rule():
    rule, before = LSTM("log", 3), LSTM("log", 3)
    before.load_state_dict(rule.state_dict())
    cost = meta_train(rule, One(TASK), BUDGET, 0)
    assert cost["student_steps"] == 5
    assert len(cost["curve"]) == 2
    assert not torch.equal(rule.out.weight, before.out.weight)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return run_mnist(SMALL, tmp_path_factory.mktemp("mnist") / "m.json")


def test_what_is_kept(record):
    assert sorted(record.cells) == ["adam", "gradient/0", "gradient/1", "log/0", "log/1"]
    assert record.cells["adam"]["rate"] in {3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2}
    for name, cell in record.cells.items():
        for run in cell["tuned"]:
            assert len(run["curve"]) == SMALL.steps
            assert {"train", "validation"} < set(run)
        if name != "adam":
            assert cell["meta"]["student_steps"] == 5
            assert cell["lr"] == min(MULTIPLIERS, key=lambda lr: cell["tried"][f"{lr:g}"])
    starts = {cell["tuned"][0]["curve"][0] for cell in record.cells.values()}
    assert len(starts) == 1  # the same student and first batch


def test_what_the_file_holds_is_not_run_again(record, tmp_path):
    path = tmp_path / "m.json"
    content = json.loads(record.path.read_text())
    content["cells"]["log/1"]["tuned"][0]["train"] = 0.125
    path.write_text(json.dumps(content))
    told = []
    run_mnist(SMALL, path, told.append)
    assert told[-1].endswith(": 0.1250")
    with pytest.raises(ValueError, match="is of learned-mnist with"):
        run_mnist(MnistPlan(steps=5), path)


def test_an_untrained_rich_rule_is_adam():
    rule = LSTM("rich", 3)
    found = learned_mnist._student(SMALL, rule, 1.0, seed=0)
    adam = learned_mnist._adam(SMALL)["default"][0]
    assert found["train"] == pytest.approx(adam["train"], rel=1e-4)
    assert found["validation"] == pytest.approx(adam["validation"], rel=1e-4)
    assert found["curve"] == pytest.approx(adam["curve"], rel=1e-3)


def test_tables_and_picture(record):
    text = mnist_markdown(record, SMALL)
    assert "| LSTM, gradient | g, w | fails |" in text
    assert "Adam 0.001" in text
    wider = MnistPlan(("rich", "log"), 2, 1, steps=4, task=TASK, hidden=3, budget=BUDGET)
    assert "not reported | not run" in mnist_markdown(record, wider)
    lines = mnist_lines(record, wider)
    assert len(lines) == 1
    cells = {name: dict(cell) for name, cell in record.cells.items()}
    for seed, loss in enumerate((0.01, 9.0)):
        cells[f"log/{seed}"]["tuned"] = [{"train": loss, "validation": None, "curve": [1.0]}]
    record = type(record)(record.study, record.fixed, cells)
    (line,) = mnist_lines(record, wider)
    assert "1 of 2 meta-trainings learn" in line
    assert "1 of 2 are below tuned Adam; on validation loss 0 below" in line
    axis = learned_mnist_figure(cells, 4).axes[0]
    assert axis.get_legend_handles_labels()[1][1].endswith("tuned")


def test_plans_that_cannot_be_run():
    with pytest.raises(ValueError, match="unknown feature set 'smell'"):
        MnistPlan(("smell",))
    with pytest.raises(ValueError, match="seeds=0"):
        MnistPlan(seeds=0)


def test_block_means():
    assert block_means([1.0, 2.0, 3.0], 20) == [1.0, 2.0, 3.0]
    assert block_means([1.0, 3.0, 5.0, 7.0, 100.0], 2) == [2.0, 6.0]
