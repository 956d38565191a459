import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import unstuck
from unstuck import _report
from unstuck._report import report
from unstuck.ops import _native

REINSTALL = "pip install --force-reinstall --no-deps ."


def run(code_or_module, **environment):
    done = subprocess.run(
        [sys.executable, *code_or_module],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def section(text, kind):
    return next(part for part in text.split("\n\n") if part.startswith(f"{kind} tensors: "))


@pytest.fixture
def built(monkeypatch):
    """Both modules built and loaded, a driver and a torch with CUDA; the tests take things away."""
    answer = (0, "no error", 2)
    cpu = SimpleNamespace(
        __name__="unstuck._C",
        __version__=unstuck.__version__,
        instruction_set=lambda: "x86-64-v3",
    )
    cuda = SimpleNamespace(
        __name__="unstuck._cuda",
        __version__=unstuck.__version__,
        device_status=lambda: answer,
    )
    info = SimpleNamespace(
        have_cuda=True,
        why_no_cuda="",
        nvcc="12.8.1",
        cuda_architectures="80 90-real",
        cxx="GNU 13.2.0",
        openmp=True,
        sanitized=False,
    )
    monkeypatch.setattr(_native, "cpu", cpu)
    monkeypatch.setattr(_native, "cuda", cuda)
    monkeypatch.setattr(_native, "direct", {"_C", "_cuda"})
    monkeypatch.setattr(_report, "_build_info", lambda: info)
    monkeypatch.setattr(_report, "_driver_version", lambda: "12.8")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    return SimpleNamespace(cpu=cpu, cuda=cuda, info=info, patch=monkeypatch)


def test_command_reports_this_installation():
    text = run(["-m", "unstuck"])
    assert text.startswith(f"unstuck {unstuck.__version__} in ")
    assert f"torch {torch.__version__}" in text
    cpu = section(text, "CPU")
    if _native.cpu is not None:
        assert cpu.startswith("CPU tensors: native kernels\n")
        assert _native.cpu.instruction_set() in cpu
        assert "read through the DLPack exchange API" in cpu
    assert "driver" in section(text, "CUDA")


def test_command_without_native_modules():
    text = run(["-m", "unstuck"], UNSTUCK_NATIVE="0")
    for kind in ("CPU", "CUDA"):
        assert "none (switched off by UNSTUCK_NATIVE=0)" in section(text, kind)
        assert "remedy: unset UNSTUCK_NATIVE" in section(text, kind)


def test_command_without_extras():
    hide = "['typer', 'rich', 'sklearn', 'matplotlib', 'optuna', 'mnist1d', 'mlxtend']"
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({hide})); "
        "runpy.run_module('unstuck', run_name='__main__')"
    )
    assert run(["-c", code]) == run(["-m", "unstuck"])


def test_nothing_to_mend(built):
    text = report()
    assert section(text, "CPU").startswith("CPU tensors: native kernels\n")
    assert "built with GNU 13.2.0, OpenMP\n" in text
    assert section(text, "CUDA").startswith("CUDA tensors: native kernels\n")
    for fact in ("built with nvcc 12.8.1", "80 90-real", "supports CUDA 12.8"):
        assert fact in section(text, "CUDA")
    assert "remedy" not in text


def test_module_that_was_not_built(built):
    built.patch.setattr(_native, "cuda", None)
    built.patch.setattr(_native, "cuda_missing", "no nvcc on PATH")
    cuda = section(report(), "CUDA")
    assert "plain torch operations, since the CUDA module is missing" in cuda
    assert "none (no nvcc on PATH)" in cuda
    assert f"UNSTUCK_CUDA=ON {REINSTALL}" in cuda


def test_module_that_cannot_be_loaded(built):
    built.patch.setattr(_native, "cpu", None)
    built.patch.setattr(_native, "cpu_missing", "built, but it cannot be loaded: libgomp.so.1")
    cpu = section(report(), "CPU")
    assert "plain torch operations" in cpu
    assert "libgomp.so.1" in cpu
    assert f"remedy: {REINSTALL}" in cpu


def test_module_of_another_version(built):
    built.cpu.__version__ = "0.0.1"
    text = report()
    assert f"remedy: unstuck._C was built for unstuck 0.0.1: {REINSTALL}" in section(text, "CPU")
    assert "remedy" not in section(text, "CUDA")


def test_build_without_openmp_and_without_the_exchange_api(built):
    built.info.openmp = False
    built.patch.setattr(_native, "direct", set())
    cpu = section(report(), "CPU")
    assert "built with GNU 13.2.0, no OpenMP\n" in cpu
    assert "threads          1\n" in cpu
    assert "libomp-dev" in cpu
    assert "read through Python calls" in cpu
    assert "install torch 2.10 or newer" in cpu


@pytest.mark.parametrize(
    ("status", "driver", "state", "remedy"),
    [
        (
            (35, "driver too old", 0),
            "11.8",
            "the driver is older than CUDA 12.8.1",
            "update the NVIDIA driver, or put an nvcc of CUDA 11.8 or older on PATH",
        ),
        ((35, "driver too old", 0), "", "there is no NVIDIA driver", "install its driver"),
        ((100, "no device", 0), "12.8", "the driver sees no GPU", "CUDA_VISIBLE_DEVICES"),
        ((999, "unknown error", 0), "12.8", "the CUDA runtime says: unknown error", "nvidia-smi"),
    ],
)
def test_device_that_cannot_be_used(built, status, driver, state, remedy):
    built.cuda.device_status = lambda: status
    built.patch.setattr(_report, "_driver_version", lambda: driver)
    built.patch.setattr(torch.cuda, "is_available", lambda: False)
    cuda = section(report(), "CUDA")
    assert cuda.startswith("CUDA tensors: unusable, since ")
    assert state in cuda
    assert remedy in cuda
    assert f"none ({status[1]})" in cuda


def test_gpu_that_the_build_leaves_out(built):
    capabilities = [(9, 0), (12, 0)]
    built.info.cuda_architectures = "90-real"
    built.patch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    cuda = section(report(), "CUDA")
    assert "not every GPU that is here can run the kernels" in cuda
    assert f'CUDAARCHS="90;120" UNSTUCK_CUDA=ON {REINSTALL}' in cuda


def test_torch_without_cuda_and_torch_for_rocm(built):
    built.patch.setattr(torch.version, "cuda", None)
    built.patch.setattr(torch.cuda, "is_available", lambda: False)
    cuda = section(report(), "CUDA")
    assert "there are none, since this torch was built without CUDA" in cuda
    assert "install a torch that is built for CUDA" in cuda
    built.patch.setattr(torch.version, "hip", "6.4")
    assert "this torch is for ROCm" in section(report(), "CUDA")


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        ("80-real", (8, 0), True),
        ("80-real", (8, 6), True),
        ("86-real", (8, 0), False),
        ("80-real", (9, 0), False),
        ("80", (9, 0), True),
        ("80-virtual", (8, 0), True),
        ("80", (7, 5), False),
        ("90a", (9, 0), True),
        ("90a-real", (10, 0), False),
        ("100f", (10, 3), True),
        ("100f", (11, 0), False),
        ("all-major (75-real 80-real 90-real 120)", (12, 1), True),
        ("all-major (75-real 80-real 90-real 120)", (10, 0), False),
        ("native", (8, 0), False),
        ("", (8, 0), False),
    ],
)
def test_which_devices_an_architecture_covers(built_for, capability, runs):
    assert _report._covers(built_for, capability) is runs
