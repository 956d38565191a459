"""Meta-gradients from several processes, each with some of the unrolls."""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from unstuck.learned.estimators import Estimate, Estimator, combined

__all__ = ["Workers"]


class Workers:
    """An estimator whose unrolls are shared out among processes.

    The estimates are those of the estimator, bit for bit, whatever the number of processes. Close
    it, or use it in a ``with`` statement: the processes end then.

    Parameters
    ----------
    estimator : Estimator
        What to share out. It stays as it is; rule and family must be picklable.
    count : int
        Processes, at most as many as there are unrolls.
    threads : int
        CPU threads of each.

    Raises
    ------
    ValueError
        When `count` is not from 1 to the number of unrolls.

    Examples
    --------
    >>> from unstuck.learned import FAMILIES, MLP, Evolution, Plan, Workers
    >>> plan = Plan(unrolls=2, students=4, truncation=5, horizon=(10, 10))
    >>> es = Evolution(MLP(), FAMILIES["quadratics"], plan)
    >>> with Workers(es, 2) as shared:
    ...     shared.estimate(es.layout.read()).student_steps
    40

    Notes
    -----
    Processes are spawned: a script that uses them needs ``if __name__ == "__main__":``.
    """

    def __init__(self, estimator: Estimator, count: int, threads: int = 1) -> None:
        if not 1 <= count <= estimator.plan.unrolls:
            raise ValueError(
                f"count must be from 1 to the {estimator.plan.unrolls} unrolls of the plan, not "
                f"{count}"
            )
        self.rule, self.family, self.plan = estimator.rule, estimator.family, estimator.plan
        self.seed, self.layout, self._options = (
            estimator.seed,
            estimator.layout,
            estimator.options(),
        )
        context = get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            made = type(estimator), self.rule, self.family, self.plan, self.seed
            settings = {**estimator.settings(), "places": range(number, self.plan.unrolls, count)}
            process = context.Process(
                target=_serve, args=(theirs, made, settings, threads), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self.restore(estimator.numbers(), estimator.tensors())

    def __enter__(self) -> Workers:
        """Return this."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        self.close()

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
        self._pipes, self._processes = [], []

    def _ask(self, command: str, *arguments: Any) -> list[Any]:
        """Let every process do something, and return what each answers."""
        if not self._pipes:
            raise RuntimeError("the processes have ended: make new Workers")
        answers = []
        try:
            for pipe in self._pipes:
                pipe.send((command, arguments))
            for pipe in self._pipes:
                answers.append(pipe.recv())
        except (EOFError, OSError):
            self.close()
            raise RuntimeError("a process has ended by itself: look for what killed it") from None
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def estimate(self, theta: Tensor) -> Estimate:
        """Continue every unroll by a truncation, and return the meta-gradient at `theta` [M]."""
        parts: dict[int, Estimate] = {}
        for number, answer in enumerate(self._ask("parts", theta.numpy())):
            for k, (gradient, score, steps) in enumerate(answer):
                place = number + k * len(self._pipes)
                parts[place] = Estimate(torch.from_numpy(gradient), score, steps)
        return combined([parts[place] for place in sorted(parts)])

    def options(self) -> dict[str, Any]:
        """Return all that decides what is estimated, by name."""
        return dict(self._options)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint."""
        answers = self._ask("tensors")
        return {name: torch.from_numpy(x) for answer in answers for name, x in answer.items()}

    def numbers(self) -> dict[str, Any]:
        """Return the whole numbers of a checkpoint, fit for JSON."""
        answers = self._ask("numbers")
        unrolls = {place: pair for answer in answers for place, pair in answer["unrolls"].items()}
        return {"iteration": answers[0]["iteration"], "unrolls": unrolls}

    def restore(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`numbers` and :meth:`tensors` have returned.

        Raises
        ------
        ValueError
            When they are of an estimator with other options.
        """
        self._ask("restore", dict(numbers), {name: x.numpy() for name, x in tensors.items()})


def _serve(pipe: Connection, made: tuple[Any, ...], settings: dict[str, Any], threads: int) -> None:
    """Do what is asked until nobody can ask any more."""
    torch.set_num_threads(threads)
    kind, *arguments = made
    estimator = kind(*arguments, **settings)
    while True:
        try:
            command, given = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(_done(estimator, command, given))
        except KeyboardInterrupt:
            return
        except Exception as error:
            pipe.send(error)


def _done(estimator: Estimator, command: str, arguments: tuple[Any, ...]) -> Any:
    """Answer a question. Numbers travel as arrays: tensors would need files shared in memory."""
    if command == "parts":
        parts = estimator.parts(torch.from_numpy(arguments[0]))
        return [(part.gradient.numpy(), part.score, part.student_steps) for part in parts]
    if command == "tensors":
        return {name: x.numpy() for name, x in estimator.tensors().items()}
    if command == "restore":
        numbers, arrays = arguments
        estimator.restore(numbers, {name: torch.from_numpy(x) for name, x in arrays.items()})
        return None
    return estimator.numbers()
