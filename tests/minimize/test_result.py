"""The result is SciPy's in use and in print."""

import copy
import pickle

import numpy as np
import pytest
import scipy.optimize
import torch

import unstuck
from unstuck.minimize import History, OptimizeResult, minimize

FIELDS = dict(message="Done.", success=True, status=0, fun=0.25, x=np.array([1.0, -2e-7]), nit=3)


def test_fields_are_keys_and_attributes():
    result = OptimizeResult(FIELDS)
    assert result.fun == result["fun"] == 0.25
    result.extra = 7
    assert result["extra"] == 7
    del result.extra
    assert "extra" not in result
    assert {"fun", "x", "keys"} <= set(dir(result))
    with pytest.raises(AttributeError, match=r"no field 'jac': it has message, success"):
        _ = result.jac
    with pytest.raises(AttributeError, match=r"no field 'jac'"):
        del result.jac
    assert isinstance(result, dict)


@pytest.mark.parametrize("x", [FIELDS["x"], np.linspace(-1, 1, 30), np.array([[1.0, 2], [3, 4]])])
def test_prints_as_scipy_does(x):
    theirs = scipy.optimize.OptimizeResult({**FIELDS, "x": x, "nfev": 12})
    assert repr(OptimizeResult({**FIELDS, "x": x, "nfev": 12})) == repr(theirs)


def test_prints_tensors_as_arrays_and_a_history_in_one_line():
    result = minimize(lambda x: x.square().sum(), torch.ones(40), budget=200, seed=0)
    text = repr(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "..." in text
    assert "tensor" not in text
    assert f" history: History of {len(result.history.fun)} entries: nfev, fun, seconds" in text
    assert text.splitlines()[0].endswith("message: The budget of 200 evaluations is spent.")
    traced = minimize("sphere", torch.ones(2), budget=50, seed=0, options={"return_all": True})
    assert "allvecs:" not in repr(traced)
    assert repr(OptimizeResult()) == "OptimizeResult()"


def test_copies_and_pickles():
    result = minimize(lambda x: x.square().sum(), torch.ones(3), budget=200, seed=0)
    for again in (copy.deepcopy(result), pickle.loads(pickle.dumps(result)), copy.copy(result)):
        assert type(again) is OptimizeResult
        assert torch.equal(again.x, result.x)
        assert again.history == result.history


def test_is_offered_at_the_top():
    assert unstuck.OptimizeResult is OptimizeResult
    assert unstuck.minimize is minimize
    assert str(History([1], [2.0], [0.0], {"phase": [0]})) == (
        "History of 1 entries: nfev, fun, seconds, phase"
    )
