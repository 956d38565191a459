import io
import re

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from unstuck.cli import build_app
from unstuck.cli import minimize as module
from unstuck.cli.minimize import Live, entries, table
from unstuck.minimize import METHODS, minimize
from unstuck.problems import get, names


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(build_app(), ["minimize", *arguments])

    return run


def words(text):
    """Text without boxes and line breaks."""
    return re.sub(r"[\s│]+", " ", text)


def written(thing, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    return console.file.getvalue()


def test_shows_progress_a_table_and_writes_the_picture(run, tmp_path):
    done = run("rastrigin", "--dim", "10", "--budget", "2e3", "--out", "deep/er/x.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "deep/er/x.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "deep/er/x-path.png").exists()
    result = minimize(get("rastrigin", 10), budget=2000, seed=0)
    assert f"{result.fun:.7g}" in done.output
    assert f"attention: {result.message}" in done.output
    lines = re.findall(r"attention: (\d+)/2000 evaluations, best value (\S+)", done.output)
    assert 5 <= len(lines) <= 12
    assert [float(best) for _, best in lines] == sorted((float(b) for _, b in lines), reverse=True)
    assert "rastrigin, D = 10" in done.output
    assert "minimum: 0" in done.output


def test_two_dimensions_and_several_methods(run, tmp_path):
    arguments = ["--method", "attention", "--method", "reactive-escape", "--budget", "400"]
    done = run("egg_box_bowl", *arguments, "--method", "attention:mode=plain", "--out", "two")
    assert done.exit_code == 0, done.output
    for name in ("two.png", "two-path.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    for label in ("attention", "reactive-escape", "attention:mode=plain"):
        assert f"{label}: " in done.output
    assert "minimum: -0.7945823" in done.output
    assert "Trajectories: two-path.png" in done.output


def test_methods_begin_at_the_same_point(run, monkeypatch):
    starts = []
    called = minimize

    def spy(*arguments, **options):
        result = called(*arguments, **options)
        starts.append(result.allvecs[0])
        return result

    monkeypatch.setattr(module, "minimize", spy)
    assert run("ackley", "--dim", "2", "--method", "attention", "--method", "alternating",
               "--budget", "100", "--seed", "3").exit_code == 0  # fmt: skip
    assert torch.equal(starts[0], starts[1])
    assert run("ackley", "--dim", "2", "--budget", "100", "--x0", "1,-2").exit_code == 0
    assert starts[2].tolist() == [1.0, -2.0]
    assert run("ackley", "--dim", "2", "--budget", "100", "--x0", "3").exit_code == 0
    assert starts[3].tolist() == [3.0, 3.0]


def test_options_seed_and_parameters_reach_the_search(run, monkeypatch):
    seen = []
    called = minimize

    def spy(problem, start, **options):
        seen.append((problem, options))
        return called(problem, start, **options)

    monkeypatch.setattr(module, "minimize", spy)
    done = run("ravine", "--parameter", "a=10", "--option", "sigma0=0.5", "--seed", "7",
               "--method", "attention:popsize=12:mode=plain", "--budget", "1e2", "--tol", "1e-3",
               "--dtype", "float64")  # fmt: skip
    assert done.exit_code == 0, done.output
    ((problem, options),) = seen
    assert problem.objective.parameters == (10.0, 2.0)
    assert problem.dtype == torch.float64
    expected = {"return_all": True, "sigma0": 0.5, "popsize": 12, "mode": "plain"}
    assert options["options"] == expected
    assert (options["seed"], options["budget"], options["tol"]) == (7, 100, 1e-3)
    assert options["method"] == "attention"


def test_entries_read_settings():
    one, two = entries(["attention", "attention:popsize=64:bound=reflect"], {"sigma0": 1.0})
    assert (one.label, dict(one.options)) == ("attention", {"sigma0": 1.0})
    assert two.options == {"sigma0": 1.0, "popsize": 64, "bound": "reflect"}


def test_table_has_the_lowest_value_first():
    results = {
        name: minimize("sphere", torch.full((3,), 2.0), budget=n, seed=0)
        for name, n in (("short", 20), ("long", 800))
    }
    text = written(table(get("sphere", 3), results, {"short": 0.5, "long": 1.25}))
    assert text.index("long") < text.index("short")
    assert f"{results['short'].fun:.7g}" in text
    assert "1.25" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rastrign"], "unknown problem 'rastrign': known are ackley"),
        (["rastrigin"], "give one, as in problems.get('rastrigin', dim=10)"),
        (["eggholder", "--dim", "3"], "dim of eggholder must be 2, not 3"),
        (["sphere", "--dim", "0"], "--dim"),
        (["ravine", "--parameter", "c=1"], "ravine has no parameter 'c': known are a, b"),
        (["ravine", "--parameter", "a"], "write key=value, not 'a'"),
        (["ravine", "--method", "atention"], "unknown method 'atention': known are"),
        (["ravine", "--method", "attention:popsize"], "write key=value, not 'popsize'"),
        (["ravine", "--method", "attention:pop=3"], "'attention:pop=3': unknown option 'pop'"),
        (["ravine", "--method", "attention", "--method", "attention"], "is given twice"),
        (["ravine", "--option", "sigma0=-1"], "sigma0 must be finite and above 0, not -1"),
        (["ravine", "--option", "=2"], "write key=value, not '=2'"),
        (["ravine", "--budget", "many"], "'many' is not a number"),
        (["ravine", "--budget", "0"], "'0' is not a whole number of at least 1"),
        (["ravine", "--budget", "1.5"], "'1.5' is not a whole number of at least 1"),
        (["ravine", "--budget", "nan"], "'nan' is not a whole number of at least 1"),
        (["ravine", "--x0", "1,2,3"], "3 numbers for 2 coordinates: give 1 or all"),
        (["ravine", "--x0", "here"], "'here' is not a number"),
        (["ravine", "--x0", "9"], "outside of its bounds"),
        (["ravine", "--tol", "-1"], "tol must be finite and at least 0"),
        (["ravine", "--dtype", "float16"], "unknown dtype 'float16': known are float32, float64"),
        (["ravine", "--device", "gpu"], "'gpu' cannot be used"),
        (["ravine", "--seed", "-1"], "--seed"),
        (["ravine", "--out", "x.txt"], "x.txt must end in one of .png, .pdf, .svg"),
    ],
)
def test_bad_values_are_usage_errors(run, tmp_path, arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert message in words(done.output)
    assert not list(tmp_path.iterdir())


def test_help_names_what_is_known():
    text = words(CliRunner().invoke(build_app(), ["minimize", "--help"]).output)
    for name in ("--dim", "--method", "--budget", "--option", "--x0", "--seed", "--out"):
        assert name in text
    for name in ("rastrigin", "zakharov", "float64"):
        assert name in text
    assert len(names()) >= 15
    assert all(name in re.sub(r" ", "", text) for name in METHODS)


@pytest.mark.parametrize("at", ["attention", "alternating"])
def test_interrupt_shows_what_was_found(run, tmp_path, monkeypatch, at):
    update = Live.update

    def stop(self, intermediate_result):
        if self._label == at and intermediate_result.nit == 3:
            raise KeyboardInterrupt
        update(self, intermediate_result)

    monkeypatch.setattr(Live, "update", stop)
    methods = ["--method", "attention", "--method", "alternating", "--method", "lr-attention"]
    done = run("ackley", "--dim", "3", *methods, "--budget", "300", "--out", "x.png")
    assert done.exit_code == 130
    assert "Stopped; these are the best points so far." in done.output
    assert f"{at}: Interrupted from the keyboard" in done.output
    assert "lr-attention" not in done.output
    assert (tmp_path / "x.png").exists()


def test_a_fault_on_the_way_is_not_taken_for_a_wrong_value(run, monkeypatch):
    def broken(self, intermediate_result):
        raise ValueError("a fault")

    monkeypatch.setattr(Live, "update", broken)
    done = run("ravine", "--budget", "100")
    assert done.exit_code == 1
    assert isinstance(done.exception, ValueError)
    assert done.exception.result.nit == 1


def test_bar_on_a_terminal_shows_the_best_value():
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with Live(console, 200) as live:
        live.begin("attention")
        result = minimize("sphere", torch.ones(3), budget=200, seed=0, callback=live.update)
        live._bar.refresh()
        drawn = console.file.getvalue()
        live.end(result)
    assert f"best value {result.history.fun[-2]:.7g}" in drawn
    assert "evaluations" in drawn
    assert result.message in console.file.getvalue()
