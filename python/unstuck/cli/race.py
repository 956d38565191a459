"""``unstuck race``: several optimizers side by side on real data."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from unstuck._extras import require
from unstuck.cli import race_problem
from unstuck.cli._options import FORMATS, INTERRUPTED, read_device, read_option, writable
from unstuck.plots import race_figure
from unstuck.problems import DATA, MODELS, load_data, lookup, make_model
from unstuck.training import (
    OPTIMIZERS,
    SCHEDULES,
    At,
    Progress,
    RaceResult,
    Row,
    Stat,
    entrants,
    race,
)
from unstuck.training.problem_race import RACERS

AT: dict[str, At] = {"last": "last", "best": "best"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("race")(command)


def command(
    ctx: typer.Context,
    optimizers: Annotated[
        str,
        typer.Option(
            help="Comma-separated; settings after colons, as in adam:lr=3e-3:weight_decay=0.01. "
            f"Known: {', '.join(OPTIMIZERS)}."
        ),
    ] = "blend,adam,adamw,sgd",
    data: Annotated[
        str, typer.Option(help="; ".join(f"{name}: {DATA[name].about}" for name in DATA) + ".")
    ] = "digits",
    model: Annotated[str, typer.Option(help=f"Known: {', '.join(MODELS)}.")] = "mlp",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds: 0, 1, ...")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 64,
    schedule: Annotated[
        str, typer.Option(help=f"What the learning rates do. Known: {', '.join(SCHEDULES)}.")
    ] = "constant",
    at: Annotated[
        str,
        typer.Option(
            help="Which epoch the table shows: last, or best (of lowest validation loss)."
        ),
    ] = "last",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; models this small gain little from more.")
    ] = 1,
    problem: Annotated[
        str | None,
        typer.Option(
            help="Race on a function instead of data, trapped or a landscape by name; "
            f"--optimizers are then of {', '.join(RACERS)}, all by default."
        ),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="With --problem: its dimension, where it is open.")
    ] = None,
    budget: Annotated[
        int, typer.Option(min=1, help="With --problem: losses that a run may evaluate.")
    ] = race_problem.BUDGET,
    out: Annotated[
        Path,
        typer.Option(
            help=f"Where the picture goes ({', '.join(FORMATS)}); the results go beside it as JSON."
        ),
    ] = Path("race.png"),
) -> None:
    """Train one model with several optimizers side by side and compare them, or race on a function.

    Every seed gives all optimizers the same initial weights, the same split of the data and the
    same batches. Ends with a table, a picture of the curves and all results as JSON.
    """
    console = Console()
    race_problem.refuse_mixed(ctx, problem)
    if problem is not None:
        methods = optimizers if race_problem.given(ctx, "optimizers") else ",".join(RACERS)
        count = seeds if race_problem.given(ctx, "seeds") else race_problem.SEEDS
        race_problem.run(console, problem, methods, dim, budget, count, threads, out)
        return
    field = read_option("--optimizers", entrants, optimizers)
    read_option("--schedule", lambda name: lookup(SCHEDULES, name, "schedule"), schedule)
    when = read_option("--at", lambda name: lookup(AT, name, "choice"), at)
    target = read_option("--device", read_device, device)
    picture = read_option("--out", writable, out)
    read_option("--data", lambda name: lookup(DATA, name, "data set"), data)
    read_option("--model", lambda name: make_model(name, load_data(data)), model)
    require("matplotlib.figure", extra="cli", purpose="the picture")

    with Live(console) as live:
        result = race(
            field,
            data,
            model,
            epochs=epochs,
            seeds=seeds,
            batch_size=batch_size,
            schedule=schedule,
            device=target,
            threads=threads,
            progress=live.update,
        )
    if result.runs:
        console.print(table(result, when))
        console.print(verdict(result, when), highlight=False, soft_wrap=True)
        race_figure(result).savefig(picture, dpi=130)
        results = picture.with_suffix(".json")
        results.write_text(result.to_json() + "\n")
        console.print(f"Curves: {picture}\nAll results: {results}", highlight=False, soft_wrap=True)
    if result.interrupted:
        done, planned = len(result.runs), len(result.settings) * seeds
        console.print(f"Stopped: {done} of {planned} runs had finished.")
        raise typer.Exit(INTERRUPTED)


class Live:
    """Shows how a race goes: a bar on a terminal, else a line for every finished run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs, best validation loss {task.fields[best]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("reading data", total=None, best="-")

    def __enter__(self) -> Live:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self._bar.stop()

    def update(self, now: Progress) -> None:
        """Show where the race is."""
        best = f"{_number(now.best)} ({escape(now.best_label)})"
        ended = now.epoch == now.epochs or now.history.diverged
        self._bar.update(
            self._task,
            description=f"{escape(now.label)}, seed {now.seed}",
            completed=now.run * now.epochs + (now.epochs if ended else now.epoch),
            total=now.runs * now.epochs,
            best=best,
        )
        if ended and not self._console.is_terminal:
            end = (
                f"diverged in epoch {now.epoch}"
                if now.history.diverged
                else f"validation loss {_number(now.history.validation_loss[-1])}"
            )
            self._console.print(
                f"{now.run + 1}/{now.runs} {escape(now.label)}, seed {now.seed}: {end}, "
                f"{now.history.seconds[-1]:.1f} s; best so far {best}",
                highlight=False,
                soft_wrap=True,
            )


def table(result: RaceResult, at: At) -> Table:
    """Lay out mean and spread of every optimizer, best validation loss first."""
    rows = result.summary(at)
    seeds = len({run.seed for run in result.runs})
    shown = Table(
        title=f"{result.model} on {result.data}, {result.epochs} epochs of batches of "
        f"{result.batch_size}, {result.schedule} rates, {result.device}",
        caption=(f"mean and standard deviation over {seeds} seeds, " if seeds > 1 else "one seed, ")
        + ("after the last epoch" if at == "last" else "at the best epoch by validation loss"),
    )
    shown.add_column("optimizer", overflow="fold", min_width=16)
    for column in ("train\nloss", "validation\nloss", "test\nloss", "test\naccuracy", "\nseconds"):
        shown.add_column(column, justify="right")
    most = max(row.finished for row in rows)
    for place, row in enumerate(rows):
        name, _, _ = row.label.partition(":")
        settings = " ".join(f"{key}={value}" for key, value in row.settings.items())
        cells = [
            f"{escape(name)}{_runs(row, most)}\n[dim]{escape(settings)}[/dim]",
            _cell(row.train_loss),
            _cell(row.validation_loss),
            _cell(row.test_loss),
            _cell(row.test_accuracy, lambda share: f"{100 * share:.2f} %"),
            _cell(row.seconds, lambda seconds: f"{seconds:.2f}"),
        ]
        shown.add_row(*cells, style="bold" if place == 0 else "", end_section=True)
    return shown


def verdict(result: RaceResult, at: At) -> str:
    """Say which optimizer has the lowest validation loss, and how clearly."""
    rows = [row for row in result.summary(at) if row.finished > row.diverged]
    if not rows:
        return "Every run diverged."
    first = escape(rows[0].label)
    if len(rows) == 1:
        return f"{first}: validation loss {_number(rows[0].validation_loss.mean)}"
    lead = result.lead(rows[0].label, rows[1].label, at)
    write = _writer(max(abs(lead.mean), lead.std))
    spread = f" ± {write(lead.std)}" if math.isfinite(lead.std) else ""
    return (
        f"Lowest validation loss: {first}, ahead of {escape(rows[1].label)} by "
        f"{write(lead.mean)}{spread} (difference on the same seed)"
    )


def _runs(row: Row, most: int) -> str:
    """Say what is missing from the averages of a row: diverged runs, runs that never began."""
    if row.diverged:
        return f"\n[red]{row.diverged} of {row.finished} diverged[/red]"
    return f"\n{row.finished} of {most} runs" if row.finished < most else ""


def _cell(stat: Stat, write: Callable[[float], str] | None = None) -> str:
    if not math.isfinite(stat.mean):
        return "[red]nan[/red]"
    write = write or _writer(stat.mean)
    return write(stat.mean) + (f"\n± {write(stat.std)}" if math.isfinite(stat.std) else "")


def _writer(size: float) -> Callable[[float], str]:
    """Choose how numbers of about this size are written."""
    fixed = 1e-3 <= abs(size) < 1e4 or size == 0
    return (lambda value: f"{value:.4f}") if fixed else (lambda value: f"{value:.2e}")


def _number(value: float) -> str:
    return _writer(value)(value)
