import random

import numpy as np
import pytest
import torch

from unstuck.problems import DATA, Source, load_data
from unstuck.problems import data as module

SIZES = {"digits": 1797, "mnist1d": 5000, "mnist": 5000}
SHAPES = {"digits": (1, 8, 8), "mnist1d": (1, 40), "mnist": (1, 28, 28)}


def parts(splits):
    return [splits.train, splits.validation, splits.test] + ([splits.meta] if splits.meta else [])


@pytest.fixture
def tiny(monkeypatch):
    """A data set of 60 rows in 3 classes, whose rows can be looked at and changed."""
    generator = np.random.default_rng(0)
    rows = module.Rows(
        x=generator.normal(3.0, 5.0, size=(60, 1, 4)).astype(np.float32),
        y=np.repeat(np.arange(3), 20),
        test=None,
    )
    monkeypatch.setitem(DATA, "tiny", Source(lambda: rows, "made here"))
    module._rows.cache_clear()
    yield rows
    module._rows.cache_clear()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("meta", [0.0, 0.2])
def test_parts_are_disjoint_and_complete(name, meta):
    splits = load_data(name, seed=3, meta=meta)
    rows = torch.cat([part.index for part in parts(splits)])
    assert sorted(rows.tolist()) == list(range(SIZES[name]))
    assert (splits.meta is not None) == bool(meta)
    for part in parts(splits):
        assert part.x.shape == (len(part), *SHAPES[name])
        assert part.y.shape == (len(part),)
        assert part.x.dtype == torch.float32
    assert splits.shape == SHAPES[name]
    assert splits.classes == 10


def test_mnist1d_keeps_the_split_of_its_library():
    splits = load_data("mnist1d", seed=1)
    assert splits.test.index.tolist() == list(range(4000, 5000))
    assert len(splits.train) + len(splits.validation) == 4000


@pytest.mark.parametrize("name", ["digits", "mnist1d"])
def test_seed_moves_validation_but_never_test(name):
    one, other, again = load_data(name, 0), load_data(name, 1), load_data(name, 0)
    assert torch.equal(one.test.index, other.test.index)
    assert not torch.equal(one.validation.index, other.validation.index)
    assert torch.equal(one.validation.index, again.validation.index)
    assert torch.equal(one.train.x, again.train.x)


def test_meta_rows_come_from_training_alone():
    without, with_meta = load_data("digits", 5), load_data("digits", 5, meta=0.15)
    assert torch.equal(without.validation.index, with_meta.validation.index)
    kept = set(with_meta.train.index.tolist()) | set(with_meta.meta.index.tolist())
    assert kept == set(without.train.index.tolist())


def test_parts_are_stratified():
    splits = load_data("digits", 2, meta=0.2)
    everything = torch.cat([part.y for part in parts(splits)])
    share = torch.bincount(everything, minlength=10) / len(everything)
    for part in parts(splits):
        got = torch.bincount(part.y, minlength=10) / len(part)
        assert (got - share).abs().max() < 0.005


def test_labels_and_inputs_belong_together(tiny):
    splits = load_data("tiny", 0)
    for part in parts(splits):
        index = part.index.numpy()
        np.testing.assert_array_equal(part.y.numpy(), tiny.y[index])
        expected = (tiny.x[index] - splits.mean) / splits.std
        np.testing.assert_allclose(part.x.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_standardised_by_training_rows_alone(tiny):
    before = load_data("tiny", 0)
    assert abs(before.train.x.mean()) < 1e-6
    assert abs(before.train.x.std(correction=0) - 1) < 1e-6
    for part in (before.validation, before.test):
        tiny.x[part.index.numpy()] += 1000.0
    after = load_data("tiny", 0)
    assert (after.mean, after.std) == (before.mean, before.std)
    assert torch.equal(after.train.x, before.train.x)
    assert after.test.x.min() > before.test.x.max()


def test_making_mnist1d_leaves_global_generators_alone():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    DATA["mnist1d"].load()
    assert (random.random(), np.random.random()) == expected


def test_dtype_and_device():
    splits = load_data("digits", dtype=torch.float64, device="meta")
    assert splits.train.x.dtype == torch.float64
    assert splits.test.y.device.type == "meta"
    assert splits.test.index.device.type == "cpu"


@pytest.mark.parametrize(
    ("validation", "meta"), [(0.0, 0.0), (0.5, 0.5), (0.2, -0.1), (float("nan"), 0.0)]
)
def test_impossible_fractions(validation, meta):
    with pytest.raises(ValueError, match=r"rows for training"):
        load_data("digits", validation=validation, meta=meta)


def test_fraction_too_small_for_the_classes(tiny):
    with pytest.raises(ValueError, match=r"16 rows of class 0 leaves a part empty"):
        load_data("tiny", validation=0.01)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'minst': known are digits, mnist, mnist1d"):
        load_data("minst")
