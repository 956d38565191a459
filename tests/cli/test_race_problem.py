import json
import re

import pytest
from typer.testing import CliRunner

from unstuck.cli import build_app


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(build_app(), ["race", *arguments])


def test_a_race_on_the_trapped_loss(run, tmp_path):
    done = run("--problem", "trapped", "--budget", "1500", "--seeds", "2", "--out", "a/b.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a/b.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "a/b.json").read_text())
    assert len(content["runs"]) == 12
    assert content["budget"] == 1500
    rows = re.findall(r"│ ([a-z-]+) +│ +(-?[\d.]+) ", done.output)
    means = {name: float(mean) for name, mean in rows if name in content["methods"]}
    assert len(means) == 6
    assert max(means, key=means.get) == "gd"


def test_chosen_methods_on_another_landscape(run):
    done = run(
        *("--problem", "ackley", "--dim", "3", "--budget", "300", "--seeds", "1"),
        *("--optimizers", "gd,lr-attention"),
    )
    assert done.exit_code == 0, done.output
    assert "2/2 lr-attention, start 0" in done.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--problem", "trapped", "--epochs", "3"], "--epochs: is for data"),
        (["--dim", "3"], "--dim: needs --problem"),
        (["--budget", "30"], "--budget: needs --problem"),
        (["--problem", "nowhere"], "unknown problem 'nowhere'"),
        (["--problem", "trapped", "--optimizers", "adam"], "unknown method 'adam'"),
        (["--problem", "trapped", "--out", "a.txt"], "must end in one of"),
    ],
)
def test_bad_options(run, arguments, text):
    done = run(*arguments)
    assert done.exit_code == 2
    assert text in re.sub(r"[\s│]+", " ", done.output)
