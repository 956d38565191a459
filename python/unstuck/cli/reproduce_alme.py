"""``unstuck reproduce alme``."""

from __future__ import annotations

import dataclasses
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
from unstuck.experiments.alme import run_alme
from unstuck.experiments.alme_report import alme_markdown
from unstuck.experiments.alme_settings import AlmePlan
from unstuck.experiments.alme_traps import TrapsPlan, run_traps
from unstuck.experiments.alme_traps_report import traps_markdown
from unstuck.experiments.cells import CellRecord
from unstuck.plots.alme import (
    alme_comparison_figure,
    alme_landscapes_figure,
    escape_distances_figure,
    escapes_figure,
    tasks_of,
)
from unstuck.problems import lookup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDIES = {name: name for name in ("training", "functions", "traps")}
TRAPS = {
    "full": TrapsPlan(),
    "small": TrapsPlan(("xor",), ("adam", "lbfgs"), seeds=2, tuning_seeds=1, budget=200),
}


def alme(
    studies: Annotated[
        str, typer.Option(help=f"Comma-separated; known: {', '.join(STUDIES)}.")
    ] = ",".join(STUDIES),
    size: Annotated[
        str, typer.Option(help="full, or small: seconds, and no firm result.")
    ] = "full",
    traps: Annotated[
        str, typer.Option(help="Comma-separated problems of the study of traps; all, if empty.")
    ] = "",
    methods: Annotated[
        str, typer.Option(help="Comma-separated methods that are run on them; all, if empty.")
    ] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Run these, too, where the file of the traps has them.")
    ] = False,
    threads: Threads = 1,
    out: Annotated[
        Path,
        typer.Option(
            help="Results as JSON; tables (.md) and pictures (.png) go beside it, and those of the "
            "traps as NAME-traps. Cells that the files hold are not run again."
        ),
    ] = Path("alme.json"),
) -> None:
    """Run ALME beside torch's optimizers: networks on real data, functions, problems that trap.

    Reported: an escape costs about ten steps, and it needs tuning. Here the baselines are tuned,
    ALME is not; training, validation and test rows are kept apart.
    """
    console = Console()
    require("matplotlib.figure", extra="experiments", purpose="the pictures")
    try:
        asked = [lookup(STUDIES, name, "study") for name in names_of(studies)]
        everything = AlmePlan.of(size)
        plan = dataclasses.replace(
            everything,
            tasks=everything.tasks if "training" in asked else (),
            functions=everything.functions if "functions" in asked else (),
        )
        target = read_option("--out", writable_json, out)
        trapped = target.with_name(target.stem + "-traps.json")
        few = dataclasses.replace(
            TRAPS[size],
            problems=names_of(traps) if traps else TRAPS[size].problems,
            methods=names_of(methods) if methods else TRAPS[size].methods,
        )
        CellRecord.open(target, "alme", plan.fixed)
        CellRecord.open(trapped, "alme-traps", few.fixed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    def tell(line: str, number: int, cells: int) -> None:
        console.print(f"{number}/{cells} {line}", highlight=False, soft_wrap=True)

    if plan.tasks or plan.functions:
        with running(console, threads, target):
            record = run_alme(plan, target, tell)
        write_pictures(console, target, _figures(record.cells))
        write_tables(console, target, alme_markdown(record, everything))
    if "traps" in asked:
        with running(console, threads, trapped):
            found = run_traps(few, trapped, tell, again=again)
        write_tables(console, trapped, traps_markdown(found, TRAPS[size]))


def _figures(cells: dict[str, Any]) -> dict[str, Figure]:
    """Draw what the cells have pictures of."""
    figures = {"landscapes": alme_landscapes_figure(cells)}
    if tasks := tasks_of(cells):
        accepted = {
            task: cells[f"training/{task}"]["runs"]["alme-aggressive"][0]["escapes"]
            for task in tasks
        }
        figures["escapes"] = escapes_figure(cells, max(tasks, key=accepted.__getitem__))
        figures["distances"] = escape_distances_figure(cells)
        figures["comparison"] = alme_comparison_figure(cells, tasks[0])
    return figures
