import re

import pytest
from typer.testing import CliRunner

from unstuck.cli import build_app


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(build_app(), ["reproduce", *arguments])


def test_attention(run, tmp_path):
    small = [
        "--functions",
        "sphere",
        "--dims",
        "2",
        "--seeds",
        "1",
        "--budget",
        "200",
        "--most",
        "20",
    ]
    done = run("attention", *small, "--out", "deep/a")
    assert done.exit_code == 0, done.output
    for name in ("a.json", "a.md", "a-net.json", "a-net.md"):
        assert (tmp_path / "deep" / name).stat().st_size > 100
    assert "4/4 sphere/2/adaptive" in done.output
    assert "1.34e-17" in (tmp_path / "deep/a.md").read_text()
    again = run("attention", *small, "--out", "deep/a")
    assert again.exit_code == 0
    assert run("attention", *small, "--out", "deep/a", "--seeds", "2").exit_code == 2


def test_hybrids(run, tmp_path):
    done = run("hybrids", "--dims", "3", "--seeds", "1", "--budget", "600")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "hybrids-3.png").read_bytes().startswith(b"\x89PNG")
    assert "flat-lines high" in (tmp_path / "hybrids.md").read_text()
    assert "6/6 lr-attention, start 0" in done.output


def test_alme(run, tmp_path):
    done = run("alme", "--size", "small", "--studies", "training,traps", "--out", "deep/a")
    assert done.exit_code == 0, done.output
    made = tmp_path / "deep"
    assert "digits/smooth | alme-aggressive" in (made / "a.md").read_text()
    assert "| xor | 0.01 | 2 of 2" in (made / "a-traps.md").read_text()
    for name in ("escapes", "distances", "comparison", "landscapes"):
        assert (made / f"a-{name}.png").read_bytes().startswith(b"\x89PNG")
    again = run("alme", "--size", "small", "--studies", "functions", "--out", "deep/a")
    assert again.exit_code == 0, again.output
    assert "1/1 function/rastrigin/2" in again.output
    text = (made / "a.md").read_text()
    assert "| rastrigin/2 | lbfgs" in text
    assert "digits/smooth | alme-aggressive" in text  # what the file holds is shown
    assert run("alme", "--studies", "functions", "--out", "deep/a").exit_code == 2  # another size


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["alme", "--size", "huge"], "unknown size 'huge'"),
        (["alme", "--studies", "nets"], "unknown study 'nets'"),
        (["attention", "--dims", "two"], "must be whole numbers"),
        (["attention", "--methods", "cma"], "unknown method 'cma'"),
        (["hybrids", "--out", "a.txt"], "must end in .json"),
        (["hybrids", "--dims", "0"], "each at least 1"),
    ],
)
def test_bad_options(run, arguments, text):
    done = run(*arguments)
    assert done.exit_code == 2
    assert text in re.sub(r"[\s│]+", " ", done.output)
