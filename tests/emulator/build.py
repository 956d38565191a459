"""Compiles pybind11 modules whose ``.cu`` files run on the CPU through the emulator.

A module is built once for each state of its sources, of the headers on its include path, of the
flags and of the compiler, and kept under ``build/emulator``. Objects are kept the same way, so a
change to one source recompiles that source alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import ModuleType

EMULATOR_DIR = Path(__file__).resolve().parent
BUILD_DIR = EMULATOR_DIR.parents[1] / "build" / "emulator"

#: Values of the environment variable ``CUDA_EMULATOR_ORDER`` that between them uncover most
#: missing barriers.
ORDERS = ("forward", "reverse", "shuffle:1", "shuffle:2")

_HEADER_SUFFIXES = {".h", ".hpp", ".hh", ".cuh", ".inl"}
_FLAGS = (
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-pthread"),
    *("-fno-math-errno", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),  # `#pragma unroll` is nvcc's
)
_SANITIZE_FLAGS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


class BuildError(RuntimeError):
    """A source did not compile, or a module did not link; the text is the compiler's."""


def compiler() -> list[str]:
    """The C++ compiler: ``$CXX`` with its arguments, else ``g++``, else ``clang++``."""
    command = shlex.split(os.environ.get("CXX", ""))
    if command:
        return command
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C++ compiler: install g++ or clang++, or name one in CXX")


def build_module(
    name: str,
    sources: Sequence[Path],
    include_dirs: Sequence[Path] = (),
    defines: Mapping[str, str] | None = None,
    *,
    flags: Sequence[str] = (),
    sanitize: bool = False,
) -> Path:
    """Compile and link a pybind11 module.

    Parameters
    ----------
    name
        The module's name, as in its ``PYBIND11_MODULE(name, m)``.
    sources
        ``.cpp`` and ``.cu`` files.
    include_dirs
        Searched for headers, before the emulator's folder.
    defines
        Macros, each with its value.
    flags
        Further compiler flags, after ours.
    sanitize
        Build with AddressSanitizer and UndefinedBehaviorSanitizer. Such a module is loaded in a
        process of its own, started with `sanitizer_environment`.

    Returns
    -------
    Path
        The shared object, for `load_module`.

    Raises
    ------
    FileNotFoundError
        A source does not exist.
    BuildError
        The compiler failed, a warning included.
    """
    import pybind11

    command = compiler()
    sources = [Path(source).resolve(strict=True) for source in sources]
    include_dirs = [Path(folder).resolve() for folder in (*include_dirs, EMULATOR_DIR)]
    system_dirs = [pybind11.get_include(), sysconfig.get_path("include")]
    options = [
        *_FLAGS,
        *(_SANITIZE_FLAGS if sanitize else ()),
        *flags,
        *(f"-D{key}={value}" for key, value in (defines or {}).items()),
        *(f"-I{folder}" for folder in include_dirs),
        *(f"-isystem{folder}" for folder in system_dirs),
    ]
    searched = dict.fromkeys([*include_dirs, *(source.parent for source in sources)])
    common = _digest(
        [_version(tuple(command)), sys.version, pybind11.__version__, *command, *options],
        (header for folder in searched for header in _headers(folder)),
    )

    def compiled(source: Path) -> Path:
        built = BUILD_DIR / "objects" / f"{_digest([common], [source])}.o"
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        _produce(built, [*command, *options, "-c", *language, str(source)])
        return built

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))

    digest = _digest([name, *(path.stem for path in objects)], [])
    module = BUILD_DIR / f"{name}-{digest[:16]}" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    _produce(module, [*command, *options, "-shared", *map(str, objects)])
    return module


def load_module(path: Path, name: str) -> ModuleType:
    """Import the module that `build_module` built."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not an extension module of this Python", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sanitizer_environment() -> dict[str, str]:
    """An environment in which a Python process can load a module built with ``sanitize=True``.

    The sanitizer's library has to be there before Python is, and the C++ library with it, or else
    it cannot see exceptions. Python's own allocations at exit are not leaks of ours.
    """
    command = compiler()
    libraries = ["libasan.so", "libstdc++.so.6"]
    if "clang" in _version(tuple(command)):
        machine = "aarch64" if os.uname().machine == "aarch64" else "x86_64"
        libraries[0] = f"libclang_rt.asan-{machine}.so"
    paths = [_output([*command, f"-print-file-name={library}"]).strip() for library in libraries]
    missing = [path for path in paths if not Path(path).is_absolute()]
    if missing:
        raise BuildError(f"{' '.join(command)} has no {missing}: install its sanitizer libraries")
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _headers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in _HEADER_SUFFIXES)


def _digest(texts: Iterable[str], files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


@lru_cache
def _version(command: tuple[str, ...]) -> str:
    return _output([*command, "--version"])


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"the compiler does not run: {shlex.join(command)}: {error}") from error


def _produce(target: Path, command: Sequence[str]) -> None:
    """Run ``command -o target`` unless the target is there.

    Built under another name and renamed, so that a test run beside this one sees all or nothing;
    the lock lets that one wait instead of doing the same work.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        target.with_suffix(".lock").open("w") as lock,
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        built = Path(folder) / target.name
        full = [*command, "-o", str(built)]
        try:
            done = subprocess.run(full, capture_output=True, text=True, check=False)
        except OSError as error:
            raise BuildError(f"the compiler does not run: {full[0]}: {error}") from error
        if done.returncode != 0:
            raise BuildError(f"{shlex.join(full)}\n{done.stdout}{done.stderr}")
        built.replace(target)
