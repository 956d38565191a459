"""Candidates of an escape of :class:`unstuck.optim.ALME`: where they lie, how far, how many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstuck.ops import candidates
from unstuck.ops.candidates import Draw, Region
from unstuck.optim import _validate as validate
from unstuck.optim._alme_alive import movable
from unstuck.population._flat import Flat

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME


LEARNING = 0.3  # how much one escape counts in the shares of the scales
FLOOR = 0.1  # of a tensor's root mean square: what its smallest elements move like


class Candidates:
    """All that take part in one escape: where we stand, twice, and the candidates around it.

    Any of them can be made at any time, as the noise is a function of its coordinates.

    Attributes
    ----------
    start : Tensor
        Where we stand, flat [P].
    still : Tensor or None
        Indices of the entries that must not move, if there are any.
    scales : list of float
        Of the candidates.
    """

    def __init__(self, optimizer: ALME, params: list[Tensor]) -> None:
        search = optimizer._search
        self.params, self.flat = params, Flat(params)
        self.start = self.flat.gather(params)
        self.scales = draw_scales(optimizer)
        self._draw = Draw(seed=optimizer._escapes.seed, iteration=search["iteration"])
        search["iteration"] += 1
        still = (~self._gather_masks(movable(optimizer, params))).nonzero()[:, 0]
        self.still = still if len(still) else None
        spread = spreads(optimizer, params, self.flat).nan_to_num_()
        if self.still is not None:
            spread[self.still] = 0
        sigma = torch.tensor([0.0, 0.0, *self.scales], dtype=spread.dtype, device=spread.device)
        self._region = Region(self.start, sigma, spread)

    def __len__(self) -> int:
        return 2 + len(self.scales)

    def points(self, first: int, count: int, out: Tensor | None = None) -> Tensor:
        """Return some of them [count, P], in `out` where given; 0 and 1 are where we stand."""
        return candidates.sample(self._region, self._draw, first, count, out)

    def _gather_masks(self, masks: list[Tensor]) -> Tensor:
        """Return masks like the parameters as one of the vector [P]; a pair moves as one."""
        parts = []
        for p, mask in zip(self.params, masks, strict=True):
            wide = mask.reshape(-1).to(self.flat.device)
            parts.append(wide.repeat_interleave(2) if p.is_complex() else wide)
        return torch.cat(parts)


# ---------------------------------------------------------------- how many of which scale
def draw_scales(optimizer: ALME) -> list[float]:
    """Return the scale of each candidate: as many as given, or more of those that succeeded."""
    settings = optimizer._escapes
    counts = [count for _, count in settings.scales]
    if settings.mode == "adaptive":
        counts = _shares(_weights(optimizer), settings.popsize)
    return [scale for (scale, _), n in zip(settings.scales, counts, strict=True) for _ in range(n)]


def learn(optimizer: ALME, scales: list[float], losses: Tensor) -> None:
    """Let the scales of the best third of the candidates have more of the next ones."""
    settings = optimizer._escapes
    if settings.mode != "adaptive" or not bool(torch.isfinite(losses).any()):
        return
    best = losses.argsort(stable=True)[: max(1, len(scales) // 3)]
    winners = [scales[int(i)] for i in best if math.isfinite(float(losses[i]))]
    optimizer._search["weights"] = [
        (1 - LEARNING) * w + LEARNING * winners.count(scale) / len(winners)
        for w, (scale, _) in zip(_weights(optimizer), settings.scales, strict=True)
    ]


def _weights(optimizer: ALME) -> list[float]:
    """Return the share that each scale has earned; at first the given one."""
    pairs, popsize = optimizer._escapes.scales, optimizer._escapes.popsize
    kept: list[float] = optimizer._search.get("weights", [])
    return kept if len(kept) == len(pairs) else [count / popsize for _, count in pairs]


def _shares(weights: list[float], total: int) -> list[int]:
    """Deal `total` out by weights that sum to 1, one to each at least where there are enough."""
    least = int(total >= len(weights))
    rest = total - least * len(weights)
    exact = [w * rest for w in weights]
    counts = [int(x) for x in exact]
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: rest - sum(counts)]:
        counts[i] += 1
    return [n + least for n in counts]


# ---------------------------------------------------------------- how far
def spreads(optimizer: ALME, params: list[Tensor], flat: Flat) -> Tensor:
    """Return |w| s [P], with Adam's effective step sizes s; 0 of what has never been stepped.

    In the adaptive mode s is at most 1, and |w| at least a tenth of its tensor's root mean square:
    vanishing gradients would make the one endless, and zeros would never move by the other.
    """
    group_of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    adaptive = optimizer._escapes.mode == "adaptive"
    found = []
    for p in params:
        group, state = group_of[id(p)], optimizer.state.get(p, {})
        w = (torch.view_as_real(p) if p.is_complex() else p).to(flat.dtype)
        size = w.abs()
        if adaptive and w.numel():
            size = size.clamp_min(FLOOR * size.square().mean().sqrt())
        size = size * _effective_step(state, group, w, adaptive)
        found.append(torch.view_as_complex(size) if p.is_complex() else size)
    return flat.gather(found)


def _effective_step(
    state: Mapping[str, Any], group: Mapping[str, Any], like: Tensor, bounded: bool
) -> Tensor:
    r"""Return :math:`lr \sqrt{1 - \beta_2^t} / (1 - \beta_1^t) / (\sqrt v + \epsilon)`."""
    if "exp_avg_sq" not in state:
        return torch.zeros_like(like)
    beta1, beta2 = group["betas"]
    t = float(state["step"])
    rate = validate.number(group["lr"]) * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    v = state["exp_avg_sq"]
    v = torch.view_as_real(v) if v.is_complex() else v
    size: Tensor = rate / (v.to(like.dtype).sqrt() + group["eps"])
    return size.clamp_max(1.0) if bounded else size
