"""Estimators of meta-gradients: how a rule's parameters change what its students lose.

Both keep unrolls that are in progress, so that a meta-gradient costs a stretch of each and not
their whole horizon, and both go on from a checkpoint bit for bit.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from unstuck.learned.rule import State, UpdateRule
from unstuck.learned.students import MetaParameters
from unstuck.learned.task import Family, seed_of
from unstuck.learned.unroll import Plan, Unroll
from unstuck.ops import noise

__all__ = ["ESTIMATORS", "Backprop", "Estimate", "Estimator", "Evolution"]


class Estimate(NamedTuple):
    """A meta-gradient.

    Attributes
    ----------
    gradient : Tensor
        [M].
    score : float
        Mean of the objective over all students.
    student_steps : int
        Steps that students have made for it.
    """

    gradient: Tensor
    score: float
    student_steps: int


def combined(parts: Sequence[Estimate]) -> Estimate:
    """Return the meta-gradient of several unrolls from those of each, in the order of places."""
    gradient = torch.stack([part.gradient for part in parts]).mean(0)
    score = math.fsum(part.score for part in parts) / len(parts)
    return Estimate(gradient, score, sum(part.student_steps for part in parts))


class Estimator(ABC):
    """Unrolls in progress, and what they say of a rule's parameters.

    Parameters
    ----------
    rule : UpdateRule
        The rule whose class is trained; its parameters are not read.
    family : Family
        Where tasks come from.
    plan : Plan
        What is unrolled.
    seed : int
        Of everything that is drawn.
    places : sequence of int, optional
        Which of the plan's unrolls this one continues, where others continue the rest. By default
        all.
    """

    name: ClassVar[str]
    pairs: ClassVar[bool]
    """Whether students come in pairs that begin alike."""

    def __init__(
        self,
        rule: UpdateRule,
        family: Family,
        plan: Plan,
        seed: int = 0,
        *,
        places: Sequence[int] | None = None,
    ) -> None:
        self.rule, self.family, self.plan, self.seed = rule, family, plan, seed
        self.layout = MetaParameters(rule)
        self.iteration = 0
        self.places = list(range(plan.unrolls) if places is None else places)
        self._numbers = dict.fromkeys(self.places, 0)  # how many unrolls were begun before
        self._unrolls = {place: self._begin(place) for place in self.places}

    def _begin(self, place: int) -> Unroll:
        key = seed_of(self.seed, "unroll", place, self._numbers[place])
        return Unroll(self.rule, self.family, self.plan, key, pairs=self.pairs)

    def estimate(self, theta: Tensor) -> Estimate:
        """Continue every unroll by a truncation, and return the meta-gradient at `theta` [M].

        An unroll whose students have reached their horizon makes room for one with another task.
        """
        return combined(self.parts(theta))

    def parts(self, theta: Tensor) -> list[Estimate]:
        """Do what :meth:`estimate` does, and return what each unroll says."""
        out = []
        for place in self.places:
            unroll = self._unrolls[place]
            before = unroll.step
            scores, gradient = self._continue(place, unroll, theta)
            out.append(
                Estimate(gradient, float(scores.mean()), (unroll.step - before) * len(scores))
            )
            if unroll.done:
                self._numbers[place] += 1
                self._unrolls[place] = self._begin(place)
        self.iteration += 1
        return out

    @abstractmethod
    def _continue(self, place: int, unroll: Unroll, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Continue one unroll; return its scores [K] and its meta-gradient [M]."""

    def options(self) -> dict[str, Any]:
        """Return all that decides what is estimated, by name."""
        return {
            "estimator": self.name,
            "rule": self.rule.name,
            "config": self.rule.config(),
            "family": repr(self.family),
            "seed": self.seed,
            **dataclasses.asdict(self.plan),
            **self.settings(),
        }

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor that only this class has."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint."""
        return {
            f"unroll.{place}.{name}": x
            for place, unroll in self._unrolls.items()
            for name, x in unroll.tensors().items()
        }

    def numbers(self) -> dict[str, Any]:
        """Return the whole numbers of a checkpoint, fit for JSON."""
        unrolls = {
            str(place): [self._numbers[place], unroll.step]
            for place, unroll in self._unrolls.items()
        }
        return {"iteration": self.iteration, "unrolls": unrolls}

    def restore(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`numbers` and :meth:`tensors` have returned.

        Raises
        ------
        ValueError
            When they are of an estimator with other options.
        """
        if len(numbers["unrolls"]) != self.plan.unrolls:
            raise ValueError(
                f"the checkpoint has {len(numbers['unrolls'])} unrolls, not {self.plan.unrolls}: "
                "go on with the options it was made with"
            )
        self.iteration = numbers["iteration"]
        for place in self.places:
            self._numbers[place], step = numbers["unrolls"][str(place)]
            prefix = f"unroll.{place}."
            own = {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}
            self._unrolls[place] = self._begin(place)
            self._unrolls[place].restore(step, own)


class Evolution(Estimator):
    r"""Persistent evolution strategies, with antithetic pairs.

    Every pair of students follows :math:`\theta \pm \epsilon` with a new
    :math:`\epsilon \sim N(0, \sigma^2)` after each truncation, and remembers the sum
    :math:`\xi` of all it has had since its first step. With the objectives :math:`J^\pm` of the
    truncation,

    .. math:: \hat g = \frac{1}{n \sigma^2} \sum_{i=1}^{n} \xi_i \frac{J_i^+ - J_i^-}{2}

    is, over a whole unroll, an unbiased gradient of the smoothed objective, though no truncation
    sees it all. Only forward passes of the rule are needed, and chaos in an unroll is smoothed.

    Parameters
    ----------
    rule, family, plan, seed, places
        As for :class:`Estimator`.
    sigma : float
        Size of the perturbations.
    normalise : bool
        Whether the differences of an unroll are divided by their root mean square, so that a task
        on which everything pays has no more weight than one that hardly moves. The sum is then no
        longer a gradient of the mean objective, but of one that weighs tasks.

    Raises
    ------
    ValueError
        When `sigma` is not a positive number, or the number of students is odd.

    Examples
    --------
    >>> from unstuck.learned import FAMILIES, MLP, Evolution, Plan
    >>> plan = Plan(unrolls=2, students=4, truncation=5, horizon=(10, 10))
    >>> es = Evolution(rule := MLP(), FAMILIES["quadratics"], plan)
    >>> es.estimate(es.layout.read()).student_steps
    40

    Notes
    -----
    Vicol, Metz and Sohl-Dickstein, *Unbiased gradient estimation in unrolled computation graphs
    with persistent evolution strategies* (2021).
    """

    name = "evolution"
    pairs = True

    def __init__(
        self,
        rule: UpdateRule,
        family: Family,
        plan: Plan,
        seed: int = 0,
        *,
        sigma: float = 0.03,
        normalise: bool = True,
        places: Sequence[int] | None = None,
    ) -> None:
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma must be a positive number, not {sigma}")
        if plan.students % 2:
            raise ValueError(
                f"students={plan.students} must be even: evolution strategies compare pairs"
            )
        super().__init__(rule, family, plan, seed, places=places)
        self.sigma, self.normalise = sigma, normalise
        shape = plan.students // 2, self.layout.dim
        self._sums = {place: torch.zeros(shape) for place in self.places}

    def _continue(self, place: int, unroll: Unroll, theta: Tensor) -> tuple[Tensor, Tensor]:
        pairs = self.plan.students // 2
        key = seed_of(self.seed, "perturbations")
        eps = self.sigma * noise.normals(key, self.iteration, place, 0, pairs, self.layout.dim)
        self._sums[place] += eps
        both = torch.stack([theta + eps, theta - eps], 1).flatten(0, 1)  # [students, M]
        begin = unroll.step
        scores = unroll.run(both, self.plan.truncation)
        differences = (scores[0::2] - scores[1::2]) / 2
        if self.normalise:
            differences /= differences.square().mean().sqrt().clamp_min(1e-12)
        gradient = differences @ self._sums[place] / (pairs * self.sigma**2)
        gradient *= unroll.importance(begin, unroll.step)
        if unroll.done:
            self._sums[place].zero_()
        return scores, gradient

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor that only this class has."""
        return {"sigma": self.sigma, "normalise": self.normalise}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint."""
        return {**{f"sums.{k}": x for k, x in self._sums.items()}, **super().tensors()}

    def restore(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`numbers` and :meth:`tensors` have returned."""
        super().restore(numbers, tensors)
        self._sums = {place: tensors[f"sums.{place}"].clone() for place in self.places}


class Backprop(Estimator):
    r"""Truncated back-propagation through the unroll.

    The mean objective of a truncation is differentiated through every step in it; what came before
    is taken as given, which makes it cheap in memory, low in variance, and biased towards what pays
    soon. Students' gradients count as constants unless `second_order` is set; then the kernels for
    plain perceptrons are not used.

    Parameters
    ----------
    rule, family, plan, seed, places
        As for :class:`Estimator`.
    second_order : bool
        Whether to differentiate gradients, too.
    segment : int
        Steps that are remembered at once: of the others only where they end, and they are computed
        again on the way back.

    Raises
    ------
    ValueError
        When `segment` is below 1.

    Examples
    --------
    >>> from unstuck.learned import FAMILIES, MLP, Backprop, Plan
    >>> plan = Plan(unrolls=2, students=4, truncation=5, horizon=(10, 10))
    >>> bp = Backprop(rule := MLP(), FAMILIES["quadratics"], plan)
    >>> bp.estimate(bp.layout.read()).gradient.shape == bp.layout.read().shape
    True

    Notes
    -----
    Andrychowicz et al., *Learning to learn by gradient descent by gradient descent* (2016).
    """

    name = "backprop"
    pairs = False

    def __init__(
        self,
        rule: UpdateRule,
        family: Family,
        plan: Plan,
        seed: int = 0,
        *,
        second_order: bool = False,
        segment: int = 10,
        places: Sequence[int] | None = None,
    ) -> None:
        if segment < 1:
            raise ValueError(f"segment must be at least 1, not {segment}")
        super().__init__(rule, family, plan, seed, places=places)
        self.second_order, self.segment = second_order, segment

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor that only this class has."""
        return {"second_order": self.second_order, "segment": self.segment}

    def _continue(self, place: int, unroll: Unroll, theta: Tensor) -> tuple[Tensor, Tensor]:
        first, last = unroll.step, min(unroll.step + self.plan.truncation, unroll.horizon)
        cuts = [*range(first, last, self.segment), last]
        scores, thetas = torch.zeros(self.plan.students), theta.repeat(self.plan.students, 1)
        stands = []  # points and state where each segment begins
        points, state = unroll.points, unroll.state
        for begin, end in itertools.pairwise(cuts):
            stands.append((points, state))
            score, points, state = unroll.stretch(thetas, points, state, (first, last), begin, end)
            scores += score
        unroll.points, unroll.state, unroll.step = points, state, last

        gradient = torch.zeros_like(theta)
        later = [torch.zeros_like(x) for x in _leaves(points, state)]  # what later segments want
        for (begin, end), (points, state) in reversed(
            list(zip(itertools.pairwise(cuts), stands, strict=True))
        ):
            theta = theta.detach().requires_grad_()
            points = points.detach().requires_grad_()
            state = {k: [x.detach().requires_grad_() for x in v] for k, v in state.items()}
            with torch.enable_grad():
                score, end_points, end_state = unroll.stretch(
                    theta,
                    points,
                    state,
                    (first, last),
                    begin,
                    end,
                    second_order=self.second_order,
                )
            outputs = [score.mean(), *_leaves(end_points, end_state)]
            inputs = [theta, *_leaves(points, state)]
            wanted = [torch.ones(()), *later]
            known = [(y, w) for y, w in zip(outputs, wanted, strict=True) if y.requires_grad]
            part, *later = torch.autograd.grad(
                [y for y, _ in known],
                inputs,
                [w for _, w in known],
                allow_unused=True,
                materialize_grads=True,
            )
            gradient += part
        if not gradient.isfinite().all():  # a student has diverged: what the others say is lost
            gradient.zero_()
        return scores, gradient * unroll.importance(first, last)


def _leaves(points: Tensor, state: State) -> list[Tensor]:
    return [points, *(x for name in sorted(state) for x in state[name])]


ESTIMATORS: dict[str, type[Estimator]] = {
    estimator.name: estimator for estimator in (Evolution, Backprop)
}
"""Estimators by name."""
