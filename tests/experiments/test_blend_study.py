import json
import math

import numpy as np
import pytest
import torch

from unstuck.experiments import METHODS, BlendRecord, Plan, compare, markdown, run_study, summarize
from unstuck.experiments import blend as study
from unstuck.experiments.blend import leaking, propose
from unstuck.experiments.blend_methods import Method, Range
from unstuck.experiments.blend_record import figures
from unstuck.optim import DynamicBlend
from unstuck.problems import load_data, make_model
from unstuck.training import History

TINY = {"data": ("digits",), "seeds": 2, "trials": 2, "tuning_seeds": 1, "epochs": 1}


def small(**changes):
    return Plan(**{**TINY, "methods": ("gate", "adam"), **changes})


@pytest.fixture
def trained(monkeypatch):
    """Counts trainings: (split sizes, settings, seed) of each."""
    calls = []
    inner = study._Study._train

    def train(self, data, method, settings, seed):
        calls.append((data, method, dict(settings), seed))
        return inner(self, data, method, settings, seed)

    monkeypatch.setattr(study._Study, "_train", train)
    return calls


def made_up(losses):
    """A record with given last-epoch losses: {method: [validation loss of seed 0, 1, ...]}."""
    record = BlendRecord(Plan().fixed)
    for method, values in losses.items():
        key = f"digits/{method}"
        record.trials[key] = [{"settings": {"lr": 1.0}, "value": min(values), "runs": []}]
        record.runs[key] = [
            {
                "seed": seed,
                "settings": {"lr": 1.0},
                "diverged": not math.isfinite(value),
                **{
                    at: {
                        "validation_loss": value,
                        "test_loss": 2 * value,
                        "test_accuracy": 0.5,
                        "epoch": 1,
                    }
                    for at in ("last", "best")
                },
            }
            for seed, value in enumerate(values)
        ]
    return record


def test_tuning_seeds_are_never_reported_and_test_rows_choose_nothing(trained):
    record = run_study(small())
    tuned = {seed for *_, seed in trained if seed >= study.TUNING_SEED}
    reported = {run["seed"] for run in record.runs["digits/gate"]}
    assert tuned == {study.TUNING_SEED}
    assert reported == {0, 1}
    for data, *_ in trained:
        parts = [data.train, data.validation, data.test]
        rows = torch.cat([part.index for part in parts])
        assert len(rows.unique()) == len(rows)
    for trial in record.trials["digits/adam"]:
        assert set(trial["runs"][0]) == {"seed", "validation_loss"}


def test_every_method_gets_the_same_effort(trained):
    names = ("gate", "adam", "sgd", "alpha-tuned")
    record = run_study(small(methods=names))
    assert len(trained) == small(methods=names).runs == 16
    assert {len(record.trials[f"digits/{name}"]) for name in names} == {2}


def test_rates_of_one_kind_have_one_range():
    ranges = {}
    for method in METHODS.values():
        for name, one in method.space.items():
            ranges.setdefault(name, set()).add(one)
    assert all(len(found) == 1 for found in ranges.values())
    assert set(ranges) == {"lr", "sgd_lr", "1-beta1", "1-momentum", "alpha"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name):
    data = load_data("digits", 0, meta=METHODS[name].meta)
    settings = {key: one.usual for key, one in METHODS[name].space.items()}
    history = study._Study(small(), BlendRecord({}), None)._train(data, METHODS[name], settings, 0)
    assert history.validation_loss[-1] < history.validation_loss[0]
    is_blend = isinstance(METHODS[name].build(make_model("mlp", data), settings, 9), DynamicBlend)
    assert ("alpha" in history.probes) == is_blend


def test_linear_alpha_goes_from_sgd_to_adam():
    data = load_data("digits")
    model = make_model("mlp", data)
    settings = {"lr": 0.1, "sgd_lr": 0.1, "1-momentum": 0.2}
    optimizer = METHODS["alpha-linear"].build(model, settings, 4)
    assert optimizer.defaults["momentum"] == optimizer.defaults["betas"][0] == 0.8
    seen = []
    for _ in range(5):
        seen.append(float(optimizer.alpha[0]))  # of the next step
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert seen == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_a_stopped_study_goes_on_and_ends_the_same(tmp_path, trained):
    whole = run_study(small(trials=4), tmp_path / "whole.json")
    count = len(trained)

    def stop(now):
        if now.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(small(trials=4), tmp_path / "parts.json", stop)
    again = run_study(small(trials=4), tmp_path / "parts.json")
    assert [t["settings"] for t in again.trials["digits/gate"]] == [
        t["settings"] for t in whole.trials["digits/gate"]
    ]
    losses = [[run["validation_loss"] for run in one.runs["digits/adam"]] for one in (whole, again)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert len(trained) <= 2 * count + 1
    before = len(trained)
    run_study(small(trials=4), tmp_path / "parts.json")
    assert len(trained) == before


def test_more_seeds_are_added_to_a_file(tmp_path, trained):
    run_study(small(), tmp_path / "a.json")
    before = len(trained)
    record = run_study(small(seeds=3), tmp_path / "a.json")
    assert len(trained) == before + 2
    assert [run["seed"] for run in record.runs["digits/adam"]] == [0, 1, 2]


def test_a_file_of_another_study_is_refused(tmp_path):
    run_study(small(methods=("adam",), seeds=1, trials=1), tmp_path / "a.json")
    with pytest.raises(ValueError, match="was made with"):
        run_study(small(epochs=2), tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="not the file of a blend study"):
        run_study(small(), tmp_path / "b.json")


def test_source_protocol_reports_the_rows_it_chose_by(trained):
    plan = small(protocol="source", methods=("gate-held-out",), seeds=1)
    record = run_study(plan)
    (run,) = record.runs["digits/gate-held-out"]
    trials = record.trials["digits/gate-held-out/0"]
    assert len(trained) == plan.runs == 2
    assert run["last"]["validation_loss"] == pytest.approx(min(t["value"] for t in trials))
    for data, *_ in trained:
        assert torch.equal(data.meta.index, data.validation.index)
        assert torch.equal(data.validation.index, data.test.index)


def test_source_split_has_the_sizes_of_the_source():
    data = leaking(load_data("mnist1d"))
    assert (len(data.train), len(data.validation)) == (4000, 1000)
    assert len(torch.cat([data.train.index, data.validation.index]).unique()) == 5000


def test_tuning_finds_a_minimum_and_stays_in_range():
    wanted = {"lr": 3e-3}
    method = Method("", "baseline", {"lr": Range(1e-5, 1.0, 0.5)}, METHODS["adam"].build)
    trials = []
    for _ in range(25):
        settings = propose(method, trials, "x")
        assert 1e-5 <= settings["lr"] <= 1.0
        value = math.log10(settings["lr"] / wanted["lr"]) ** 2
        trials.append({"settings": settings, "value": value})
    assert trials[0]["settings"]["lr"] == 0.5
    assert min(trial["value"] for trial in trials) < 0.05


def test_comparison_is_seed_by_seed_with_the_best_baseline():
    record = made_up({"gate": [0.5, 0.9], "adam": [0.6, 1.1], "sgd": [2.0, 2.0]})
    plan = Plan(data=("digits",), methods=("gate", "adam", "sgd"), seeds=2, trials=1)
    (found,) = compare(record, plan, "gate")
    assert found.baseline == "adam"
    assert found.difference == pytest.approx((-0.15, math.sqrt(0.005)))
    assert (found.wins, found.seeds, found.beyond_spread) == (2, 2, True)
    (test,) = compare(record, plan, "gate", loss="test_loss")
    assert test.difference.mean == pytest.approx(-0.3)


def test_a_difference_within_the_spread_is_no_win():
    record = made_up({"gate": [0.0, 1.0], "adam": [0.5, 0.6]})
    plan = Plan(data=("digits",), methods=("gate", "adam"), seeds=2, trials=1)
    assert not compare(record, plan, "gate")[0].beyond_spread


def test_divergence_is_never_an_advantage():
    record = made_up({"gate": [0.1, math.inf], "adam": [0.5, 0.5]})
    plan = Plan(data=("digits",), methods=("gate", "adam"), seeds=2, trials=1)
    (found,) = compare(record, plan, "gate")
    assert not found.beyond_spread
    row = next(row for row in summarize(record, plan) if row.method == "gate")
    assert (row.runs, row.diverged) == (2, 1)
    assert "1 of 2 diverged" in markdown(record, plan)
    history = History([1.0], [math.nan], [1.0], [0.1], [0.1], [0.0], diverged=True)
    assert figures(history)["last"]["validation_loss"] == math.inf


def test_markdown_shows_our_figures_beside_the_reported():
    plan = Plan(data=("mnist1d",), methods=("gate", "adam"), seeds=2, trials=1)
    record = made_up({"gate": [0.5, 0.7], "adam": [0.6, 1.0]})
    for kept in (record.trials, record.runs):
        for key in list(kept):
            kept[key.replace("digits", "mnist1d")] = kept.pop(key)
    text = markdown(record, plan)
    assert "| 0.6000 ± 0.1414 |" in text
    adam = next(line for line in text.splitlines() if line.startswith("| adam"))
    assert adam.endswith("| 1.0807 |")


def test_plan_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="unknown method 'adma'"):
        Plan(methods=("adma",))
    with pytest.raises(ValueError, match="protocol='x' is unknown"):
        Plan(protocol="x")
    with pytest.raises(ValueError, match="seeds=0"):
        Plan(seeds=0)
    with pytest.raises(ValueError, match="at least one"):
        Plan(methods=())
    with pytest.raises(ValueError, match="leaves out data with so many inputs"):
        run_study(small(methods=("gate-source",)))


def test_the_file_is_json_with_commit_and_date(tmp_path):
    run_study(small(methods=("adam",), seeds=1, trials=1), tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert set(content["made"]) >= {"date", "commit", "torch", "unstuck"}
    assert not list(tmp_path.glob("*.part"))
