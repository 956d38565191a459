"""Compiling modules: what is kept, what is refused, what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import build
from .build import BuildError, build_module, compiler
from .support import INCLUDE

LAUNCHER = """
#include "core/gpu.hpp"
struct Pack {{ char bytes[{bytes}]; }};
__global__ void kernel(Pack pack, char* out) {{ *out = pack.bytes[0]; }}
void launch(char* out) {{ GPU_LAUNCH(kernel, 1, 1, 0, nullptr, Pack{{}}, {arguments}); }}
"""


@pytest.mark.parametrize(
    ("values", "toolkit", "message"),
    [
        ({"bytes": 5000, "arguments": "out"}, "12000", "more bytes than this CUDA toolkit allows"),
        ({"bytes": 32760, "arguments": "out"}, "13000", "more bytes than this CUDA toolkit allows"),
        ({"bytes": 10, "arguments": "out, out"}, "13000", "wrong number of arguments"),
    ],
)
def test_what_nvcc_would_refuse_does_not_compile(
    tmp_path: Path, values: dict[str, Any], toolkit: str, message: str
) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text(LAUNCHER.format(**values))
    with pytest.raises(BuildError, match=message):
        build_module("wrong", [source], INCLUDE, {"CUDART_VERSION": toolkit})


def test_a_build_is_kept_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BUILD_DIR", tmp_path / "build")
    source, header = tmp_path / "small.cpp", tmp_path / "value.hpp"
    source.write_text('#include "value.hpp"\nint answer() { return VALUE + MORE; }\n')
    header.write_text("#define VALUE 1\n")
    first = build_module("small", [source], [tmp_path], {"MORE": "2"})
    stamp = first.stat().st_mtime_ns
    assert build_module("small", [source], [tmp_path], {"MORE": "2"}) == first
    assert first.stat().st_mtime_ns == stamp
    header.write_text("#define VALUE 3\n")
    second = build_module("small", [source], [tmp_path], {"MORE": "2"})
    third = build_module("small", [source], [tmp_path], {"MORE": "4"})
    assert len({first, second, third}) == 3
    assert not list(tmp_path.rglob(".building-*"))


def test_a_build_error_shows_what_the_compiler_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "broken.cu"
    source.write_text("int f() { int unused; return 0; }\n")
    with pytest.raises(BuildError, match=r"broken\.cu:1:.*unused"):
        build_module("broken", [source])
    with pytest.raises(FileNotFoundError, match="absent"):
        build_module("absent", [tmp_path / "absent.cu"])
    monkeypatch.setenv("CXX", "no-such-compiler --flag")
    assert compiler() == ["no-such-compiler", "--flag"]
    with pytest.raises(BuildError, match="no-such-compiler --flag"):
        build_module("broken", [source])
