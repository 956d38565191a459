"""Native whitening, by itself and within a step: what it takes, and what it refuses."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from unstuck.learned import MLP, WhitenedMLP, _whitening
from unstuck.learned._whitening import SCHEDULE
from unstuck.learned.mlp import shape_inputs
from unstuck.ops import learned
from unstuck.optim import Learned

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not learned.native_ready(CPU), reason="needs the CPU module")
SHAPES = [(64, 100), (64,), (3, 2, 2, 2), (10, 64), (1, 5), ()]


def gradients(step: int, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    mix = torch.randn(100, 100, generator=generator)
    drawn = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [(x @ mix if x.shape == (64, 100) else x).to(dtype) for x in drawn]


def train(steps: int = 75, scale: float = 1.0, shift=lambda p: p, **options) -> Learned:
    params = [nn.Parameter(shift(torch.ones(shape))) for shape in SHAPES]
    optimizer = Learned(params, WhitenedMLP(power=0.2), lr=30.0, num_steps=steps, **options)
    optimizer.grad_scale = torch.tensor(scale) if scale != 1 else None
    optimizer.found_inf = torch.zeros(()) if scale != 1 else None
    for step in range(steps):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = shift(scale * g)
        optimizer.step()
    return optimizer


def assert_alike(one: Learned, other: Learned, tolerance: float) -> None:
    for p, q in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        for key in ("rows", "columns"):
            x, y = one.state[p][key], other.state[q][key]
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4 * float(y.norm() + 1))


def turned(x: torch.Tensor) -> torch.Tensor:
    """The same numbers in another order of memory."""
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


def test_a_native_step_is_that_of_the_torch_form():
    ours, plain = train(), train(fused=False)
    assert hasattr(ours._plan.plan, "look")
    assert_alike(ours, plain, 1e-4)


def test_a_step_on_one_thread_and_on_two_is_the_same(threads):
    assert_alike(train(), train(fused=False), 1e-4)


def test_other_orders_of_memory_go_through_torchs_products():
    ours = train(shift=turned)
    assert not hasattr(ours._plan.plan, "look")
    assert_alike(ours, train(fused=False), 1e-4)


@pytest.mark.parametrize("options", [{}, {"shift": turned}], ids=["native", "torch"])
def test_gradients_that_are_a_multiple_are_brought_back(options):
    assert_alike(train(scale=1024.0, **options), train(), 2e-3)


def test_a_state_entry_that_is_replaced_is_seen():
    ours, plain = train(6), train(6, fused=False)
    for optimizer in (ours, plain):
        p = optimizer.param_groups[0]["params"][0]
        p.grad = gradients(7)[0]
        root = optimizer.state[p]["rows_root"]
        optimizer.state[p]["rows_root"] = 2 * torch.eye(len(root))
        optimizer.step()
    assert_alike(ours, plain, 1e-4)
    p = ours.param_groups[0]["params"][0]
    assert torch.equal(ours.state[p]["rows_root"], 2 * torch.eye(64))


def plan(**changes):
    """A plan of one matrix of 6 by 4, with some arguments changed."""
    w, rule = torch.zeros(6, 4), WhitenedMLP()
    state = rule.init_state([w])
    arguments = {"params": [w], "state": state, "shapes": [(6, 4, 6, 4)]}
    arguments |= {"groups": [0], "traits": [shape_inputs(w.shape)], "schedule": SCHEDULE}
    return learned.whitened_plan_for(**arguments | changes)


def test_what_does_not_fit_a_plan_is_named():
    state = WhitenedMLP().init_state([torch.zeros(6, 4)])
    bad = [
        (dict(shapes=[(6, 4, 6)]), ValueError, r"shapes\[0\] must have 4 fields, not 3"),
        (dict(shapes=[(6, 5, 6, 5)]), ValueError, r"shapes\[0\] does not fit params\[0\] of 24"),
        (dict(shapes=[(6, 4, 5, 4)]), ValueError, r"shapes\[0\] does not fit params\[0\]"),
        (dict(shapes=[(6, 4, -6, 4)]), ValueError, r"shapes\[0\] must be from 0 to 32768, not -6"),
        (dict(shapes=[]), ValueError, "shapes has 0 entries, but params has 1"),
        (
            dict(params=[torch.zeros(4, 6).t()]),
            ValueError,
            r"must be contiguous float32|agree with",
        ),
        (dict(state=state | {"rows": [torch.zeros(5, 6)]}), ValueError, r"rows\[0\] must be 36"),
        (dict(state=state | {"rows": state["rows_root"]}), ValueError, "share memory"),
        (
            dict(state=state | {"columns_root": [torch.zeros(4, 4).double()]}),
            ValueError,
            r"columns_roots\[0\] must be 16 contiguous float32",
        ),
        (dict(schedule=(4, 0.95, 25)), ValueError, "schedule must have 4 fields, not 3"),
        (dict(schedule=(0, 0.95, 25, (1,))), ValueError, "every must be from 1 to"),
        (dict(schedule=(4, 1.0, 25, (1,))), ValueError, r"keep must be in \[0, 1\), not 1.0"),
        (dict(schedule=(4, 0.95, 0, (1,))), ValueError, "renew must be from 1 to"),
        (dict(schedule=(4, 0.95, 25, (0,))), ValueError, r"early\[0\] must be from 1 to"),
    ]
    for changes, error, text in bad:
        with pytest.raises(error, match=text):
            plan(**changes)
    with pytest.raises(ValueError, match=r"no gradients: call ready\(\) or set_gradients\(\)"):
        plan().look(1.0, 1)
    made = plan()
    made.set_gradients([torch.zeros(6, 4)])
    with pytest.raises(ValueError, match="scale must be above 0"):
        made.look(0.0, 1)
    with pytest.raises(ValueError, match="threads must be from 1"):
        made.look(1.0, 0)


def one_matrix(**changes) -> learned.Matrix:
    made = learned.Matrix(
        gradient=torch.randn(3, 24),
        out=torch.zeros(3, 24),
        rows=torch.zeros(3, 6, 6),
        rows_root=torch.eye(6).repeat(3, 1, 1),
        columns=None,
        columns_root=None,
        weight=0.5,
        shape=(3, 6, 4),
    )
    return made._replace(**changes)


def test_one_side_alone_and_rows_that_lie_apart():
    wide = torch.randn(3, 30)
    matrix = one_matrix(gradient=wide[:, 3:27])
    learned.whiten([matrix])
    torch.testing.assert_close(matrix.out, wide[:, 3:27])
    g = wide[:, 3:27].reshape(3, 6, 4)
    torch.testing.assert_close(matrix.rows, 0.5 * g @ g.mT)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"gradient": torch.zeros(3, 25)}, ValueError, r"gradient must have the shape \[3, 24\]"),
        ({"gradient": torch.zeros(24, 3).t()}, ValueError, "whose rows are contiguous"),
        ({"gradient": torch.zeros(3, 24).double()}, ValueError, "must be float32 as the others"),
        ({"out": torch.zeros(3, 23)}, ValueError, r"matrices\[0\].out must be 72 contiguous"),
        ({"rows": torch.zeros(3, 6, 5)}, ValueError, r"matrices\[0\].rows must be 108 contiguous"),
        ({"rows_root": torch.zeros(6, 6)}, ValueError, "rows_root must be 108 contiguous"),
        ({"rows": None}, ValueError, r"matrices\[0\] has no side that is whitened"),
        ({"weight": 1.5}, ValueError, r"matrices\[0\].weight must be at most 1, not 1.5"),
        ({"weight": -1.0}, ValueError, "weight must be at least 0"),
        ({"weight": float("nan")}, ValueError, "weight must be finite"),
        ({"shape": (3, 0, 4)}, ValueError, "shape must be from 1 to"),
        ({"shape": (3, 6)}, ValueError, "shape must have 3 fields, not 2"),
        ({"shape": (2**20, 2**20, 4)}, ValueError, "shape must hold at most"),
        ({"gradient": "x"}, TypeError, "gradient"),
    ],
)
def test_a_matrix_that_does_not_fit_is_named_and_nothing_changes(changes, error, text):
    matrix = one_matrix(**changes)
    kept = [x.clone() for x in matrix if isinstance(x, torch.Tensor)]
    with pytest.raises(error, match=text):
        learned.whiten([matrix])
    now = [x for x in matrix if isinstance(x, torch.Tensor)]
    assert all(torch.equal(x, y) for x, y in zip(kept, now, strict=True))


@pytest.mark.parametrize("shared", ["gradient", "rows_root"])
def test_memory_that_is_written_is_not_shared(shared: str):
    matrix = one_matrix()
    other = {"gradient": matrix.out, "rows_root": matrix.rows}[shared]
    with pytest.raises(ValueError, match="shares memory with"):
        learned.whiten([matrix._replace(**{shared: other})])


def test_what_is_no_tuple_of_eight_is_refused():
    module = partial(torch.zeros, 3, 24)
    with pytest.raises(TypeError, match=r"matrices\[0\] must be a tuple"):
        learned.whiten([module()])
    with pytest.raises(ValueError, match=r"matrices\[0\] must have 8 fields, not 2"):
        learned.whiten([(module(), module())])
    with pytest.raises(TypeError, match="matrices must be a list or a tuple"):
        learned.whiten(module())


def test_only_whitened_rules_have_such_a_plan():
    p = nn.Parameter(torch.zeros(6, 4))
    p.grad = torch.ones(6, 4)
    optimizer = Learned([p], MLP())
    optimizer.step()
    assert not hasattr(optimizer._plan.plan, "look")
    assert _whitening.LARGEST >= 6
