#!/usr/bin/env bash
# Everything that needs a GPU, in one run: build, the whole test suite with its CUDA tests, the
# kernel tests under compute-sanitizer, and the benchmarks. Usage: bench/gpu/run.sh OUTPUT_FOLDER
# Needs: an NVIDIA GPU, nvcc, and a Python with torch (CUDA build), pybind11, scikit-build-core,
# pytest, pytest-benchmark and hypothesis.
set -euo pipefail
out=${1:?usage: bench/gpu/run.sh OUTPUT_FOLDER}
mkdir -p "$out"
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}

echo "== build"
UNSTUCK_CUDA=ON "$python" -m pip install --no-build-isolation --no-deps . 2>&1 | tee "$out/build.log"
cd /  # so that the installed package is imported, not the source tree
repo=$OLDPWD
"$python" -m unstuck | tee "$out/report.txt"

status=0
echo "== tests"
"$python" -m pytest "$repo/tests" -q --durations=10 2>&1 | tee "$out/tests.log" || status=1

echo "== compute-sanitizer on the kernel tests"
for tool in memcheck racecheck initcheck synccheck; do
  compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
    "$python" -m pytest "$repo/tests/kernels" -q -k "cuda and not 2_to_the_31" 2>&1 \
    | tee "$out/sanitizer-$tool.log" || status=1
done

echo "== benchmarks"
"$python" -m pytest "$repo/bench" --benchmark-only -q --save "$out/gpu.json" 2>&1 \
  | tee "$out/bench.log" || status=1
exit $status
