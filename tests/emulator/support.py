"""What the tests of the emulator share."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
KERNELS = HERE / "kernels"
INCLUDE = [HERE.parents[1] / "csrc", KERNELS]

FULL = 0xFFFFFFFF


def address(array: np.ndarray) -> int:
    """Where the array's memory is."""
    return int(array.ctypes.data)


def wrapped(value: int, dtype: str) -> int:
    """``value`` as a number of ``dtype`` that overflowed."""
    bits = np.iinfo(dtype).bits
    value %= 1 << bits
    return value - (1 << bits) if dtype.startswith("int") and value >> (bits - 1) else value


def in_new_process(
    module: Path, code: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with the module loaded as ``m`` and an array ``out`` to write to."""
    program = f"""
        import sys
        sys.path.insert(0, {str(HERE.parent)!r})
        import numpy as np
        from pathlib import Path
        from emulator.build import load_module
        m = load_module(Path({str(module)!r}), {module.name.split(".")[0]!r})
        out = np.zeros(4096)
        address = out.ctypes.data
    """
    command = [sys.executable, "-c", textwrap.dedent(program) + code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)
