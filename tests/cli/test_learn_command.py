import io
import json
import math
import re

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from unstuck.cli import build_app
from unstuck.cli.learn import Live, summary
from unstuck.learned import (
    FAMILIES,
    MLP,
    Evolution,
    MetaTraining,
    Plan,
    Row,
    WhitenedMLP,
    load,
)

SMALL = ["--family", "quadratics", "--unrolls", "2", "--students", "4", "--horizon", "10,20"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(build_app(), ["learn", *arguments])

    return run


def plain(text):
    """Text without colours, boxes and line breaks."""
    return re.sub(r"[\s│]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_trains_and_goes_on(run, tmp_path):
    done = run(*SMALL, "--steps", "3", "--rule", "mlp:hidden=4:control=4", "--out", "deep/er")
    assert done.exit_code == 0, done.output
    assert "meta-step 3: objective on fixed tasks" in done.output
    assert "3 meta-steps in" in done.output
    folder = tmp_path / "deep/er"
    assert load(folder / "rule.safetensors").config() == MLP(hidden=4, control=4).config()
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    first = json.loads((folder / "curve.json").read_text())
    assert first["step"] == [1, 2, 3]
    again = run(*SMALL, "--steps", "3", "--rule", "mlp:hidden=4:control=4", "--out", "deep/er")
    assert again.exit_code == 0, again.output
    assert "Going on from step 3 in deep/er" in again.output
    assert json.loads((folder / "curve.json").read_text()) == first


def test_averages_trainings_with_several_seeds(run, tmp_path):
    train = [*SMALL, "--steps", "3", "--rule", "mlp:hidden=4:control=4"]
    done = run(*train, "--average", "2", "--seed", "5", "--out", "both")
    assert done.exit_code == 0, done.output
    assert done.output.count("3 meta-steps in") == 2
    rules = [load(tmp_path / f"both/{name}rule.safetensors") for name in ("run-0/", "run-1/", "")]
    for first, second, mean in zip(*(rule.parameters() for rule in rules), strict=True):
        torch.testing.assert_close(mean, (first + second) / 2)
    # Each is what it is by itself, but that all begin with the weights of the first seed.
    assert run(*train, "--seed", "5", "--out", "alone").exit_code == 0
    assert run(*train, "--seed", "5", "--minutes", "0", "--out", "begin").exit_code == 0
    begin = str(tmp_path / "begin/rule.safetensors")
    assert run(*train[:-1], begin, "--seed", "6", "--out", "other").exit_code == 0
    for number, name in enumerate(("alone", "other")):
        alone = load(tmp_path / name / "rule.safetensors")
        for p, q in zip(alone.parameters(), rules[number].parameters(), strict=True):
            assert torch.equal(p, q)
    again = run(*train, "--average", "2", "--seed", "5", "--out", "both")
    assert again.output.count("Going on from step 3 in both/run-") == 2


@pytest.mark.parametrize("estimator", ["evolution", "backprop"])
def test_stops_by_time(run, tmp_path, estimator):
    done = run(*SMALL, "--minutes", "0.005", "--estimator", estimator)
    assert done.exit_code == 0, done.output
    curve = json.loads((tmp_path / "learned/curve.json").read_text())
    assert curve["step"][-1] >= 1
    assert curve["options"]["estimator"] == estimator


def test_begins_with_the_weights_of_another_class(run, tmp_path):
    done = run(*SMALL, "--minutes", "0", "--rule", "whitened-mlp:weights=mlp-v1:power=0.2")
    assert done.exit_code == 0, done.output
    rule, other = load(tmp_path / "learned/rule.safetensors"), load("mlp-v1")
    assert rule.config() == WhitenedMLP(**other.config(), power=0.2).config()
    for key, value in other.state_dict().items():
        assert torch.equal(rule.state_dict()[key], value)


def test_begins_with_a_trained_rule(run, tmp_path):
    assert run(*SMALL, "--steps", "2", "--lr", "0.1", "--out", "lr=0.1").exit_code == 0
    rule = "lr=0.1/rule.safetensors"
    done = run(*SMALL, "--minutes", "0", "--rule", rule, "--out", "two")
    assert done.exit_code == 0, done.output
    one, two = (load(tmp_path / name / "rule.safetensors") for name in ("lr=0.1", "two"))
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert p.equal(q)


def test_processes_change_nothing(run, tmp_path):
    for workers in ("1", "2"):
        done = run(*SMALL, "--steps", "2", "--workers", workers, "--out", workers)
        assert done.exit_code == 0, done.output
    one, two = (json.loads((tmp_path / name / "curve.json").read_text()) for name in "12")
    assert one["score"] == two["score"]
    assert one["judged"] == two["judged"]


def test_compares_with_baselines(run, tmp_path):
    small = ["--family", "digits", *SMALL[2:], "--steps", "1"]
    for name, more in (
        ("alone", ()),
        ("whole", ("--baselines", "1")),
        ("bent", ("--baselines", "0.1", "--margin", "0.3")),
    ):
        done = run(*small, *more, "--out", name)
        assert done.exit_code == 0, done.output
    curves = {
        name: json.loads((tmp_path / name / "curve.json").read_text())
        for name in ("alone", "whole", "bent")
    }
    assert curves["bent"]["options"]["objective"]["baselines"] == 0.1
    assert curves["bent"]["options"]["objective"]["margin"] == 0.3
    # an untrained rule makes short steps: baselines are far below, so nothing is bent
    score, whole, bent = (curve["score"][0] for curve in curves.values())
    assert whole > score + 0.05
    assert whole < bent <= whole + 0.3 + 1e-6


def test_no_time_is_no_step(run, tmp_path):
    done = run(*SMALL, "--minutes", "0")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "learned/rule.safetensors").exists()
    assert not (tmp_path / "learned/curve.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "quadratic"], "unknown family 'quadratic': known are"),
        (["--rule", "mpl"], "unknown rule 'mpl': known are"),
        (["--rule", "mlp:hidden"], "'hidden' is no setting: write mlp:key=value"),
        (["--rule", "mlp:hiden=3"], "unexpected keyword argument 'hiden'"),
        (["--rule", "mlp:hidden=0"], "hidden: 0"),
        (["--rule", "none.safetensors"], "there is no file none.safetensors"),
        (["--rule", "mlp:weights=none.safetensors"], "there is no file none.safetensors"),
        (["--rule", "mlp:weights=mlp-v1:hidden=5"], "size mismatch for hidden_in.weight"),
        (["--rule", "lstm:weights=mlp-v1"], "unexpected keyword argument 'control'"),
        (["--resolution", "0"], "resolution must be a positive number, not 0.0"),
        (["--estimator", "es"], "unknown estimator 'es': known are backprop, evolution"),
        (["--horizon", "20"], "'20' is not two numbers of steps"),
        (["--multiplier", "0.1;1"], "'0.1;1' is not two numbers"),
        (["--multiplier", "1,0.1"], "the lower first, not (1.0, 0.1)"),
        (["--horizon", "20,10"], "the lower first, not (20, 10)"),
        (["--students", "3"], "students=3 must be even"),
        (["--workers", "9"], "from 1 to the 8 unrolls of the plan, not 9"),
        (["--sigma", "0"], "sigma must be a positive number, not 0.0"),
        (["--lr", "-1"], "lr must be a positive number, not -1.0"),
        (["--baselines", "2"], "baselines must be from 0 to 1, not 2.0"),
        (["--margin", "0.3"], "margin=0.3 is a distance to baselines"),
        (["--validation", "2"], "validation must be from 0 to 1, not 2.0"),
        (["--scale", "lgo"], "scale must be one of log, linear, not 'lgo'"),
    ],
)
def test_usage_errors_say_what_is_wrong(run, arguments, message):
    done = run("--minutes", "0", *arguments)
    assert done.exit_code == 2
    assert message in plain(done.output)


def test_other_options_do_not_go_on(run):
    assert run(*SMALL, "--minutes", "0").exit_code == 0
    other = run(*SMALL, "--minutes", "0", "--lr", "0.5")
    assert other.exit_code == 2
    assert "lr=0.003, not 0.5" in plain(other.output)


def test_a_terminal_gets_a_bar():
    plan = Plan(unrolls=1, students=2, horizon=(5, 5))
    training = MetaTraining(Evolution(MLP(), FAMILIES["quadratics"], plan), steps=4)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Live(console, training, minutes=1.0) as live:
        live.update(Row(1, -0.1, 1.0, -0.25, 20, 1.0))
        live.update(Row(2, -0.1, 1.0, math.nan, 40, 2.0))
        assert live._bar.tasks[0].completed == 0.5
        live._bar.refresh()
    shown = plain(console.file.getvalue())
    assert "meta-step 2" in shown
    assert "objective -0.2500" in shown
    assert "fixed tasks" not in shown


def test_summary_holds_first_and_last_judgement():
    rows = [Row(1, 0.0, 1.0, -0.1, 600, 30.0), Row(2, 0.0, 1.0, math.nan, 1200, 60.0)]
    text = summary(rows)
    assert text.startswith("2 meta-steps in 1.0 minutes, 20 student steps a second")
    assert "-0.1000 at the first step" in text
