"""The tables of the study of held-out tasks."""

from __future__ import annotations

from collections.abc import Sequence

from unstuck.experiments.cells import CellRecord, spread
from unstuck.experiments.learned_compare import (
    ERRORS,
    Chosen,
    Comparison,
    Difference,
    Key,
    average,
    families,
)
from unstuck.experiments.learned_heldout import (
    CONFIRMATION,
    MULTIPLIERS,
    POWERS,
    UNCOUNTED,
    HeldOutPlan,
    baseline_cells,
    clock_key,
    comparisons,
)
from unstuck.experiments.learned_timing import LEARNED, THREADS
from unstuck.experiments.learned_training import METHODS, PARTS, SCHEDULES, fingerprint
from unstuck.learned import UpdateRule

KINDS = {
    "trains_below": "training loss below",
    "validates": "validation loss of these runs no worse",
    "both": "both",
    "one_does_both": "both with one of the multipliers",
    "validates_strictly": "validation loss no worse than tuned by it",
    "both_strictly": "first and this",
    "tuned_trains_below": "all tuned by validation loss: training loss below",
    "tuned_validates": "validation loss no worse",
    "tuned_both": "both of these",
}


def heldout_markdown(record: CellRecord, plan: HeldOutPlan, rule: UpdateRule, name: str) -> str:
    """Write the tables: losses at equal steps and at equal time, and what holds of each family.

    Parameters
    ----------
    record : CellRecord
        From :func:`unstuck.experiments.learned_heldout.run_heldout`.
    plan : HeldOutPlan
        Its tasks.
    rule : UpdateRule
        The rule.
    name : str
        What it is called.

    Examples
    --------
    >>> from unstuck.experiments.learned_heldout import run_heldout
    >>> from unstuck.learned import MLP
    >>> plan, rule = HeldOutPlan(("digits 64 sigmoid",), seeds=1, clock=False, most=2), MLP()
    >>> "| activation | no |" in heldout_markdown(run_heldout(plan, rule), plan, rule, "new")
    True
    """
    confirms = set(plan.tasks) <= set(CONFIRMATION)
    study = "confirmation" if confirms else "heldout"
    seeds = f"{plan.seeds} seed" + "s" * (plan.seeds > 1)
    multipliers = ", ".join(f"{lr:g}" for lr in MULTIPLIERS)
    lines = [
        "# A learned rule on tasks that its meta-training never saw"
        + (", nor the choice among rules" if confirms else ""),
        "",
        f"The rule {name} ({fingerprint(rule)}) with one multiplier of {multipliers}, told the "
        "number of steps, against Adam, AdamW (weight decay 0.01) and SGD (momentum 0.9), each at "
        f"a constant rate and with a cosine to 0, the rate from {len(POWERS['adam'])} half decades "
        "and from more while the best is at an end. The same first weights and batches for all, by "
        f"{seeds}; mean ± standard deviation over them. Losses are over all rows of a part at the "
        "end of the run.",
        "",
        "A difference is the rule's loss minus the baseline's, seed by seed: mean ± standard error."
        f" It is called below or above where it is so by more than {ERRORS:g} standard errors, else"
        " level; no worse is what is not above. A family has what all its tasks have. All choices, "
        "the rule's multiplier and the baselines' method, schedule and rate, are made on the seeds "
        "that are shown: it favours the baselines, which have more of them. First the rule's "
        "multiplier is that of the lowest training loss, and baselines are tuned by training loss "
        "(beside it, whether any one multiplier is below on training and no worse on validation), "
        "then by validation loss; last, both are tuned by validation loss, as in practice.",
        "",
        f"{record.origin} Made by `unstuck reproduce learned --study {study} --rule {name}`.",
    ]
    lines += ["", "## At equal steps", "", *_comparison(comparisons(record, plan, rule))]
    if plan.clock:
        lines += [
            "",
            "## At equal time",
            "",
            f"The baselines' steps are those that they make, on {THREADS[-1]} threads, in the time "
            "of the rule's; schedules are stretched over them, and the rate is tuned again: the "
            "best at equal steps and its neighbours.",
            "",
            *_comparison(comparisons(record, plan, rule, clock=True)),
            "",
            *_seconds(record, plan, rule),
        ]
    lines += ["", "## The rule", "", *_multipliers(record, plan, rule)]
    lines += ["", "## The baselines", "", *_baselines(record, plan)]
    return "\n".join(lines) + "\n"


def heldout_lines(record: CellRecord, plan: HeldOutPlan, rule: UpdateRule) -> list[str]:
    """Say in a line a task and in one for all how the rule compares, as the tables have it.

    Parameters
    ----------
    record, plan, rule
        As for :func:`heldout_markdown`.
    """
    lines = []
    for clock in (False, True) if plan.clock else (False,):
        found = comparisons(record, plan, rule, clock=clock)
        lines.append("At equal time:" if clock else "At equal steps:")
        lines += [f"  {_line(one)}" for one in found]
        lines += [f"  {kind}: {count}" for kind, count in _counts(found).items()]
    return lines


def _line(one: Comparison) -> str:
    best, by_validation = one.by_training, one.by_validation
    ours = one.rule_by_validation
    tuned = ", ".join(
        f"{name} {average(ours.losses(part)):.3g} and {average(by_validation.losses(part)):.3g} "
        f"({one.tuned(part).verdict})"
        for name, part in (("training", "train"), ("validation", "validation"))
    )
    trained, same, strict = (
        f"{average(one.rule.losses(part)):.3g} and {average(other.losses(part)):.3g} "
        f"({one.difference(part, against).verdict})"
        for part, other, against in (
            ("train", best, "by_training"),
            ("validation", best, "by_training"),
            ("validation", by_validation, "by_validation"),
        )
    )
    return (
        f"{one.family}: {one.task}, rule {one.rule.name} and {best.name}: training {trained}, "
        f"validation {same}; and {by_validation.name}: validation {strict}; {ours.name} and "
        f"{by_validation.name}: {tuned}"
    )


def _counts(found: Sequence[Comparison]) -> dict[str, str]:
    """Return of how many counted families each kind of statement holds."""
    counted = [held for name, held in families(found).items() if name != UNCOUNTED]
    return {
        text: f"{sum(held[kind] for held in counted)} of {len(counted)}"
        for kind, text in KINDS.items()
    }


def _comparison(found: Sequence[Comparison]) -> list[str]:
    """Return the tables of one kind of comparison."""
    lines = ["| family | " + " | ".join(KINDS.values()) + " |", "|---|" + "---|" * len(KINDS)]
    for family, held in families(found).items():
        beside = " (not counted)" if family == UNCOUNTED else ""
        row = ["yes" if held[kind] else "no" for kind in KINDS]
        lines.append(f"| {family}{beside} | " + " | ".join(row) + " |")
    lines.append("| **counted** | " + " | ".join(_counts(found).values()) + " |")
    lines += [
        "",
        "Against the baseline with the lowest training loss:",
        "",
        "| family | task | rule | baseline | training: rule | baseline | difference "
        "| validation: rule | baseline | difference | test: rule | baseline | difference "
        "| both with |",
        "|" + "---|" * 14,
    ]
    for one in found:
        figures = [
            text
            for part in PARTS
            for text in _pair(one.rule, one.by_training, part, one.difference(part))
        ]
        names = [one.family, one.task, one.rule.name, one.by_training.name]
        both = ", ".join(one.doing_both) or "none"
        lines.append("| " + " | ".join([*names, *figures, both]) + " |")
    lines += [
        "",
        "The same runs of the rule against the baseline with the lowest validation loss:",
        "",
        "| task | baseline | validation: rule | baseline | difference | test: rule | baseline "
        "| difference | test accuracy %: rule | baseline |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        figures = [
            text
            for part in PARTS[1:]
            for text in _pair(
                *(one.rule, one.by_validation, part), one.difference(part, "by_validation")
            )
        ]
        accuracies = [_accuracy(chosen) for chosen in (one.rule, one.by_validation)]
        lines.append(
            "| " + " | ".join([one.task, one.by_validation.name, *figures, *accuracies]) + " |"
        )
    return [*lines, "", *_tuned(found)]


def _tuned(found: Sequence[Comparison]) -> list[str]:
    """Return the table in which rule and baselines are tuned by validation loss."""
    lines = [
        "Rule and baseline both tuned by validation loss:",
        "",
        "| task | rule | baseline | training: rule | baseline | difference | validation: rule "
        "| baseline | difference | test: rule | baseline | difference | test accuracy %: rule "
        "| baseline |",
        "|" + "---|" * 14,
    ]
    for one in found:
        ours, other = one.rule_by_validation, one.by_validation
        figures = [text for part in PARTS for text in _pair(ours, other, part, one.tuned(part))]
        names = [one.task, ours.name, other.name]
        lines.append(
            "| " + " | ".join([*names, *figures, _accuracy(ours), _accuracy(other)]) + " |"
        )
    return lines


def _pair(rule: Chosen, other: Chosen, part: str, difference: Difference) -> list[str]:
    """Return the losses of both on a part, and their difference."""
    losses = [spread(chosen.losses(part)) for chosen in (rule, other)]
    mean, error = f"{difference.mean:+.2g}", f"{difference.error:.1g}"
    return [*losses, f"{mean} ± {error}, {difference.verdict}"]


def _accuracy(chosen: Chosen) -> str:
    values = [100 * value for value in chosen.cell["test"]["accuracy"] if value is not None]
    return spread(values)


def _multipliers(record: CellRecord, plan: HeldOutPlan, rule: UpdateRule) -> list[str]:
    """Return the table of the rule with every multiplier."""
    lines = [
        "The training loss, and the validation loss, with every multiplier:",
        "",
        "| task | steps | " + " | ".join(f"x {lr:g}" for lr in MULTIPLIERS) + " |",
        "|---|---|" + "---|" * len(MULTIPLIERS),
    ]
    for name in plan.tasks:
        key, row = Key(name, plan.steps(name)), []
        for lr in MULTIPLIERS:
            cell = record.cells[key.rule(fingerprint(rule), lr)]
            row.append(", ".join(spread(cell[part]["loss"]) for part in PARTS[:2]))
        lines.append(f"| {name} | {key.steps} | " + " | ".join(row) + " |")
    return lines


def _baselines(record: CellRecord, plan: HeldOutPlan) -> list[str]:
    """Return the tables of every method and schedule at its best rate, at equal steps."""
    kinds = [(method, schedule) for method in METHODS for schedule in SCHEDULES]
    lines = []
    for part, what in zip(PARTS[:2], ("training", "validation"), strict=True):
        lines += [
            f"The {what} loss at the rate of the lowest {what} loss (that rate):",
            "",
            "| task | steps | " + " | ".join(" ".join(kind) for kind in kinds) + " |",
            "|---|---|" + "---|" * len(kinds),
        ]
        for name in plan.tasks:
            steps, row = plan.steps(name), []
            for method, schedule in kinds:
                cells = baseline_cells(record, name, steps, method)
                mine = {f"{j.rate:g}": cell for j, cell in cells.items() if j.schedule == schedule}
                best = Chosen.of(mine, part)
                row.append(f"{spread(best.losses(part))} ({best.name})")
            lines.append(f"| {name} | {steps} | " + " | ".join(row) + " |")
        lines.append("")
    return lines[:-1]


def _seconds(record: CellRecord, plan: HeldOutPlan, rule: UpdateRule) -> list[str]:
    """Return the table of times of a training step."""
    names = [*METHODS, LEARNED]
    lines = [
        "Milliseconds of a training step (forward, backward, `torch.optim` with `fused=True` or "
        "`unstuck.optim.Learned`), medians of "
        f"{plan.rounds} interleaved rounds:",
        "",
        "| task | threads | " + " | ".join(names) + " | learned / adam |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for name in plan.tasks:
        clock = record.cells[clock_key(name, rule)]
        for threads, seconds in clock.items():
            times = [f"{1e3 * seconds[one]:.3g}" for one in names]
            ratio = seconds[LEARNED] / seconds["adam"]
            lines.append(f"| {name} | {threads} | " + " | ".join(times) + f" | {ratio:.2f} |")
    return lines
