import json

import pytest
from typer.testing import CliRunner

from unstuck.cli import build_app

SMALL = ["--data", "digits", "--methods", "gate,adam", "--epochs", "1", "--seeds", "2"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(build_app(), ["reproduce", "blend", *arguments])

    return run


def test_writes_results_picture_and_tables(run, tmp_path):
    done = run(*SMALL, "--quick", "--trials", "1", "--out", "deep/a.json")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "deep/a.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "deep/a.md").read_text()
    assert text.startswith("# Blend study, honest protocol")
    record = json.loads((tmp_path / "deep/a.json").read_text())
    assert [run["seed"] for run in record["runs"]["digits/gate"]] == [0, 1]
    assert "validation loss of gate is" in done.output
    assert "6/6 digits/adam" in done.output


def test_source_protocol_has_no_verdict_of_its_own(run, tmp_path):
    given = ["--protocol", "source", "--trials", "1"]
    done = run(*SMALL, *given, "--out", "a.json")
    assert done.exit_code == 0, done.output
    assert "Gates against the best baseline" not in (tmp_path / "a.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nope"], "unknown data set 'nope'"),
        (["--methods", "nope"], "unknown method 'nope'"),
        (["--protocol", "nope"], "protocol='nope' is unknown"),
        (["--out", "a.txt"], "must end in .json"),
    ],
)
def test_wrong_options_are_usage_errors(run, arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


def test_a_file_of_another_study_is_a_usage_error(run, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    done = run(*SMALL, "--out", "a.json")
    assert done.exit_code == 2
    assert "not the file of a blend study" in " ".join(done.output.replace("│", " ").split())
