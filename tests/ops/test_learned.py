"""The native steps of learned rules against the rules' torch forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unstuck.learned import LSTM, MLP, WhitenedMLP
from unstuck.learned.mlp import shape_inputs
from unstuck.learned.together import step_students_
from unstuck.ops import learned
from unstuck.optim import Learned

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not learned.native_ready(CPU), reason="needs the CPU module")


def trained(rule, scale=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return rule


def run(rule, shapes, fused, steps=6, dtype=torch.float32, **options):
    """Train by given gradients of sizes decades apart; return parameters and states."""
    generator = torch.Generator().manual_seed(4)
    draw = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    params = [nn.Parameter(x.to(dtype)) for x in draw]
    optimizer = Learned(params, rule, fused=fused, **options)
    for i in range(steps):
        for p in params:
            g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = (g * 10.0 ** (i % 4 - 2)).to(dtype)
        optimizer.step()
    return params, [optimizer.state[p] for p in params], optimizer


def assert_equal(ours, plain, tolerance):
    for p, q in zip(ours[0], plain[0], strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
    for s, t in zip(ours[1], plain[1], strict=True):
        assert s.keys() == t.keys()
        for key in s:
            torch.testing.assert_close(s[key], t[key], rtol=50 * tolerance, atol=50 * tolerance)


@pytest.mark.parametrize("power", [-1.0, 0.5, 2.0, 9.0])
def test_the_schedule_is_bounded_and_ends(power: float):
    """Powers are cut at 0 and 2, and steps beyond the last are as long as it."""
    rule = MLP()
    with torch.no_grad():
        rule.control_out.bias[-1] = power
    lengths = []
    for fused in (True, False):
        p = nn.Parameter(torch.zeros(5))
        optimizer = Learned([p], rule, fused=fused, num_steps=4)
        lengths.append([])
        for _ in range(6):
            before, p.grad = p.detach().clone(), torch.ones(5)
            optimizer.step()
            lengths[-1].append(float((before - p.detach())[0]))
    left = [1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
    wanted = [1e-3 * rest ** min(max(power, 0.0), 2.0) for rest in left]
    assert lengths == [pytest.approx(wanted, rel=1e-3)] * 2


@pytest.mark.parametrize("fused", [True, False])
def test_counts_above_those_of_meta_training_tell_nothing(fused: bool):
    """A scale that depends on the step count stays as it is at step 600."""
    told = trained(MLP(), 0.3)
    with torch.no_grad():
        told.control_out.weight[:-2] = told.control_out.bias[:-2] = 0
        told.control_out.weight[-1] = told.control_out.bias[-1] = told.hidden_out.weight[:] = 0

    def length(rule, count):
        p = nn.Parameter(torch.ones(3))
        optimizer = Learned([p], rule, fused=fused)
        p.grad = torch.zeros(3)
        optimizer.step()
        optimizer.state[p]["step"].fill_(count - 1)
        before, p.grad = p.detach().clone(), torch.full((3,), 0.5)
        optimizer.step()
        return float((before - p.detach())[0])

    scale = {count: length(told, count) / length(MLP(), count) for count in (60, 600, 601, 50_000)}
    assert scale[601] == pytest.approx(scale[600], rel=1e-3)
    assert scale[50_000] == pytest.approx(scale[600], rel=1e-3)
    assert abs(scale[60] / scale[600] - 1) > 0.03


@pytest.mark.parametrize("hidden", [1, 4, 17, 64])
@pytest.mark.parametrize("control", [1, 16, 256])
def test_every_width(hidden: int, control: int):
    rule = trained(MLP(hidden, control), 0.1)
    shapes, options = [(3, 7), (5,)], {"num_steps": 9}
    ours, plain = run(rule, shapes, True, **options), run(rule, shapes, False, **options)
    assert ours[2]._plan is not None
    assert_equal(ours, plain, 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_length(dtype, threads):
    """Registers, folds, chunks, and what is left over behind each of them."""
    shapes = [(n,) for n in (0, 1, 7, 8, 15, 16, 17, 31, 33, 1023, 1024, 1025, 16383, 16385, 40007)]
    rule = trained(MLP())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    ours = run(rule, shapes, True, dtype=dtype, weight_decay=0.1, lr=2.0)
    plain = run(rule, shapes, False, dtype=dtype, weight_decay=0.1, lr=2.0)
    assert_equal(ours, plain, tolerance)


def test_threads_change_no_bit():
    rule, runs = trained(MLP()), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        runs.append(run(rule, [(300, 500), (700,)], True))
    for other in runs[1:]:
        assert_equal(runs[0], other, 0)


def test_nothing_but_not_a_number():
    """A gradient that is NaN shows in its coordinate, and changes nothing beyond the tensor."""
    params = [nn.Parameter(torch.ones(40)), nn.Parameter(torch.ones(5))]
    optimizer = Learned(params, trained(MLP()), fused=True)
    for p in params:
        p.grad = torch.ones_like(p)
    params[0].grad[17] = float("nan")
    optimizer.step()
    assert params[0].isnan().nonzero().tolist() == [[17]]
    assert params[1].isfinite().all()
    params[0].grad = torch.ones(40)
    optimizer.step()
    assert params[0][17].isnan()


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_infinite_gradients_do_not_pass_for_steps(value: float):
    for fused in (True, False):
        p = nn.Parameter(torch.ones(20))
        optimizer = Learned([p], trained(MLP()), fused=fused)
        p.grad = torch.ones(20)
        p.grad[3] = value
        optimizer.step()
        assert not p[3].isfinite()


def students(count: int, seed: int = 0, make=MLP):
    torch.manual_seed(seed)
    rule = trained(make())
    shapes = [torch.Size(s) for s in ((9, 5), (9,), (), (2, 9))]
    generator = torch.Generator().manual_seed(seed)
    theta = torch.nn.utils.parameters_to_vector(rule.parameters()).detach()
    thetas = theta + 0.1 * torch.randn(count, len(theta), generator=generator)
    sizes = [s.numel() for s in shapes]
    points = torch.randn(count, sum(sizes), generator=generator)
    parts = [x.reshape(count, *s) for x, s in zip(points.split(sizes, 1), shapes, strict=True)]
    return rule, shapes, thetas, points, torch.vmap(rule.init_state)(parts)


@pytest.mark.parametrize("make", [MLP, WhitenedMLP])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_students_go_together_as_alone(make, count: int, monkeypatch, threads):
    """First gradients have fewer columns than rows: roots of what they lack are mostly noise."""
    runs, tolerance = [], 1e-5 if make is MLP else 2e-3
    for native in (True, False):
        rule, shapes, thetas, points, state = students(count, make=make)
        with monkeypatch.context() as patch:
            if not native:
                patch.setattr(learned, "native_ready", lambda _: False)
            for i in range(5):
                g = torch.randn(points.shape, generator=torch.Generator().manual_seed(i))
                step_students_(rule, thetas, points, g, state, shapes, lr=2.0, num_steps=5)
        runs.append((points, state))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=tolerance, atol=tolerance)
    for key, column in runs[0][1].items():
        for x, y in zip(column, runs[1][1][key], strict=True):
            torch.testing.assert_close(x, y, rtol=10 * tolerance, atol=tolerance)


def students_call(**changes):
    """A call of the op with some arguments changed."""
    rule, shapes, thetas, points, state = students(3)
    arguments = {
        "points": points,
        "gradients": torch.randn_like(points),
        "state": state,
        "sizes": [s.numel() for s in shapes],
        "traits": [shape_inputs(s) for s in shapes],
        "net": learned.Net(thetas, rule.hidden, rule.control),
    }
    for name, change in changes.items():
        arguments[name] = change(arguments[name]) if callable(change) else change
    return arguments


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"points": lambda x: x.double()}, ValueError, "points must be float32"),
        ({"points": lambda x: x[0]}, ValueError, r"points must have the shape"),
        ({"points": lambda x: x.t().contiguous().t()}, ValueError, "points has gaps"),
        ({"gradients": lambda x: x[:, :-1]}, ValueError, "grads must have the shape"),
        ({"sizes": lambda x: x[:-1]}, ValueError, "has 4 entries, but sizes has 3"),
        ({"sizes": lambda x: [-1, *x[1:]]}, ValueError, r"sizes\[0\]"),
        ({"sizes": lambda x: [x[0] + 1, x[1] - 1, *x[2:]]}, ValueError, "contiguous numbers"),
        ({"traits": lambda x: [*x[:-1], x[-1][:2]]}, ValueError, "must have 5 fields, not 2"),
        ({"net": lambda n: n._replace(hidden=9)}, ValueError, "thetas must have the shape"),
        ({"net": lambda n: n._replace(hidden=65)}, ValueError, "hidden"),
        ({"net": lambda n: n._replace(theta=n.theta[0])}, ValueError, "thetas must have the shape"),
        ({"lr": -1.0}, ValueError, "lr must be"),
        ({"num_steps": 0}, ValueError, "num_steps must be above 0, or None, not 0"),
        ({"gradients": "many"}, TypeError, "grads must be a torch.Tensor"),
    ],
)
def test_bad_students_change_nothing(changes, error, text):
    lr = {k: changes[k] for k in ("lr", "num_steps") if k in changes}
    arguments = students_call(**{k: v for k, v in changes.items() if k not in lr})
    tensors = [x for column in arguments["state"].values() for x in column]
    if isinstance(arguments["points"], torch.Tensor):
        tensors.append(arguments["points"])
    copies = [x.clone() for x in tensors]
    with pytest.raises(error, match=text):
        learned.students_step(**arguments, **lr)
    assert all(torch.equal(x, y) for x, y in zip(tensors, copies, strict=True))


def test_students_that_share_memory_are_refused():
    arguments = students_call()
    arguments["gradients"] = arguments["points"]
    with pytest.raises(ValueError, match="memory"):
        learned.students_step(**arguments)


@pytest.mark.parametrize("features", ["gradient", "log", "rich"])
@pytest.mark.parametrize("hidden", [1, 7, 20, 64])
def test_the_lstm_rule(features: str, hidden: int, threads):
    rule = trained(LSTM(features, hidden, scale=0.5), 0.1)
    shapes = [(6, 11), (0, 2), (), (1100,)]
    options = {"num_steps": 8, "weight_decay": 0.1, "lr": 3.0}
    ours, plain = run(rule, shapes, True, **options), run(rule, shapes, False, **options)
    assert ours[2]._plan is not None
    assert_equal(ours, plain, 1e-5)


@pytest.mark.parametrize("change", ["double", "transposed"])
def test_the_lstm_rule_by_torch_where_the_kernel_cannot(change: str):
    rule = trained(LSTM(hidden=3))
    x = torch.randn(4, 3)
    x = x.double() if change == "double" else x.t().contiguous().t()
    runs = []
    for fused in (None, False):
        p = nn.Parameter(x.clone())
        optimizer = Learned([p], rule, fused=fused)
        for i in range(3):
            p.grad = torch.full_like(p, 0.1 + i)
            optimizer.step()
        assert optimizer._plan is None
        runs.append(p.detach())
    assert torch.equal(*runs)


def test_lstm_plans_name_what_does_not_fit():
    w = torch.ones(3)
    state = {
        "exp_avg": [torch.zeros(3)],
        "exp_avg_sq": [torch.zeros(3)],
        "hidden": [torch.zeros(4, 3)],
        "cell": [torch.zeros(4, 3)],
        "step": [torch.zeros(())],
    }
    for key, value, text in (
        ("hidden", torch.zeros(3, 3), r"hidden\[0\] must be 12 contiguous float32"),
        ("cell", torch.zeros(3, 4).t(), r"cells\[0\] must be 12 contiguous float32"),
        ("cell", state["hidden"][0], "memory"),
        ("exp_avg", torch.zeros(4), r"exp_avgs\[0\] must agree with params\[0\]"),
        ("step", torch.zeros(2), r"steps\[0\] must be one float32"),
    ):
        with pytest.raises(ValueError, match=text):
            learned.lstm_plan_for(CPU, [w], {**state, key: [value]}, [0], 4)
    double = {k: [x[0].double()] if k != "step" else x for k, x in state.items()}
    with pytest.raises(TypeError, match=r"params\[0\] must be float32, not float64"):
        learned.lstm_plan_for(CPU, [w.double()], double, [0], 4)
    plan = learned.lstm_plan_for(CPU, [w], state, [0], 4)
    plan.set_gradients([torch.ones(3)])
    for net, text in (
        (learned.LstmNet(torch.zeros(9), 1, False, 1.0), "theta must be .* contiguous float32"),
        (learned.LstmNet(torch.zeros(9), 3, False, 1.0), "features"),
    ):
        with pytest.raises(ValueError, match=text):
            learned.run(plan, CPU, [learned.Group()], net)
        plan.set_gradients([torch.ones(3)])
