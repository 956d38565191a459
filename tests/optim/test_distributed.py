"""DDP, FSDP2 and DTensor with two processes (gloo, CPU): the same as one process alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

from .registry import REGISTRY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed"),
]
WORKER = Path(__file__).with_name("distributed_worker.py")
KINDS = ("ddp", "fsdp", "checkpoint", "placements", "mixed", "overflow")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Run all cases in one pair of processes, and return what each of them says."""
    folder = tmp_path_factory.mktemp("distributed")
    arguments = [str(WORKER.parents[1]), str(folder / "store"), str(folder / "results")]
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), *arguments, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        texts = [worker.communicate(timeout=400)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, text in zip(workers, texts, strict=True):
        assert worker.returncode == 0, text[-4000:]
    return [json.loads((folder / f"results{rank}").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        f"{info.cls.__name__}-{variant.name}"
        for info in REGISTRY
        for variant in info.variants
        if not info.closure
    ],
)
def test_equals_one_process(outcomes: list[dict[str, str]], kind: str, name: str):
    case = f"{kind}-{name}"
    if case not in outcomes[0]:
        named = {f"{i.cls.__name__}-{v.name}": v for i in REGISTRY for v in i.variants}
        variant = named[name]
        assert kind != "ddp"
        assert not variant.sharded or (kind == "overflow" and not variant.amp)
        pytest.skip("this variant does not step sharded parameters, or leaves scaling to torch")
    for rank, outcome in enumerate(outcomes):
        assert not outcome[case], f"rank {rank}: {outcome[case]}"
