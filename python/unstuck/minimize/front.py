"""``minimize``: the front door of the searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from unstuck import problems
from unstuck.minimize import arguments
from unstuck.minimize.arguments import Box
from unstuck.minimize.function import Form, Function
from unstuck.minimize.methods import METHODS, Method
from unstuck.minimize.result import OptimizeResult
from unstuck.minimize.run import Rules, Run
from unstuck.problems import Problem, lookup

OWN_OPTIONS = ("maxiter", "max_bytes", "return_all")
MAX_BYTES = 1 << 26
SHARE = 0.25  # of the width of a box: the first sigma


def minimize(
    fun: Callable[..., Any] | Problem | str,
    x0: Any = None,
    *,
    method: str = "attention",
    bounds: Any = None,
    budget: float | None = None,
    seed: int | None = None,
    callback: Callable[..., Any] | None = None,
    vectorized: bool = False,
    tol: float | None = None,
    device: torch.device | str | None = None,
    options: Mapping[str, Any] | None = None,
) -> OptimizeResult:
    """Minimise a function of D numbers that may have many local minima.

    The call is that of ``scipy.optimize.minimize``; the methods search globally and need no
    gradient unless they say so. The start is evaluated first, so that the result is never worse.

    Parameters
    ----------
    fun : callable, Problem or str
        Returns one number for a point of the kind and shape of `x0`: a torch function for tensors,
        a numpy function for arrays and lists. A problem of :func:`unstuck.problems.get`, or its
        name, is evaluated fused, without storing a candidate.
    x0 : torch.Tensor, numpy.ndarray or sequence of numbers, optional
        The start, of any shape, float32 or float64 (whole numbers are converted); it decides the
        kind of the points, and the result is like it. Without it the start is drawn uniformly
        from the bounds, and the points are tensors unless the bounds are plain numbers or arrays.
    method : str
        One of ``METHODS``; "attention" by default.
    bounds : optional
        No point outside is evaluated. A list of D pairs ``(low, high)`` with None where there is
        none, ``scipy.optimize.Bounds``, or one pair of numbers or of tensors ``[D]``. A problem
        brings its usual box; ``(-math.inf, math.inf)`` takes it away.
    budget : int, optional
        Evaluations of `fun` at most, never exceeded; 1000 D by default, at least 10,000. May be
        written as ``1e6``.
    seed : int, optional
        Seed of all noise, 0 to 2^64 - 1; drawn from torch's global generator by default.
    callback : callable, optional
        Called after every iteration with the best point, or with the result so far when its only
        parameter is named ``intermediate_result``. It ends the run by returning True or by raising
        ``StopIteration``.
    vectorized : bool
        `fun` takes points ``[N, *x0.shape]`` and returns ``[N]``. (SciPy's differential evolution
        has the points in columns.)
    tol : float, optional
        Stop when the best value has improved by no more than this for a while: ``10 + 30 D / N``
        iterations of N evaluations.
    device : torch.device or str, optional
        Where the points live; that of `x0` or of the problem by default.
    options : mapping of str, optional
        ``maxiter``: iterations at most. ``return_all``: keep ``allvecs``. ``max_bytes``: size of
        the points handed to `fun` at once (64 MiB). All others are the method's: for attention
        search ``sigma0``, ``popsize`` and what :class:`unstuck.search.AttentionSearch` takes.
        ``sigma0`` is a quarter of the width of the bounds by default, that of every coordinate
        where all have bounds and their widths differ; 1 without bounds.

    Returns
    -------
    OptimizeResult
        With ``x``, ``fun``, ``success``, ``status``, ``message``, ``nfev``, ``ngev``, ``nit``,
        ``seed`` and ``history``. An interrupt from the keyboard returns the best point so far, with
        ``success`` False.

    Raises
    ------
    ValueError, TypeError
        For a start that is empty, not finite or outside its bounds, bounds of a wrong shape, an
        unknown method, problem or option, and a function that does not return one number a point.
    Exception
        What `fun` or `callback` raises, as it is, with the result so far as its attribute
        ``result``.

    Examples
    --------
    >>> import torch, unstuck
    >>> result = unstuck.minimize(lambda x: (x - 2).square().sum(), torch.zeros(3), seed=0)
    >>> torch.allclose(result.x, torch.full((3,), 2.0), atol=1e-2)
    True
    >>> unstuck.minimize("rastrigin", bounds=[(-5, 5)] * 4, budget=500, seed=0).nfev
    500
    """
    row = lookup(METHODS, method, "method")
    given = dict(options or {})
    arguments.refuse_unknown(list(given), [*OWN_OPTIONS, *row.options], method)
    limit = arguments.read_tol(tol)
    called = arguments.read_callback(callback)
    noise = arguments.read_seed(seed)
    if not isinstance(vectorized, bool):
        raise TypeError(f"vectorized must be True or False, not {vectorized!r}")
    start, form, box, problem = _place(fun, x0, bounds, noise, device)
    allowed = arguments.read_budget(budget, start.numel())
    maxiter = given.pop("maxiter", None)
    rules = Rules(
        maxiter=None if maxiter is None else arguments.read_count("maxiter", maxiter),
        tol=limit,
        callback=called,
        return_all=bool(given.pop("return_all", False)),
    )
    if box is not None and "sigma0" not in given and _uneven(box):
        form, box = form._replace(box=box), (torch.zeros_like(start), torch.ones_like(start))
        start = form.read(start)
    max_bytes = arguments.read_count("max_bytes", given.pop("max_bytes", MAX_BYTES))
    function = Function(
        problem or fun,  # type: ignore[arg-type]
        form if problem is None else Form((start.numel(),), array=False, box=form.box),
        start,
        vectorized=vectorized or problem is not None,
        budget=allowed,
        rows=max(1, max_bytes // (start.numel() * start.element_size())),
        high=box[1] if box is not None else None,
        objective=problem.objective if problem is not None and form.box is None else None,
    )
    search = _search(row, start, box, noise, given)
    run = Run(search, function, form, rules)
    result = run.go(start)
    result["seed"] = noise
    return result


def _place(
    fun: Any, x0: Any, bounds: Any, seed: int, device: torch.device | str | None
) -> tuple[Tensor, Form, Box | None, Problem | None]:
    """Return the start ``[D]``, its form, the box and the problem, where there are any."""
    if not (callable(fun) or isinstance(fun, str)):
        raise TypeError(f"fun must be callable, a problem or the name of one, not {fun!r}")
    problem = fun if isinstance(fun, Problem) else None
    if problem is not None:
        _same_device(problem, device)
        device = problem.device
    else:
        arguments.check_device(device)
    start, form = (None, None) if x0 is None else arguments.read_x0(x0, device)
    dim = start.numel() if start is not None else problem.dim if problem is not None else None
    box, tensors = (None, True) if bounds is None else arguments.read_bounds(bounds, dim)
    if isinstance(fun, str):
        sizes = dim if dim is not None else len(box[0]) if box is not None else None
        dtype = start.dtype if start is not None else torch.float32
        problem = problems.get(fun, sizes, dtype=dtype, device=device)
    if problem is not None:
        box = problem.bounds if box is None else box
        if start is not None and start.numel() != problem.dim:
            raise ValueError(
                f"x0 has {start.numel()} coordinates, but {problem.name} has {problem.dim}"
            )
        start = None if start is None else start.to(problem.device, problem.dtype)
    if start is None or form is None:
        if box is None:
            raise ValueError("without x0 there must be bounds to draw the start from: give one")
        like = problem.dtype if problem is not None else _dtype(tensors)
        start = arguments.draw_start(box, seed, like, device)
        form = Form(tuple(start.shape), array=not (tensors or problem is not None))
    if box is None:
        return start, form, None, problem
    fitted = arguments.fit_bounds(box, start)
    free = float(fitted[0].max()) == -math.inf and float(fitted[1].min()) == math.inf
    return start, form, None if free else fitted, problem


def _dtype(tensors: bool) -> torch.dtype:
    return torch.get_default_dtype() if tensors else torch.float64


def _same_device(problem: Problem, device: torch.device | str | None) -> None:
    if device is not None and torch.device(device) != problem.device:
        raise ValueError(
            f"the problem lives on {problem.device}, not on {device}: "
            "use problems.get(..., device=) or leave device out"
        )


def _uneven(box: Box) -> bool:
    """Say whether all coordinates have two bounds and their widths differ."""
    narrow, wide = (box[1] - box[0]).aminmax()
    return bool(wide.isfinite()) and float(wide) > 1.01 * float(narrow)


def _search(row: Method, start: Tensor, box: Box | None, seed: int, options: dict[str, Any]) -> Any:
    """Make the search of a method; its first sigma is a share of the narrowest finite bound."""
    if "sigma0" not in options:
        narrow = math.inf if box is None else float((box[1] - box[0]).min())
        options["sigma0"] = SHARE * narrow if narrow < math.inf else 1.0
    sigma0 = options.pop("sigma0")
    return row.make(start, sigma0, bounds=box, seed=seed, **options)
