"""How :class:`unstuck.optim.ALME` polishes: it sees that the loss does not change, and searches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from unstuck.ops import adam
from unstuck.optim import _layout as layout
from unstuck.optim import _validate as validate
from unstuck.optim._polish import Polish
from unstuck.optim._trials import Closure, RandomState, as_loss
from unstuck.population._closure import Buffers
from unstuck.population._flat import Flat

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME

FIRST, LATER, RARER = 5, 3, 10  # steps to the first test; factors to the next without and with one
CREEP = (0.01, 2.0)  # fall of the loss a step that is slow: 1%, or 2 / P where that is less
SOON, AGAIN = 10, 100  # evaluations after which it is tested whether the loss is still the same
ALIKE = 1e-6  # relative difference of two evaluations of one loss
LARGEST = 200_000  # numbers: a search keeps up to 80 times as many
DTYPES = (torch.float32, torch.float64)


class Watch:
    """What is known of the loss: how it falls, and whether it is the same function at every step.

    A model that trains well is left to Adam: the loss must fall slowly, and the more slowly the
    more parameters there are, as a search that fits all it can helps a large model least. Then one
    point is evaluated twice, a step apart. A closure on a mini-batch, or with dropout, has another
    value; one on all data has the same, and the steps go on by :class:`Polish`, each with one
    evaluation, and with the parameters at the best point found so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.next_test = FIRST
        self.earlier: Any = None  # the loss some steps before the test
        self.seen: tuple[Tensor, float] | None = None  # a point, and its loss one step ago
        self.moving: list[Tensor] = []  # the parameters that may move then
        self.params: list[Tensor] = []  # those of them that the loss depends on
        self.search: Polish | None = None
        self.again = SOON  # evaluations before the next test

    @property
    def window_opens(self) -> int:
        """Step whose loss is the first of the test."""
        return self.next_test * 3 // 5


def watch(optimizer: ALME, loss: Any) -> None:
    """Remember where the loss was evaluated, when it falls slowly; before Adam's step."""
    if torch.compiler.is_compiling():
        return
    know = optimizer._watch
    know.steps += 1
    if know.steps == know.window_opens:
        know.earlier = loss.detach().clone() if isinstance(loss, Tensor) else loss
    if know.steps < know.next_test:
        return
    width = know.next_test - know.window_opens
    know.next_test = LATER * know.steps
    params = [p for p in optimizer._moving if p.grad is not None]
    if know.earlier is None or not _can_search(optimizer, params):
        return
    before, now = (float(as_loss(x)) * optimizer._sign for x in (know.earlier, loss))
    size = sum(p.numel() for p in params)
    slow = min(CREEP[0], CREEP[1] / size) * width * max(abs(before), abs(now))
    if math.isfinite(now) and before - now <= slow:
        know.next_test = RARER * know.steps
        know.seen = Flat(params).gather(params), now
        know.moving, know.params = optimizer._moving, params


def step(optimizer: ALME, closure: Closure) -> tuple[bool, Any]:
    """Make a step of the search; return whether it was one, and the loss before it."""
    know = optimizer._watch
    if know.seen is None and know.search is None:
        return False, None
    params = know.params
    flat = Flat(params)
    stand = flat.gather(params)
    moved = know.search is not None and not torch.equal(stand, know.search.best)
    others = list(map(id, optimizer._moving)) != list(map(id, know.moving))
    if moved or others or not _can_search(optimizer, params):
        know.seen = know.search = None
        return False, None
    seen, know.seen = know.seen, None
    if know.search is None:
        assert seen is not None
        point, expected = seen
    elif know.again <= 0:
        point, expected, know.again = know.search.best, know.search.loss, AGAIN
    else:
        point, expected = know.search.ask(), None
    gradients = [p.grad for p in params]
    try:
        found = _evaluate(optimizer, flat, point, closure)
    except BaseException:
        _put_back(flat, stand, gradients)
        raise
    optimizer._search["nfev"] += 1
    optimizer._search["ngev"] += 1
    if found.moved or (expected is not None and not _alike(found.loss, expected)):
        _put_back(flat, stand, gradients)
        found.random.restore()
        know.search = None
        return False, None
    before = found.loss if know.search is None else know.search.loss
    if know.search is None:
        shapes = [p.shape for p in params]
        know.search = Polish(point, shapes, seed=optimizer._escapes.seed % 2**63)
        expected, know.again = None, SOON
    if expected is None:
        know.again -= 1
        try:
            _tell(optimizer, know.search, found)
        except BaseException:  # an interrupt: the search is in pieces
            _put_back(flat, stand, gradients)
            know.search = None
            raise
    _write(flat, know.search.best)
    if know.search.loss < before:
        _keep_best(optimizer, know.search.loss)
    loss = before * optimizer._sign
    if isinstance(found.value, Tensor):
        return True, torch.full_like(found.value.detach(), loss)
    return True, loss


def _can_search(optimizer: ALME, params: list[Tensor]) -> bool:
    """Whether the closure's loss is what is minimised, and the parameters can be searched."""
    rates = {validate.number(group["lr"]) for group in optimizer.param_groups}
    alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
    return (
        optimizer.polish
        and optimizer._escapes.mode == "adaptive"
        and alone
        and getattr(optimizer, "grad_scale", None) is None
        and all(group["weight_decay"] == 0 for group in optimizer.param_groups)
        and len(rates) == 1  # a search would not keep to several
        and min(rates) > 0
        and 0 < sum(p.numel() for p in params) <= LARGEST
        and all(
            layout.is_plain(p) and p.dtype in DTYPES and p.device == params[0].device
            for p in params
        )
    )


class Found(NamedTuple):
    """What a closure returned at a point, loss and gradient [P] to minimise, and its traces."""

    value: Any
    loss: float
    gradient: Tensor
    moved: bool  # whether buffers are no longer what they were: put back, if so
    random: RandomState  # before it


def _evaluate(optimizer: ALME, flat: Flat, point: Tensor, closure: Closure) -> Found:
    params = flat.params
    _write(flat, point)
    random, buffers = RandomState(params), Buffers()
    for p in params:
        p.grad = None
    try:
        with torch.enable_grad():
            value = closure()
            own = optimizer._needs_backward(value)
            if own:
                value.backward()
        if moved := bool(buffers.changed()):
            buffers.restore()
    finally:
        buffers.close()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    gradient = flat.gather(grads) * optimizer._sign
    if own:
        optimizer.zero_grad()
    return Found(value, float(as_loss(value)) * optimizer._sign, gradient, moved, random)


def _alike(loss: float, expected: float) -> bool:
    return abs(loss - expected) <= ALIKE * abs(expected)


def _write(flat: Flat, point: Tensor) -> None:
    with torch.no_grad():
        for p, part in zip(flat.params, flat.split(point), strict=True):
            p.copy_(part)


def _put_back(flat: Flat, point: Tensor, gradients: list[Tensor | None]) -> None:
    _write(flat, point)
    for p, gradient in zip(flat.params, gradients, strict=True):
        p.grad = gradient


def _tell(optimizer: ALME, search: Polish, found: Found) -> None:
    counts = optimizer._search
    descents, escapes = search.descents, search.escapes
    search.tell(found.loss, found.gradient)
    counts["attempts"] += search.descents - descents
    counts["escapes"] += search.escapes - escapes


def _keep_best(optimizer: ALME, loss: float) -> None:
    best = optimizer.best_loss
    if best is not None and best * optimizer._sign <= loss:
        return
    optimizer._keep_best(loss * optimizer._sign)
    optimizer._stats[adam.Stat.BEST_LOSS] = loss
    optimizer._stats[adam.Stat.HAS_BEST] = 1.0
