"""The native steps of learned rules: which rules have one, and what it is told of them."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from unstuck.learned import LSTM, MLP, State, UpdateRule, WhitenedMLP, _whitening
from unstuck.learned.lstm import FEATURES
from unstuck.learned.mlp import shape_inputs
from unstuck.ops import learned
from unstuck.optim import _layout as layout

_VERSION = attrgetter("_version")


def has_kernel(rule: UpdateRule) -> bool:
    """Whether there is a native step for this rule."""
    return type(rule) in (MLP, WhitenedMLP, LSTM)


def ready(rule: UpdateRule, params: list[Tensor]) -> bool:
    """Whether the rule's native step takes these tensors, all on one device."""
    if not has_kernel(rule) or not learned.native_ready(params[0].device):
        return False
    # Hidden units lie one vector of coordinates after another, which strides would tear apart.
    return isinstance(rule, MLP) or all(
        p.dtype == torch.float32 and p.is_contiguous() for p in params
    )


def plan(
    rule: UpdateRule, device: torch.device, params: list[Tensor], state: State, groups: list[int]
) -> learned.Plan:
    """Return a native plan of these tensors."""
    if isinstance(rule, LSTM):
        return learned.lstm_plan_for(device, params, state, groups, rule.hidden)
    traits = [shape_inputs(p.shape) for p in params]
    native = device.type == "cpu" and all(
        p.dtype == torch.float32 and p.is_contiguous() for p in params
    )
    if isinstance(rule, WhitenedMLP) and native:
        sides = [[len(x) for x in state[side]] for side in _whitening.SIDES]
        shapes = [(*_whitening.matrix(p.shape), *n) for p, *n in zip(params, *sides, strict=True)]
        schedule = _whitening.SCHEDULE
        return learned.whitened_plan_for(params, state, groups, traits, shapes, schedule)
    return learned.plan_for(device, params, state, groups, traits)


def entries(rule: UpdateRule, params: list[Tensor], state: State) -> list[_whitening.Entry]:
    """Return those parameters whose gradients the rule whitens before the native step."""
    if not isinstance(rule, WhitenedMLP):
        return []
    return _whitening.entries(state, [p.shape for p in params], native=False)


def look(
    rule: WhitenedMLP, made: learned.Plan, among: list[_whitening.Entry], scale: Tensor | None
) -> None:
    """Have a plan that whitens by itself look at its gradients, and make the roots it asks for."""
    for place in made.look(1.0 if scale is None else float(scale), torch.get_num_threads()):
        next(one for one in among if one.place == place).renew(rule.power)


def whiten(
    rule: WhitenedMLP,
    made: learned.Plan,
    params: list[Tensor],
    grads: list[Tensor],
    among: list[_whitening.Entry],
    scale: Tensor | None,
) -> Tensor | None:
    """Have a plan, which has these gradients, step by whitened ones.

    Returns how many times too large these are: as `scale`, or None where they no longer are.
    """
    if hasattr(made, "look"):
        look(rule, made, among, scale)
        return scale
    if scale is not None:
        grads = [(g / scale).to(g.dtype) for g in grads]
    found = _whitening.whiten_(grads, among, rule.power)
    for one in among:
        found[one.place] = layout.like(found[one.place], params[one.place])
    made.set_gradients(found)
    return None


class Weights:
    """The meta-parameters of a rule as a kernel takes them, renewed when they have changed."""

    def __init__(self, rule: UpdateRule) -> None:
        self._rule = rule
        self._parts: list[nn.Module | None] = []
        self._places: list[tuple[dict[str, Any], str]] = []  # where its parameters stand
        self._thetas: dict[torch.device, Tensor] = {}
        self._seen: list[int] = []

    def on(self, device: torch.device) -> learned.Net | learned.LstmNet:
        """Return them on a device."""
        rule, theta = self._rule, self._theta(device)
        if isinstance(rule, LSTM):
            kind = list(FEATURES).index(rule.features)
            return learned.LstmNet(theta, kind, rule.nominal, rule.scale)
        assert isinstance(rule, MLP)
        return learned.Net(theta, rule.hidden, rule.control)

    def _theta(self, device: torch.device) -> Tensor:
        params = self._parameters()
        seen = _versions(params)
        if seen != self._seen:
            self._thetas, self._seen = {}, seen
        if device not in self._thetas:
            flat = [p.detach().to(device, torch.float32).reshape(-1) for p in params]
            self._thetas[device] = torch.cat(flat)
        return self._thetas[device]

    def _parameters(self) -> list[Tensor]:
        parts = list(self._rule._modules.values())
        if parts != self._parts:  # asked at every step: rule.parameters() takes four times as long
            everyone = self._rule.modules()
            self._places = [
                (module._parameters, key) for module in everyone for key in module._parameters
            ]
            self._parts = parts
        return [p for home, key in self._places if (p := home[key]) is not None]


def _versions(params: list[Tensor]) -> list[int]:
    """Return what changes where one of them is replaced or written to."""
    try:
        return [*map(Tensor.data_ptr, params), *map(_VERSION, params)]
    except RuntimeError:  # tensors made under inference_mode() do not count
        return [*map(Tensor.data_ptr, params)]
