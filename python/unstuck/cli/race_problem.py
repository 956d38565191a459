"""``unstuck race --problem``: the race on a function, where gradient descent gets stuck."""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table

from unstuck import problems
from unstuck._extras import require
from unstuck.cli._options import INTERRUPTED, read_option, writable
from unstuck.plots import problem_race_figure
from unstuck.problems import lookup
from unstuck.training import Stat
from unstuck.training.problem_race import RACERS, ProblemRace, ProblemRun, race_on

BUDGET = 5000
SEEDS = 5
DATA_ONLY = ("data", "model", "epochs", "batch_size", "schedule", "at", "device")
PROBLEM_ONLY = ("dim", "budget")


def given(ctx: typer.Context, name: str) -> bool:
    """Say whether an option was on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_mixed(ctx: typer.Context, problem: str | None) -> None:
    """Refuse options that would be ignored."""
    for name in PROBLEM_ONLY if problem is None else DATA_ONLY:
        if given(ctx, name):
            why = "needs --problem" if problem is None else "is for data: leave --problem out"
            raise typer.BadParameter(why, param_hint="--" + name.replace("_", "-"))


def run(
    console: Console,
    problem: str,
    methods: str,
    dim: int | None,
    budget: int,
    seeds: int,
    threads: int,
    out: Path,
) -> None:
    """Race, and write table, picture and results."""
    entered = [part.strip() for part in methods.split(",")]
    read_option("--problem", lambda name: problems.get(name, dim), problem)
    for method in entered:
        read_option("--optimizers", lambda name: lookup(RACERS, name, "method"), method)
    picture = read_option("--out", writable, out)
    require("matplotlib.figure", extra="cli", purpose="the picture")

    def tell(one: ProblemRun, number: int, runs: int) -> None:
        console.print(
            f"{number}/{runs} {one.method}, start {one.seed}: {one.best[-1]:.6g}, "
            f"{one.seconds:.2f} s",
            highlight=False,
            soft_wrap=True,
        )

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = race_on(problem, entered, dim=dim, budget=budget, seeds=seeds, progress=tell)
    finally:
        torch.set_num_threads(before)
    if result.runs:
        console.print(table(result))
        problem_race_figure(result).savefig(picture, dpi=130)
        results = picture.with_suffix(".json")
        results.write_text(result.to_json() + "\n")
        console.print(f"Curves: {picture}\nAll results: {results}", highlight=False, soft_wrap=True)
    if result.interrupted:
        done, planned = len(result.runs), len(entered) * seeds
        console.print(f"Stopped: {done} of {planned} runs had finished.")
        raise typer.Exit(INTERRUPTED)


def table(result: ProblemRace) -> Table:
    """Lay out the lowest losses, best mean first."""
    least = "" if result.minimum is None else f", minimum {result.minimum:.6g}"
    shown = Table(
        title=f"{result.problem}, {result.dim} dimensions{least}",
        caption=f"lowest loss in {result.budget} evaluations, {len(result.seeds)} starts; "
        f"gradient descent at rate {result.rate:.3g}",
    )
    shown.add_column("method", overflow="fold", min_width=16)
    for column in ("mean", "std", "best", "worst", "seconds"):
        shown.add_column(column, justify="right")
    ran = [method for method in result.methods if result.final(method)]
    for method in sorted(ran, key=lambda name: Stat.of(result.final(name)).mean):
        losses = result.final(method)
        stat = Stat.of(losses)
        shown.add_row(
            f"{method}\n[dim]{RACERS[method].about}[/dim]",
            f"{stat.mean:.5g}",
            f"{stat.std:.2g}",
            f"{min(losses):.5g}",
            f"{max(losses):.5g}",
            f"{Stat.of(result.seconds(method)).mean:.2f}",
        )
    return shown
