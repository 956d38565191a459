"""One minimisation: a search steps until there is a reason to stop."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, NamedTuple

from torch import Tensor

from unstuck.minimize.arguments import Callback
from unstuck.minimize.function import BudgetSpentError, Form, Function
from unstuck.minimize.result import History, OptimizeResult
from unstuck.search import Search
from unstuck.search.hybrids import Descent

PATIENCE = 50  # iterations in a row without a finite value
PROBES = ("phase", "rate", "accepted")  # of the records of a hybrid


class Ending(NamedTuple):
    """Why a run ended: the fields of the result that say so."""

    status: int
    message: str


class Rules(NamedTuple):
    """When a run ends, beside the method's own reasons, and what it keeps.

    Attributes
    ----------
    maxiter : int or None
        Iterations at most.
    tol : float or None
        Stop when the best value has improved by no more than this in the last ``10 + 30 D / N``
        iterations of N evaluations.
    callback : callable or None
        Called after every iteration; says whether to stop.
    return_all : bool
        Keep where the method stood after every iteration.
    """

    maxiter: int | None
    tol: float | None
    callback: Callback | None
    return_all: bool


class Run:
    """Steps a search, counts and remembers.

    Parameters
    ----------
    search : Search or Descent
        At the start.
    function : Function
        The user's function; evaluates, counts and keeps the best.
    form : Form
        How points are handed back.
    rules : Rules
        When to end.
    """

    def __init__(
        self, search: Search | Descent, function: Function, form: Form, rules: Rules
    ) -> None:
        self._search, self._function = search, function
        self._form, self._rules = form, rules
        self._history = History()
        self._path: list[Any] = []
        self._began = time.perf_counter()
        self._nit = 0

    def go(self, start: Tensor) -> OptimizeResult:
        """Evaluate the start and step until there is a reason to stop.

        An error of the function or the callback is raised as it is, with the result so far as its
        attribute ``result``.
        """
        try:
            self._function(start[None])
            self._note(start)
            while (ending := self._ending()) is None:
                self._step()
                self._nit += 1
                self._note()
                if self._rules.callback is not None and self._rules.callback(self._so_far()):
                    return self._result(Ending(99, "Stopped by the callback."))
        except BudgetSpentError:
            ending = self._spent()
        except KeyboardInterrupt:
            ending = Ending(2, "Interrupted from the keyboard; this is the best point so far.")
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            with contextlib.suppress(AttributeError):  # an error without room for attributes
                error.result = self._result(Ending(4, f"Ended by an error. {told}"))  # type: ignore[attr-defined]
            raise
        return self._result(ending)

    def _step(self) -> None:
        """Make an iteration; fused where that cannot exceed the budget."""
        search, function = self._search, self._function
        if isinstance(search, Search):
            objective = function.offer(search.popsize)
            search.step(function if objective is None else objective)
            return
        record = search.step(function)
        for name in PROBES:
            self._history.probes.setdefault(name, [None]).append(getattr(record, name))

    def _best(self) -> tuple[Tensor, float]:
        """Return the best point; a fused evaluation tells the search alone."""
        found = self._search.best
        if found.f < self._function.best_f:
            return found
        return self._function.best_x, self._function.best_f

    def _ending(self) -> Ending | None:
        reasons = self._search.stop()
        if isinstance(self._search, Search) and reasons.get("nonfinite", PATIENCE) < PATIENCE:
            del reasons["nonfinite"]  # further draws may hit a finite value
        if reasons:
            told = ", ".join(f"{name} ({value})" for name, value in reasons.items())
            return Ending(3 if "nonfinite" in reasons else 0, f"Stopped by the method: {told}.")
        settled = self._settled()
        if settled is not None:
            return settled
        if self._function.nfev >= self._function.budget:
            return self._spent()
        if self._rules.maxiter is not None and self._nit >= self._rules.maxiter:
            return Ending(1, f"All maxiter={self._nit} iterations are done.")
        return None

    def _settled(self) -> Ending | None:
        """Compare the best value with that of some iterations ago."""
        tol, history = self._rules.tol, self._history
        if tol is None or self._nit == 0:
            return None
        popsize = max(1.0, (history.nfev[-1] - history.nfev[0]) / self._nit)
        window = 10 + math.ceil(30 * self._search.dim / popsize)
        if self._nit < window:
            return None
        gain = history.fun[-1 - window] - history.fun[-1]
        if not gain <= tol:  # NaN: no finite value yet
            return None
        return Ending(0, f"The best value improved by {gain:.3g} <= tol in {window} iterations.")

    def _spent(self) -> Ending:
        return Ending(1, f"The budget of {self._function.budget} evaluations is spent.")

    def _note(self, at: Tensor | None = None) -> None:
        """Write an entry of the history, of where the search stands unless told."""
        history = self._history
        history.nfev.append(self._function.nfev)
        history.fun.append(self._best()[1])
        history.seconds.append(time.perf_counter() - self._began)
        if self._rules.return_all:
            self._path.append(self._form.write(self._search.center if at is None else at))

    def _so_far(self, *, copy: bool = True) -> OptimizeResult:
        function = self._function
        x, fun = self._best()
        return OptimizeResult(
            x=self._form.write(x, copy=copy),
            fun=fun,
            nfev=function.nfev,
            ngev=function.ngev,
            nit=self._nit,
        )

    def _result(self, ending: Ending) -> OptimizeResult:
        if self._history.nfev and self._function.nfev > self._history.nfev[-1]:
            self._note()  # an iteration that was not completed
        if ending.status in (0, 1, 3) and not math.isfinite(self._best()[1]):
            ending = Ending(3, f"No value was finite. {ending.message}")
        result = OptimizeResult(
            message=ending.message, success=ending.status == 0, status=ending.status
        )
        result.update(self._so_far(copy=False), history=self._history)
        if self._rules.return_all:
            result["allvecs"] = self._path
        return result
