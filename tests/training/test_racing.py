import json
import math

import pytest
import torch

from unstuck.problems import load_data, make_model
from unstuck.training import OPTIMIZERS, Entry, RaceResult, entrant, fit, race

SMALL = {"model": "logistic", "epochs": 2}


def losses(result, label):
    return [history.validation_loss for history in result.histories(label)]


@pytest.fixture(scope="module")
def result():
    return race("adam,sgd,sgd:lr=1e38", seeds=3, **SMALL)


def test_everyone_starts_alike_and_every_run_is_reproducible(result):
    for one, other in zip(result.histories("adam"), result.histories("sgd"), strict=True):
        assert one.train_loss[0] == other.train_loss[0]
    again = race("sgd", seeds=3, **SMALL)
    assert losses(again, "sgd") == losses(result, "sgd")
    assert len({tuple(curve) for curve in losses(result, "sgd")}) == 3


def test_a_run_is_what_fit_makes_of_it(result):
    data = load_data("digits", 2)
    model = make_model("logistic", data, 2)
    history = fit(model, entrant("sgd").build(model), data, epochs=2, batch_size=64, seed=2)
    assert history.test_loss == result.histories("sgd")[2].test_loss


def test_seeds_are_the_outer_loop(result):
    assert [(run.seed, run.label) for run in result.runs[:4]] == [
        (0, "adam"),
        (0, "sgd"),
        (0, "sgd:lr=1e38"),
        (1, "adam"),
    ]


def test_summary_averages_over_seeds_and_counts_divergence(result):
    rows = {row.label: row for row in result.summary()}
    last = [curve[-1] for curve in losses(result, "sgd")]
    mean = sum(last) / 3
    assert rows["sgd"].validation_loss.mean == pytest.approx(mean)
    spread = math.sqrt(sum((value - mean) ** 2 for value in last) / 2)
    assert rows["sgd"].validation_loss.std == pytest.approx(spread)
    assert (rows["sgd"].finished, rows["sgd"].diverged) == (3, 0)
    lost = rows["sgd:lr=1e38"]
    assert (lost.finished, lost.diverged) == (3, 3)
    assert math.isnan(lost.test_loss.mean)
    assert result.summary()[-1].label == "sgd:lr=1e38"
    means = [row.validation_loss.mean for row in result.summary()[:2]]
    assert means == sorted(means)


def test_lead_is_the_difference_on_the_same_seed(result):
    pairs = zip(losses(result, "adam"), losses(result, "sgd"), strict=True)
    by_hand = [adam[-1] - sgd[-1] for adam, sgd in pairs]
    lead = result.lead("sgd", "adam")
    assert lead.mean == pytest.approx(sum(by_hand) / 3)
    assert result.lead("adam", "sgd").mean == pytest.approx(-lead.mean)
    assert math.isnan(result.lead("adam", "sgd:lr=1e38").mean)


def test_json_round_trip(result):
    text = result.to_json()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["settings"]["sgd"] == {"lr": 0.03, "momentum": 0.9}
    assert [row["label"] for row in content["summary"]] == [r.label for r in result.summary()]
    back = RaceResult.from_json(text)
    assert losses(back, "adam") == losses(result, "adam")
    assert back.histories("sgd:lr=1e38")[0].diverged
    assert math.isnan(back.histories("sgd:lr=1e38")[0].train_loss[-1])
    assert back.to_json() == text


def test_progress_tells_the_best_so_far():
    seen = []
    result = race("adam,sgd", seeds=1, progress=seen.append, **SMALL)
    assert [(now.run, now.epoch) for now in seen] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
    ]
    assert {now.runs for now in seen} == {2}
    every = losses(result, "adam")[0] + losses(result, "sgd")[0]
    assert seen[-1].best == min(every)
    assert seen[-1].best_label == ("adam" if min(every) in every[:3] else "sgd")
    assert seen[2].best_label == "adam"


def test_interrupt_keeps_what_is_finished():
    def stop(now):
        if (now.run, now.epoch) == (2, 1):
            raise KeyboardInterrupt

    result = race("adam,sgd", seeds=2, progress=stop, **SMALL)
    assert result.interrupted
    assert [run.label for run in result.runs] == ["adam", "sgd"]
    assert json.loads(result.to_json())["interrupted"] is True


def test_held_out_blend_gives_up_rows_for_its_second_batch(monkeypatch):
    seen = {}

    def spy(model, optimizer, data, **settings):
        seen[type(optimizer).__name__, len(data.train)] = (settings["meta_every"], data.meta)
        return fit(model, optimizer, data, **settings)

    monkeypatch.setattr("unstuck.training.racing.fit", spy)
    race("blend-held-out,adam", seeds=1, **SMALL)
    ((name, rows), (every, meta)), ((_, all_rows), (never, none)) = seen.items()
    assert name == "DynamicBlend"
    assert rows + len(meta) == all_rows
    assert (every, never, none) == (1, 0, None)


def test_registry_can_be_extended(monkeypatch):
    entry = Entry(torch.optim.LBFGS, {"lr": 0.1, "max_iter": 2}, closure=True)
    monkeypatch.setitem(OPTIMIZERS, "lbfgs", entry)
    result = race("lbfgs", seeds=1, batch_size=2000, **SMALL)
    history = result.histories("lbfgs")[0]
    assert history.train_loss[-1] < history.train_loss[0]


def test_cosine_schedule_changes_the_run():
    constant = race("sgd", seeds=1, **SMALL)
    cosine = race("sgd", seeds=1, schedule="cosine", **SMALL)
    assert cosine.schedule == "cosine"
    assert losses(cosine, "sgd")[0][-1] != losses(constant, "sgd")[0][-1]


def test_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    race("adam,sgd", seeds=1, **SMALL)
    assert torch.equal(torch.rand(2), expected)


def test_threads_hold_for_the_race_alone():
    torch.set_num_threads(2)
    seen = []
    result = race("sgd", seeds=1, progress=lambda _: seen.append(torch.get_num_threads()), **SMALL)
    assert set(seen) == {result.threads} == {1}
    assert torch.get_num_threads() == 2
    race(
        "sgd", seeds=1, threads=2, progress=lambda _: seen.append(torch.get_num_threads()), **SMALL
    )
    assert seen[-1] == 2


def test_seeds_may_be_named():
    result = race("sgd", seeds=[4, 2], **SMALL)
    assert [run.seed for run in result.runs] == [4, 2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"seeds": 0}, "seeds=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"threads": 0}, "threads=0"),
        ({"data": "cifar"}, "known are digits"),
        ({"model": "gpt"}, "known are conv"),
        ({"schedule": "warm"}, "known are constant, cosine"),
        ({"optimizers": "adma"}, "known are adadelta"),
    ],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ValueError, match=message):
        race(**{"optimizers": "sgd", "seeds": 1, **SMALL, **bad})
