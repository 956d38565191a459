"""Every method of minimize: what all must do, and what those with gradients do beside."""

import math

import numpy as np
import pytest
import torch

from unstuck import problems
from unstuck.minimize import METHODS, minimize

HYBRIDS = ["reactive-escape", "alternating", "attention-restart", "lr-attention"]


def waves(x):
    return (x**2 + 3 * (1 - torch.cos(3 * x))).sum()


def waves_numpy(x):
    return (x**2 + 3 * (1 - np.cos(3 * x))).sum()


def counting(fun):
    def call(x):
        call.nfev += 1
        return fun(x)

    call.nfev = 0
    return call


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [1, 30, 301])
def test_no_method_exceeds_the_budget(method, budget):
    call = counting(waves)
    result = minimize(call, torch.full((3,), 4.0), method=method, budget=budget, seed=0)
    assert result.nfev <= budget
    assert call.nfev == result.nfev
    assert result.fun == pytest.approx(float(waves(result.x)), rel=1e-6)
    fused = minimize("rastrigin", torch.full((3,), 4.0), method=method, budget=budget, seed=0)
    assert fused.nfev <= budget
    problem = problems.get("rastrigin", 3)
    assert fused.fun == pytest.approx(float(problem(fused.x)), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_fused_evaluations_are_those_of_the_search(method, monkeypatch):
    points = []
    for name in ("__call__", "value_and_gradient"):
        whole = getattr(problems.Problem, name)

        def call(self, x, whole=whole):
            points.append(x.numel() // self.dim)
            return whole(self, x)

        monkeypatch.setattr(problems.Problem, name, call)
    box = (-math.inf, math.inf)  # a hybrid's trials of rates are fused without bounds
    done = minimize("ackley", torch.full((4,), 3.0), method=method, budget=1500, seed=0, bounds=box)
    assert done.nfev <= 1500
    if method != "lr-attention":
        assert sum(points) < done.nfev
    assert done.fun < 10.0


@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_kept_by_every_method(method):
    seen = []

    def fun(x):
        seen.append(x.detach().clone())
        return ((x - 3) ** 2).sum()

    low, high = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 2.0])
    result = minimize(fun, torch.zeros(2), method=method, bounds=(low, high), budget=600, seed=0)
    assert result.fun == pytest.approx(5.0, abs=0.05)
    assert result.x.tolist() == pytest.approx([1.0, 2.0], abs=0.02)
    assert all(bool((x >= low).all() and (x <= high).all()) for x in seen)


@pytest.mark.parametrize("method", HYBRIDS)
def test_hybrids_use_gradients_and_tell_what_they_did(method):
    result = minimize(waves, torch.full((2,), 4.0), method=method, budget=2000, seed=0)
    assert 0 < result.ngev < result.nfev
    probes = result.history.probes
    assert set(probes) == {"phase", "rate", "accepted"}
    assert all(len(values) == result.nit + 1 for values in probes.values())
    kinds = {"gradient", "escape"} if method != "lr-attention" else {"rates"}
    assert set(probes["phase"][1:]) == kinds
    assert probes["phase"][0] is None
    assert "probes" not in str(result.history)


@pytest.mark.parametrize("method", HYBRIDS)
def test_numpy_functions_are_differentiated_by_differences(method):
    call = counting(waves_numpy)
    result = minimize(call, np.full(2, 0.4), method=method, budget=400, seed=0)
    assert call.nfev == result.nfev <= 400
    assert 0 < 2 * result.ngev < result.nfev
    assert result.fun < 1e-3


def test_plain_gradient_descent_is_stuck_where_the_hybrids_get_out():
    start = torch.full((2,), 4.0)
    descended = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([descended], lr=0.01)
    for _ in range(500):
        optimizer.zero_grad()
        waves(descended).backward()
        optimizer.step()
    stuck = waves(descended).item()
    assert stuck > 1.0
    for method in ("reactive-escape", "alternating", "attention-restart"):
        assert minimize(waves, start, method=method, budget=4000, seed=0).fun < 0.1 * stuck


@pytest.mark.parametrize("method", HYBRIDS)
@pytest.mark.parametrize("count", [3, 60, 200])
def test_an_interrupt_of_a_hybrid_loses_nothing(method, count):
    given = []

    def fun(x):
        if len(given) == count:
            raise KeyboardInterrupt
        value = waves(x)
        given.append(float(value.detach()))
        return value

    result = minimize(fun, torch.full((2,), 4.0), method=method, seed=0)
    assert (result.status, result.nfev) == (2, count)
    assert result.fun == pytest.approx(min(given), rel=1e-6)


@pytest.mark.parametrize("method", HYBRIDS)
def test_a_function_without_a_gradient(method):
    with pytest.raises(ValueError, match="fun gives no gradient") as caught:
        minimize(lambda x: waves(x).detach(), torch.ones(2), method=method)
    assert caught.value.result.nfev == 1


@pytest.mark.parametrize("method", METHODS)
def test_every_option_is_listed_and_an_unknown_one_refused(method):
    known = METHODS[method].options
    assert "sigma0" in known
    assert not {"self", "x0", "bounds", "seed"} & set(known)
    with pytest.raises(ValueError, match=rf"'gamma' of the method '{method}': known are .*sigma0"):
        minimize(waves, torch.ones(2), method=method, options={"gamma": 1})
    assert METHODS[method].about
