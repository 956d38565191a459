"""The optimizers that can be entered in a race, by name.

An entrant is written ``name`` or ``name:key=value:key=value``, for example ``adam:lr=3e-3`` or
``sgd:lr=0.05:nesterov=True``.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import nn
from torch.optim import Optimizer

from unstuck.optim import (
    Alternating,
    AttentionRestart,
    DynamicBlend,
    Gate,
    Learned,
    LearningRateAttention,
    ReactiveEscape,
)
from unstuck.problems import lookup
from unstuck.training.loop import Probe


@dataclass(frozen=True)
class Entry:
    """An optimizer the race knows.

    Attributes
    ----------
    build : callable
        The optimizer class, or a function of the parameters and keyword settings.
    settings : mapping
        Our defaults, the learning rate among them; always shown with the result.
    meta : float
        Share of the rows not for testing that it needs as a second batch; its training rows
        are that many fewer.
    closure : bool
        Its ``step`` needs a closure that evaluates loss and gradient.
    probes : mapping
        What to record of it after every epoch.
    """

    build: Callable[..., Optimizer]
    settings: Mapping[str, object]
    meta: float = 0.0
    closure: bool = False
    probes: Mapping[str, Probe] = field(default_factory=dict)


@dataclass(frozen=True)
class Entrant:
    """An entry with its settings: what takes part in a race.

    Attributes
    ----------
    label : str
        How it was written.
    settings : mapping
        All settings given to the optimizer, defaults of the entry included.
    entry : Entry
        What it is.
    """

    label: str
    settings: Mapping[str, object]
    entry: Entry

    def build(self, model: nn.Module) -> Optimizer:
        """Make the optimizer for the parameters of a model."""
        return self.entry.build(model.parameters(), **self.settings)


def _mean_alpha(optimizer: Optimizer) -> float:
    assert isinstance(optimizer, DynamicBlend)
    return torch.cat([alpha.detach().flatten() for alpha in optimizer.alpha]).mean().item()


ALPHA = MappingProxyType({"alpha": _mean_alpha})
MOMENTUM = functools.partial(torch.optim.SGD, momentum=0.9)

OPTIMIZERS: dict[str, Entry] = {
    "blend": Entry(DynamicBlend, {"lr": 1e-3, "sgd_lr": 3e-2}, probes=ALPHA),
    "blend-held-out": Entry(
        functools.partial(DynamicBlend, gate=Gate(mode="held-out")),
        {"lr": 1e-3, "sgd_lr": 3e-2},
        meta=0.15,  # a fifth of the training rows
        probes=ALPHA,
    ),
    "lr-attention": Entry(
        functools.partial(LearningRateAttention, base=MOMENTUM), {"lr": 3e-2}, closure=True
    ),
    "reactive-escape": Entry(
        functools.partial(ReactiveEscape, base=MOMENTUM), {"lr": 3e-2, "sigma": 0.01}, closure=True
    ),
    "alternating": Entry(
        functools.partial(Alternating, base=MOMENTUM), {"lr": 3e-2, "sigma": 0.01}, closure=True
    ),
    "attention-restart": Entry(
        functools.partial(AttentionRestart, base=MOMENTUM),
        {"lr": 3e-2, "sigma": 0.01},
        closure=True,
    ),
    "learned": Entry(Learned, {"lr": 0.3}),
    "adam": Entry(torch.optim.Adam, {"lr": 1e-3}),
    "adamw": Entry(torch.optim.AdamW, {"lr": 1e-3}),
    "sgd": Entry(torch.optim.SGD, {"lr": 3e-2, "momentum": 0.9}),
    "nadam": Entry(torch.optim.NAdam, {"lr": 1e-3}),
    "radam": Entry(torch.optim.RAdam, {"lr": 3e-3}),
    "adamax": Entry(torch.optim.Adamax, {"lr": 5e-3}),
    "rmsprop": Entry(torch.optim.RMSprop, {"lr": 1e-3}),
    "adagrad": Entry(torch.optim.Adagrad, {"lr": 1e-2}),
    "adadelta": Entry(torch.optim.Adadelta, {"lr": 1.0}),
}


def entrant(text: str) -> Entrant:
    """Read an entrant, ``name`` or ``name:key=value:...``, and check its settings.

    Values are Python literals; anything else is taken as text.

    Raises
    ------
    ValueError
        For an unknown name, an unknown setting, or a value the optimizer refuses.

    Examples
    --------
    >>> dict(entrant("sgd:lr=0.05").settings)
    {'lr': 0.05, 'momentum': 0.9}
    """
    name, *pairs = text.strip().split(":")
    entry = lookup(OPTIMIZERS, name, "optimizer")
    settings = dict(entry.settings)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise ValueError(f"{text!r}: write settings as key=value, not {pair!r}")
        settings[key] = _literal(value)
    known = _known_settings(entry.build)
    for key in settings:
        if key not in known:
            raise ValueError(
                f"{text!r}: {name} has no setting {key!r}: known are {', '.join(known)}"
            )
    made = Entrant(text.strip(), MappingProxyType(settings), entry)
    try:  # a layer whose weights are not drawn: nobody's random numbers change
        made.build(nn.utils.skip_init(nn.Linear, 2, 2))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{text!r}: {error}") from error
    return made


def entrants(text: str) -> list[Entrant]:
    """Read a comma-separated list of entrants; commas inside parentheses do not separate.

    Parameters
    ----------
    text : str
        Entrants as :func:`entrant` reads them, for example ``"adam,sgd:lr=0.1"``.

    Raises
    ------
    ValueError
        For an entrant that cannot be built or is entered twice.

    Examples
    --------
    >>> [one.label for one in entrants("adam:betas=(0.8,0.99),sgd")]
    ['adam:betas=(0.8,0.99)', 'sgd']
    """
    made = [entrant(part) for part in re.split(r",(?![^(]*\))", text)]
    labels = [one.label for one in made]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{label!r} is entered twice: give the second other settings")
    return made


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _known_settings(build: Callable[..., Optimizer]) -> list[str]:
    return [name for name in inspect.signature(build).parameters if name != "params"]
