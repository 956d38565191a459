import dataclasses

import pytest
import torch

from unstuck.problems import MODELS, load_data, make_model


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", ["digits", "mnist1d", "mnist"])
def test_every_model_takes_every_data_set(model, data):
    splits = load_data(data)
    network = make_model(model, splits)
    logits = network(splits.train.x[:7])
    assert logits.shape == (7, 10)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_mlp_is_the_reported_one_on_mnist1d():
    network = make_model("mlp", load_data("mnist1d"))
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    assert shapes == [(256, 40), (256, 256), (10, 256)]


def test_seed_decides_the_weights_and_nothing_else_does():
    data = load_data("digits")
    first = make_model("conv", data, seed=4).state_dict()
    torch.rand(3)
    again = make_model("conv", data, seed=4).state_dict()
    other = make_model("conv", data, seed=5).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_global_generator_is_left_alone():
    data = load_data("digits")
    torch.manual_seed(11)
    expected = torch.rand(2)
    torch.manual_seed(11)
    make_model("mlp", data, seed=3)
    assert torch.equal(torch.rand(2), expected)


def test_model_follows_dtype_of_the_data():
    data = load_data("digits", dtype=torch.float64)
    assert next(make_model("mlp", data).parameters()).dtype == torch.float64


def test_conv_refuses_inputs_without_extent():
    data = dataclasses.replace(load_data("digits"), shape=(1, 2, 2))
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\): take 'mlp'"):
        make_model("conv", data)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'cnn': known are conv, logistic, mlp"):
        make_model("cnn", load_data("digits"))
