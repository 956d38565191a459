import pytest
from typer.testing import CliRunner

from unstuck.cli import build_app
from unstuck.learned import MLP


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MLP().save(tmp_path / "mine.safetensors")
    return lambda *arguments: CliRunner().invoke(build_app(), ["reproduce", "learned", *arguments])


def test_held_out_tasks(run, tmp_path):
    small = ["--study", "heldout", "--size", "small", "--rule", "mine.safetensors"]
    done = run(*small, "--no-clock", "--out", "deep/a")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "deep" / "a.md").read_text()
    assert "The rule mine.safetensors" in text
    assert "| horizon | mnist1d 64, 3 x |" in text
    assert "At equal steps:" in done.output
    assert not list((tmp_path / "deep").glob("*.png"))
    before = (tmp_path / "deep" / "a.json").read_text()
    assert run(*small, "--no-clock", "--out", "deep/a").exit_code == 0
    assert (tmp_path / "deep" / "a.json").read_text() == before


def test_tasks_that_confirm(run, tmp_path):
    done = run("--study", "confirmation", "--size", "small", "--rule", "mine.safetensors")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "learned-confirmation.md").read_text()
    assert "nor the choice among rules" in text
    assert "--study confirmation --rule mine.safetensors`" in text
    assert "| depth | digits 4 x 32 |" in text


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--study", "heldout,maze", "unknown study"),
        ("--size", "huge", "unknown size"),
        ("--rule", "nobody", "no rule named"),
        ("--rule", "nothing.safetensors", "nothing.safetensors"),
        ("--out", "a.txt", "must end in .json"),
    ],
)
def test_what_cannot_be_run(run, option, value, text):
    asked = {"--rule": "mine.safetensors", "--size": "small", "--study": "heldout", option: value}
    done = run(*(word for pair in asked.items() for word in pair))
    assert done.exit_code == 2
    assert text in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("study", "picture", "text"),
    [
        ("functions", "a-functions-trajectories.png", "What is left of the quadratics, mlp"),
        ("mnist", "a-mnist-curves.png", "| LSTM, gradient | g, w | fails |"),
    ],
)
def test_studies_that_train_rules_themselves(run, tmp_path, study, picture, text):
    small = ["--study", study, "--size", "small", "--out", "a.json"]
    done = run(*small)
    assert done.exit_code == 0, done.output
    assert text in (tmp_path / f"a-{study}.md").read_text()
    assert (tmp_path / picture).stat().st_size > 10_000
    before = (tmp_path / f"a-{study}.json").read_text()
    assert run(*small).exit_code == 0
    assert (tmp_path / f"a-{study}.json").read_text() == before
