"""The table of the study of training problems that trap."""

from __future__ import annotations

from typing import Any

from unstuck.experiments.alme_traps import BUDGETS, HIGHER, METHODS, RATES, TrapsPlan, outcome
from unstuck.experiments.cells import CellRecord
from unstuck.problems import TRAPS, load_trap

GROUPS = {  # problems whose successes are added up: what is known of how ALME was made on them
    "made on": (
        *("xor", "parity", "phase-retrieval", "matrix-sensing", "convection", "two-spirals"),
        *("teacher-student", "sinusoids", "deep-sigmoids", "encoder", "matrix-product", "bumps"),
        "dead-units",
    ),
    "mended on": (
        *("gaussian-mixture", "k-means", "localization", "lotka-volterra", "blind-deconvolution"),
        *("lennard-jones", "oscillators", "helmholtz", "adding", "normed-parity"),
    ),
    "held out": (
        *("circuit", "registration", "nonnegative", "pendulum", "decays", "hidden-chain"),
        *("thin-film", "mixed-regressions"),
    ),
}


def traps_markdown(record: CellRecord, plan: TrapsPlan) -> str:
    """Write the table: successes and evaluations of every method on every problem.

    Parameters
    ----------
    record : CellRecord
        From :func:`run_traps`.
    plan : TrapsPlan
        Which of its problems and methods to show.

    Examples
    --------
    >>> from unstuck.experiments.alme_traps import TrapsPlan, run_traps
    >>> plan = TrapsPlan(("xor",), ("lbfgs-restarts",), seeds=1)
    >>> "| xor | 0.01 | 1 of 1: " in traps_markdown(run_traps(plan), plan)
    True
    """
    exceptions = ", ".join(f"{name} {most}" for name, most in BUDGETS.items())
    lines = [
        "# Training problems that trap",
        "",
        f"Runs of {plan.seeds} that get below the target within {plan.budget} gradient evaluations "
        f"({exceptions}); then the median number of evaluations to the target, and the quartiles "
        "(- where that run did not get there), or, without success, the median of the lowest "
        "losses. A target + truth is above the loss of what made the data. Every evaluation "
        f"counts: line searches, candidates, fresh starts. Rates are chosen of {len(RATES)} on "
        f"{plan.tuning_seeds} other seeds, and of {len(HIGHER)} higher ones where the highest was "
        "the best.",
        "",
        f"{record.origin} That was the last addition; every method names its commits below.",
        "",
        "| problem | target | " + " | ".join(plan.methods) + " |",
        "|---|---|" + "---|" * len(plan.methods),
    ]
    for problem in plan.problems:
        cells = [_shown(record.cells.get(f"{problem}/{method}"), method) for method in plan.methods]
        lines.append(f"| {problem} | {_target(problem)} | " + " | ".join(cells) + " |")
    lines += [_sums(record, plan, group) for group in GROUPS]
    lines += ["", *(f"- {m}: {METHODS[m][2]} ({_commits(record, plan, m)})." for m in plan.methods)]
    lines += [
        "",
        *(f"- **{name}**: {TRAPS[name].about} ({TRAPS[name].source})." for name in plan.problems),
    ]
    return "\n".join(lines) + "\n"


def _sums(record: CellRecord, plan: TrapsPlan, group: str) -> str:
    """Add up the successes of every method on those problems of a group that it was run on."""
    sums = []
    for method in plan.methods:
        names = [f"{problem}/{method}" for problem in plan.problems if problem in GROUPS[group]]
        runs = [n for x in names if x in record.cells for n in record.cells[x]["evaluations"]]
        sums.append(f"{sum(n is not None for n in runs)} of {len(runs)}")
    return f"| all {group} | | " + " | ".join(sums) + " |"


def _commits(record: CellRecord, plan: TrapsPlan, method: str) -> str:
    """Say which commits a method was run with, and on what."""
    runs: dict[str, list[str]] = {}
    for problem in plan.problems:
        if cell := record.cells.get(f"{problem}/{method}"):
            runs.setdefault(cell["commit"], []).append(problem)
    if len(runs) < 2:
        return "".join(f"commit {commit}" for commit in runs) or "not run"
    return "; ".join(f"commit {commit}: {', '.join(names)}" for commit, names in runs.items())


def _target(problem: str) -> str:
    """Write the target; a trailing "+ truth" for one above the loss of what made the data."""
    margin = TRAPS[problem].target
    return f"{margin:g}" + (" + truth" if load_trap(problem).target != margin else "")


def _shown(cell: dict[str, Any] | None, method: str) -> str:
    if cell is None:
        return "not run"
    tuned = f", rate {cell['rate']:g}" if len(METHODS[method][1]) > 1 else ""
    return outcome(cell) + tuned
