"""The notebook's code runs from the stored results, and what is stored of it names no machine."""

import ast
import json
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOK = DOCS / "alme.ipynb"


@pytest.fixture(scope="module")
def sources():
    content = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in code] == [[]] * len(code)
    return ["".join(cell["source"]) for cell in code]


def run(source, names):
    """Execute a cell and return the value of its last expression, as a notebook shows it."""
    *body, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_every_cell_runs_and_the_pictures_are_drawn(sources, monkeypatch):
    monkeypatch.chdir(DOCS)
    names: dict[str, object] = {}
    shown = [run(source, names) for source in sources]
    pictures = [value._repr_png_() for value in shown if hasattr(value, "_repr_png_")]
    assert len(pictures) == 5
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 10_000 for picture in pictures)
    listed, costs = shown[0][0], shown[-1]
    assert {name for name in listed if name.startswith("escape/")} == set(costs)
    assert all(ratio > 1 for ways in costs.values() for ratio in ways.values())


def test_no_path_or_machine_is_named():
    text = NOTEBOOK.read_text()
    for word in ("/home", "/root", "/usr", "/tmp", str(DOCS.parent)):
        assert word not in text
