"""The ask/tell protocol, for every mode of every search."""

import math

import pytest
import torch

from unstuck.ops import landscapes
from unstuck.ops.landscapes import Landscape
from unstuck.search import AttentionSearch

MODES = ("adaptive", "plain", "enhanced")


def start(mode, dim=4, **options):
    return AttentionSearch(torch.full((dim,), 2.0), 0.5, mode=mode, **{"seed": 3, **options})


def run(search, rounds, objective=lambda x: x.square().sum(1)):
    for _ in range(rounds):
        search.tell(objective(search.ask()))
    return search


@pytest.mark.parametrize("mode", MODES)
def test_resumes_bit_for_bit(mode):
    whole = run(start(mode), 40)
    half = run(start(mode), 23)
    half.ask()
    resumed = start(mode)
    resumed.load_state_dict(half.state_dict())
    run(resumed, 17)
    assert torch.equal(whole.center, resumed.center)
    assert torch.equal(whole.best.x, resumed.best.x)
    assert (whole.best.f, whole.nfev, whole.nit) == (resumed.best.f, resumed.nfev, resumed.nit)
    assert torch.equal(whole.ask(), resumed.ask())


@pytest.mark.parametrize("mode", MODES)
def test_counts_and_keeps_the_best(mode):
    search, told = start(mode), []
    for _ in range(20):
        x = search.ask()
        assert torch.equal(x, search.ask())
        losses = x.square().sum(1)
        told += losses.tolist()
        search.tell(losses)
    assert search.nit == 20
    assert search.nfev == len(told)
    assert search.best.f == min(told)
    assert float(search.best.x.square().sum()) == pytest.approx(search.best.f, rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_bad_losses_weigh_nothing_and_all_bad_moves_nothing(mode):
    search = run(start(mode), 3)
    while search.ask().shape[0] == 1:  # a trial of a line search, that may well be bad
        run(search, 1)
    before = search.center.clone()
    count = search.ask().shape[0]
    search.tell(torch.tensor([math.nan, math.inf] * count)[:count])
    assert torch.equal(search.center, before)
    assert "nonfinite" in search.stop()
    losses = search.ask().square().sum(1)
    losses[::3] = math.nan
    search.tell(losses)
    assert search.stop() == {}
    assert bool(torch.isfinite(search.center).all())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bound", ["clip", "reflect"])
def test_no_candidate_leaves_the_box(mode, bound):
    search = start(mode, bounds=(1.0, [2.5, 3.0, 2.1, math.inf]), bound=bound, popsize=30)
    for _ in range(30):
        x = search.ask()
        assert float(x.min()) >= 1.0
        assert bool((x[:, :3] <= torch.tensor([2.5, 3.0, 2.1])).all())
        search.tell(-x.sum(1))


def test_a_wrong_tell_is_refused_and_changes_nothing():
    search = start("adaptive")
    with pytest.raises(RuntimeError, match="ask"):
        search.tell([1.0])
    x = search.ask()
    with pytest.raises(ValueError, match="losses were told"):
        search.tell(torch.zeros(x.shape[0] + 1))
    assert search.nfev == search.nit == 0
    assert torch.equal(search.ask(), x)


@pytest.mark.parametrize(
    ("x0", "bounds", "words"),
    [
        ([], None, "at least one"),
        ([[1.0]], None, "vector"),
        ([1.0, math.nan], None, r"x0\[1\] is nan"),
        ([1.0, 2.0], (0, 1.5), "outside"),
        ([1.0, 2.0], (3, 0), "low must be below"),
        ([1.0, 2.0], ([0, 0, 0], 5), "low bound must be"),
        ([1.0, 2.0], (0, 1, 2), "pair"),
    ],
)
def test_a_start_that_cannot_be_is_refused(x0, bounds, words):
    with pytest.raises(ValueError, match=words):
        AttentionSearch(x0, 0.5, bounds=bounds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_candidates_have_the_dtype_of_the_start(dtype):
    search = AttentionSearch(torch.ones(3, dtype=dtype), 0.5)
    assert search.ask().dtype == dtype
    assert search.best.x.dtype == dtype


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bounds", [None, (-1.0, 2.5)])
def test_a_fused_step_is_ask_and_tell(mode, bounds):
    fused, told = (start(mode, dim=30, bounds=bounds, popsize=40) for _ in range(2))
    landscape = Landscape("rastrigin", 30)
    for _ in range(8):  # roundings grow from one to the next
        fused.step(landscape)
        told.tell(landscapes.value(landscape, told.ask()))
    assert torch.allclose(fused.center, told.center, atol=1e-4)
    assert torch.allclose(fused.best.x, told.best.x, atol=1e-4)
    assert fused.best.f == pytest.approx(told.best.f, rel=1e-4)
    assert (fused.nfev, fused.nit) == (told.nfev, told.nit) == (320, 8)
