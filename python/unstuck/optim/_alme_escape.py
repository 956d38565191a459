"""Escapes of :class:`unstuck.optim.ALME`: candidates, their mini-optimisation, who goes on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unstuck.ops import adam
from unstuck.ops.descent import Segment
from unstuck.optim import _alme_candidates as drawn
from unstuck.optim import _alme_groups as groups
from unstuck.optim import _layout as layout
from unstuck.optim._alme_candidates import Candidates
from unstuck.optim._alme_population import OneByOne, Population, Together
from unstuck.optim._alme_settings import Escape
from unstuck.optim._trials import Closure
from unstuck.population._flat import Flat

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME


ALIKE = 1e-6  # relative difference of two evaluations of one loss
REPEATED = 1e-4  # the same, where the sums of a GPU may come in another order
STACKS = 4  # vectors of each candidate: its point, gradient and two moments
LARGEST = 1 << 30  # bytes that these take together by default
UNREPEATABLE = (
    "the closure returns another loss when it is called again with the same random numbers, so "
    "candidates that come one after another cannot be compared: let it use one batch, or draw that "
    "by torch's generators"
)


class Outcome(NamedTuple):
    """What a mini-optimisation led to.

    Attributes
    ----------
    losses : Tensor
        To be lowered, of all that took part, on the same batches [B, N].
    gradients, evaluations : int
        How many of them were evaluated, and how many losses without.
    best : int
        The best candidate.
    point, exp_avg, exp_avg_sq : Tensor
        Where that has got to [P], and its moments.
    reason : str
        Why candidates could not be compared, or nothing.
    """

    losses: Tensor
    gradients: int
    evaluations: int
    best: int
    point: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    reason: str = ""


def due(optimizer: ALME) -> bool:
    """Whether an escape is to be made now; waits for the device every so many steps."""
    settings, search = optimizer._escapes, optimizer._search
    if search["steps"] % settings.check_every or not escapable(optimizer._moving):
        return False
    evaluations = settings.most
    total = search["steps"] + search["nfev"] + evaluations
    if search["nfev"] + evaluations > settings.escape_budget * total:
        return False
    return optimizer.stagnant


def together(optimizer: ALME) -> bool:
    """Whether all candidates are evaluated at once: the module is known, and they fit in memory."""
    if optimizer.module is None:
        return False
    flat = Flat(optimizer._moving)
    size = STACKS * (optimizer._escapes.popsize + 2) * flat.dim * flat.dtype.itemsize
    memory = optimizer._escapes.memory
    return size <= (LARGEST if memory is None else memory)


def escape(optimizer: ALME, closure: Closure, eval_closure: Closure | None) -> Escape:
    """Draw candidates, optimise them for a few steps, and take the best if it beats staying."""
    search, params = optimizer._search, optimizer._moving
    crowd = Candidates(optimizer, params)
    contest = _at_once if together(optimizer) else _in_turn
    result = contest(optimizer, crowd, closure, eval_closure)
    means = result.losses.mean(0)
    home, best = int(means[:2].argmin()), result.best
    stay, lowest = float(means[home]), float(means[best])
    accepted = _is_better(result.losses[:, best], result.losses[:, home])
    if accepted:
        _take(params, crowd.flat, result.point)
        _take_state(optimizer, params, crowd.flat, [result.exp_avg, result.exp_avg_sq])
    reason = result.reason
    if not accepted and not reason:
        reason = (
            "nothing better was found"
            if math.isfinite(lowest)
            else "no candidate has a finite loss"
        )
    search["nfev"] += result.gradients + result.evaluations
    search["ngev"] += result.gradients
    search["attempts"] += 1
    search["escapes"] += accepted
    drawn.learn(optimizer, crowd.scales, means[2:])
    optimizer._stats[[adam.Stat.SEEN_NORMS, adam.Stat.SEEN_LOSSES, adam.Stat.FLAT_STEPS]] = 0
    distance = float((result.point - crowd.start).double().norm())
    sign = optimizer._sign
    record = Escape(
        search["steps"],
        stay * sign,
        lowest * sign,
        accepted,
        distance,
        crowd.scales[best - 2],
        reason,
    )
    optimizer.history.append(record)
    return record


# ---------------------------------------------------------------- who takes part, and how it ends
def _at_once(
    optimizer: ALME, crowd: Candidates, closure: Closure, eval_closure: Closure | None
) -> Outcome:
    """Let all of them make their steps together: one call of the closure a step."""
    settings = optimizer._escapes
    population = _population(optimizer, crowd.params)
    points = crowd.points(0, len(crowd), population.room("points", len(crowd)))
    with population:
        population.use(closure)
        moments = _descend(optimizer, crowd, population, points[1:])
        if eval_closure is not None:
            population.use(eval_closure)
        losses, calls = _measure(population, points, settings.batches, optimizer._sign, stop=True)
    best = 2 + int(losses.mean(0)[2:].argmin())
    evaluations = calls * len(points)
    exp_avg, exp_avg_sq = (x[best - 1] for x in moments)
    return Outcome(losses, settings.gradients, evaluations, best, points[best], exp_avg, exp_avg_sq)


def _in_turn(
    optimizer: ALME, crowd: Candidates, closure: Closure, eval_closure: Closure | None
) -> Outcome:
    """Let one after another make its steps, on the same batches, and keep the best so far.

    Two of them are in memory at a time, however many there are.
    """
    settings, sign, population = optimizer._escapes, optimizer._sign, OneByOne(crowd.params)
    steps, batches = settings.n_eval_steps, settings.batches
    kept = (crowd.start, crowd.start, crowd.start)  # until there is a candidate
    best, gradients, evaluations, reason = 2, 0, 0, ""
    with population:
        for i in (1, 0, *range(2, len(crowd))):  # the first makes every call: these are the batches
            points = crowd.points(i, 1)
            population.use(closure)
            population.rewind(0)
            if i:
                exp_avg, exp_avg_sq = _descend(optimizer, crowd, population, points)
                gradients += steps
            population.rewind(steps)
            if eval_closure is not None:
                population.use(eval_closure)
            column, calls = _measure(population, points, batches, sign, stop=i == 1)
            evaluations += calls
            if i == 1:
                batches = len(column)
                losses = torch.full((batches, len(crowd)), torch.inf, dtype=column.dtype)
                population.rewind(steps)
                again, calls = _measure(population, points, 1, sign)
                evaluations += calls
                if not torch.allclose(again[0], column[0], rtol=REPEATED, atol=0):
                    reason = UNREPEATABLE
            losses[:, i] = column[:, 0]
            if reason:
                break
            if i >= 2 and (i == 2 or losses[:, i].mean() < losses[:, best].mean()):
                best, kept = i, (points[0], exp_avg[0], exp_avg_sq[0])
    return Outcome(losses, gradients, evaluations, best, *kept, reason)


def _measure(
    population: Population, points: Tensor, batches: int, sign: float, stop: bool = False
) -> tuple[Tensor, int]:
    """Return losses [B, K] on so many batches; with `stop` on one, if the next gives the same.

    They are to be lowered; the number is that of calls.
    """
    rows: list[Tensor] = []
    for call in range(1, batches + 1):
        losses = population.losses(points).double().cpu() * sign
        losses = torch.where(torch.isfinite(losses), losses, torch.inf)
        if stop and call == 2 and torch.allclose(losses, rows[0], rtol=ALIKE, atol=0):
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
    """Return what evaluates all at once; what it knows of the model outlives an escape."""
    assert optimizer.module is not None
    kept = optimizer._population
    if kept is None or not kept.fits(params):
        kept = Together(optimizer.module, params, optimizer._escapes.memory)
        optimizer._population = kept
    return kept


# ---------------------------------------------------------------- mini-optimisation
def _descend(
    optimizer: ALME, crowd: Candidates, population: Population, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Make Adam steps of all points at once, each with its own state; return that state."""
    names = ("exp_avgs", "exp_avg_sqs")
    exp_avgs, exp_avg_sqs = (population.room(name, len(points)) for name in names)
    moments = exp_avgs, exp_avg_sqs
    segments = _segments(optimizer, crowd.flat)
    for number in range(1, optimizer._escapes.n_eval_steps + 1):
        population.descend(points, moments, number, segments)
        if crowd.still is not None:  # where hooks on parameters have set gradients to zero
            points[:, crowd.still] = crowd.start[crowd.still]
            for x in moments:
                x[:, crowd.still] = 0
    return moments


def _segments(optimizer: ALME, flat: Flat) -> list[Segment]:
    """Return which columns have which settings; neighbours alike are one segment."""
    segments: list[Segment] = []
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
            for x, y in zip(segments[-1].group, settings, strict=True)
        )
        if alike:
            segments[-1] = Segment(segments[-1].begin, at + width, settings)
        else:
            segments.append(Segment(at, at + width, settings))
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
