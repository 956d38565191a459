"""state_dict, torch.save, deepcopy, pickle: what is loaded goes on bit for bit."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from .registry import OptimizerInfo, Variant
from .runs import (
    assert_same,
    every_class,
    every_optimizer,
    every_variant,
    make_params,
    snapshot,
    train,
)


def through_file(value, *, weights_only=True):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


def train_with_gaps(optimizer, params, batches):
    """Train so that the last parameter has a gradient in every other batch only."""
    for batch in batches:
        train(optimizer, params, [batch])
        optimizer.zero_grad()
        train(optimizer, params[:-1] if batch % 2 else params, [batch + 500])


@every_optimizer()
def test_resumed_training_is_the_same_bit_for_bit(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params)
    train_with_gaps(optimizer, params, range(6))
    saved = through_file({"params": params, "optimizer": optimizer.state_dict()})

    restored = [nn.Parameter(p.detach().clone()) for p in saved["params"]]
    fresh = info.make(variant, restored)
    fresh.load_state_dict(saved["optimizer"])
    assert_same(snapshot(fresh, restored), snapshot(optimizer, params))
    train_with_gaps(optimizer, params, range(6, 12))
    train_with_gaps(fresh, restored, range(6, 12))
    assert_same(snapshot(fresh, restored), snapshot(optimizer, params))


@every_optimizer()
@pytest.mark.parametrize("copy", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_alike_and_apart(info: OptimizerInfo, variant: Variant, copy):
    params = make_params()
    optimizer = info.make(variant, params)
    train_with_gaps(optimizer, params, range(3))
    before = snapshot(optimizer, params)
    twin = copy(optimizer)
    twins = twin.param_groups[0]["params"]
    assert twin.defaults.keys() == optimizer.defaults.keys()
    train_with_gaps(twin, twins, range(3, 6))
    assert_same(snapshot(optimizer, params), before)
    train_with_gaps(optimizer, params, range(3, 6))
    assert_same(snapshot(twin, twins), snapshot(optimizer, params))


@every_variant()
def test_saved_state_is_plain_and_whole(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, list(zip("abcd", params, strict=True)))
    train(optimizer, params, range(3))
    state = optimizer.state_dict()
    assert len(state["state"]) == len(params)
    assert_same(through_file(state), deepcopy(state))


@every_optimizer()
def test_loading_copies_nothing_back(info: OptimizerInfo, variant: Variant):
    """Neither loading nor the steps after it change the dictionary that was loaded."""
    params = make_params()
    optimizer = info.make(variant, params)
    train(optimizer, params, range(3))
    saved = deepcopy(optimizer.state_dict())
    other = info.make(variant, twins := make_params(seed=5))
    loaded = deepcopy(saved)
    other.load_state_dict(loaded)
    assert_same(loaded, saved)
    train(other, twins, range(3, 5))
    assert_same(loaded["param_groups"], saved["param_groups"])


@every_variant()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_state_is_cast_to_the_parameters_it_is_loaded_for(
    info: OptimizerInfo, variant: Variant, dtype: torch.dtype
):
    params = make_params()
    optimizer = info.make(variant, params)
    train(optimizer, params, range(3))
    cast = [nn.Parameter(p.detach().to(dtype)) for p in params]
    other = info.make(variant, cast)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for p, q in zip(params, cast, strict=True):
        for key, value in optimizer.state[p].items():
            wanted = torch.float32 if key == "step" else dtype
            assert_same(other.state[q][key], value.to(wanted), key)
    train(optimizer, params, range(3, 5))
    train(other, cast, range(3, 5))
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
    assert_same([p.to(dtype) for p in params], cast, rtol=tolerance, atol=tolerance)
    assert all(x.dtype == dtype for q in cast for k, x in other.state[q].items() if k != "step")


@every_variant()
def test_step_counts_that_are_plain_numbers(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params)
    train(optimizer, params, range(3))
    state = deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["step"] = entry["step"].item()
    other = info.make(variant, twins := deepcopy(params))
    other.load_state_dict(state)
    train(optimizer, params, range(3, 5))
    train(other, twins, range(3, 5))
    assert_same(snapshot(other, twins), snapshot(optimizer, params))


@every_class(closures=True)
@pytest.mark.parametrize("named", [(True, False), (False, True), (True, True)])
def test_names_survive_a_checkpoint(info: OptimizerInfo, named: tuple[bool, bool]):
    models = [nn.Linear(3, 2) for _ in named]
    first, second = (
        info.cls(model.named_parameters() if has_names else model.parameters())
        for model, has_names in zip(models, named, strict=True)
    )
    train(first, list(models[0].parameters()), range(2))
    second.load_state_dict(deepcopy(first.state_dict()))
    train(second, list(models[1].parameters()), range(2))
    assert second.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@every_class(closures=True)
def test_state_dict_hooks(info: OptimizerInfo):
    optimizer = info.cls(params := make_params())
    train(optimizer, params, range(2))
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("save-pre"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: {k: v for k, v in state.items() if k != "extra"}
    )
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("load-post"))
    state = optimizer.state_dict()
    assert state["extra"] == 1
    optimizer.load_state_dict(state)
    assert calls == ["save-pre", "load-post"]


@every_variant()
def test_another_shape_is_named_in_the_error(info: OptimizerInfo, variant: Variant):
    optimizer = info.make(variant, params := make_params([(4, 2)]))
    train(optimizer, params, range(2))
    other = info.make(variant, twins := make_params([(2, 4)]))
    before = [p.detach().clone() for p in twins]
    other.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"has shape \(4, 2\), but its parameter has \(2, 4\)"):
        train(other, twins, range(1))
    assert_same([p.detach() for p in twins], before)


RESUME = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from optim.registry import REGISTRY
from optim.runs import make_params, train
saved = torch.load(sys.argv[2], weights_only=True)
info = REGISTRY[saved["row"]]
out = []
for name, params, state in saved["runs"]:
    torch.set_num_threads(1)
    params = [torch.nn.Parameter(p.detach()) for p in params]
    variant = next(v for v in info.variants if v.name == name)
    optimizer = info.make(variant, params)
    optimizer.load_state_dict(state)
    train(optimizer, params, range(3, 6))
    out.append(([p.detach() for p in params], optimizer.state_dict()))
torch.save(out, sys.argv[3])
"""


@every_class(closures=True)
def test_resumed_in_a_fresh_process(info: OptimizerInfo, tmp_path: Path):
    from .registry import REGISTRY

    torch.set_num_threads(1)
    root = Path(__file__).resolve().parents[1]
    runs, going_on = [], []
    for variant in info.variants:
        params = make_params()
        optimizer = info.make(variant, params)
        train(optimizer, params, range(3))
        runs.append((variant.name, deepcopy(params), deepcopy(optimizer.state_dict())))
        train(optimizer, params, range(3, 6))
        going_on.append(([p.detach() for p in params], optimizer.state_dict()))
    torch.save({"row": REGISTRY.index(info), "runs": runs}, tmp_path / "saved.pt")
    arguments = [str(root), str(tmp_path / "saved.pt"), str(tmp_path / "out.pt")]
    subprocess.run([sys.executable, "-c", RESUME, *arguments], check=True, timeout=300)
    assert_same(torch.load(tmp_path / "out.pt", weights_only=True), going_on)
