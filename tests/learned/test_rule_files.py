"""Rules in files: what is saved comes back, what is damaged or foreign is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from unstuck.learned import (
    DEFAULT,
    LSTM,
    MLP,
    RULES,
    FeatureMLP,
    Preconditioner,
    Transformer,
    UpdateRule,
    _file,
    load,
    pretrained,
)
from unstuck.optim import Learned

MAKERS = [
    lambda: MLP(hidden=3, control=5),
    lambda: FeatureMLP(3, 1, momenta=(0.5,), factored=(0.9, 0.99)),
    lambda: LSTM("rich", hidden=4, nominal=False, scale=0.1),
    lambda: Transformer(width=4, heads=1, history=2),
    lambda: Preconditioner(width=4, rank=2),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rule.safetensors"


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_saved_comes_back(make, path: Path):
    rule = make()
    with torch.no_grad():
        for p in rule.parameters():
            p.normal_()
    rule.save(path)
    again = load(path)
    assert type(again) is type(rule)
    assert again.config() == rule.config()
    for p, q in zip(rule.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    assert [x.name for x in path.parent.iterdir()] == [path.name]  # no pieces are left


def test_the_format_is_safetensors(path: Path):
    safetensors = pytest.importorskip("safetensors.torch")
    rule = MLP()
    rule.save(path)
    tensors = safetensors.load_file(path)
    assert tensors.keys() == rule.state_dict().keys()
    assert torch.equal(tensors["hidden_in.weight"], rule.hidden_in.weight)


def test_every_dtype_and_shape_comes_back(path: Path):
    tensors = {
        "a": torch.randn(3, 2, dtype=torch.float64),
        "b": torch.randn(5).bfloat16(),
        "c": torch.arange(7),
        "d": torch.zeros(0, 3),
        "e": torch.tensor(True),
        "f": torch.randn(4, 4).t(),
    }
    about = {"numbers": [1, 2.5, None], "text": "ä\"'"}
    _file.write(path, tensors, about)
    back, told = _file.read(path)
    assert told == about
    assert back.keys() == tensors.keys()
    for key, x in tensors.items():
        assert torch.equal(back[key], x)
        assert back[key].dtype == x.dtype


def damaged(data: bytes):
    """Damages of a file, and what the error says of each."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])

    def with_header(change, text=None):
        copy = json.loads(json.dumps(header))
        change(copy)
        raw = json.dumps(copy).encode() if text is None else text
        return len(raw).to_bytes(8, "little") + raw + data[8 + size :]

    def entry(key, value):
        return with_header(lambda h: h["hidden_in.weight"].update({key: value}))

    flipped = bytearray(data)
    flipped[-5] ^= 4
    yield b"", "it has 0 bytes"
    yield data[:7], "it has 7 bytes"
    yield data[: size // 2], "its header should have"
    yield data[:-1], r"lies at|its tensors take"
    yield data + b"\0", "its tensors take"
    yield bytes(flipped), "the checksum differs"
    yield b"\xff" * 100, "its header should have"
    yield with_header(lambda h: None, b"{not json"), "its header is not JSON"
    yield with_header(lambda h: None, b"[1, 2]"), "its header is not a JSON object"
    yield with_header(lambda h: None, b"[" * 50_000), "its header is not JSON"
    yield entry("dtype", "F31"), "has dtype 'F31'"
    yield entry("dtype", ["F32"]), "has dtype"
    yield entry("shape", [-1, 7]), "has the shape"
    yield entry("shape", [2**40, 2**40]), "takes"
    yield entry("shape", [4.0, 7]), "has the shape"
    yield entry("data_offsets", [0, 2**62]), "lies at"
    yield entry("data_offsets", [8, 4]), "lies at"
    yield with_header(lambda h: h.update({"x": 3})), "the entry of 'x' is not a JSON object"
    yield with_header(lambda h: h.update({"__metadata__": [1]})), "its metadata are not texts"


def test_damaged_files_are_named(path: Path):
    MLP().save(path)
    for data, text in list(damaged(path.read_bytes())):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"rule.safetensors' is not a whole .*: .*{text}"):
            load(path)


@pytest.mark.parametrize(
    ("tensors", "about", "text"),
    [
        ({"x": torch.ones(2)}, {}, "holds no update rule: its metadata name the rule None"),
        ({}, {"rule": "magic", "config": {}}, "the rule 'magic' .* known rules are mlp"),
        ({}, {"rule": "mlp", "config": [3]}, "holds no update rule"),
        ({}, {"rule": "mlp", "config": {"size": 3}}, "the configuration does not fit: .*size"),
        ({}, {"rule": "mlp", "config": {"hidden": 10**9}}, "hidden: 1000000000; it must be in"),
        ({}, {"rule": "mlp", "config": {"hidden": "4"}}, "a whole number, not '4'"),
        ({}, {"rule": "mlp", "config": {}}, "the weights do not fit: .*Missing key"),
        (MLP(hidden=5).state_dict(), {"rule": "mlp", "config": {}}, "do not fit: .*size mismatch"),
        (
            {k: v / 0 for k, v in MLP().state_dict().items()},
            {"rule": "mlp", "config": {}},
            "has values that are not finite",
        ),
    ],
)
def test_foreign_files_are_named(tensors, about, text, path: Path):
    _file.write(path, {k: v.detach() for k, v in tensors.items()}, about)
    with pytest.raises(ValueError, match=f"(?s)rule.safetensors'.*{text}"):
        load(path)


def test_rules_that_are_not_finite_are_not_saved(path: Path):
    rule = MLP()
    with torch.no_grad():
        rule.hidden_in.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"hidden_in.weight has values that are not finite"):
        rule.save(path)
    assert not path.exists()


def test_names_and_paths(path: Path):
    with pytest.raises(ValueError, match=r"no rule named 'mlp-v999' comes with the package"):
        load("mlp-v999")
    with pytest.raises(FileNotFoundError):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(str(path))
    assert DEFAULT in pretrained()
    for name in pretrained():
        params = [torch.nn.Parameter(torch.ones(3, 2))]
        by_name = Learned.from_pretrained(name, params)
        assert by_name.rule.config() == load(name).config()


def test_the_default_rule_trains_networks_better_than_where_it_began():
    """It began as Adam with a rate of 1e-3; all seeds and multipliers, on data of another kind."""
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0.3).long()
    for seed, lr in itertools.product(range(3), (0.1, 0.3, 1.0)):
        losses = []
        for make in (lambda p, lr=lr: Learned(p, lr=lr, num_steps=100), torch.optim.Adam):
            torch.manual_seed(seed)
            model = torch.nn.Sequential(
                torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
            )
            optimizer = make(model.parameters())
            for _ in range(100):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
            losses.append(loss.item())
        assert losses[0] < 0.5 * losses[1], (seed, lr, losses)


def test_an_optimizer_takes_a_file(path: Path):
    rule = MLP(hidden=2)
    rule.save(path)
    params = [torch.nn.Parameter(torch.ones(3))]
    optimizer = Learned.from_pretrained(path, params, lr=0.3, num_steps=10)
    assert optimizer.rule.config() == rule.config()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["num_steps"]) == (0.3, 10)


class Momentum(UpdateRule):
    """A rule that the package does not know."""

    name, like, beside = "momentum", ("exp_avg",), ("seen",)

    def __init__(self, size: float = 1.0):
        super().__init__(size=size)
        self.log_size = torch.nn.Parameter(torch.tensor(size).log())

    def memory(self, p):
        return {"seen": p.new_zeros(2)}

    def between(self, tensors):
        return [max(at.w.numel() for at in tensors)] * len(tensors)

    def step_tensor(self, at, told):
        m = 0.9 * at.state["exp_avg"] + at.g
        seen = torch.stack([at.state["seen"][0] + 1, torch.tensor(float(told))])
        return at.moved(self.log_size.exp() * m), {"exp_avg": m, "seen": seen}


def test_a_rule_of_ones_own(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Step, resume and come back from a file by what the class fills in alone."""
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]
    optimizer = Learned(params, Momentum(2.0))
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    for p in params:  # 2e-3 (1 + 1.9)
        torch.testing.assert_close(p.detach(), torch.full_like(p, 1 - 5.8e-3))
        assert optimizer.state[p]["seen"].tolist() == [2, 4]
        assert float(optimizer.state[p]["step"]) == 2
    optimizer.rule.save(path)
    with pytest.raises(ValueError, match=r"the rule 'momentum' .* known rules are mlp"):
        load(path)
    monkeypatch.setitem(RULES, "momentum", Momentum)
    again = Learned.from_pretrained(path, params)
    again.load_state_dict(optimizer.state_dict())
    again.step()
    assert again.state[params[0]]["seen"].tolist() == [3, 4]
