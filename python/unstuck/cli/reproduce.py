"""``unstuck reproduce``: reported results, run again and compared with what was reported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from unstuck._extras import require
from unstuck.cli import reproduce_alme, reproduce_learned, reproduce_search
from unstuck.cli._options import INTERRUPTED, Threads, writable_json
from unstuck.experiments import (
    METHODS,
    REPORTED,
    BlendRecord,
    Plan,
    Progress,
    compare,
    markdown,
    run_study,
    summarize,
)
from unstuck.experiments.blend_report import describe, spread
from unstuck.plots import blend_figure
from unstuck.problems import DATA

QUICK = {"trials": 4, "tuning_seeds": 1, "seeds": 3}
SLOW = ("gate-source",)  # left out of a quick run unless named
SOURCE_TRIALS = 5  # as reported


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    group = typer.Typer(help="Run a reported result again.", no_args_is_help=True)
    group.callback()(_root)
    group.command("blend")(blend)
    for name, command in reproduce_search.COMMANDS.items():
        group.command(name)(command)
    group.command("alme")(reproduce_alme.alme)
    group.command("learned")(reproduce_learned.learned)
    app.add_typer(group, name="reproduce")


def _root() -> None:
    """Run a reported result again and compare it with what was reported."""


def blend(
    protocol: Annotated[
        str,
        typer.Option(
            help="honest: train, meta-validation, validation and test rows kept apart. source: as "
            "reported, the gate learns from the rows whose loss is shown."
        ),
    ] = "honest",
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated; known: {', '.join(DATA)}. All, but mnist1d alone for the "
            "source's protocol."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated; known: {', '.join(METHODS)}. All, but for the source's "
            "protocol those it reports, and the default gate."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds reported. [default: 16]")] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Optuna trials a method. [default: 16; source: 5, as reported]"),
    ] = None,
    tuning_seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Seeds a trial averages over, none of them reported. [default: 2]"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows.")] = 10,
    threads: Threads = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few trials and seeds: minutes, no firm result.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            help="Results as JSON; picture (.png) and table (.md) go beside it. Trials and runs "
            "that the file holds are not run again."
        ),
    ] = Path("blend.json"),
) -> None:
    """Run the study of the dynamic blend of Adam and SGD: does a gate beat what it blends.

    Reported for mnist1d: validation loss 0.7656 gated, 1.0807 Adam, 0.8775 SGD, with the gate
    trained on the validation rows. Every method is tuned by Optuna with the same number of trials.
    """
    console = Console()
    require("optuna", extra="experiments", purpose="unstuck reproduce")
    require("matplotlib.figure", extra="experiments", purpose="the picture")
    honest = protocol != "source"
    settings: dict[str, int] = dict(QUICK) if quick else {}
    if not honest:
        settings["trials"] = SOURCE_TRIALS
    asked = {"seeds": seeds, "trials": trials, "tuning_seeds": tuning_seeds}
    settings.update({name: count for name, count in asked.items() if count is not None})
    defaults = Plan()
    everything = defaults.methods if honest else ("gate", *REPORTED)
    if quick:
        everything = tuple(name for name in everything if name not in SLOW)
    try:
        plan = Plan(
            protocol=protocol,
            data=_names(data, defaults.data if honest else ("mnist1d",)),
            methods=_names(methods, everything),
            epochs=epochs,
            **settings,
        )
        target = writable_json(out)
        BlendRecord.open(target, plan.fixed)
        total = plan.runs
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with Live(console, total) as live:
            record = run_study(plan, target, live.update)
    except KeyboardInterrupt:
        console.print(f"Stopped; the same command goes on from {target}.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        torch.set_num_threads(before)
    for name in plan.data:
        console.print(table(record, plan, name))
    for line in verdicts(record, plan):
        console.print(line, highlight=False, soft_wrap=True)
    picture, text = target.with_suffix(".png"), target.with_suffix(".md")
    roles = {name: METHODS[name].role for name in plan.methods}
    blend_figure(record, plan, roles).savefig(picture, dpi=110)
    text.write_text(markdown(record, plan))
    console.print(
        f"Picture: {picture}\nTables: {text}\nAll results: {target}",
        highlight=False,
        soft_wrap=True,
    )


class Live:
    """Shows how a study goes: a bar on a terminal, else a line for every fiftieth training."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._shown = 0
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("runs, validation loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total, loss="-")

    def __enter__(self) -> Live:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self._bar.stop()

    def update(self, now: Progress) -> None:
        """Show where the study is."""
        loss = "(from the file)" if math.isnan(now.loss) else f"{now.loss:.4f}"
        self._bar.update(self._task, description=now.label, completed=now.done, loss=loss)
        due = now.done - self._shown >= 50 or now.done == now.total
        if due and not self._console.is_terminal:
            self._shown = now.done
            self._console.print(
                f"{now.done}/{now.total} {now.label}: {loss}", highlight=False, soft_wrap=True
            )


def table(record: BlendRecord, plan: Plan, data: str) -> Table:
    """Lay out one data set, lowest validation loss first; gates are bold."""
    rows = [row for row in summarize(record, plan) if row.data == data]
    shown = Table(
        title=f"{data}, {plan.protocol} protocol",
        caption=f"mean ± standard deviation over {plan.seeds} seeds, last of {plan.epochs} epochs",
    )
    shown.add_column("method", overflow="fold")
    for column in ("validation\nloss", "test\nloss", "test\naccuracy %"):
        shown.add_column(column, justify="right")
    reported = data == "mnist1d"
    if reported:
        shown.add_column("reported\nvalidation", justify="right")
    for row in sorted(rows, key=lambda row: (row.diverged, row.validation_loss.mean)):
        failed = f" [red]({row.diverged} of {row.runs} diverged)[/red]" if row.diverged else ""
        tuned = describe(row.settings) if plan.protocol == "honest" else METHODS[row.method].about
        cells = [
            f"{row.method}{failed}\n[dim]{tuned}[/dim]",
            spread(row.validation_loss),
            spread(row.test_loss),
            spread(row.test_accuracy, 2, 100),
        ]
        if reported:
            cells.append(f"{REPORTED[row.method]:.4f}" if row.method in REPORTED else "")
        shown.add_row(*cells, style="bold" if METHODS[row.method].role == "gate" else "")
    return shown


def verdicts(record: BlendRecord, plan: Plan) -> list[str]:
    """Say how the default gate compares with the best baseline, on every data set."""
    lines = []
    for loss in ("validation_loss", "test_loss"):
        for found in compare(record, plan, "gate", loss=loss):
            mean, std = found.difference
            better = "lower" if mean < 0 else "higher"
            beyond = "beyond" if abs(mean) > std else "within"
            lines.append(
                f"{found.data}: {loss.replace('_', ' ')} of gate is {better} than "
                f"{found.baseline}'s by {abs(mean):.4f} ± {std:.4f}, {beyond} the spread; it "
                f"wins {found.wins} of {found.seeds} seeds"
            )
    return lines


def _names(text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    return default if text is None else tuple(part.strip() for part in text.split(","))
