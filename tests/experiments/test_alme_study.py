"""The study of ALME, small: what is run, what stays apart, what is compared."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from unstuck.experiments import AlmePlan, CellRecord, alme_markdown, alme_training, harm, run_alme
from unstuck.experiments.alme_functions import Counted, run_function
from unstuck.experiments.alme_settings import configuration, make_network
from unstuck.experiments.alme_training import Trainer, measure_task
from unstuck.optim import ALME
from unstuck.problems import load_data

SMALL = dataclasses.replace(
    AlmePlan.of("small"), tasks=("digits/jagged",), functions=("rastrigin/2",), starts=2, budget=120
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("alme") / "alme.json"


@pytest.fixture(scope="module")
def record(path):
    seen = []
    made = run_alme(SMALL, path, lambda *line: seen.append(line))
    assert seen == [("training/digits/jagged", 1, 2), ("function/rastrigin/2", 2, 2)]
    return made


def test_the_full_study_is_what_was_reported():
    plan, networks = AlmePlan.of("full"), configuration()["networks"]
    assert plan.seeds >= 5
    assert networks["mlp"]["hidden"] == [128, 64]
    assert {"mnist/mlp", "digits/mlp", "mnist1d/mlp"} <= set(plan.tasks)
    assert {name.partition("/")[0] for name in plan.functions} == {
        "rosenbrock",
        "rastrigin",
        "ackley",
    }
    assert {"alme", "alme-aggressive", "sgd-momentum", "adam", "adamw"} <= set(plan.optimizers)
    assert networks["smooth"]["l2"] > 0 < networks["jagged"]["dropout"]
    assert len(networks["smooth"]["hidden"]) < len(networks["jagged"]["hidden"])


def test_every_training_is_kept(record):
    cell = record.cells["training/digits/jagged"]
    assert set(cell["runs"]) == set(cell["tuned"]) == set(SMALL.optimizers)
    for name, entry in configuration()["optimizers"].items():
        assert cell["tuned"][name] == cell["tuned"][entry.get("tuned", name)]
        assert [run["seed"] for run in cell["runs"][name]] == [0, 1]
        for run in cell["runs"][name]:
            assert all(len(run[part]) == SMALL.epochs for part in ("train", "validation", "test"))
            assert 0 < run["step"] < run["seconds"]
            assert ("attempts" in run) is (entry["kind"] == "alme")
    assert cell["runs"]["alme"][0]["trace"]["step"] == list(range(1, 19))


def test_company_changes_nothing(record):
    """Dropout masks and batches of a training are its own, whoever else takes turns."""
    cell = record.cells["training/digits/jagged"]
    alone = Trainer(SMALL, "digits/jagged", "adamw", cell["tuned"]["adamw"], 1)
    alme_training._train([alone], SMALL.epochs, 5)
    assert alone.outcome()["test"] == cell["runs"]["adamw"][1]["test"]


def test_alme_is_adamw_while_nothing_is_wrong(record):
    found = harm(record, "digits/jagged")
    assert found.baseline == "adamw"
    assert found.attempts == 0
    assert max(map(abs, found.differences)) < 1e-3
    assert found.unharmed


def test_nothing_is_chosen_by_the_test_rows(record, monkeypatch):
    def shifted(name, seed):
        data = load_data(name, seed)
        return dataclasses.replace(
            data, test=dataclasses.replace(data.test, y=(data.test.y + 1) % data.classes)
        )

    monkeypatch.setattr(alme_training, "_splits", shifted)
    cell = measure_task(SMALL, "digits/jagged")
    before = record.cells["training/digits/jagged"]
    assert cell["tuned"] == before["tuned"]
    for name, runs in before["runs"].items():
        for run, other in zip(runs, cell["runs"][name], strict=True):
            assert run["validation"] == other["validation"]
            assert run["test"] != other["test"]


def test_escapes_compare_on_training_rows_and_draw_batches_of_their_own(monkeypatch):
    plan = dataclasses.replace(SMALL, eval_rows=64)
    trainer = Trainer(plan, "digits/mlp", "alme", {"lr": 1e-3}, 0)
    trainer.begin()
    while trainer.advance():
        pass
    drawn, losses = [], []
    compare, loss = trainer.compare, trainer.loss
    trainer.loss = lambda x, y: (drawn.append(x), loss(x, y))[1]
    trainer.compare = lambda: (losses.append(1), compare())[1]
    x, y = trainer.data.train.x[:128], trainer.data.train.y[:128]
    monkeypatch.setattr("unstuck.optim._alme_escape.due", lambda optimizer: True)
    trainer.step(x, y)
    assert losses
    batches = [batch for batch in drawn if len(batch) == 128]
    assert torch.equal(batches[0], x)
    assert not any(torch.equal(batch, x) for batch in batches[1:])
    rows = trainer.data.train.x[:64]
    assert any(torch.equal(batch, rows) for batch in drawn)
    assert isinstance(trainer.optimizer, ALME)
    assert len(trainer.optimizer.history) == 1


def test_functions_start_alike_and_stop_at_the_budget(record):
    cell = record.cells["function/rastrigin/2"]
    assert set(cell["runs"]) == {*SMALL.optimizers, "lbfgs"}
    for name, runs in cell["runs"].items():
        assert len(runs) == SMALL.starts
        for run in runs:
            assert len(run["best"]) == 20
            assert run["best"] == sorted(run["best"], reverse=True), name
            assert math.isfinite(run["best"][-1])
    first, second = (Counted("ackley/3", seed) for seed in (4, 4))
    assert torch.equal(first.point, second.point)
    assert float(first()) == float(second())
    with torch.no_grad():
        first.point.copy_(first._shift)
    assert float(first()) < 1e-12  # the minimum has moved with the function
    assert first._shift.abs().min() > 0


def test_a_run_that_overflows_is_no_success():
    run = run_function("rosenbrock/10", "sgd-momentum", {"lr": 1e6}, 0, 60)
    assert run["best"][-1] > 1


def test_what_the_file_holds_is_not_run_again(record, path):
    content = json.loads(path.read_text())
    content["cells"]["function/rastrigin/2"]["tuned"]["adam"] = {"lr": 123.0}
    other = path.with_name("other.json")
    other.write_text(json.dumps(content))
    assert run_alme(SMALL, other).cells == content["cells"]
    with pytest.raises(ValueError, match="choose another file"):
        run_alme(dataclasses.replace(SMALL, seeds=5), other)


def test_the_report(record):
    text = alme_markdown(record, AlmePlan.of("small"))
    assert "| digits/jagged | alme | adamw |" in text
    assert "## digits/jagged (deep" in text
    assert "| rastrigin/2 | lbfgs |" in text
    assert "digits/mlp" not in text  # not in the file
    worse = json.loads(json.dumps(record.cells))
    for run in worse["training/digits/jagged"]["runs"]["alme"]:
        run["test"][-1] += 10
        run["seconds"] *= 2
    text = alme_markdown(CellRecord("alme", {}, worse, record.made), AlmePlan.of("small"))
    assert "**yes**" in text
    assert "on 0 of 1 tasks, less than 3% slower on 0" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tasks": ("cifar/mlp",)}, "unknown data set 'cifar'"),
        ({"tasks": ("digits/conv",)}, "unknown network 'conv'"),
        ({"functions": ("ackley",)}, "write a function as name/dimension"),
        ({"functions": ("cube/2",)}, "unknown problem 'cube'"),
        ({"seeds": 0}, "seeds=0: at least 1"),
    ],
)
def test_plans_that_cannot_be_run(change, text):
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(SMALL, **change)


def test_weights_depend_on_the_seed_alone():
    data = load_data("digits")
    torch.manual_seed(1)
    first = make_network("mlp", data, 3)
    torch.manual_seed(2)
    second = make_network("mlp", data, 3)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
