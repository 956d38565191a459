import pytest
import torch

from unstuck.problems import load_data, make_model
from unstuck.training import OPTIMIZERS, entrant, entrants, fit


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_with_its_defaults(name):
    one = entrant(name)
    assert "lr" in one.settings
    data = load_data("digits", meta=one.entry.meta)
    model = make_model("mlp", data)
    history = fit(
        model,
        one.build(model),
        data,
        epochs=3,
        batch_size=64,
        meta_every=1 if one.entry.meta else 0,
        closure=one.entry.closure,
        probes=one.entry.probes,
    )
    assert history.validation_loss[-1] < 0.5 * history.validation_loss[0]
    assert all(len(values) == 4 for values in history.probes.values())


def test_settings_override_the_defaults_and_reach_the_optimizer():
    one = entrant(" sgd:lr=3e-3:nesterov=True ")
    assert one.label == "sgd:lr=3e-3:nesterov=True"
    assert one.settings == {"lr": 3e-3, "momentum": 0.9, "nesterov": True}
    group = one.build(torch.nn.Linear(2, 2)).param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"]) == (3e-3, 0.9, True)


def test_commas_in_parentheses_do_not_separate():
    first, second = entrants("adam:betas=(0.8,0.99):lr=0.01, sgd")
    assert first.settings["betas"] == (0.8, 0.99)
    assert second.label == "sgd"


def test_blend_shows_its_alpha():
    one = entrant("blend:alpha=0.25")
    probe = one.entry.probes["alpha"]
    assert probe(one.build(torch.nn.Linear(2, 2))) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adma", r"unknown optimizer 'adma': known are adadelta, .*blend"),
        ("", r"unknown optimizer ''"),
        ("adam:rate=1", r"adam has no setting 'rate': known are lr, betas"),
        ("adam:params=1", r"adam has no setting 'params'"),
        ("adam:lr", r"write settings as key=value, not 'lr'"),
        ("sgd:lr=-1", r"'sgd:lr=-1': Invalid learning rate"),
        ("adam:lr=fast", r"'adam:lr=fast'"),
        ("adam,sgd,adam", r"'adam' is entered twice"),
    ],
)
def test_errors_name_the_entrant_and_the_remedy(text, message):
    with pytest.raises(ValueError, match=message):
        entrants(text)
