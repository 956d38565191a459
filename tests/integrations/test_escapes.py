"""ALME in training loops without a closure: hand-written, accelerate, Lightning, transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unstuck.integrations import Escapes
from unstuck.optim import ALME

X = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True).sin()
ALWAYS: dict[str, Any] = {  # stands still whatever happens
    "mode": "plain",
    "grad_norm_window": 2,
    "grad_norm_threshold": 1e9,
    "scales": {0.01: 4},
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layers(x) - labels).square().mean()}


def batches() -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.split(16), Y.split(16), strict=True))


@pytest.mark.parametrize("together", [True, False])
def test_escapes_come_when_due_on_batches_of_the_loader(together: bool):
    model = Net()
    optimizer = ALME(model.parameters(), lr=0.01, module=model if together else None, **ALWAYS)
    seen: list[Tensor] = []

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        seen.append(batch[0])
        return model(*batch)["loss"]

    escapes = Escapes(optimizer, loss, batches())
    taken = 0
    for _ in range(20):
        for x, y in batches():
            optimizer.zero_grad()
            model(x, y)["loss"].backward()
            optimizer.step()
            seen.clear()
            before = optimizer.attempts
            taken += escapes()
            if optimizer.attempts == before:
                assert not seen
            else:
                distinct = {x.data_ptr() for x in seen}
                assert len(distinct) >= 4 if together else len(distinct) == 1
    assert optimizer.attempts > 3
    assert taken == optimizer.escapes


def test_what_it_needs_is_said():
    model = Net()
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(TypeError, match=r"need an unstuck\.optim\.ALME, not Adam"):
        Escapes(adam, lambda batch: batch, [])
    optimizer = ALME(model.parameters(), **ALWAYS)
    escapes = Escapes(optimizer, lambda batch: batch, [])
    assert not escapes()
    for _ in range(100):
        model(X, Y)["loss"].backward()
        optimizer.step()
    with pytest.raises(ValueError, match="the loader has no batch"):
        escapes()


def test_without_transformers_the_callback_says_what_to_install():
    if importlib.util.find_spec("transformers"):
        pytest.skip("transformers is installed")
    from unstuck.integrations.huggingface import EscapeCallback

    with pytest.raises(ImportError, match=r'pip install "unstuck\[integrations\]"'):
        EscapeCallback()


def test_accelerate():
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = Net()
    optimizer = ALME(model.parameters(), lr=0.01, module=model, **ALWAYS)
    model, wrapped = accelerator.prepare(model, optimizer)
    escapes = Escapes(wrapped, lambda batch: model(*batch)["loss"], batches())
    first = float(model(X, Y)["loss"].detach())
    for step in range(80):
        wrapped.zero_grad()
        accelerator.backward(model(*batches()[step % 8])["loss"])
        wrapped.step()
        escapes()
    assert optimizer.attempts > 0
    assert float(model(X, Y)["loss"].detach()) < first


@pytest.mark.filterwarnings("ignore")  # its own
def test_lightning_gives_a_closure_itself():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.net(*batch)["loss"]

        def configure_optimizers(self) -> ALME:
            return ALME(self.parameters(), lr=0.01, **ALWAYS)

    module = Module()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = lightning.Trainer(max_epochs=10, accelerator="cpu", **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 16))
    optimizer = module.optimizers().optimizer
    assert optimizer.attempts > 0
    assert any(record.after != record.before for record in optimizer.history)


@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize("escaping", [True, False])
def test_the_trainer_of_transformers(tmp_path: Path, escaping: bool):
    transformers = pytest.importorskip("transformers")
    from unstuck.integrations.huggingface import EscapeCallback

    model = Net()
    optimizer = ALME(model.parameters(), lr=0.01, module=model, **ALWAYS)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path),
            num_train_epochs=6,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=[{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)],
        optimizers=(optimizer, None),
        callbacks=[EscapeCallback()] if escaping else [],
    )
    trainer.train()
    assert (optimizer.attempts > 0) == escaping
    assert optimizer.nfev >= 96
