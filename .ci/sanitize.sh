#!/usr/bin/env bash
# The kernel and core tests once under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   bash .ci/sanitize.sh [PYTHON]     PYTHON has torch and the extra `test`; default .venv/bin/python
#
# The CPU module is built with both sanitizers into a temporary folder and put before the installed
# one. Any report ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compiler=${CXX:-g++}

CXX=$compiler UNSTUCK_CUDA=OFF UNSTUCK_SANITIZE=ON \
  "$python" -m pip install --quiet --no-deps --target "$work/site" .

preload=$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libubsan.so)
# Leaks are the interpreter's own: it frees little at its end. tests/ops/test_memory.py looks for ours.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=99
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONPATH=$work/site PYTHONMALLOC=malloc OMP_NUM_THREADS=2

LD_PRELOAD=$preload "$python" - <<'PY'
from unstuck import _build_info
from unstuck.ops import _native

assert _build_info.sanitized, "the installed package is in the way of the sanitized one"
assert _native.cpu is not None, _native.cpu_missing
print("sanitized:", _native.cpu.__file__)
PY
# Left out: what goes through torch's compiler, which does not go with the preloaded runtime, or
# counts memory, which the runtime keeps back; and the emulator, which is sanitized in its own tests.
LD_PRELOAD=$preload "$python" -m pytest tests/ops tests/kernels -q -p no:cacheprovider \
  --ignore=tests/ops/test_memory.py --ignore=tests/ops/test_large.py --durations=10 \
  -m "not slow" -k "not emulated and not compiled and not opcheck"
