"""How :class:`unstuck.optim.ALME` polishes: it sees that the loss does not change, and searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from unstuck.ops import adam
from unstuck.optim import _closure as closures
from unstuck.optim import _validate as validate
from unstuck.optim._polish import Polish, Scale, first_scales
from unstuck.optim._trials import Closure, as_loss
from unstuck.population._closure import Buffers
from unstuck.population._flat import Flat

if TYPE_CHECKING:
    from unstuck.optim.alme import ALME

FIRST, LATER, RARER = 2, 1.5, 10  # step of the first test; factors to the next without and with one
SMALL, LARGE = 300, 1000  # parameters P: up to 300 any loss is slow, beyond 1000 see WHOLE
CREEP, POWER = 2.0, 0.5  # a loss is slow that falls by less than 2 / P, and than as 1 / sqrt(t)
WHOLE = 10  # what a large model has gained counts so often
SMOOTH = (0.5, 1e-3)  # error of the fall that gradients foretell: of itself, and of the loss
SOON, AGAIN = 10, 100  # evaluations after which it is tested whether the loss is still the same
ALIKE = 1e-6  # relative difference of two evaluations of one loss
LARGEST = 200_000  # numbers: a search keeps up to 80 times as many
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Place(NamedTuple):
    """A point [P] where the closure was evaluated, its loss and gradient [P], to be lowered."""

    point: Tensor
    loss: float
    gradient: Tensor


class Watch:
    """What is known of the loss: how it falls, and whether it is the same function at every step.

    Two steps in a row tell whether it may be: the loss must fall by what the gradients at both of
    them foretell, and slowly. The more parameters, the more slowly, as a search that fits all it
    can helps a large model least. Steps that are long beside what they cross show that at no time:
    a small model is tested after 10, 100, ... steps whatever they tell. Then one point is evaluated
    twice, a step apart. A closure on a mini-batch, or with dropout, has another value; one on all
    data has the same, and the steps go on by :class:`Polish`, each with one evaluation, and with
    the parameters at the best point found so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.next_test = FIRST
        self.anyway = RARER  # step from which a small model is tested once though steps disagree
        self.scales: list[Scale] = []  # of the first values
        self.first_loss = math.inf
        self.before: Place | None = None  # one step before the test
        self.seen: Place | None = None  # the point that is to be evaluated again
        self.moving: list[Tensor] = []  # the parameters that may move then
        self.params: list[Tensor] = []  # those of them that the loss depends on
        self.left: list[tuple[Tensor, int]] = []  # gradients that the last closure left, versions
        self.search: Polish | None = None
        self.again = SOON  # evaluations before the next test

    def leave(self) -> None:
        """Remember which gradients there are."""
        self.left = [(p.grad, p.grad._version) for p in self.params if p.grad is not None]

    def stop(self) -> None:
        """Leave the next steps to Adam."""
        self.seen = self.before = self.search = None


class Called(NamedTuple):
    """The closure was called: what it returned, and whether backward was called for it.

    `done` says that the step is made; else Adam's is to be, with the gradients that there are.
    """

    value: Any
    own: bool
    done: bool


# ---------------------------------------------------------------- when to begin
def watch(optimizer: ALME, loss: Any) -> None:
    """Look how the loss falls from one evaluation to the next; before Adam's step."""
    know = optimizer._watch
    if torch.compiler.is_compiling():
        return
    know.steps += 1
    if know.steps > 1 and know.steps < know.next_test - 1:
        return
    params = [p for p in optimizer._moving if p.grad is not None]
    before, know.before = know.before, None
    if know.steps >= know.next_test:
        know.next_test = max(know.steps + 2, int(LATER * know.steps))
    if not _can_search(optimizer, params):
        return
    flat, sign = Flat(params), optimizer._sign
    gradients = flat.gather([p.grad for p in params if p.grad is not None])
    here = Place(flat.gather(params), float(as_loss(loss)) * sign, gradients * sign)
    if know.steps == 1:
        know.scales, know.first_loss = first_scales(here.point, flat.sizes), here.loss
    if before is None or list(map(id, params)) != list(map(id, know.params)):
        if know.steps > 1:
            know.scales = []
        know.before, know.params = here, params
        return
    anyway = len(here.point) <= SMALL and know.steps >= know.anyway
    if anyway or (_is_smooth(before, here) and _is_slow(know, before, here)):
        know.next_test = know.anyway = RARER * know.steps
        know.seen, know.moving = here, optimizer._moving
        know.leave()


def _is_smooth(before: Place, here: Place) -> bool:
    """Whether the loss fell by what both gradients say, as one function does on a small move."""
    move = here.point - before.point
    foretold = -0.5 * float((before.gradient + here.gradient) @ move)
    error = abs(before.loss - here.loss - foretold)
    return error <= SMOOTH[0] * abs(foretold) + SMOOTH[1] * abs(here.loss)


def _is_slow(know: Watch, before: Place, here: Place) -> bool:
    """Whether a model that is not small gets on slowly: beside its loss, its gain, its course.

    A loss that ends at 0 by a power of the steps t, as that of a classifier does, falls ever less
    beside itself, but is no plateau: slow is what falls slower than ``t ** -POWER``.
    """
    size, fall, loss = len(here.point), before.loss - here.loss, abs(here.loss)
    gained = loss if size <= LARGE else min(loss, WHOLE * (know.first_loss - here.loss))
    return size <= SMALL or (fall <= CREEP / size * gained and fall <= POWER / know.steps * loss)


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
            type(p) in (Tensor, torch.nn.Parameter)
            and p.layout == torch.strided
            and p.dtype in DTYPES
            and p.device == params[0].device
            for p in params
        )
    )


# ---------------------------------------------------------------- a step
def step(optimizer: ALME, closure: Closure, eval_closure: Closure | None) -> Called | None:
    """Make a step of the search; return None where Adam is to make one, and call the closure."""
    know = optimizer._watch
    if know.seen is None and know.search is None:
        return None
    params, flat = know.params, Flat(know.params)
    stand = flat.gather(params)
    moved = know.search is not None and not torch.equal(stand, _stored(flat, know.search.best))
    others = list(map(id, optimizer._moving)) != list(map(id, know.moving))
    if moved or others or eval_closure is not None or _somebodys_gradients(know):
        know.stop()
    if (know.seen is None and know.search is None) or not _can_search(optimizer, params):
        know.stop()
        return None
    seen, know.seen = know.seen, None
    expected: float | None = None
    if know.search is None:
        assert seen is not None
        point, expected = seen.point, seen.loss
    elif know.again <= 0:
        point, expected, know.again = know.search.best, know.search.loss, AGAIN
    else:
        point = know.search.ask()
    gradients = [p.grad for p in params]
    try:
        found = _evaluate(optimizer, flat, point, closure)
    except BaseException:
        _put_back(flat, stand, gradients)
        raise
    if expected is not None and not _alike(found.loss, expected):
        _write(flat, stand)  # where Adam goes on, by this gradient: no batch is lost
        know.stop()
        return Called(found.value, found.own, done=False)
    optimizer._search["nfev"] += 1
    optimizer._search["ngev"] += 1
    before = found.loss if know.search is None else know.search.loss
    if know.search is None:
        seed, scales = optimizer._escapes.seed % 2**63, know.scales or None
        know.search = Polish(point, _shapes(params), seed=seed, first=scales)
        expected, know.again = None, SOON
    if expected is None:
        know.again -= 1
        try:
            _tell(optimizer, know.search, found)
        except BaseException:  # an interrupt: the search is in pieces
            found.buffers.restore()
            _put_back(flat, stand, gradients)
            know.search = None
            raise
    _write(flat, know.search.best)
    if know.search.best is not point:
        found.buffers.restore()  # running statistics are those of points that were the best
    if know.search.loss < before:
        _keep_best(optimizer, know.search.loss)
    if found.own:
        optimizer.zero_grad()
    know.leave()
    loss = before * optimizer._sign
    if isinstance(found.value, Tensor):
        return Called(torch.full_like(found.value.detach(), loss), found.own, done=True)
    return Called(loss, found.own, done=True)


def _somebodys_gradients(know: Watch) -> bool:
    """Whether there are gradients that the last closure has not left: Adam's step adds them."""
    left = {id(grad): version for grad, version in know.left}
    return any(
        p.grad is not None and left.get(id(p.grad)) != p.grad._version and bool(p.grad.any())
        for p in know.params
    )


class Found(NamedTuple):
    """What a closure returned at a point, loss and gradient [P] to minimise, and its traces."""

    value: Any
    loss: float
    gradient: Tensor
    buffers: Buffers  # of modules, as they were before
    own: bool  # whether backward was called for it


def _evaluate(optimizer: ALME, flat: Flat, point: Tensor, closure: Closure) -> Found:
    params = flat.params
    _write(flat, point)
    buffers = Buffers(optimizer.module)
    for p in params:
        p.grad = None
    try:
        with torch.enable_grad():
            value = closure()
            own = closures.needs_backward(optimizer, value)
            if own:
                value.backward()
    except BaseException:
        buffers.restore()
        raise
    finally:
        buffers.close()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    gradient = flat.gather(grads) * optimizer._sign
    return Found(value, float(as_loss(value)) * optimizer._sign, gradient, buffers, own)


def _alike(loss: float, expected: float) -> bool:
    return abs(loss - expected) <= ALIKE * abs(expected)


def _shapes(params: Sequence[Tensor]) -> list[torch.Size]:
    """Return shapes in the flat vector, where a complex element is two numbers."""
    return [torch.Size((*p.shape, 2)) if p.is_complex() else p.shape for p in params]


def _stored(flat: Flat, point: Tensor) -> Tensor:
    """Return the point as parameters hold it, some of them perhaps in float32."""
    alike = len({p.dtype for p in flat.params}) == 1
    return point if alike else flat.gather(flat.split(point))


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


# ---------------------------------------------------------------- checkpoints
COUNTS = ("steps", "next_test", "anyway", "again", "first_loss")


def state(optimizer: ALME) -> dict[str, Any]:
    """Return what goes into a checkpoint, parameters by their numbers."""
    know = optimizer._watch
    numbers = {id(p): i for i, p in enumerate(_all(optimizer))}
    return {
        **{name: getattr(know, name) for name in COUNTS},
        "scales": list(know.scales),
        "before": know.before and list(know.before),
        "seen": know.seen and list(know.seen),
        "params": [numbers[id(p)] for p in know.params],
        "moving": [numbers[id(p)] for p in know.moving],
        "search": know.search and know.search.state(),
    }


def load(optimizer: ALME, saved: dict[str, Any]) -> None:
    """Go on from a checkpoint."""
    know, every = optimizer._watch, _all(optimizer)
    for name in COUNTS:
        setattr(know, name, saved[name])
    know.params, know.moving = ([every[i] for i in saved[key]] for key in ("params", "moving"))
    know.scales = saved["scales"]
    if not know.params:
        return
    device = know.params[0].device
    know.before, know.seen = (
        None if saved[key] is None else Place(*_on(device, saved[key]))
        for key in ("before", "seen")
    )
    know.search = None if saved["search"] is None else Polish.of(_on(device, saved["search"]))
    points = [place.point for place in (know.before, know.seen) if place is not None]
    points += [] if know.search is None else [know.search.best]
    if any(len(point) != Flat(know.params).dim for point in points):
        know.stop()  # of another model
    know.leave()


def _all(optimizer: ALME) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _on(device: torch.device, value: Any) -> Any:
    """Return the tensors of nested lists and dictionaries on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on(device, x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on(device, x) for x in value)
    return value
