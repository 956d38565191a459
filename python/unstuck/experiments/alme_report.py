"""What the study of ALME comes to: claims beside what was measured, then the tables."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from unstuck.experiments.alme_settings import AlmePlan, configuration
from unstuck.experiments.cells import CellRecord, spread

OURS = "alme"
SLOWER = 0.03  # share of time that tracking may cost


@dataclass(frozen=True)
class Harm:
    """An ALME beside the tuned optimizer whose rate and decay it has, seed by seed.

    Attributes
    ----------
    task, optimizer, baseline : str
        Data set and network, which ALME, and which optimizer.
    differences : list of float
        Final test loss minus the baseline's on the same seed.
    spread : float
        Standard deviation of the baseline's test loss over the seeds.
    slower, longer : float
        Relative difference of the time of a step without an escape, the median over the seeds of
        the median of a run; and of the time of a run, the median over the seeds.
    attempts : float
        Escapes tried in a run, mean over the seeds.
    """

    task: str
    optimizer: str
    baseline: str
    differences: list[float]
    spread: float
    slower: float
    longer: float
    attempts: float

    @property
    def unharmed(self) -> bool:
        """Whether the mean test loss is no more than its spread above the baseline's."""
        return statistics.fmean(self.differences) <= self.spread

    @property
    def in_time(self) -> bool:
        """Whether a run takes less than 3% more time."""
        return self.longer < SLOWER


def harm(record: CellRecord, task: str, optimizer: str = OURS) -> Harm:
    """Compare an ALME with the optimizer whose tuned settings it has.

    Parameters
    ----------
    record : CellRecord
        From :func:`unstuck.experiments.run_alme`, with more than one seed.
    task : str
        Data set and network.
    optimizer : str
        Which ALME.

    Examples
    --------
    >>> run = {"test": [2.0, 1.0], "step": 1e-3, "seconds": 1.0, "attempts": 0}
    >>> worse = {**run, "test": [2.0, 3.0], "seconds": 2.0}
    >>> cell = {"runs": {"adamw": [run, run], "alme": [run, worse]}}
    >>> found = harm(CellRecord("alme", {}, {"training/digits/mlp": cell}), "digits/mlp")
    >>> found.differences, found.unharmed, found.in_time
    ([0.0, 2.0], False, False)
    """
    runs = record.cells[f"training/{task}"]["runs"]
    baseline = configuration()["optimizers"][optimizer]["tuned"]
    pairs = list(zip(runs[optimizer], runs[baseline], strict=True))
    losses = [theirs["test"][-1] for _, theirs in pairs]
    return Harm(
        task,
        optimizer,
        baseline,
        [ours["test"][-1] - theirs["test"][-1] for ours, theirs in pairs],
        statistics.stdev(losses) if len(losses) > 1 else 0.0,
        statistics.median(ours["step"] / theirs["step"] for ours, theirs in pairs) - 1,
        statistics.median(ours["seconds"] / theirs["seconds"] for ours, theirs in pairs) - 1,
        statistics.fmean(ours["attempts"] for ours, _ in pairs),
    )


def alme_markdown(record: CellRecord, plan: AlmePlan) -> str:
    """Write the study as markdown.

    Parameters
    ----------
    record : CellRecord
        From :func:`unstuck.experiments.run_alme`.
    plan : AlmePlan
        What to show of it, as far as it is there.

    Examples
    --------
    >>> import dataclasses
    >>> from unstuck.experiments import run_alme
    >>> small = AlmePlan.of("small")
    >>> plan = dataclasses.replace(small, tasks=(), functions=("ackley/2",), starts=1, budget=50)
    >>> "## Functions" in alme_markdown(run_alme(plan), plan)
    True
    """
    lines = ["# ALME beside torch's optimizers", "", record.origin, ""]
    for name, entry in configuration()["optimizers"].items():
        given = ", ".join(f"{key}={value}" for key, value in entry["settings"].items())
        lines.append(f"- **{name}**: {entry['about']}" + (f" ({given})" if given else "") + ".")
    lines.append("")
    tasks = [task for task in plan.tasks if f"training/{task}" in record.cells]
    functions = [name for name in plan.functions if f"function/{name}" in record.cells]
    if tasks:
        lines += [*_claims(record, tasks), *_harm(record, plan, tasks)]
        for task in tasks:
            lines += _task(record, plan, task)
    if functions:
        lines += _functions(record, plan, functions)
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    body = ["| " + " | ".join(row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body, ""]


def _claims(record: CellRecord, tasks: list[str]) -> list[str]:
    """Reported beside measured."""
    rows = []
    for task in tasks:
        cell = record.cells.get(f"escape/{task}")
        if cell:
            together, alone = (cell[name] / cell["step"] for name in ("together", "one by one"))
            rows.append(
                [
                    "an escape costs about 10 times a step",
                    f"{task}: {together:.0f} times, for {cell['losses']} losses, most with their "
                    f"gradient; one candidate after another {alone:.0f} times",
                ]
            )
    for name, how in (("alme", "by default"), ("alme-aggressive", "set to escape eagerly")):
        found = [harm(record, task, name) for task in tasks]
        good = sum(one.unharmed for one in found)
        quick = sum(one.in_time for one in found)
        rows.append(
            [
                "needs tuning" if name == OURS else "",
                f"{how}, at the rate and decay that AdamW was tuned to and nothing else: no worse "
                f"than AdamW beyond its spread on {good} of {len(found)} tasks, less than "
                f"{100 * SLOWER:.0f}% slower on {quick}",
            ]
        )
    rows.append(["not suitable above 10M parameters", "not part of this study; see `bench/`"])
    return ["## Reported and measured", "", *_table(["reported", "measured"], rows)]


def _harm(record: CellRecord, plan: AlmePlan, tasks: list[str]) -> list[str]:
    """Is a model harmed that trains well."""
    lines = [
        "## Is a model harmed that trains well",
        "",
        "Final test loss minus that of the optimizer whose tuned rate and decay it has, on the "
        f"same seed (mean ± standard deviation, {plan.seeds} seeds); that one's own standard "
        "deviation; the time of a step without an escape and of a whole run against its (medians "
        "of processor time, the optimizers taking turns step by step).",
        "",
    ]
    head = [
        "task",
        "optimizer",
        "against",
        "difference",
        "spread",
        "harmed",
        "step",
        "run",
        "escapes tried",
    ]
    rows = []
    for task in tasks:
        for name in (name for name in plan.optimizers if name.startswith(OURS)):
            found = harm(record, task, name)
            rows.append(
                [
                    task,
                    name,
                    found.baseline,
                    spread(found.differences),
                    f"{found.spread:.2g}",
                    "no" if found.unharmed else "**yes**",
                    f"{100 * found.slower:+.1f}%",
                    f"{100 * found.longer:+.1f}%",
                    f"{found.attempts:.1f}",
                ]
            )
    return [*lines, *_table(head, rows)]


def _task(record: CellRecord, plan: AlmePlan, task: str) -> list[str]:
    """Everything on one data set and network, lowest test loss first."""
    cell = record.cells[f"training/{task}"]
    about = configuration()["networks"][task.partition("/")[2]]["about"]
    lines = [
        f"## {task} ({about})",
        "",
        f"{plan.epochs} epochs, batches of {plan.batch_size}, mean ± standard deviation over "
        f"{plan.seeds} seeds after the last epoch; settings tuned by validation loss on "
        f"{plan.tuning_seeds} others.",
        "",
    ]
    head = ["optimizer", "settings", "training loss", "validation loss", "test loss"]
    head += ["test accuracy %", "seconds", "escapes", "accepted"]
    rows = []
    for name, runs in sorted(cell["runs"].items(), key=lambda pair: _mean_test(pair[1])):
        losses = [spread([run[part][-1] for run in runs]) for part in ("train", "validation")]
        rows.append(
            [
                name,
                _settings(cell["tuned"][name]),
                *losses,
                spread([run["test"][-1] for run in runs], 4),
                spread([100 * run["accuracy"] for run in runs], 4),
                spread([run["seconds"] for run in runs]),
                *_escapes(runs),
            ]
        )
    return [*lines, *_table(head, rows)]


def _functions(record: CellRecord, plan: AlmePlan, functions: list[str]) -> list[str]:
    """Everything on every function, lowest median first."""
    lines = [
        "## Functions",
        "",
        f"Lowest value in {plan.budget} evaluations (a value with its gradient counts once): "
        f"median, lowest and highest of {plan.starts} starts, uniform in the usual box; the "
        "function is moved, so that its minimum, 0, is not at the origin. Rates tuned on "
        f"{2 * plan.tuning_seeds} other starts; ALME takes AdamW's.",
        "",
    ]
    head = ["function", "optimizer", "settings", "median", "lowest", "highest", "below 1e-6"]
    head += ["seconds", "escapes", "accepted"]
    rows = []
    for function in functions:
        cell = record.cells[f"function/{function}"]
        order = sorted(cell["runs"].items(), key=lambda pair: _median_end(pair[1]))
        for name, runs in order:
            ends = [run["best"][-1] for run in runs]
            found = [f"{x:.3g}" for x in (statistics.median(ends), min(ends), max(ends))]
            rows.append(
                [
                    function,
                    name,
                    _settings(cell["tuned"][name]),
                    *found,
                    f"{sum(end < 1e-6 for end in ends)} of {len(ends)}",
                    spread([run["seconds"] for run in runs]),
                    *_escapes(runs),
                ]
            )
    return [*lines, *_table(head, rows)]


def _escapes(runs: list[dict[str, Any]]) -> list[str]:
    if "attempts" not in runs[0]:
        return ["", ""]
    return [
        f"{statistics.fmean(run[name] for run in runs):.1f}" for name in ("attempts", "escapes")
    ]


def _settings(tuned: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in tuned.items())


def _mean_test(runs: list[dict[str, Any]]) -> float:
    return statistics.fmean(run["test"][-1] for run in runs)


def _median_end(runs: list[dict[str, Any]]) -> float:
    return float(statistics.median(run["best"][-1] for run in runs))
