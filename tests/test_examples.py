"""The examples in the package's documentation and in the README run and give what they say."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import unstuck

README = Path(__file__).resolve().parents[1] / "README.md"
FINDER = doctest.DocTestFinder(exclude_empty=True)


def examples():
    names = [module.name for module in pkgutil.walk_packages(unstuck.__path__, "unstuck.")]
    native = {"unstuck._C", "unstuck._cuda", "unstuck.__main__"}
    for name in ["unstuck", *sorted(set(names) - native)]:
        for test in FINDER.find(importlib.import_module(name), name):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("example", list(examples()))
def test_example(example):
    failures = []
    done = doctest.DocTestRunner().run(example, out=failures.append)
    assert done.failed == 0, "".join(failures)
    assert done.attempted == len(example.examples)


def test_readme():
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert len(blocks) > 1
    names: dict[str, object] = {}
    for block in blocks:  # each may go on from the one before
        exec(compile(block, str(README), "exec"), names)
