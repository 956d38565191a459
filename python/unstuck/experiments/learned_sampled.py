"""Back-propagation through large students, seen at some of their coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unstuck.learned import LSTM, UpdateRule
from unstuck.learned.estimators import Estimator
from unstuck.learned.rule import State
from unstuck.learned.task import Family, generator, seed_of
from unstuck.learned.unroll import Plan, Unroll
from unstuck.optim import Learned


class SampledBackprop(Estimator):
    r"""Truncated back-propagation through a student of any size at the price of a small one.

    Where students' gradients :math:`g_t` count as constants, as in
    :class:`unstuck.learned.Backprop`, and a rule works coordinate by coordinate, coordinates meet
    in the loss alone,

    .. math::
        \frac{dL_t}{d\theta} = \sum_{i=1}^{P} g_{t,i} \frac{dw_{t,i}}{d\theta}
        \approx \frac{P}{n} \sum_{i \in S} g_{t,i} \frac{dw_{t,i}}{d\theta} ,

    so that n coordinates drawn evenly anew for each truncation, with replacement, give an estimate
    without further bias. All coordinates are stepped, natively where there is a kernel; those of S
    are stepped again by the torch form, through which autograd runs.

    Parameters
    ----------
    rule : LSTM
        The rule; its parameters are overwritten.
    family, plan, seed
        As for :class:`unstuck.learned.Backprop`; one student an unroll.
    coordinates : int
        n.

    Raises
    ------
    TypeError
        For a rule that does not work coordinate by coordinate.
    ValueError
        For a plan with several students, with validation data, or that tells the horizon, and for
        a count below 1.

    Examples
    --------
    >>> from unstuck.learned import Network
    >>> from unstuck.experiments.learned_meta import One
    >>> plan = Plan(unrolls=1, students=1, truncation=3, horizon=(6, 6), told=0.0)
    >>> sampled = SampledBackprop(LSTM(hidden=4), One(Network("digits", (8,))), plan)
    >>> sampled.estimate(sampled.layout.read()).student_steps
    3
    """

    name = "sampled"
    pairs = False

    def __init__(
        self,
        rule: UpdateRule,
        family: Family,
        plan: Plan,
        seed: int = 0,
        *,
        coordinates: int = 4096,
        places: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(rule, LSTM):
            raise TypeError(f"rule must be an LSTM, which is coordinatewise, not {rule.name!r}")
        if plan.students != 1 or plan.told or plan.objective.validation or coordinates < 1:
            raise ValueError(
                f"students={plan.students}, told={plan.told}, validation="
                f"{plan.objective.validation}, coordinates={coordinates}: must be 1, 0, 0 and at "
                "least 1"
            )
        super().__init__(rule, family, plan, seed, places=places)
        self.coordinates = coordinates
        self._optimizers: dict[int, tuple[Unroll, Learned]] = {}

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor that only this class has."""
        return {"coordinates": self.coordinates}

    def _continue(self, place: int, unroll: Unroll, theta: Tensor) -> tuple[Tensor, Tensor]:
        self.layout.write(theta)
        if place not in self._optimizers or self._optimizers[place][0] is not unroll:
            parts = unroll.students.split(unroll.points)
            params = [nn.Parameter(part[0]) for part in parts]  # views: points are stepped
            self._optimizers[place] = unroll, Learned(params, self.rule)
        optimizer = self._optimizers[place][1]
        params = optimizer.param_groups[0]["params"]
        dim = unroll.students.dim
        draw = generator(self.seed, "coordinates", self.iteration, place)
        some = torch.randint(dim, (self.coordinates,), generator=draw)
        point, state = unroll.points[0, some].clone(), self._state(optimizer, some)
        first, last = unroll.step, min(unroll.step + self.plan.truncation, unroll.horizon)
        losses, gradients = [], []
        for step in range(first, last):
            optimizer.zero_grad()
            batch = unroll.task.batch(seed_of("batch", unroll.key, step))
            loss = unroll.task.loss(params, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            gradients.append(torch.cat([p.grad.flatten() for p in params])[some])
            optimizer.step()
        unroll.step = last
        theta = theta.detach().requires_grad_()
        named, objective = self.layout.named(theta), self.plan.objective
        weights = [objective.weight(step, unroll.horizon) for step in range(first, last)]
        start = unroll.tensors()["start.0"]
        total = torch.zeros(1)
        for loss, gradient, weight in zip(losses, gradients, weights, strict=True):
            along = (gradient * (point - point.detach())).sum() * (dim / self.coordinates)
            score = objective.score((loss + along)[None], start, unroll.task.floor)
            total = total + weight / sum(weights) * score
            (point,), state = functional_call(self.rule, named, ([point], [gradient], state))
        # the loss of a truncation's first step does not depend on theta: it may be the only one
        (found,) = torch.autograd.grad(total.sum() + 0 * theta.sum(), theta)
        if not found.isfinite().all():  # the student has diverged
            found = torch.zeros_like(found)
        return total.detach(), found * unroll.importance(first, last)

    def _state(self, optimizer: Learned, some: Tensor) -> State:
        """Return the rule's memory of some coordinates, as of one tensor."""
        params = optimizer.param_groups[0]["params"]
        if not optimizer.state:
            return self.rule.init_state([torch.zeros(len(some))])
        own = [optimizer.state[p] for p in params]
        state: State = {"step": [own[0]["step"].clone()]}
        for name in self.rule.like:
            state[name] = [torch.cat([x[name].flatten() for x in own])[some]]
        for name in self.rule.beside:
            state[name] = [torch.cat([x[name].flatten(1) for x in own], 1)[:, some]]
        return state
