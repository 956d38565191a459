"""``unstuck reproduce attention`` and ``unstuck reproduce hybrids``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

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
from unstuck.experiments.attention import (
    DIMS,
    FUNCTIONS,
    METHODS,
    AttentionPlan,
    attention_markdown,
    run_attention,
)
from unstuck.experiments.attention_net import NetPlan, net_markdown, run_net
from unstuck.experiments.cells import CellRecord
from unstuck.experiments.hybrids import HybridsPlan, hybrids_markdown, race_of, run_hybrids
from unstuck.plots import problem_race_figure
from unstuck.training.problem_race import ProblemRun


def attention(
    functions: Annotated[
        str, typer.Option(help=f"Comma-separated; known: {', '.join(FUNCTIONS)}.")
    ] = ",".join(FUNCTIONS),
    methods: Annotated[
        str, typer.Option(help=f"Comma-separated; known: {', '.join(METHODS)}.")
    ] = ",".join(METHODS),
    dims: Annotated[str, typer.Option(help="Dimensions, comma-separated.")] = ",".join(
        map(str, DIMS)
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Starts.")] = 20,
    budget: Annotated[int, typer.Option(min=1, help="Losses that a run may evaluate.")] = 20_000,
    most: Annotated[
        int, typer.Option(min=1, help="Iterations of the net after which a run ends.")
    ] = 3000,
    threads: Threads = 1,
    out: Annotated[
        Path,
        typer.Option(
            help="Results as JSON; tables (.md) go beside it, and those of the net and of the "
            "learning rate as NAME-net. Cells that the files hold are not run again."
        ),
    ] = Path("attention.json"),
) -> None:
    """Run attention search against gradient descent again, as reported: losses by dimension, times.

    Reported for dimensions 2 to 100 on four landscapes, for a two-layer net and for a learning
    rate; here up to 10000 dimensions, 20 starts and equal evaluations.
    """
    console = Console()
    numbers = read_option("--dims", _numbers, dims)
    try:
        plan = AttentionPlan(names_of(functions), names_of(methods), numbers, seeds, budget)
        target = read_option("--out", writable_json, out)
        net = target.with_name(target.stem + "-net.json")
        CellRecord.open(target, "attention", plan.fixed)
        CellRecord.open(net, "attention-net", NetPlan(seeds, most).fixed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    def tell(line: str, number: int, cells: int) -> None:
        console.print(f"{number}/{cells} {line}", highlight=False, soft_wrap=True)

    with running(console, threads, target):
        record = run_attention(plan, target, tell)
        small = run_net(
            NetPlan(seeds, most),
            net,
            lambda line: console.print(line, highlight=False, soft_wrap=True),
        )
    write_tables(console, target, attention_markdown(record, plan))
    write_tables(console, net, net_markdown(small))


def hybrids(
    dims: Annotated[str, typer.Option(help="Dimensions, comma-separated.")] = "3,11",
    seeds: Annotated[int, typer.Option(min=1, help="Starts.")] = 20,
    budget: Annotated[int, typer.Option(min=1, help="Losses that a run may evaluate.")] = 10_000,
    threads: Threads = 1,
    out: Annotated[
        Path,
        typer.Option(
            help="Results as JSON; tables (.md) and a picture for each dimension go beside it. "
            "Dimensions that the file holds are not run again."
        ),
    ] = Path("hybrids.json"),
) -> None:
    """Run the six optimizers on the trapped loss again: gradient descent stuck, the hybrids out."""
    console = Console()
    require("matplotlib.figure", extra="experiments", purpose="the picture")
    numbers = read_option("--dims", _numbers, dims)
    try:
        plan = HybridsPlan(numbers, seeds, budget)
        target = read_option("--out", writable_json, out)
        CellRecord.open(target, "hybrids", plan.fixed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    def tell(run: ProblemRun, number: int, runs: int) -> None:
        console.print(
            f"{number}/{runs} {run.method}, start {run.seed}: {run.best[-1]:.6g}, "
            f"{run.seconds:.2f} s",
            highlight=False,
            soft_wrap=True,
        )

    with running(console, threads, target):
        record = run_hybrids(plan, target, tell)
    figures = {str(dim): problem_race_figure(race_of(record, dim)) for dim in plan.dims}
    write_pictures(console, target, figures, dpi=110)
    write_tables(console, target, hybrids_markdown(record, plan))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} must be whole numbers with commas between them") from None


COMMANDS: dict[str, Callable[..., None]] = {"attention": attention, "hybrids": hybrids}
