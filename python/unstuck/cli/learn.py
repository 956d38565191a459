"""``unstuck learn``: meta-train an update rule."""

from __future__ import annotations

import ast
import json
import math
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from unstuck._extras import require
from unstuck.cli._options import Threads, read_option, running
from unstuck.learned import (
    ESTIMATORS,
    FAMILIES,
    RULES,
    Estimator,
    Family,
    MetaTraining,
    Objective,
    Plan,
    Row,
    UpdateRule,
    Workers,
    load,
)
from unstuck.learned.objective import SCALES
from unstuck.learned.students import MetaParameters
from unstuck.learned.training import CURVE, RULE
from unstuck.plots import meta_training_figure
from unstuck.problems import lookup


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("learn")(command)


def command(
    family: Annotated[
        str, typer.Option(help=f"What is trained on. Known: {', '.join(FAMILIES)}.")
    ] = "mlp",
    rule: Annotated[
        str,
        typer.Option(
            help="Settings after colons, as in mlp:hidden=16 or whitened-mlp:weights=mlp-v1, or a "
            f".safetensors file to begin with. Known: {', '.join(RULES)}."
        ),
    ] = "mlp",
    minutes: Annotated[
        float, typer.Option(min=0, help="Time for the training, all runs of it together.")
    ] = 10.0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Meta-steps; the meta-learning rate falls to 0 towards the last. [default: as "
            "many as the minutes allow, at a constant rate]",
        ),
    ] = None,
    estimator: Annotated[
        str, typer.Option(help=f"Of meta-gradients. Known: {', '.join(ESTIMATORS)}.")
    ] = "evolution",
    horizon: Annotated[
        str, typer.Option(help="Fewest and most steps of a student, log-uniform.")
    ] = "50,500",
    told: Annotated[
        float, typer.Option(help="Share of students whose rule is told how many steps there are.")
    ] = 0.75,
    multiplier: Annotated[
        str, typer.Option(help="Least and largest multiplier of a student's steps, log-uniform.")
    ] = "0.1,1",
    truncation: Annotated[int, typer.Option(help="Steps between two meta-gradients.")] = 50,
    unrolls: Annotated[int, typer.Option(help="Tasks trained side by side.")] = 8,
    students: Annotated[int, typer.Option(help="Students of each task.")] = 32,
    scale: Annotated[
        str, typer.Option(help=f"Scale of the losses. Known: {', '.join(SCALES)}.")
    ] = "log",
    late: Annotated[
        float, typer.Option(help="0 weighs all steps the same, larger values the last ones.")
    ] = 1.0,
    validation: Annotated[
        float, typer.Option(help="Share of the objective that is measured on validation data.")
    ] = 0.5,
    resolution: Annotated[
        float, typer.Option(help="Share of the first loss below which less hardly counts.")
    ] = 1e-3,
    baselines: Annotated[
        float | None,
        typer.Option(
            help="Compare students with SGD and Adam, the best of several rates, that train beside "
            "them; being below counts so much, from 0 to 1, where being above counts 1. "
            "[default: compare with none]"
        ),
    ] = None,
    margin: Annotated[
        float,
        typer.Option(help="With --baselines: how far below, in log training loss, counts 1, too."),
    ] = 0.0,
    sigma: Annotated[
        float, typer.Option(help="Size of the perturbations of evolution strategies.")
    ] = 0.03,
    lr: Annotated[float, typer.Option(help="Meta-learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    average: Annotated[
        int,
        typer.Option(
            min=1,
            help="Train so often, with this seed and those that follow, in folders run-0, run-1, "
            "... of --out, and average the weights. The minutes are shared.",
        ),
    ] = 1,
    threads: Threads = 1,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes that share the tasks, with so many threads each; the result does not "
            "depend on them.",
        ),
    ] = 1,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the rule (rule.safetensors), its curve (curve.json, curve.png) and "
            "the checkpoint. A training that it holds is gone on with."
        ),
    ] = Path("learned"),
) -> None:
    """Meta-train an update rule: an optimizer that is learned from tasks.

    Stop it whenever you like: the same command goes on where the last checkpoint was made, with the
    same result as without a stop. Use the rule with
    ``unstuck.optim.Learned.from_pretrained("learned/rule.safetensors", params)``.
    """
    console = Console()
    require("matplotlib.figure", extra="cli", purpose="the picture")
    tasks = read_option("--family", lambda name: lookup(FAMILIES, name, "family"), family)
    made = read_option("--rule", lambda text: rule_of(text, seed), rule)
    read_option("--estimator", lambda name: lookup(ESTIMATORS, name, "estimator"), estimator)
    span = read_option("--horizon", horizon_of, horizon)
    lengths = read_option("--multiplier", multiplier_of, multiplier)
    try:
        objective = Objective(
            *(scale, late, validation), resolution=resolution, baselines=baselines, margin=margin
        )
        plan = Plan(unrolls, students, truncation, span, told, objective, lengths)
        folders = [out] if average == 1 else [out / f"run-{number}" for number in range(average)]
        ones = [
            estimator_of(estimator, deepcopy(made), tasks, plan, seed + number, sigma)
            for number in range(average)
        ]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for one, folder in zip(ones, folders, strict=True):
        with ExitStack() as stack:
            try:
                shared = stack.enter_context(Workers(one, workers, threads)) if workers > 1 else one
                training = MetaTraining(shared, steps, lr=lr, folder=folder)
            except (ValueError, OSError) as error:
                raise typer.BadParameter(str(error)) from error
            stack.enter_context(running(console, threads, folder))
            _train(console, training, minutes / average, folder, stack)
    if average > 1:
        mean_of([load(folder / RULE) for folder in folders]).save(out / RULE)
    console.print(f"Rule: {out / RULE}", highlight=False, soft_wrap=True)


def _train(
    console: Console, training: MetaTraining, minutes: float, folder: Path, stack: ExitStack
) -> None:
    """Run a training, and show how it goes and what came of it."""
    if training.rows:
        console.print(f"Going on from step {len(training.rows)} in {folder}.", soft_wrap=True)
    live = stack.enter_context(Live(console, training, minutes))
    training.run(minutes=minutes, progress=live.update)
    if training.rows:
        curve = json.loads((folder / CURVE).read_text())
        picture = (folder / CURVE).with_suffix(".png")
        meta_training_figure(curve).savefig(picture, dpi=110)
        console.print(summary(training.rows), highlight=False, soft_wrap=True)
        console.print(f"Curve: {picture}", highlight=False, soft_wrap=True)


def mean_of(rules: list[UpdateRule]) -> UpdateRule:
    """Return the first of some rules of one kind, with the mean of their weights."""
    vectors = [MetaParameters(rule).read() for rule in rules]
    MetaParameters(rules[0]).write(torch.stack(vectors).mean(0))
    return rules[0]


def rule_of(text: str, seed: int) -> UpdateRule:
    """Make a rule from its name and settings, such as ``mlp:hidden=16``, or read a file.

    The setting ``weights=`` names a rule that comes with the package, or a file: settings that are
    not given, and weights, are then those of that rule.

    Raises
    ------
    ValueError
        For an unknown name, settings that the rule does not take, a file that is none, or weights
        that do not fit.
    """
    if text.endswith(".safetensors") and ":weights=" not in text:
        return _loaded(text)
    name, *pairs = text.strip().split(":")
    kind, settings = lookup(RULES, name, "rule"), {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} is no setting: write {name}:key=value")
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key] = value
    weights = settings.pop("weights", None)
    other = None if weights is None else _loaded(str(weights))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            made = kind(**({} if other is None else other.config()) | settings)
            if other is not None:
                made.load_state_dict(other.state_dict())
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{text!r}: {error}") from error
    return made


def _loaded(name_or_path: str) -> UpdateRule:
    try:
        return load(name_or_path)
    except FileNotFoundError:
        raise ValueError(f"there is no file {name_or_path}") from None


def horizon_of(text: str) -> tuple[int, int]:
    """Read two whole numbers with a comma between them.

    Raises
    ------
    ValueError
        When they are not.
    """
    ends = text.split(",")
    if len(ends) != 2 or not all(end.strip().isdigit() for end in ends):
        raise ValueError(f"{text!r} is not two numbers of steps: write, for example, 50,500")
    return int(ends[0]), int(ends[1])


def multiplier_of(text: str) -> tuple[float, float]:
    """Read two numbers with a comma between them.

    Raises
    ------
    ValueError
        When they are not.
    """
    try:
        low, high = (float(end) for end in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not two numbers: write, for example, 0.1,1") from None
    return low, high


def estimator_of(
    name: str, rule: UpdateRule, family: Family, plan: Plan, seed: int, sigma: float
) -> Estimator:
    """Make an estimator of meta-gradients; `sigma` is for evolution strategies."""
    own: dict[str, Any] = {"sigma": sigma} if name == "evolution" else {}
    return ESTIMATORS[name](rule, family, plan, seed, **own)


def summary(rows: list[Row]) -> str:
    """Say in a sentence what came of a training."""
    judged = [row.judged for row in rows if not math.isnan(row.judged)]
    last = rows[-1]
    rate = last.student_steps / max(last.seconds, 1e-9)
    return (
        f"{last.step} meta-steps in {last.seconds / 60:.1f} minutes, {rate:,.0f} student steps a "
        f"second; objective on fixed tasks {judged[0]:.4f} at the first step, {judged[-1]:.4f} at "
        f"the last judgement"
    )


class Live:
    """Shows how a training goes: a bar on a terminal, else a line for every judgement."""

    def __init__(self, console: Console, training: MetaTraining, minutes: float) -> None:
        self._console, self._minutes, self._steps = console, minutes, training.steps
        self._bar = Bar(
            TextColumn("meta-step {task.fields[step]}"),
            BarColumn(),
            TextColumn("objective {task.fields[judged]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, step=len(training.rows), judged="-")

    def __enter__(self) -> Live:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self._bar.stop()

    def update(self, row: Row) -> None:
        """Show where the training is."""
        done = row.seconds / max(60 * self._minutes, 1e-9)
        if self._steps is not None:
            done = max(done, row.step / self._steps)
        self._bar.update(self._task, completed=min(done, 1.0), step=row.step)
        if math.isnan(row.judged):
            return
        self._bar.update(self._task, judged=f"{row.judged:.4f}")
        if not self._console.is_terminal:
            self._console.print(
                f"meta-step {row.step}: objective on fixed tasks {row.judged:.4f}, "
                f"{row.seconds:.0f} s",
                highlight=False,
                soft_wrap=True,
            )
