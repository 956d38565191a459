import io
import json
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from unstuck.cli import build_app
from unstuck.cli.race import Live, table, verdict
from unstuck.training import RaceResult, race

QUICK = ["--model", "logistic", "--epochs", "2", "--seeds", "2"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(build_app(), ["race", *arguments])

    return run


def words(text):
    """Text without boxes and line breaks."""
    return re.sub(r"[\s│]+", " ", text)


def written(thing, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    return console.file.getvalue()


def test_trains_shows_a_table_and_writes_both_files(run, tmp_path):
    done = run(*QUICK, "--optimizers", "blend,sgd:lr=0.05", "--out", "deep/er/result.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "deep/er/result.png").read_bytes().startswith(b"\x89PNG")
    result = RaceResult.from_json((tmp_path / "deep/er/result.json").read_text())
    assert [run.seed for run in result.runs] == [0, 0, 1, 1]
    assert written(table(result, "last")).strip() in done.output.replace("\r", "")
    assert verdict(result, "last") in done.output
    assert "4/4 sgd:lr=0.05, seed 1: validation loss" in done.output


def test_table_holds_the_summary():
    result = race("adam,sgd", model="logistic", epochs=2, seeds=2)
    text = written(table(result, "last"))
    assert max(map(len, text.splitlines())) <= 80
    for row in result.summary():
        assert f"{row.test_loss.mean:.4f}" in text
        assert f"± {row.train_loss.std:.4f}" in text
        assert f"{100 * row.test_accuracy.mean:.2f} %" in text
    assert "lr=0.03 momentum=0.9" in text
    best = written(table(result, "best"))
    assert "at the best epoch" in words(best)


def test_divergence_is_shown_and_does_not_stop_the_others(run):
    done = run(*QUICK, "--optimizers", "sgd:lr=1e38,adam", "--out", "x.png")
    assert done.exit_code == 0, done.output
    assert "sgd:lr=1e38, seed 0: diverged in epoch 1" in done.output
    assert "2 of 2 diverged" in done.output
    assert "adam: validation loss" in done.output


def test_all_diverged(run):
    done = run(*QUICK, "--optimizers", "sgd:lr=1e38", "--out", "x.png")
    assert done.exit_code == 0, done.output
    assert "Every run diverged." in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizers", "adma"], "unknown optimizer 'adma': known are adadelta"),
        (["--optimizers", "adam:foo=1"], "adam has no setting 'foo'"),
        (["--optimizers", "sgd:lr=-1"], "Invalid learning rate"),
        (["--data", "cifar"], "known are digits, mnist, mnist1d"),
        (["--model", "gpt"], "known are conv, logistic, mlp"),
        (["--schedule", "warm"], "known are constant, cosine"),
        (["--at", "first"], "known are best, last"),
        (["--device", "gpu"], "'gpu' cannot be used"),
        (["--device", "meta"], "'meta' cannot be used"),
        (["--out", "race.txt"], "race.txt must end in one of .png, .pdf, .svg"),
        (["--out", "file/race.png"], "cannot make the folder file"),
        (["--out", "folder.png"], "cannot write folder.png"),
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "many"], "--epochs"),
        (["--seeds", "0"], "--seeds"),
        (["--batch-size", "0"], "--batch-size"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_bad_values_are_usage_errors(run, tmp_path, arguments, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in words(done.output)
    assert not list(tmp_path.glob("*.json"))


def test_out_without_an_ending_is_a_png(run, tmp_path):
    assert run(*QUICK, "--optimizers", "sgd", "--out", "mine").exit_code == 0
    assert (tmp_path / "mine.png").exists()
    assert (tmp_path / "mine.json").exists()


def test_help_names_what_is_known():
    text = words(CliRunner().invoke(build_app(), ["race", "--help"]).output)
    for name in ("--optimizers", "--data", "--model", "--epochs", "--seeds", "--device", "--out"):
        assert name in text
    for name in ("blend", "adamw", "mnist1d", "logistic"):
        assert name in text


@pytest.mark.parametrize(("finished", "shown"), [(3, True), (0, False)])
def test_interrupt_shows_what_is_finished(run, tmp_path, monkeypatch, finished, shown):
    update = Live.update

    def stop(self, now):
        if (now.run, now.epoch) == (finished, 1):
            raise KeyboardInterrupt
        update(self, now)

    monkeypatch.setattr(Live, "update", stop)
    done = run(*QUICK, "--optimizers", "adam,sgd", "--out", "x.png")
    assert done.exit_code == 130
    assert f"Stopped: {finished} of 4 runs had finished." in done.output
    assert (tmp_path / "x.png").exists() == shown
    assert ("Lowest validation loss" in done.output) == shown
    if shown:
        assert json.loads((tmp_path / "x.json").read_text())["interrupted"] is True


def test_bar_on_a_terminal_shows_the_best_value():
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with Live(console) as live:
        result = race("sgd", model="logistic", epochs=2, seeds=1, progress=live.update)
        live._bar.refresh()
        drawn = console.file.getvalue()
    best = f"{min(result.histories('sgd')[0].validation_loss):.4f} (sgd)"
    assert f"best validation loss {best}" in drawn
    assert "1/1" not in drawn
