"""The table of the study of what an LSTM rule must see."""

from __future__ import annotations

import statistics
from typing import Any

from unstuck.experiments.cells import CellRecord, spread
from unstuck.experiments.learned_mnist import MULTIPLIERS, POWERS, MnistPlan

SEEN = {
    "gradient": "g, w",
    "log": "log abs g, sign g, w",
    "rich": "log abs g, sign g, w, moments, step",
}
REPORTED = {
    "gradient": "fails",
    "log": "learns, but stays behind Adam",
    "rich": "not reported",
}
UNTAUGHT = 2.302585  # nats: all ten classes alike
LEARNS = UNTAUGHT / 2  # a training loss below it counts as learning


def mnist_markdown(record: CellRecord, plan: MnistPlan) -> str:
    """Write the table: reported beside measured, mean and spread over meta-trainings.

    Parameters
    ----------
    record : CellRecord
        From :func:`unstuck.experiments.learned_mnist.run_mnist`.
    plan : MnistPlan
        What of it to show.

    Examples
    --------
    >>> from unstuck.experiments.learned_meta import Budget
    >>> from unstuck.experiments.learned_mnist import run_mnist
    >>> from unstuck.learned import Network
    >>> digits, budget = Network("digits", (8,)), Budget(meta_steps=1, truncation=2, horizon=2)
    >>> plan = MnistPlan(("log",), 1, 1, steps=2, task=digits, budget=budget)
    >>> "learns, but stays behind Adam" in mnist_markdown(run_mnist(plan), plan)
    True
    """
    count = sum(p.numel() for p in plan.task.initial(0))
    adam = record.cells["adam"]
    lines = [
        "# What an LSTM rule must see of a gradient",
        "",
        f"A coordinatewise LSTM rule of {plan.hidden} units is meta-trained with each set of "
        f"features on a student of {count:,} parameters ({plan.task.name}): "
        f"{plan.budget.words()}, the sum of the student's training losses. Fresh students make "
        f"{plan.steps} steps. Losses are over all rows at the end; over the run, of the batches, "
        f"which is what meta-training lowers: mean over {plan.seeds} students, then mean ± "
        "standard deviation over meta-trainings (Adam: over students). The multiplier is the best "
        "of "
        f"{', '.join(f'{x:g}' for x in MULTIPLIERS)}, Adam's rate the best of {len(POWERS)}, both "
        "by the training loss of other students. Reported: a student of 101,770 parameters, "
        "without figures.",
        "",
        record.origin,
        "",
        "| trained by | sees | reported | training loss | validation loss | loss over the run | "
        "multipliers | CPU seconds of a meta-training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for features in plan.features:
        cells = record.by_seed(features, plan.meta_seeds)
        seen = f"| LSTM, {features} | {SEEN[features]} | {REPORTED[features]} |"
        if not cells:
            lines.append(f"{seen} not run | | | | |")
            continue
        tuned = spread([_mean(c["tuned"], "train") for c in cells])
        others = [
            spread([_mean(c["tuned"], "validation") for c in cells]),
            spread([statistics.fmean(map(_over, c["tuned"])) for c in cells]),
            ", ".join(f"{c['lr']:g}" for c in cells),
            spread([c["meta"]["seconds"] for c in cells], 2),
        ]
        lines.append(f"{seen} {tuned} | " + " | ".join(others) + " |")
    for name, runs in (("0.001", adam["default"]), (f"{adam['rate']:g}, tuned", adam["tuned"])):
        losses = [spread([run[part] for run in runs]) for part in ("train", "validation")]
        losses.append(spread([_over(run) for run in runs]))
        lines.append(f"| Adam {name} | | | {' | '.join(losses)} | | |")
    return "\n".join([*lines, "", *(f"- {line}" for line in mnist_lines(record, plan))]) + "\n"


def mnist_lines(record: CellRecord, plan: MnistPlan) -> list[str]:
    """Say of each set of features whether it learns, and whether it is ahead of Adam.

    Parameters
    ----------
    record, plan
        As for :func:`mnist_markdown`.
    """
    adam, lines = record.cells["adam"], []
    for features in plan.features:
        cells = record.by_seed(features, plan.meta_seeds)
        if not cells:
            continue
        losses = [_mean(cell["tuned"], "train") for cell in cells]
        learns = sum(loss < LEARNS for loss in losses)
        verdicts = [
            f"{sum(loss < _mean(adam[kind], 'train') for loss in losses)} of {len(losses)} are "
            f"below {name}"
            for kind, name in (("default", "Adam at 0.001"), ("tuned", "tuned Adam"))
        ]
        validated = sum(
            _mean(cell["tuned"], "validation") < _mean(adam["tuned"], "validation")
            for cell in cells
        )
        lines.append(
            f"{features}: {learns} of {len(losses)} meta-trainings learn (training loss below "
            f"{LEARNS:.2f}, half of guessing); on training loss {', '.join(verdicts)}; on "
            f"validation loss {validated} below tuned Adam."
        )
    return lines


def _mean(runs: list[dict[str, Any]], part: str) -> float:
    """Return the mean loss of students; infinite where one is not finite."""
    values = [run[part] for run in runs]
    return float("inf") if None in values else statistics.fmean(values)


def _over(run: dict[str, Any]) -> float:
    """Return the mean loss of a student's batches over its run."""
    return statistics.fmean(run["curve"])
