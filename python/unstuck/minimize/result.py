"""What a minimisation returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

ORDER = ("message", "success", "status", "fun", "x", "nit", "nfev", "ngev", "seed", "history")
LINE = 76


@dataclass
class History:
    """How a minimisation went; entry 0 is the start, the others follow one iteration each.

    The last may be of an iteration that the budget or an interrupt cut short.

    Attributes
    ----------
    nfev : list of int
        Evaluations so far.
    fun : list of float
        Lowest value so far.
    seconds : list of float
        Seconds since the start.
    probes : dict of str to list
        What the method tells of every iteration, by name: its step size, its phase.
    """

    nfev: list[int] = field(default_factory=list)
    fun: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    probes: dict[str, list[Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say how long it is and what it holds."""
        names = ["nfev", "fun", "seconds", *self.probes]
        return f"History of {len(self.nfev)} entries: {', '.join(names)}"


class OptimizeResult(dict[str, Any]):
    """The outcome of :func:`unstuck.minimize`: a dictionary whose keys are attributes too.

    It has the fields of ``scipy.optimize.OptimizeResult`` that make sense here and prints alike.

    Attributes
    ----------
    x : torch.Tensor or numpy.ndarray
        The best point that was evaluated, of the kind, shape, dtype and device of the start.
    fun : float
        The value there; infinite when no value was finite.
    success : bool
        `tol` was met, or the method stopped by its own rule. False when the budget was spent, as
        for SciPy's iteration limits: `x` is the best point found all the same.
    status : int
        0: stopped by `tol` or a rule of the method. 1: the budget of evaluations or iterations is
        spent. 2: interrupted from the keyboard. 3: no value was finite, or a point or all values
        around it no longer are. 4: the function or the callback
        raised an error, and this result is the ``result`` attribute of that error. 99: stopped by
        the callback, the number that SciPy uses.
    message : str
        Why it stopped.
    nfev, ngev, nit : int
        Values computed, gradients computed, iterations completed.
    seed : int
        The seed that was used: the same call with it gives the same result.
    history : History
        The best value by iteration, evaluations and seconds.
    allvecs : list
        Where the method stood at the start and after every iteration; with the option
        ``return_all`` alone, as in SciPy.

    Examples
    --------
    >>> result = OptimizeResult(x=np.array([1.0, 2.0]), fun=0.5, success=True)
    >>> result.fun == result["fun"]
    True
    >>> result
     success: True
         fun: 0.5
           x: [ 1.000e+00  2.000e+00]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"the result has no field {name!r}: it has {', '.join(self)}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the result has no field {name!r}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        if not self:
            return f"{type(self).__name__}()"
        known = [name for name in ORDER if name in self]
        rest = [name for name in self if name not in ORDER and name != "allvecs"]
        width = max(map(len, self)) + 1
        lines = []
        for name in known + rest:
            text = _text(self[name], LINE - width - 2)
            indented = text.replace("\n", "\n" + " " * (width + 2))
            lines.append(f"{name:>{width}}: {indented}")
        return "\n".join(lines)


def _text(value: Any, room: int) -> str:
    """Write a field: a long array short, its numbers in columns."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return np.array2string(
            value,
            max_line_width=room,
            threshold=12,
            edgeitems=2,
            formatter={"float_kind": lambda number: f"{number:10.3e}"},
        )
    return str(value)
