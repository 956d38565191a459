"""The house rules that a program can check: who may use whom, how long, how documented."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from importlinter import cli as import_linter

import unstuck

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for folder in ("csrc", "cmake", "python", "tests", "bench")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".pyi", ".cpp", ".hpp", ".cu", ".cmake"}
)
# A header may include headers of its own folder and of these.
INCLUDES = {"core": set(), "math": {"core"}, "cpu": {"core", "math"}, "cuda": {"core", "math"}}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(unstuck.__path__, "unstuck.")
    if module.name.rpartition(".")[2] not in {"_C", "_cuda", "_build_info", "__main__"}
)
PUBLIC_MODULES = ["unstuck", *(name for name in MODULES if "._" not in name)]


def test_imports_go_one_way(capsys):
    kept = import_linter.lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == 0
    assert kept, capsys.readouterr().out


def test_only_one_module_touches_native_code():
    users = set()
    for path in sorted((ROOT / "python").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value]  # importlib.import_module(...)
            if any(re.fullmatch(r"(unstuck\.)?(_C|_cuda)(\..*)?", name) for name in names):
                users.add(path.relative_to(ROOT / "python" / "unstuck").as_posix())
    assert users <= {"ops/_native.py", "_report.py"}


def test_headers_go_one_way():
    wrong = []
    for path in sorted((ROOT / "csrc").rglob("*.[ch]*")):
        folder = path.relative_to(ROOT / "csrc").parts[0]
        if folder not in INCLUDES:
            continue  # bind_*.cpp, on top
        for used in re.findall(r'#include "(\w+)/', path.read_text()):
            if used != folder and used not in INCLUDES[folder]:
                wrong.append(f"{path.name} includes {used}/")
    assert wrong == []


def test_no_file_is_long_and_no_file_is_a_drawer():
    assert len(SOURCES) > 50
    long = {
        str(path.relative_to(ROOT)): lines
        for path in SOURCES
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
    assert [path for path in SOURCES if re.search(r"util|helper|misc", path.stem)] == []


def public_objects(module):
    """The classes and functions that a module defines or offers under a public name."""
    offered = getattr(module, "__all__", None)
    for name, value in vars(module).items():
        mine = getattr(value, "__module__", None) == module.__name__
        if not (inspect.isclass(value) or inspect.isfunction(value)) or name.startswith("_"):
            continue
        if mine or (offered is not None and name in offered):
            yield name, value


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_everything_public_is_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    missing = []
    for label, value in public_objects(module):
        if not value.__doc__ or not value.__doc__.strip():
            missing.append(label)
        if inspect.isclass(value):
            for method, member in vars(value).items():
                function = member.fget if isinstance(member, property) else member
                if method.startswith("_") or not inspect.isfunction(function):
                    continue
                inherited = any(getattr(base, method, None) for base in value.__mro__[1:])
                if not function.__doc__ and not inherited:
                    missing.append(f"{label}.{method}")
    assert missing == []


def promised():
    """The functions and classes in ``__all__`` of the packages that users import.

    Records (named tuples, dataclasses) and errors have fields and messages, not arguments.
    """
    for name in PUBLIC_MODULES:
        module = importlib.import_module(name)
        if not hasattr(module, "__path__") or name == "unstuck.ops":
            continue
        for label in getattr(module, "__all__", []):
            value = getattr(module, label)
            record = dataclasses.is_dataclass(value) or (
                inspect.isclass(value) and issubclass(value, (tuple, BaseException))
            )
            if (inspect.isfunction(value) or inspect.isclass(value)) and not record:
                yield pytest.param(value, id=f"{name}.{label}")


@pytest.mark.parametrize("value", list(promised()))
def test_what_users_call_documents_its_arguments(value):
    text = inspect.getdoc(value)
    arguments = [
        name
        for name in inspect.signature(value).parameters
        if not name.startswith("_") and name not in {"self", "args", "kwargs"}
    ]
    undocumented = [name for name in arguments if not re.search(rf"\b{name}\b", text)]
    assert undocumented == []
    if inspect.isfunction(value):
        assert "Examples\n--------" in text
