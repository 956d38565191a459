"""The build: which nvcc and architectures it takes, what it says, what wheel and sdist hold."""

import importlib.machinery
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pybind11
import pytest
import torch

import unstuck
from unstuck.ops import _native

ROOT = Path(__file__).resolve().parents[1]
TOOLS = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
NATIVE = importlib.machinery.EXTENSION_SUFFIXES[0]
PROBE = f'cmake_minimum_required(VERSION 3.24)\ninclude("{ROOT.as_posix()}/cmake/ProbeCuda.cmake")'
CHOICES = ("UNSTUCK_CUDA", "UNSTUCK_SANITIZE", "CUDACXX", "CUDAHOSTCXX", "CUDAARCHS")
CHOICES += ("CUDA_HOME", "CUDA_PATH")


def run(command, *, cwd, **environment):
    """Run a command with the environment's own choices taken away."""
    inherited = {name: value for name, value in os.environ.items() if name not in CHOICES}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, "PATH": TOOLS, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )


def program(folder, name, script):
    """Write an executable, for the front of PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# ------------------------------------------------------------------ the nvcc probe, by itself


@pytest.fixture
def probe(tmp_path):
    """Run the probe; return its reason, the compiler and the architectures that it chose."""
    cmake = shutil.which("cmake", path=TOOLS)
    script = tmp_path / "probe.cmake"
    script.write_text(
        f"{PROBE}\nunstuck_probe_cuda()\n"
        'message(NOTICE "<${UNSTUCK_NVCC_WHY}|${CMAKE_CUDA_COMPILER}|'
        '${CMAKE_CUDA_ARCHITECTURES}>")\n'
    )
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()

    def call(*defines, **environment):
        elsewhere = "-DCMAKE_IGNORE_PATH=/usr/local/cuda/bin"
        environment.setdefault("PATH", f"{bin_folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
        done = run([cmake, elsewhere, *defines, "-P", script], cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stdout
        return re.search(r"<(.*)\|(.*)\|(.*)>", done.stdout).groups()

    call.bin = bin_folder
    return call


@pytest.fixture
def nvcc(probe):
    """An nvcc that compiles everything and knows three architectures."""
    script = 'case "$*" in *--list-gpu-arch*) echo compute_80 compute_90 compute_120 ;; esac'
    return program(probe.bin, "nvcc", script)


def test_probe_without_nvcc(probe):
    why, compiler, _ = probe()
    assert why == "no nvcc on PATH, in CUDA_HOME or CUDA_PATH, or in /usr/local/cuda"
    assert compiler == ""


def test_probe_takes_nvcc_from_path_and_from_cuda_home(probe, nvcc, tmp_path):
    assert probe()[:2] == ("", str(nvcc))
    other = tmp_path / "toolkit" / "bin"
    other.mkdir(parents=True)
    shutil.copy(nvcc, other / "nvcc")
    assert probe(CUDA_HOME=str(other.parent))[:2] == ("", str(other / "nvcc"))


@pytest.mark.parametrize("named", [{"CUDACXX": "/not/there/nvcc"}, {}])
def test_probe_never_replaces_a_compiler_that_was_named(probe, nvcc, named):
    defines = [] if named else ["-DCMAKE_CUDA_COMPILER=/not/there/nvcc"]
    why, _, _ = probe(*defines, **named)
    assert why == "the CUDA compiler that was named, '/not/there/nvcc', does not exist"


def test_probe_passes_the_arguments_and_the_host_compiler_on(probe):
    program(probe.bin, "my-nvcc", 'echo "called with $*"; exit 1')
    why, _, _ = probe(CUDACXX="my-nvcc --threads 2", CUDAHOSTCXX="my-g++")
    assert "called with --threads 2 -ccbin my-g++ -std=c++17 " in why


def test_probe_tells_in_one_line_what_a_broken_nvcc_said(probe):
    broken = program(
        probe.bin, "nvcc", 'echo "probe.cu: error: \\"gcc 99\\""; echo \'in \\here\' >&2; exit 3'
    )
    why, compiler, _ = probe()
    assert why.startswith(f"{broken} cannot compile a small kernel: ")
    assert "error: 'gcc 99'" in why
    assert "in /here" in why
    assert why.endswith("(exit status: 3)")
    assert compiler == ""


@pytest.mark.parametrize(
    ("gpus", "chosen"),
    [
        ("", "all-major"),  # no GPU
        ("9.0", "90"),
        ("9.0\n8.0\n9.0", "90;80"),
        ("12.1", "all-major"),  # newer than this nvcc: it runs the PTX
        ("[N/A]", "all-major"),
    ],
)
def test_probe_compiles_for_the_gpus_that_are_here(probe, nvcc, gpus, chosen):
    program(probe.bin, "nvidia-smi", f"printf '{gpus}\\n'" if gpus else "exit 9")
    assert probe() == ("", str(nvcc), chosen)


def test_probe_leaves_architectures_that_were_asked_for_alone(probe, nvcc):
    program(probe.bin, "nvidia-smi", "echo 9.0")
    assert probe(CUDAARCHS="80;120")[2] == "80;120"
    assert probe("-DCMAKE_CUDA_ARCHITECTURES=75", CUDAARCHS="80;120")[2] == "75"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("all-major", "all-major (80-real 90-real 120)"),
        ("all", "all (80-real 86-real 90-real 120-real 121)"),
        ("80;90-real", "80 90-real"),
    ],
)
def test_report_names_the_architectures_that_nvcc_knows(tmp_path, asked, meant):
    nvcc = program(
        tmp_path, "nvcc", "echo compute_90 compute_80 compute_86 compute_120 compute_121"
    )
    script = tmp_path / "name.cmake"
    script.write_text(
        f'{PROBE}\nunstuck_name_architectures(named)\nmessage(NOTICE "<${{named}}>")\n'
    )
    given = [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={asked}"]
    done = run([shutil.which("cmake", path=TOOLS), *given, "-P", script], cwd=tmp_path)
    assert f"<{meant}>" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_probe_with_the_real_nvcc(probe):
    path = os.environ["PATH"]
    program(probe.bin, "nvidia-smi", "exit 9")
    works = probe(PATH=f"{probe.bin}{os.pathsep}{path}")
    assert works[0] == ""
    assert works[2] == "all-major"
    broken = program(probe.bin, "broken-g++", "echo no compiler here >&2; exit 1")
    why, _, _ = probe(PATH=path, CUDAHOSTCXX=str(broken))
    assert "cannot compile a small kernel" in why


# ------------------------------------------------------------------ building and installing


def pip(*arguments, cwd, **environment):
    return run([sys.executable, "-m", "pip", *arguments], cwd=cwd, **environment)


def build_wheel(source, folder, **environment):
    return pip(
        *("wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, source),
        cwd=folder,
        **environment,
    )


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    code = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    done = run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stdout
    (archive,) = folder.iterdir()
    assert archive.name == f"unstuck-{unstuck.__version__}.tar.gz"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / f"unstuck-{unstuck.__version__}"


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    """A wheel built from the sdist, as UNSTUCK_CUDA=AUTO does it with a broken nvcc."""
    folder = tmp_path_factory.mktemp("wheel")
    broken = program(tmp_path_factory.mktemp("bin"), "nvcc", "echo half an installation; exit 1")
    done = build_wheel(sdist, folder, CUDACXX=str(broken))
    assert done.returncode == 0, done.stdout
    (archive,) = folder.glob("*.whl")
    return archive


def files_of(folder, *suffixes):
    """The files below a folder of the source tree, relative to its parent."""
    return {
        path.relative_to(folder.parent).as_posix()
        for path in folder.rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    }


def package_files():
    return files_of(ROOT / "python" / "unstuck", ".py", ".pyi", ".typed", ".json", ".safetensors")


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = f"unstuck-{unstuck.__version__}.dist-info"
    built = {f"unstuck/_C{NATIVE}", "unstuck/_build_info.py"}
    record = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert names == package_files() | built | {f"{about}/{name}" for name in record}
    stubs = {f"unstuck/{name}.pyi" for name in ("_C", "_cuda", "_plans")}
    assert {"unstuck/py.typed"} | stubs <= names


@pytest.mark.slow
def test_wheel_asks_for_torch_and_numpy_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        about = f"unstuck-{unstuck.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
        commands = archive.read(f"{about}/entry_points.txt").decode()
    needs = metadata.get_all("Requires-Dist")
    base = [need for need in needs if "extra ==" not in need]
    assert [re.match(r"\w+", need).group() for need in base] == ["torch", "numpy"]
    extras = ["cli", "plots", "experiments", "integrations", "test", "bench", "peers"]
    assert metadata.get_all("Provides-Extra") == extras
    assert "unstuck = unstuck.cli:main" in commands


@pytest.mark.slow
def test_installed_wheel_runs_and_says_why_it_has_no_cuda(wheel, tmp_path):
    target = tmp_path / "installed"
    done = pip(*("install", "--no-deps", "--no-index", "--target", target, wheel), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    # -S: without site no other installation of the package comes first.
    libraries = [str(target), str(Path(torch.__file__).parents[1])]
    code = (
        f"import sys, runpy; sys.path[:0] = {libraries!r}; "
        "runpy.run_module('unstuck', run_name='__main__')"
    )
    done = run([sys.executable, "-S", "-c", code], cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"unstuck {unstuck.__version__} in {target}" in done.stdout
    assert "CPU tensors: native kernels" in done.stdout
    assert "nvcc cannot compile a small kernel: half an installation" in done.stdout
    assert "UNSTUCK_CUDA=ON pip install" in done.stdout


@pytest.mark.slow
def test_sdist_holds_the_sources_and_nothing_else(sdist):
    held = {p.relative_to(sdist).as_posix() for p in sdist.rglob("*") if p.is_file()}
    needed = {"CMakeLists.txt", "pyproject.toml", "PKG-INFO", "LICENSE"}
    needed |= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    needed |= {f"python/{name}" for name in package_files()}
    needed |= files_of(ROOT / "csrc", ".cpp", ".hpp", ".cu")
    needed |= files_of(ROOT / "cmake", ".cmake", ".in", ".map")
    needed |= files_of(ROOT / "tests", ".py", ".cpp", ".hpp", ".cu")
    needed |= files_of(ROOT / "bench", ".py", ".sh")
    assert held == needed


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf")
@pytest.mark.parametrize("module", [_native.cpu, _native.cuda], ids=["_C", "_cuda"])
def test_module_needs_and_shows_nothing_of_cuda_or_torch(module, tmp_path):
    if module is None:
        pytest.skip("not built")
    needed = run(["readelf", "--dynamic", "--wide", module.__file__], cwd=tmp_path).stdout
    libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", needed)
    assert libraries
    assert [name for name in libraries if re.search("cuda|nvrtc|torch|c10", name)] == []
    assert "RPATH" not in needed
    assert "RUNPATH" not in needed
    table = run(["readelf", "--dyn-syms", "--wide", module.__file__], cwd=tmp_path).stdout
    # Num: Value Size Type Bind Vis Ndx Name
    rows = [line.split() for line in table.splitlines() if line.strip()[:1].isdigit()]
    shown = [row[7].split("@")[0] for row in rows if len(row) > 7 and row[6] != "UND"]
    assert shown == [f"PyInit_{module.__name__.rpartition('.')[2]}"]


def test_build_stops_when_cuda_is_insisted_on_and_broken(tmp_path):
    done = build_wheel(ROOT, tmp_path, UNSTUCK_CUDA="ON", CUDACXX="/not/there/nvcc")
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert (
        "UNSTUCK_CUDA=ON, but the CUDA module cannot be built: the CUDA compiler that was named, "
        "'/not/there/nvcc', does not exist"
    ) in said
    assert "Remedy: install a CUDA toolkit (11.8 or newer) and put nvcc on PATH" in said


def test_build_stops_at_a_choice_that_does_not_exist(tmp_path):
    done = build_wheel(ROOT, tmp_path, UNSTUCK_CUDA="perhaps")
    assert done.returncode != 0
    assert "UNSTUCK_CUDA must be AUTO, ON or OFF, not 'PERHAPS'" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ("no", "built with UNSTUCK_CUDA=OFF"),
        ("", "the CUDA compiler that was named, '/not/there/nvcc', does not exist"),
    ],
)
def test_cuda_can_be_left_out(tmp_path, choice, why):
    done = run(
        [
            *(shutil.which("cmake", path=TOOLS), "-S", ROOT, "-B", tmp_path, "-G", "Ninja"),
            *("-DSKBUILD_PROJECT_NAME=unstuck", "-DSKBUILD_PROJECT_VERSION=0.0.0"),
            *(f"-DUNSTUCK_CUDA={choice}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
            f"-DPython_EXECUTABLE={sys.executable}",
        ],
        cwd=tmp_path,
        CUDACXX="/not/there/nvcc",
    )
    assert done.returncode == 0, done.stdout
    assert f"CPU-only build ({why})" in done.stdout
    info = (tmp_path / "_build_info.py").read_text()
    assert 'have_cuda: bool = "OFF" == "ON"' in info
    assert f'why_no_cuda: str = r"""{why}"""' in info
