"""``unstuck reproduce learned``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from unstuck._extras import require
from unstuck.cli._options import (
    Threads,
    names_of,
    read_option,
    running,
    writable_json,
    write_pictures,
    write_tables,
)
from unstuck.experiments.cells import CellRecord, Tell
from unstuck.experiments.learned_curves import run_curves
from unstuck.experiments.learned_functions import FunctionsPlan, rastrigin, run_functions
from unstuck.experiments.learned_functions_report import functions_markdown
from unstuck.experiments.learned_heldout import CONFIRMATION, HeldOutPlan, run_heldout
from unstuck.experiments.learned_meta import Budget
from unstuck.experiments.learned_mnist import MnistPlan, run_mnist
from unstuck.experiments.learned_mnist_report import mnist_markdown
from unstuck.experiments.learned_report import heldout_lines, heldout_markdown
from unstuck.learned import DEFAULT, load
from unstuck.plots.learned import learned_curves_figure
from unstuck.plots.learned_studies import learned_mnist_figure, learned_trajectories_figure
from unstuck.problems import lookup

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Asked:
    """What the command was asked for."""

    size: str
    rule: str
    clock: bool


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to run.

    Attributes
    ----------
    fixed : dict
        What all cells of its file have in common.
    run : callable
        Runs what the file at a path lacks, telling how it goes.
    tables : callable
        Writes a record as markdown.
    figures : callable
        Draws a record: figures by what their files have after the name of the study's.
    lines : callable
        Says in a few lines what a record shows, for a terminal.
    """

    fixed: dict[str, Any]
    run: Callable[[Path, Tell], CellRecord]
    tables: Callable[[CellRecord], str]
    figures: Callable[[CellRecord], dict[str, Figure]]
    lines: Callable[[CellRecord], list[str]]


@dataclass(frozen=True)
class Study:
    """A row of the table of studies.

    Attributes
    ----------
    name : str
        What its file is of.
    suffix : str
        What its files have after the name that the command was given.
    prepare : callable
        Reads what was asked for; raises ValueError.
    """

    name: str
    suffix: str
    prepare: Callable[[Asked], Prepared]


SIZES: dict[str, HeldOutPlan] = {
    "full": HeldOutPlan(),
    "small": HeldOutPlan(("digits 64 sigmoid", "mnist1d 64, 3 x"), seeds=2, most=60, rounds=3),
}


def _heldout(asked: Asked) -> Prepared:
    plan = dataclasses.replace(SIZES[asked.size], clock=asked.clock)
    return _tasks(plan, asked.rule, curves=asked.clock)


def _confirmation(asked: Asked) -> Prepared:
    full = asked.size == "full"
    tasks = tuple(CONFIRMATION) if full else ("digits 4 x 32",)
    plan = dataclasses.replace(SIZES[asked.size], tasks=tasks, clock=asked.clock)
    return _tasks(plan, asked.rule, curves=False)


def _tasks(plan: HeldOutPlan, given: str, curves: bool) -> Prepared:
    rule, name = load(given), Path(given).name

    def figures(record: CellRecord) -> dict[str, Figure]:
        found = run_curves(record, plan, rule) if curves else {}
        return {"curves": learned_curves_figure(found)} if found else {}

    return Prepared(
        plan.fixed,
        lambda path, tell: run_heldout(plan, rule, path, tell),
        lambda record: heldout_markdown(record, plan, rule, name),
        figures,
        lambda record: heldout_lines(record, plan, rule),
    )


_QUICK = Budget("evolution", 3, students=4, truncation=5, horizon=10)
FUNCTIONS = {
    "full": FunctionsPlan(),
    "small": FunctionsPlan(("mlp",), meta_seeds=1, starts=16, steps=10, budget=_QUICK),
}
MNIST = {
    "full": MnistPlan(),
    "small": MnistPlan(
        meta_seeds=1,
        seeds=1,
        steps=20,
        budget=Budget("sampled", meta_steps=4, unrolls=1, truncation=5, horizon=10),
    ),
}


def _functions(asked: Asked) -> Prepared:
    plan = FUNCTIONS[asked.size]
    return Prepared(
        plan.fixed,
        lambda path, tell: run_functions(plan, path, tell),
        lambda record: functions_markdown(record, plan),
        lambda record: {
            "trajectories": learned_trajectories_figure(record.cells, plan.rules, rastrigin)
        },
        lambda record: [],  # its tables say it
    )


def _mnist(asked: Asked) -> Prepared:
    plan = MNIST[asked.size]
    return Prepared(
        plan.fixed,
        lambda path, tell: run_mnist(plan, path, tell),
        lambda record: mnist_markdown(record, plan),
        lambda record: {"curves": learned_mnist_figure(record.cells, plan.steps)},
        lambda record: [],
    )


STUDIES = {
    "functions": Study("learned-functions", "-functions", _functions),
    "mnist": Study("learned-mnist", "-mnist", _mnist),
    "heldout": Study("learned-heldout", "", _heldout),
    "confirmation": Study("learned-heldout", "-confirmation", _confirmation),
}


def learned(
    study: Annotated[
        str, typer.Option(help=f"Comma-separated, or all; known: {', '.join(STUDIES)}.")
    ] = "all",
    rule: Annotated[
        str, typer.Option(help="Learned rule: a name that comes with the package, or a file.")
    ] = DEFAULT,
    size: Annotated[
        str, typer.Option(help="full, or small: seconds, and no firm result.")
    ] = "full",
    clock: Annotated[
        bool,
        typer.Option(help="Compare at equal time, too (on an idle machine), and draw curves."),
    ] = True,
    threads: Threads = 1,
    out: Annotated[
        Path,
        typer.Option(
            help="Results as JSON; tables (.md) and pictures (.png) go beside it. Cells that the "
            "file holds are not run again: those of baselines serve every rule."
        ),
    ] = Path("learned.json"),
) -> None:
    """Run learned rules beside tuned Adam, AdamW and SGD on tasks that meta-training never saw."""
    console = Console()
    require("matplotlib.figure", extra="experiments", purpose="the pictures")
    try:
        names = STUDIES if study == "all" else names_of(study)
        rows = [lookup(STUDIES, name, "study") for name in names]
        asked = Asked(lookup({name: name for name in SIZES}, size, "size"), rule, clock)
        target = read_option("--out", writable_json, out)
        ready = []
        for row in rows:
            prepared, path = row.prepare(asked), target.with_name(f"{target.stem}{row.suffix}.json")
            CellRecord.open(path, row.name, prepared.fixed)
            ready.append((prepared, path))
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    for prepared, path in ready:
        with running(console, threads, path):
            record = prepared.run(
                path, lambda line: console.print(line, highlight=False, soft_wrap=True)
            )
            figures = prepared.figures(record)
        write_pictures(console, path, figures)
        write_tables(console, path, prepared.tables(record))
        for line in prepared.lines(record):
            console.print(line, highlight=False, soft_wrap=True)
