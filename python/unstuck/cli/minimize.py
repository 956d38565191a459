"""``unstuck minimize``: one or several methods on a named problem."""

from __future__ import annotations

import ast
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from unstuck._extras import require
from unstuck.cli._options import FORMATS, INTERRUPTED, read_device, read_option, writable
from unstuck.minimize import METHODS, OptimizeResult, minimize
from unstuck.plots import convergence_figure, trajectory_figure
from unstuck.problems import Problem, get, lookup, names

DTYPES = {"float32": torch.float32, "float64": torch.float64}
LINES = 10  # printed by a method where there is no terminal to draw a bar on


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("minimize")(command)


def command(
    problem: Annotated[str, typer.Argument(help=f"Known: {', '.join(names())}.")],
    dim: Annotated[
        int | None, typer.Option(min=1, help="Number of coordinates, where it is free.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="May be given several times; settings after colons, as in "
            f"attention:popsize=64:mode=plain. Known: {', '.join(METHODS)}. [default: attention]"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Evaluations, such as 1e6. [default: 1000 a coordinate, at least 10,000]"
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="key=value for every method, as in sigma0=0.5; may be repeated."),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(help="key=value for the problem, as in a=10; may be repeated."),
    ] = None,
    x0: Annotated[
        str | None,
        typer.Option(
            help="The start: one number for every coordinate, or D numbers with commas. "
            "[default: drawn from the problem's box]"
        ),
    ] = None,
    tol: Annotated[
        float | None, typer.Option(help="Stop when the best value improves by no more than this.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the start and of all noise.")] = 0,
    dtype: Annotated[str, typer.Option(help=f"{' or '.join(DTYPES)}.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            help=f"Where the picture goes ({', '.join(FORMATS)}); in two dimensions the "
            "trajectories go beside it, as NAME-path."
        ),
    ] = Path("minimize.png"),
) -> None:
    """Minimise a named problem and draw how the best value fell.

    Every method begins at the same point. Ends with a table and a picture of the convergence; in
    two dimensions also with the way of every method on the contours.
    """
    console = Console()
    given = read_option("--parameter", _pairs, parameter or [])
    kind = read_option("--dtype", lambda name: lookup(DTYPES, name, "dtype"), dtype)
    target = read_option("--device", read_device, device)
    picture = read_option("--out", writable, out)
    shared = read_option("--option", _pairs, option or [])
    field = read_option("--method", lambda texts: entries(texts, shared), method or ["attention"])
    made = read_option(
        "PROBLEM", lambda name: get(name, dim, dtype=kind, device=target, **given), problem
    )
    start = read_option("--x0", lambda text: _start(text, made), x0)
    allowed = read_option("--budget", _number_of_evaluations, budget)
    require("matplotlib.figure", extra="cli", purpose="the picture")

    results: dict[str, OptimizeResult] = {}
    seconds: dict[str, float] = {}
    with Live(console, allowed or max(10_000, 1000 * made.dim)) as live:
        for entry in field:
            live.begin(entry.label)
            began = time.perf_counter()
            try:
                results[entry.label] = minimize(
                    made,
                    start,
                    method=entry.name,
                    budget=allowed,
                    seed=seed,
                    tol=tol,
                    callback=live.update,
                    options={"return_all": made.dim == 2, **entry.options},
                )
            except (TypeError, ValueError) as error:
                if hasattr(error, "result"):  # no wrong argument, but a fault on the way
                    raise
                raise typer.BadParameter(f"{entry.label!r}: {error}") from error
            seconds[entry.label] = time.perf_counter() - began
            live.end(results[entry.label])
            interrupted = results[entry.label].status == 2
            if interrupted:
                break
    console.print(table(made, results, seconds))
    heading = f"{made.name}, D = {made.dim}"
    convergence_figure(results, minimum=made.minimum, title=heading).savefig(picture, dpi=130)
    console.print(f"Convergence: {picture}", highlight=False, soft_wrap=True)
    if made.dim == 2:
        path = picture.with_name(f"{picture.stem}-path{picture.suffix}")
        _trajectories(made, results, heading).savefig(path, dpi=130)
        console.print(f"Trajectories: {path}", highlight=False, soft_wrap=True)
    if interrupted:
        console.print("Stopped; these are the best points so far.")
        raise typer.Exit(INTERRUPTED)


@dataclass(frozen=True)
class MethodEntry:
    """A method as given on the command line: its text, name and options."""

    label: str
    name: str
    options: Mapping[str, Any]


def entries(texts: list[str], shared: Mapping[str, Any]) -> list[MethodEntry]:
    """Read methods, each ``name`` or ``name:key=value:...``.

    Parameters
    ----------
    texts : list of str
        As given.
    shared : mapping of str
        Options of every method; its own go first.

    Raises
    ------
    ValueError
        For an unknown name, an option that is no ``key=value``, or a method that is given twice.

    Examples
    --------
    >>> entries(["attention:popsize=64"], {"sigma0": 2.0})[0].options
    {'sigma0': 2.0, 'popsize': 64}
    """
    made = []
    for text in texts:
        name, *pairs = text.strip().split(":")
        lookup(METHODS, name, "method")
        made.append(MethodEntry(text.strip(), name, {**shared, **_pairs(pairs)}))
    labels = [entry.label for entry in made]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{label!r} is given twice: give the second other settings")
    return made


class Live:
    """Shows how a minimisation goes: a bar on a terminal, else some lines."""

    def __init__(self, console: Console, budget: int) -> None:
        self._console = console
        self._budget = budget
        self._label = ""
        self._next = 0
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("evaluations, best value {task.fields[best]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=budget, best="-")

    def __enter__(self) -> Live:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self._bar.stop()

    def begin(self, label: str) -> None:
        """Start with a method."""
        self._label = label
        self._next = self._budget // LINES
        self._bar.update(self._task, description=escape(label), completed=0, best="-")

    def update(self, intermediate_result: OptimizeResult) -> None:
        """Show where the method is."""
        now = intermediate_result
        self._bar.update(self._task, completed=now.nfev, best=f"{now.fun:.7g}")
        if now.nfev >= self._next and not self._console.is_terminal:
            self._next += self._budget // LINES
            self._line(f"{now.nfev}/{self._budget} evaluations, best value {now.fun:.7g}")

    def end(self, result: OptimizeResult) -> None:
        """Say why the method ended."""
        self._line(result.message)

    def _line(self, text: str) -> None:
        self._console.print(f"{escape(self._label)}: {text}", highlight=False, soft_wrap=True)


def table(
    problem: Problem, results: Mapping[str, OptimizeResult], seconds: Mapping[str, float]
) -> Table:
    """Lay out the results, lowest value first."""
    known = "unknown" if problem.minimum is None else f"{problem.minimum:.7g}"
    shown = Table(title=f"{problem.name}, D = {problem.dim}", caption=f"minimum: {known}")
    shown.add_column("method", overflow="fold")
    for column in ("best value", "evaluations", "gradients", "seconds"):
        shown.add_column(column, justify="right")
    order = sorted(results, key=lambda label: (math.isnan(results[label].fun), results[label].fun))
    for place, label in enumerate(order):
        one = results[label]
        shown.add_row(
            escape(label),
            f"{one.fun:.7g}",
            f"{one.nfev:,}",
            f"{one.ngev:,}",
            f"{seconds[label]:.2f}",
            style="bold" if place == 0 else "",
        )
    return shown


def _trajectories(problem: Problem, results: Mapping[str, OptimizeResult], title: str) -> Any:
    """Draw the ways on the contours of the problem's box."""

    def values(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x = torch.as_tensor(points).to(problem.device, problem.dtype)
        return problem(x).double().cpu().numpy()

    low, high = (side.double().cpu().numpy() for side in problem.bounds)
    known = None if problem.minimizer is None else problem.minimizer.double().cpu().numpy()
    return trajectory_figure(results, values, (low, high), minimizer=known, title=title)


def _pairs(texts: list[str]) -> dict[str, Any]:
    """Read ``key=value`` texts; values are Python literals, anything else is text."""
    read: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ValueError(f"write key=value, not {text!r}")
        try:
            read[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            read[key] = value
    return read


def _start(text: str | None, problem: Problem) -> torch.Tensor | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is not a number, nor numbers with commas") from None
    if len(numbers) not in (1, problem.dim):
        raise ValueError(f"{len(numbers)} numbers for {problem.dim} coordinates: give 1 or all")
    x = torch.tensor(numbers, dtype=problem.dtype, device=problem.device)
    return x.expand(problem.dim).clone()


def _number_of_evaluations(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        count = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not (count >= 1 and count.is_integer()):
        raise ValueError(f"{text!r} is not a whole number of at least 1")
    return int(count)
