"""The native entry points of the objectives, given what does not fit: an error, never a crash."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unstuck.ops.candidates import Draw

JUNK: dict[str, Any] = {
    "none": None,
    "number": 3,
    "text": "x",
    "list": [1.0],
    "short": torch.ones(2),
    "0-d": torch.tensor(1.0),
    "empty": torch.ones(0),
    "integers": torch.ones(6, dtype=torch.int64),
    "double": torch.ones(6, dtype=torch.float64),
    "half": torch.ones(6, dtype=torch.float16),
    "matrix": torch.ones(6, 4).T,
    "meta": torch.ones(6, device="meta"),
    "sparse": torch.eye(6).to_sparse(),
    "negative": -1,
    "huge": 1 << 70,
    "nan": float("nan"),
}


def entries() -> dict[str, list[Any]]:
    """Arguments that fit, for every entry point: 6 rows of 4 features."""
    X, y, labels = torch.randn(6, 4), torch.rand(6), torch.arange(6) % 3
    w, d, rates, beta = torch.randn(4), torch.randn(4), torch.linspace(0, 1, 5), 1.0
    weights = torch.randn(5 * 2 + 3 * 3)  # of a net 4-2-3
    wrote = [torch.empty(5), torch.empty(5), torch.empty(4), torch.empty(())]
    net_wrote = [*wrote[:2], torch.empty_like(weights), wrote[3]]
    line = [rates, beta, *wrote, None, 2]
    region = lambda mean: (mean, 0.1, None, None, None, "clip")  # noqa: E731
    return {
        "regression_trials": [X, y, 1.0, 2.0, False, w, d, *line],
        "landscape_trials": [1, (), w, d, *line],
        "net_trials": [
            torch.randn(2, 2, 6),
            *(labels, True, 4, 2, 3, weights, weights.clone()),
            *(rates, beta, *net_wrote, None, 2),
        ],
        "regression_gradient": [X, y, 1.0, 2.0, True, w, torch.empty(()), torch.empty(4), 2],
        "net_candidates": [X, labels, True, 2, 3, region(weights), Draw(0), torch.empty(7), 2],
        "linear_candidates": [X, y, 1.0, 2.0, False, region(w), Draw(0), torch.empty(7), 2],
    }


@pytest.mark.parametrize("name", entries())
def test_what_fits_is_taken(native, name: str) -> None:
    getattr(native, name)(*entries()[name])


def refusal(call: Any, arguments: list[Any]) -> str:
    """The text of the error; empty where the arguments were taken."""
    try:
        call(*arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error) or "an error without a text"
    return ""


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", entries())
def test_what_does_not_fit_is_refused(native, name: str, junk: str) -> None:
    """Every argument in turn. Tensors are refused but where the other one does as well."""
    refused = 0
    for place, was in enumerate(entries()[name]):
        arguments = entries()[name]
        arguments[place] = JUNK[junk]
        text = refusal(getattr(native, name), arguments)
        assert text != "an error without a text"
        refused += bool(text)
        if isinstance(was, torch.Tensor) and not text:
            labels = junk == "integers" and was.dtype == torch.int64
            losses = name.endswith("candidates") and place == 7  # as many as there are places
            assert labels or losses or junk in ("none", "0-d")
    assert refused


@pytest.mark.parametrize("name", ["net_candidates", "linear_candidates"])
def test_regions_and_draws_are_checked(native, name: str) -> None:
    for place in (5, 6):
        whole = tuple(entries()[name][place])
        for field in range(len(whole)):
            for junk in JUNK.values():
                arguments = entries()[name]
                arguments[place] = (*whole[:field], junk, *whole[field + 1 :])
                text = refusal(getattr(native, name), arguments)
                assert text != "an error without a text"
                assert text or field in (1, 2) or place == 6 or junk is None
    for place, wrong in ((5, (1, 2)), (6, None), (5, [])):
        arguments = entries()[name]
        arguments[place] = wrong
        with pytest.raises(TypeError, match="must be a tuple of"):
            getattr(native, name)(*arguments)


@pytest.mark.parametrize("name", entries())
def test_what_is_written_is_apart(native, name: str) -> None:
    """No result shares memory with an argument or with another result."""
    arguments = entries()[name]
    tensors = [i for i, x in enumerate(arguments) if isinstance(x, torch.Tensor)]
    written = next(i for i in reversed(tensors) if arguments[i].ndim)
    memory = torch.zeros(64)
    arguments[written] = memory[: arguments[written].numel()]
    for other in tensors:
        if other == written or arguments[other].dtype != torch.float32:
            continue
        clash = list(arguments)
        shape = arguments[other].shape
        clash[other] = memory[: arguments[other].numel()].view(shape)
        with pytest.raises(ValueError, match="share"):
            getattr(native, name)(*clash)
