"""Whitened gradients: the formula, when it looks and renews, and what it leaves as it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unstuck.learned import MLP, WhitenedMLP
from unstuck.learned._whitening import LARGEST, LOOK, entries, whiten_, whitened

DAMPING = 1e-5
Memory = dict[str, Tensor]


def draw(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def inverse_power(mean: Tensor, power: float) -> Tensor:
    """By the singular value decomposition, and with the damping put on the matrix."""
    n = len(mean)
    mean = mean / (mean.trace() / n) + DAMPING * n * torch.eye(n, dtype=mean.dtype)
    u, s, _ = torch.linalg.svd(mean)
    return u @ torch.diag(s**-power) @ u.T


def counted(g: Tensor, memory: Memory, t: int, power: float) -> tuple[Tensor, Memory]:
    """As a native step has it."""
    state = {key: [x.clone()] for key, x in memory.items()}
    state["step"] = [torch.tensor(float(t - 1))]
    (out,) = whiten_([g], entries(state, [g.shape], native=True), power)
    return out, {key: state[key][0] for key in memory}


def on_tensors(g: Tensor, memory: Memory, t: int, power: float) -> tuple[Tensor, Memory]:
    """As autograd and vmap see it."""
    return whitened(g, memory, torch.tensor(float(t)), power, g.shape)


def begin(g: Tensor) -> Memory:
    return {key: x for key, x in WhitenedMLP().memory(g).items() if key != "stats"}


def run(
    steps: list[Tensor], power: float = 0.25, form=counted
) -> tuple[list[Tensor], list[Memory]]:
    """Whiten one gradient after another."""
    memory, found, kept = begin(steps[0]), [], []
    for t, g in enumerate(steps, 1):
        out, memory = form(g, memory, t, power)
        found.append(out)
        kept.append(memory)
    return found, kept


@pytest.mark.parametrize("power", [0.125, 0.25, 0.5])
def test_the_first_gradient_is_whitened_by_its_own_correlations(power: float):
    g = draw(4, 7)
    ((out,), _) = run([g], power)
    expected = inverse_power(g @ g.T, power) @ g @ inverse_power(g.T @ g, power)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_shampoos_power_makes_one_gradient_orthogonal():
    """With p = 1/4 on both sides all singular values of the first gradient become the same."""
    values = torch.linalg.svdvals(run([draw(5, 5)], 0.25)[0][0])
    assert values.max() / values.min() < 1.01
    assert torch.linalg.cond(draw(5, 5)) > 5


def test_means_look_at_every_tenth_gradient_and_roots_follow():
    steps = [draw(3, 6, seed=i) for i in range(401)]
    _, kept = run(steps)
    rows = [memory["rows"] for memory in kept]
    roots = [memory["rows_root"] for memory in kept]
    looked = [t for t in range(1, 402) if t == 1 or not torch.equal(rows[t - 1], rows[t - 2])]
    renewed = [t for t in range(1, 402) if t == 1 or not torch.equal(roots[t - 1], roots[t - 2])]
    assert looked == list(range(1, 402, 10))
    assert renewed == [1, 11, 31, 71, 151, 191, 391]  # looks 1, 2, 4, 8, 16, and 20, 40
    mean = torch.zeros(3, 3, dtype=torch.float64)
    for number, g in enumerate(steps[0:391:10], 1):
        mean += max(1 / number, 0.12) * (g @ g.T - mean)
    torch.testing.assert_close(rows[390], mean)
    torch.testing.assert_close(roots[390], inverse_power(rows[390], 0.25))


def test_lengths_pass_through():
    """A thousand times longer gradients are whitened to a thousand times longer ones."""
    steps = [draw(4, 3, seed=i) for i in range(10)]
    plain, longer = run(steps)[0], run([1000 * g for g in steps])[0]
    for x, y in zip(plain, longer, strict=True):
        torch.testing.assert_close(1000 * x, y)


def test_turned_gradients_are_whitened_to_turned_ones():
    turn = torch.linalg.qr(draw(4, 4, seed=9))[0]
    steps = [draw(4, 3, seed=i) for i in range(10)]
    plain, turned = run(steps)[0], run([turn @ g for g in steps])[0]
    for x, y in zip(plain, turned, strict=True):
        torch.testing.assert_close(turn @ x, y, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 2, 2), (5,), (), (1, 4), (300, 3)])
def test_with_a_counted_step_and_with_one_on_a_tensor_it_is_the_same(shape: tuple[int, ...]):
    steps = [draw(*shape, seed=t) for t in range(73)]
    (a, kept), (b, other) = run(steps, form=counted), run(steps, form=on_tensors)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(kept, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("native", [False, True])
def test_students_are_whitened_as_each_alone(native: bool):
    rule, count, shape = WhitenedMLP(), 3, torch.Size((4, 2, 3))
    state = torch.vmap(rule.init_state)([torch.zeros(count, *shape)])
    alone = [rule.init_state([torch.zeros(shape)]) for _ in range(count)]
    for t in range(14):
        g = draw(count, *shape, seed=t, dtype=torch.float32)
        (out,) = whiten_([g], entries(state, [shape], native=native), 0.25)
        for k in range(count):
            (one,) = whiten_([g[k]], entries(alone[k], [shape], native=native), 0.25)
            torch.testing.assert_close(out[k], one, rtol=1e-4, atol=1e-5)
            alone[k]["step"][0].add_(1)
        state["step"][0].add_(1)


SHAPES = [(2, 2), (5, 31), (33, 32), (10, 64), (64, 10), (64, 64), (40, 65), (3, 300), (200, 9)]


@pytest.mark.parametrize("students", [(), (1,), (3,)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_native_products_are_torchs(shape: tuple[int, int], students: tuple[int, ...]):
    """From the same means and roots, at steps that look, and at some that do not."""
    state, count = {}, math.prod(students)
    for side, n in zip(("rows", "columns"), shape, strict=True):
        n = n if n <= LARGEST else 0
        x = draw(*students, n, n + 3, seed=n + 1, dtype=torch.float32)
        root = draw(*students, n, n, seed=n, dtype=torch.float32)
        mean = x @ x.mT
        state |= {side: [mean + mean.mT], f"{side}_root": [root + root.mT]}
    # Gradients of students lie in one row of all parameters each.
    rows = draw(count, 7 + shape[0] * shape[1], dtype=torch.float32)
    for step, looks in ((120, 13), (121, 0)):
        state["step"] = [torch.full(students, float(step))]
        g = rows[:, 7:].view(count, *shape) if students else rows[0, 7:].view(shape)
        states = [{key: [x[0].clone()] for key, x in state.items()} for _ in range(2)]
        outs = [
            whiten_([g], entries(states[native], [shape], native=native), 0.25)[0]
            for native in (False, True)
        ]
        scale = float(outs[0].abs().max())
        torch.testing.assert_close(outs[1], outs[0], rtol=1e-5, atol=1e-5 * scale)
        for key in ("rows", "columns"):
            moved = states[1][key][0]
            torch.testing.assert_close(moved, states[0][key][0], rtol=1e-5, atol=1e-4)
            assert torch.equal(moved, state[key][0]) == (looks == 0 or not moved.numel())
            assert torch.equal(moved, moved.mT)


def test_threads_do_not_change_what_comes_out():
    g, memory, found = draw(64, 500, dtype=torch.float32), [], []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            state = {key: [x] for key, x in begin(g).items()} | {"step": [torch.zeros(())]}
            found.append(whiten_([g], entries(state, [g.shape], native=True), 0.25)[0])
            memory.append(state["rows"][0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    assert torch.equal(*memory)


def test_long_sides_and_vectors_are_left_alone():
    assert torch.equal(run([draw(9)])[0][0], draw(9))
    assert {k: tuple(x.shape) for k, x in begin(draw(LARGEST + 1, 2)).items()} == {
        "rows": (0, 0),
        "columns": (2, 2),
        "rows_root": (0, 0),
        "columns_root": (2, 2),
    }
    rules, params = (MLP(scale=3), WhitenedMLP(scale=3)), [draw(6), draw()]
    moved = []
    for rule in rules:
        state, w = rule.init_state(params), params
        for t in range(5):
            w, state = rule(w, [draw(6, seed=t), draw(seed=t)], state)
        moved.append(w)
    assert all(torch.equal(x, y) for x, y in zip(*moved, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_a_look_at_what_is_not_finite_is_forgotten(value: float):
    steps = [draw(3, 4, seed=i) for i in range(21)]
    plain = run([*steps[:LOOK], steps[0] * 0 + 1, *steps[LOOK + 1 :]])[1]
    steps[LOOK] = steps[LOOK].clone()
    steps[LOOK][1, 2] = value
    _, kept = run(steps)
    assert all(x.isfinite().all() for memory in kept for x in memory.values())
    assert torch.equal(kept[LOOK]["rows"], kept[LOOK - 1]["rows"])
    assert not torch.equal(plain[LOOK]["rows"], kept[LOOK]["rows"])


def test_a_state_without_means_goes_on_with_plain_gradients():
    """As when the state of another rule or of Adam is loaded: step 32 is not the first."""
    g, memory = draw(3, 4), begin(draw(3, 4))
    for t in range(32, 75):
        out, memory = counted(g, memory, t, 0.25)
        assert torch.equal(out, g) == (t < 71)  # look 8 makes the first root


def test_roots_that_do_not_converge_are_made_in_double_precision(monkeypatch):
    g, eigh, asked = draw(5, 6, dtype=torch.float32), torch.linalg.eigh, []

    def failing(x: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(x.dtype)
        if x.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        return eigh(x)

    ((expected,), _) = run([g])
    monkeypatch.setattr(torch.linalg, "eigh", failing)
    ((out,), kept) = run([g])
    assert asked == [torch.float32, torch.float64] * 2
    assert kept[0]["rows_root"].dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


def test_zero_gradients_stay_zero():
    out, kept = run([torch.zeros(3, 4)] * 6)
    assert all(torch.equal(x, torch.zeros(3, 4)) for x in out)
    torch.testing.assert_close(kept[-1]["rows_root"], torch.eye(3), rtol=1e-4, atol=1e-4)


def test_whitening_helps_where_inputs_are_correlated():
    """Linear regression on inputs of a condition number of 1000."""
    x = draw(200, 12) @ torch.diag(torch.logspace(0, -1.5, 12, dtype=torch.float64))
    x = x @ torch.linalg.qr(draw(12, 12, seed=1))[0]
    y = x @ draw(12, 6, seed=2)
    losses = {}
    for rule in (MLP(scale=30, fade=1), WhitenedMLP(scale=30, fade=1, power=0.25)):
        w = [torch.zeros(12, 6, dtype=torch.float64)]
        state = rule.init_state(w)
        with torch.no_grad():
            for _ in range(150):
                w, state = rule(w, [x.T @ (x @ w[0] - y) / len(x)], state, num_steps=150)
            losses[rule.name] = float((x @ w[0] - y).square().mean())
    assert losses["whitened-mlp"] < 0.5 * losses["mlp"]


@pytest.mark.parametrize("power", [0, -0.1, 0.6, float("nan")])
def test_powers_out_of_range_are_refused(power: float):
    with pytest.raises(ValueError, match=f"Invalid power: {power}"):
        WhitenedMLP(power=power)
