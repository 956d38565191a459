"""The stubs of the native modules say what the modules hold."""

import ast
import inspect
from pathlib import Path

import pytest

import unstuck
from unstuck.ops import _native

FOLDER = Path(unstuck.__file__).parent
STANDARD = {"__init__", "__len__"}  # pybind11 adds more of its own


def arguments(function):
    """Names of a function's arguments, each with the text of its default or None."""
    given = function.args
    assert [given.vararg, given.kwarg, given.kwonlyargs] == [None, None, []]
    names = [argument.arg for argument in [*given.posonlyargs, *given.args]]
    defaults = [None] * (len(names) - len(given.defaults))
    return list(zip(names, [*defaults, *map(ast.unparse, given.defaults)], strict=True))


def signature(function):
    """The same of a native function, whose documentation starts with its signature."""
    (parsed,) = ast.parse(f"def {function.__doc__.splitlines()[0]}: ...").body
    return arguments(parsed)


def stub_members(nodes):
    """What a stub promises: name -> arguments, None for a value, or the members of a class."""
    members = {}
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            members[node.name] = arguments(node)
        elif isinstance(node, ast.ClassDef):
            shared = [members[base.id] for base in node.bases if base.id.startswith("_")]
            members[node.name] = stub_members(node.body)
            for more in shared:  # what `_plans` says for several
                members[node.name] |= more
        elif isinstance(node, ast.AnnAssign):
            members[node.target.id] = None
        elif isinstance(node, ast.ImportFrom) and node.module == "unstuck._plans":
            members |= stub_members(parsed("_plans"))
        elif isinstance(node, ast.ImportFrom) and node.module == "unstuck._C":
            promised = stub("_C")
            members |= {alias.asname: promised[alias.name] for alias in node.names if alias.asname}
    return members


def parsed(name):
    return ast.parse((FOLDER / f"{name}.pyi").read_text()).body


def stub(name):
    members = stub_members(parsed(name))
    return {k: v for k, v in members.items() if k.startswith("__") or not k.startswith("_")}


def native_members(holder):
    members = {}
    for name, value in vars(holder).items():
        if inspect.isclass(value):
            members[name] = native_members(value)
        elif inspect.isroutine(value) and (not name.startswith("_") or name in STANDARD):
            members[name] = signature(value)
        elif name == "__version__":
            members[name] = None
    return members


@pytest.mark.parametrize("name", ["_C", "_cuda"])
def test_stub_matches_the_module(name):
    module = _native.cpu if name == "_C" else _native.cuda
    if module is None:
        pytest.skip(f"unstuck.{name} is not here")
    assert stub(name) == native_members(module)
