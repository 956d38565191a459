import doctest
import importlib

import pytest

MODULES = [
    "_extras",
    "problems._registry",
    "problems.data",
    "problems.models",
    "training.loop",
    "training.optimizers",
    "training.racing",
    "plots.race",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_documentation_run(name):
    done = doctest.testmod(importlib.import_module(f"unstuck.{name}"))
    assert done.attempted > 0
    assert done.failed == 0
