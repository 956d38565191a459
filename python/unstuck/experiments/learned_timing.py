"""How long a training step takes, by torch's optimizers and by a learned rule."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from random import Random

import torch
from torch import nn
from torch.optim import Optimizer

from unstuck.experiments.learned_training import METHODS
from unstuck.learned import Network, UpdateRule
from unstuck.optim import Learned

LEARNED = "learned"
THREADS = (1, 2)
STEPS = 200  # a round: as long as roots of whitened gradients are kept


def seconds_per_step(
    task: Network, rule: UpdateRule, steps: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Time forward, backward and the optimizer's step, of each optimizer in turn.

    Batches are drawn before. A round makes some steps of every optimizer, in an order drawn anew,
    so that a slower or faster machine meets all of them.

    Parameters
    ----------
    task : Network
        The network.
    rule : UpdateRule
        The rule, stepped by :class:`unstuck.optim.Learned`.
    steps : int
        Length of the run that the rule is told.
    rounds : int
        How many rounds; the first of them is not counted where there are more.

    Returns
    -------
    dict
        By the number of threads, as text, and the name of the optimizer: the median over rounds of
        the seconds of a step.

    Examples
    --------
    >>> from unstuck.learned import MLP
    >>> found = seconds_per_step(Network("digits", (8,)), MLP(), 100, rounds=3)
    >>> sorted(found), sorted(found["2"])
    (['1', '2'], ['adam', 'adamw', 'learned', 'sgd'])
    """
    before = torch.get_num_threads()
    try:
        return {str(threads): _seconds(task, rule, steps, rounds, threads) for threads in THREADS}
    finally:
        torch.set_num_threads(before)


def _seconds(
    task: Network, rule: UpdateRule, steps: int, rounds: int, threads: int
) -> dict[str, float]:
    torch.set_num_threads(threads)
    makers: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
        **METHODS,
        LEARNED: lambda params: Learned(params, rule, 0.3, num_steps=steps),
    }
    batches = [task.batch(number) for number in range(STEPS)]
    runs: dict[str, Callable[[], None]] = {}
    for name, make in makers.items():
        params = [nn.Parameter(p) for p in task.initial(0)]
        runs[name] = _Steps(task, params, make(params), batches)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order, random = list(runs), Random(0)
    for number in range(rounds):
        random.shuffle(order)
        for name in order:
            begun = time.perf_counter()
            runs[name]()
            took = (time.perf_counter() - begun) / STEPS
            if number > 0 or rounds == 1:
                taken[name].append(took)
    return {name: float(f"{statistics.median(values):.4g}") for name, values in taken.items()}


class _Steps:
    """Some training steps, as one writes them."""

    def __init__(
        self,
        task: Network,
        params: list[nn.Parameter],
        optimizer: Optimizer,
        batches: list[tuple[torch.Tensor, ...]],
    ) -> None:
        self._task, self._params, self._optimizer = task, params, optimizer
        self._batches = batches

    def __call__(self) -> None:
        for batch in self._batches:
            self._optimizer.zero_grad()
            loss = self._task.loss(self._params, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
