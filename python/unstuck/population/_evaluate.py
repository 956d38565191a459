"""Evaluates a closure for many candidates, together where it can be done, else one at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unstuck.ops import mlp
from unstuck.population._closure import Closure, RandomState, Untouched, needs_graph, one_number
from unstuck.population._flat import Flat
from unstuck.population._memory import Peak, budget
from unstuck.population._mlp import recognise
from unstuck.population._swap import Replace, Swap, name_of

Values = Sequence[Tensor]


@dataclass(frozen=True)
class Job:
    """Candidates to be evaluated.

    Attributes
    ----------
    kind : str
        Jobs of one kind take the same memory a candidate, and vmap can do all of them or none.
    count : int
        Candidates.
    batch : callable
        (first, n) to tensors whose first dimension is that of n candidates.
    loss : callable
        What vmap maps: one candidate's slices of these tensors to its loss.
    point : callable
        The flat vector [P] of a candidate.
    bytes : int
        What `batch` takes for one.
    shared : bool
        Whether candidates share products.
    gradient : bool
        Whether gradients are wanted; `batch` then returns a tensor for each parameter.
    """

    kind: str
    count: int
    batch: Callable[[int, int], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]
    point: Callable[[int], Tensor]
    bytes: int
    shared: bool = False
    gradient: bool = False


class Known(NamedTuple):
    """What the first evaluation told of a kind of job."""

    bytes: int  # of activations, one candidate
    loss: float  # of the first candidate
    tolerance: float
    random: bool  # whether it drew numbers


class Evaluator:
    """A closure, and what is known of it.

    Parameters
    ----------
    module, closure, flat
        What is evaluated, and the layout of its parameters.
    memory : int or None
        Bytes that one call may take.
    chunk : int or None
        Candidates that are evaluated together; None is by memory.
    randomness : str
        As ``torch.vmap`` has it.
    """

    def __init__(
        self,
        module: nn.Module,
        closure: Closure,
        flat: Flat,
        memory: int | None,
        chunk: int | None,
        randomness: str,
    ) -> None:
        self.flat, self.module = flat, module
        self.swap = Swap(module, closure)
        self.memory, self.chunk, self.randomness = memory, chunk, randomness
        self.changing: list[Tensor] = []  # buffers that an evaluation writes
        self.alone: set[str] = set()  # kinds of jobs that vmap cannot do
        self.known: dict[str, Known] = {}
        self.random: RandomState | None = None
        self._repeats: bool | None = None  # whether a second call sees what the first one saw
        self._graph = False  # whether the closure itself differentiates
        self._warned = False
        self.plain = flat.plain and mlp.native_ready(flat.device)  # until it is seen not to be

    def net(self, gradient: bool = False) -> mlp.Net | None:
        """Return the multi-layer perceptron that the closure evaluates, with a batch, or None."""
        if not self.plain:
            return None
        with self._untouched() as untouched:
            untouched.begin()
            net = recognise(self.swap.closure, self.flat.params, gradient)
            drawn = not RandomState(self.flat.params).same_as(untouched.random)
        self.plain = net is not None and (self.randomness == "same" or not drawn)
        return net if self.plain else None

    def _untouched(self) -> Untouched:
        return Untouched(self.flat.params, self.module, self.random, hide_gradients=True)

    def run(self, job: Job) -> tuple[Tensor, Tensor | None]:
        """Return the losses [K] and, where wanted, the gradients [K, P]."""
        losses = torch.empty(job.count, dtype=self.flat.dtype, device=self.flat.device)
        gradients = losses.new_empty(job.count, self.flat.dim) if job.gradient else None
        if not job.count:
            return losses, gradients
        with self._untouched() as untouched:
            first = None
            if job.kind not in self.known:
                first = self.known[job.kind] = self._probe(job, untouched)
            if job.kind in self.alone or not self._together(
                job, untouched, first, losses, gradients
            ):
                self._one_by_one(job, untouched, losses, gradients)
        return losses, gradients

    def size(self, job: Job) -> int:
        """Return how many candidates of a job are evaluated together."""
        if self.chunk is not None:
            return self.chunk
        memory = (
            budget(self.flat.device, job.shared or job.gradient)
            if self.memory is None
            else self.memory
        )
        fit = memory // max(1, job.bytes + self.known[job.kind].bytes)
        return max(1, fit if fit < 2 else fit // 2 * 2)  # pairs of opposite noise stay together

    # ------------------------------------------------------------ one at a time
    def _single(
        self, job: Job, index: int, untouched: Untouched, peak: Peak | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate one candidate with its values in the parameters themselves."""
        params, values = self.flat.params, self.flat.split(job.point(index))
        own = [p.data for p in params]  # no version changes: graphs of the user stay valid
        try:
            for p, value in zip(params, values, strict=True):
                p.data = value
            if self.randomness == "same" or index == 0:
                untouched.begin()
            else:
                untouched.buffers.restore()
            with torch.set_grad_enabled(job.gradient or self._graph), peak or nullcontext():
                with Replace((), ()):
                    loss = one_number(self.swap.closure())
                gradient = None
                if job.gradient:
                    found: Sequence[Tensor | None] = [None] * len(params)
                    wanted = [p for p in params if p.requires_grad]
                    if loss.requires_grad:
                        found = torch.autograd.grad(loss, wanted, allow_unused=True)
                    known = {id(p): g for p, g in zip(wanted, found, strict=False)}
                    gradient = self.flat.gather(
                        [
                            torch.zeros_like(p) if (g := known.get(id(p))) is None else g
                            for p in params
                        ]
                    )
        finally:
            for p, data in zip(params, own, strict=True):
                p.data = data
        return loss.detach().to(self.flat.device, self.flat.dtype), gradient

    def _probe(self, job: Job, untouched: Untouched) -> Known:
        """Evaluate the first candidate alone, and see what that takes."""
        try:
            peak = Peak()
            loss, _ = self._single(job, 0, untouched, peak)
        except RuntimeError as error:
            if self._graph or not needs_graph(error):
                raise
            self._graph = True  # torch.autograd.grad within the closure
            return self._probe(job, untouched)
        self.changing = untouched.buffers.changed()
        drawn = not RandomState(self.flat.params).same_as(untouched.random)
        return Known(peak.bytes, float(loss), peak.tolerance, drawn)

    def _one_by_one(
        self, job: Job, untouched: Untouched, losses: Tensor, gradients: Tensor | None
    ) -> None:
        for i in range(job.count):
            losses[i], gradient = self._single(job, i, untouched)
            if gradients is not None and gradient is not None:
                gradients[i] = gradient

    # ------------------------------------------------------------ together
    def _together(
        self,
        job: Job,
        untouched: Untouched,
        probed: Known | None,
        losses: Tensor,
        gradients: Tensor | None,
    ) -> bool:
        """Evaluate all candidates in chunks; False where vmap cannot."""
        size, first = self.size(job), 0
        if size < job.count:
            self._check_repeats(job, untouched)
        while first < job.count:
            n = min(size, job.count - first)
            try:
                losses[first : first + n] = self._chunk(job, first, n, untouched, gradients)
            except torch.OutOfMemoryError:
                if n == 1:
                    raise
                size = n // 2
                self._check_repeats(job, untouched)
                continue
            except Exception as error:
                self._single(job, first, untouched)  # raises where the closure itself is wrong
                self._give_up(job, f"{name_of(self.swap.last)}: {error}")
                return False
            wrong = self._disagreement(job, untouched, losses) if not first and probed else ""
            if wrong:
                self._give_up(job, wrong)
                return False
            first += n
        return True

    def _chunk(
        self, job: Job, first: int, n: int, untouched: Untouched, gradients: Tensor | None
    ) -> Tensor:
        """Evaluate candidates `first`, ..., ``first + n - 1`` at once."""
        if self.randomness == "same" or first == 0:
            untouched.begin()
        with torch.no_grad():
            batch = [x.detach().requires_grad_(job.gradient) for x in job.batch(first, n)]
            own = [b.detach().expand(n, *b.shape).clone() for b in self.changing]
        mapped = torch.vmap(job.loss, randomness=self.randomness)
        with torch.set_grad_enabled(job.gradient or self._graph), _attention(self.flat.device):
            losses = mapped(*batch, *own)
            if gradients is not None:
                found: Sequence[Tensor | None] = [None] * len(batch)
                if losses.requires_grad:
                    found = torch.autograd.grad(losses.sum(), batch, allow_unused=True)
                self.flat.stack(
                    [
                        x.new_zeros(()).expand_as(x) if g is None else g
                        for x, g in zip(batch, found, strict=True)
                    ],
                    gradients[first : first + n],
                )
        return losses.detach()

    def _check_repeats(self, job: Job, untouched: Untouched) -> None:
        """Raise when another call of the closure sees another batch."""
        if self._repeats is None:
            one, two = (float(self._single(job, 0, untouched)[0]) for _ in range(2))
            self._repeats = _close(one, two, 1e-5)
        if not self._repeats and self.randomness == "same":
            raise ValueError(
                f"the closure returns another loss when it is called again, so {job.count} "
                f"candidates in chunks of {self.size(job)} would not be compared on the same "
                "batch: draw the batch before and let the closure use it, or raise memory= or "
                "chunk= so that one call is enough"
            )

    def _disagreement(self, job: Job, untouched: Untouched, losses: Tensor) -> str:
        """Say what is wrong where the first candidate has not the loss that it has alone."""
        known, value = self.known[job.kind], float(losses[0])
        if known.random and (self.randomness != "same" or self.flat.device.type != "cpu"):
            return ""  # masks differ rightly
        if _close(value, known.loss, known.tolerance):
            return ""
        again = float(self._single(job, 0, untouched)[0])
        if not _close(again, known.loss, 1e-5):
            self._repeats = False  # another batch; this call saw one
            return ""
        return f"It returns the loss {value:g} where {again:g} is right"

    def _give_up(self, job: Job, reason: str) -> None:
        """Evaluate jobs like this one by one from now on."""
        self.alone.add(job.kind)
        if self._warned:
            return
        self._warned = True
        first = reason.splitlines()[0].rstrip(".")
        warnings.warn(
            "unstuck: torch.vmap cannot evaluate this closure, so candidates are evaluated one at "
            f"a time, with the same results, but slower. {first}. Remedy: out-of-place operations, "
            "torch.where instead of branches on values, no .item()",
            RuntimeWarning,
            stacklevel=5,
        )


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """Choose the kernel of attention that vmap knows: on the CPU it would loop over another."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _close(a: float, b: float, tolerance: float) -> bool:
    """Whether two losses are the same up to rounding."""
    if math.isfinite(a) and math.isfinite(b):
        return abs(a - b) <= tolerance * (abs(b) + tolerance)
    return a == b or (math.isnan(a) and math.isnan(b))
