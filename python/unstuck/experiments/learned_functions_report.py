"""The tables of the study of functions in three phases."""

from __future__ import annotations

from typing import Any

from unstuck.experiments.cells import CellRecord, spread
from unstuck.experiments.learned_functions import (
    BASELINES,
    GROUPS,
    JUDGED,
    NEAR,
    PHASES,
    RATES,
    SHIFT,
    UNIT,
    FunctionsPlan,
)

TITLES = {
    "rastrigin": "Rastrigin, 2 numbers",
    "rastrigin-moved": "Rastrigin with its minimum, and the starts, moved",
    "rosenbrock": "Rosenbrock, 2 numbers",
    "quadratic": "Quadratics of 2 numbers",
}
LEARNED_FROM = {
    "generalist": "quadratics",
    "specialist": "the generalist, then Rastrigin",
    "multi-task": "Rastrigin and Rosenbrock, from scratch",
    "specialist-moved": "the generalist, then Rastrigin moved at random",
}


def functions_markdown(record: CellRecord, plan: FunctionsPlan) -> str:
    """Write a table a function: every phase of every rule, beside tuned baselines.

    Parameters
    ----------
    record : CellRecord
        From :func:`unstuck.experiments.learned_functions.run_functions`.
    plan : FunctionsPlan
        What of it to show.

    Examples
    --------
    >>> from unstuck.experiments.learned_functions import run_functions
    >>> from unstuck.experiments.learned_meta import Budget
    >>> budget = Budget("evolution", 1, students=2, truncation=2, horizon=2)
    >>> plan = FunctionsPlan(("mlp",), meta_seeds=1, starts=8, steps=2, budget=budget)
    >>> "multi-task" in functions_markdown(run_functions(plan), plan)
    True
    """
    lines = [
        "# Learned rules on functions of two numbers, in three phases",
        "",
        "Reported: a generalist is meta-trained on quadratics, a specialist is the generalist "
        "tuned further on Rastrigin, a multi-task rule learns Rastrigin and Rosenbrock from "
        "scratch; all are judged on Rastrigin beside Adam and SGD, without figures. Ours: each "
        f"phase has {plan.budget.words()}, the objective the logarithm of the loss. Values above "
        f"the minimum after {plan.steps} steps from {plan.starts} starts, the same for all; "
        f"found: the share of starts that end less than {NEAR:g} above the global minimum. Rules: "
        "mean ± standard deviation over meta-trainings. Adam, SGD and SGD with momentum 0.9 run at "
        f"the best of {len(RATES)} rates for each function by the mean over {plan.starts} other "
        f"starts. Rules work in units of {UNIT:g}: an untrained one is Adam of rate "
        f"{1e-3 * UNIT:g}, and none is told the number of steps.",
        "",
        "Rules see the point itself, and the minimum of Rastrigin's function lies at zero: a rule "
        "that only shrinks its point finds it. So there is a second judgement, and a phase more "
        "than reported, with the minimum (and the starts with it) moved by up to "
        f"{SHIFT:g} each way, to {GROUPS} places.",
        "",
        record.origin,
    ]
    for kind in JUDGED:
        lines += [
            "",
            f"## {TITLES[kind]}",
            "",
            "| rule | phase | learned from | mean | lower quartile | median | upper quartile | "
            "found |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in plan.rules:
            runs = record.by_seed(name, plan.meta_seeds)
            for phase in PHASES:
                found = [cell[phase]["judged"][kind] for cell in runs]
                head = f"| {name} | {phase} | {LEARNED_FROM[phase]} |"
                lines.append(f"{head} {_row(found)}" if found else f"{head} not run | | | | |")
        for name in BASELINES:
            cell = record.cells["baselines"][name]
            head = f"| {name} | rate {cell['rates'][kind]:g} | |"
            lines.append(f"{head} {_row([cell['judged'][kind]])}")
    return "\n".join([*lines, "", *(f"- {line}" for line in functions_lines(record, plan))]) + "\n"


def functions_lines(record: CellRecord, plan: FunctionsPlan) -> list[str]:
    """Say which phases find the minimum of Rastrigin's function, and what they forget.

    Parameters
    ----------
    record, plan
        As for :func:`functions_markdown`.
    """
    lines = []
    for kind in ("rastrigin", "rastrigin-moved"):
        cells = record.cells["baselines"]
        best = max(BASELINES, key=lambda name: cells[name]["judged"][kind]["found"])
        share = cells[best]["judged"][kind]["found"]
        lines.append(f"{TITLES[kind]}: the best baseline, {best}, finds {share:.1%}.")
        for name in plan.rules:
            runs = record.by_seed(name, plan.meta_seeds)
            shares = {
                phase: [cell[phase]["judged"][kind]["found"] for cell in runs] for phase in PHASES
            }
            if runs:
                text = "; ".join(
                    f"{phase} {', '.join(f'{x:.1%}' for x in found)}"
                    for phase, found in shares.items()
                )
                lines.append(f"{TITLES[kind]}, {name}, by meta-training: {text}.")
    for name in plan.rules:
        runs = record.by_seed(name, plan.meta_seeds)
        if runs:
            medians = {
                phase: spread([cell[phase]["judged"]["quadratic"]["median"] for cell in runs])
                for phase in PHASES
            }
            text = ", ".join(f"{phase} {median}" for phase, median in medians.items())
            lines.append(f"What is left of the quadratics, {name}, median: {text}.")
    return lines


def _row(found: list[dict[str, Any]]) -> str:
    cells = [spread([x[key] for x in found]) for key in ("mean", "lower", "median", "upper")]
    cells.append(spread([100 * x["found"] for x in found]) + " %")
    diverged = sum(x["diverged"] for x in found)
    if diverged:
        cells[-1] += f" ({diverged} starts diverged)"
    return " | ".join(cells) + " |"
