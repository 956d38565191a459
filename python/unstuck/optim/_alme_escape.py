"""Escapes of :class:`unstuck.optim.ALME`: candidates, their mini-optimisation, who goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstuck.ops import adam, candidates
from unstuck.ops.candidates import Draw, Region
from unstuck.optim import _alme_groups as groups
from unstuck.optim import _layout as layout
from unstuck.optim import _validate as validate
from unstuck.optim._alme_population import OneByOne, Population, Together
from unstuck.optim._alme_settings import Escape
from unstuck.optim._trials import Closure
from unstuck.population._flat import Flat

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME


LEARNING = 0.3  # how much one escape counts in the shares of the scales
ALIKE = 1e-6  # relative difference of two evaluations of one loss
FLOOR = 0.1  # of a tensor's root mean square: what its smallest elements move like


def due(optimizer: ALME) -> bool:
    """Whether an escape is to be made now; waits for the device every so many steps."""
    settings, search = optimizer._escapes, optimizer._search
    if search["steps"] % settings.check_every or not optimizer._escapable:
        return False
    evaluations = settings.most
    total = search["steps"] + search["nfev"] + evaluations
    if search["nfev"] + evaluations > settings.escape_budget * total:
        return False
    return optimizer.stagnant


def escape(optimizer: ALME, closure: Closure, eval_closure: Closure | None) -> Escape:
    """Draw candidates, optimise them for a few steps, and take the best if it beats staying."""
    settings, search = optimizer._escapes, optimizer._search
    params = optimizer._moving
    flat = Flat(params)
    sign = -1.0 if optimizer.defaults["maximize"] else 1.0
    start = flat.gather(params)
    scales = _draw_scales(optimizer)
    points = _candidates(optimizer, params, flat, start, scales)
    population: Population = _population(optimizer, params)
    with population:
        population.use(closure)
        moments = _descend(optimizer, flat, population, points[1:])
        if eval_closure is not None:
            population.use(eval_closure)
        losses, calls = _measure(population, points, settings.batches, sign)
    means = losses.mean(0)
    home, best = int(means[:2].argmin()), 2 + int(means[2:].argmin())
    stay, lowest = float(means[home]), float(means[best])
    accepted = _is_better(losses[:, best], losses[:, home])
    if accepted:
        _take(params, flat, points[best])
        _take_state(optimizer, params, flat, [x[best - 1] for x in moments])
    reason = "" if accepted else "no candidate has a finite loss"
    if not accepted and math.isfinite(lowest):
        reason = "nothing better was found"
    search["nfev"] += settings.gradients + calls * len(points)
    search["ngev"] += settings.gradients
    search["attempts"] += 1
    search["escapes"] += accepted
    _learn(optimizer, scales, means[2:])
    optimizer._stats[[adam.Stat.SEEN_NORMS, adam.Stat.SEEN_LOSSES, adam.Stat.FLAT_STEPS]] = 0
    distance = float((points[best] - start).double().norm())
    record = Escape(
        search["steps"], stay * sign, lowest * sign, accepted, distance, scales[best - 2], reason
    )
    optimizer.history.append(record)
    return record


def _measure(
    population: Population, points: Tensor, batches: int, sign: float
) -> tuple[Tensor, int]:
    """Return losses [B, K] on so many batches, or on one where the next one gives the same.

    They are to be lowered; the number is that of calls.
    """
    rows: list[Tensor] = []
    for call in range(1, batches + 1):
        losses = population.losses(points).double().cpu() * sign
        losses = torch.where(torch.isfinite(losses), losses, torch.inf)
        if call == 2 and torch.allclose(losses, rows[0], rtol=ALIKE, atol=0):
            return torch.stack(rows), call
        rows.append(losses)
    return torch.stack(rows), batches


def _is_better(there: Tensor, here: Tensor) -> bool:
    """Whether losses [B] on the same batches are lower there, by twice the standard error."""
    if not bool(torch.isfinite(there).all()):
        return False
    if not bool(torch.isfinite(here).all()):
        return True
    fall = here - there
    error = float(fall.std()) / math.sqrt(len(fall)) if len(fall) > 1 else 0.0
    return float(fall.mean()) > 2 * error


def _population(optimizer: ALME, params: list[Tensor]) -> Population:
    if optimizer.module is None:
        return OneByOne(params)
    kept = optimizer._population
    if kept is None or not kept.fits(params):
        kept = Together(optimizer.module, params, optimizer._escapes.memory)
        optimizer._population = kept
    return kept


# ---------------------------------------------------------------- candidates
def _draw_scales(optimizer: ALME) -> list[float]:
    """Return the scale of each candidate: as many as given, or more of those that succeeded."""
    settings = optimizer._escapes
    counts = [count for _, count in settings.scales]
    if settings.mode == "adaptive":
        counts = _shares(_weights(optimizer), settings.popsize)
    return [scale for (scale, _), n in zip(settings.scales, counts, strict=True) for _ in range(n)]


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


def _learn(optimizer: ALME, scales: list[float], losses: Tensor) -> None:
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


def _spreads(optimizer: ALME, params: list[Tensor], flat: Flat) -> Tensor:
    """Return |w| s [P], with Adam's effective step sizes s; 0 of what has never been stepped.

    In the adaptive mode s is at most 1, and |w| at least a tenth of its tensor's root mean square:
    vanishing gradients would make the one endless, and zeros would never move by the other.
    """
    group_of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    adaptive = optimizer._escapes.mode == "adaptive"
    spreads = []
    for p in params:
        group, state = group_of[id(p)], optimizer.state.get(p, {})
        w = (torch.view_as_real(p) if p.is_complex() else p).to(flat.dtype)
        size = w.abs()
        if adaptive and w.numel():
            size = size.clamp_min(FLOOR * size.square().mean().sqrt())
        size = size * _effective_step(state, group, w, adaptive)
        spreads.append(torch.view_as_complex(size) if p.is_complex() else size)
    return flat.gather(spreads)


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


def _candidates(
    optimizer: ALME, params: list[Tensor], flat: Flat, start: Tensor, scales: list[float]
) -> Tensor:
    """Return points [2 + C, P]: where we stand, twice, and the candidates."""
    search = optimizer._search
    sigma = torch.tensor([0.0, 0.0, *scales], dtype=flat.dtype, device=flat.device)
    spread = torch.nan_to_num(_spreads(optimizer, params, flat))
    draw = Draw(seed=optimizer._escapes.seed, iteration=search["iteration"])
    search["iteration"] += 1
    return candidates.sample(Region(start, sigma, spread), draw, 0, len(sigma))


# ---------------------------------------------------------------- mini-optimisation
def _descend(
    optimizer: ALME, flat: Flat, population: Population, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Make Adam steps of all points at once, each with its own state; return that state."""
    exp_avg, exp_avg_sq = torch.zeros_like(points), torch.zeros_like(points)
    segments = _segments(optimizer, flat)
    steps = [torch.zeros((), dtype=torch.float32, device=points.device) for _ in segments]
    for _ in range(optimizer._escapes.n_eval_steps):
        _, gradients = population.value_and_gradient(points)
        every = (points, gradients, exp_avg, exp_avg_sq)
        for step, (first, last, group) in zip(steps, segments, strict=True):
            whole = last - first == points.shape[1]
            parts = every if whole else tuple(x[:, first:last].contiguous() for x in every)
            w, g, m, v = parts
            adam.step([w], [g], [m], [v], [step], group)
            if not whole:
                for x, part in zip(every, parts, strict=True):
                    x[:, first:last] = part
    return exp_avg, exp_avg_sq


def _segments(optimizer: ALME, flat: Flat) -> list[tuple[int, int, adam.Group]]:
    """Return which columns have which settings; neighbours alike are one segment."""
    segments: list[tuple[int, int, adam.Group]] = []
    sizes = dict(zip(map(id, flat.params), flat.sizes, strict=True))
    at = 0
    for group in optimizer.param_groups:
        width = sum(sizes.get(id(p), 0) for p in group["params"])
        if not width:
            continue
        settings = groups.settings(group)
        if isinstance(settings.lr, Tensor):
            settings = settings._replace(lr=settings.lr.to(flat.device))
        alike = segments and all(
            x is y or (not isinstance(x, Tensor) and not isinstance(y, Tensor) and x == y)
            for x, y in zip(segments[-1][2], settings, strict=True)
        )
        if alike:
            segments[-1] = (segments[-1][0], at + width, settings)
        else:
            segments.append((at, at + width, settings))
        at += width
    return segments


# ---------------------------------------------------------------- the winner
def _take(params: list[Tensor], flat: Flat, point: Tensor) -> None:
    for p, value in zip(params, flat.split(point), strict=True):
        p.copy_(value)


def _take_state(optimizer: ALME, params: list[Tensor], flat: Flat, moments: list[Tensor]) -> None:
    """Go on from the winner's own moments, whose age is that of its mini-optimisation."""
    for p, m, v in zip(params, *(flat.split(x) for x in moments), strict=True):
        state: dict[str, Any] = optimizer.state[p]
        if "step" not in state:
            continue  # never stepped; its first gradient is its first step
        state["exp_avg"].copy_(m)
        if p.is_complex():  # of pairs
            v = torch.view_as_complex(torch.view_as_real(v))
        state["exp_avg_sq"].copy_(v)
        state["step"].fill_(optimizer._escapes.n_eval_steps)


def escapable(params: list[Tensor]) -> bool:
    """Whether parameters are whole on this rank."""
    return not any(layout.is_shard(p) for p in params)
