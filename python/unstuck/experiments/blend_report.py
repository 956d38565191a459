"""What a blend study comes to: a row for each method, the claim tested, both as markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from unstuck.experiments.blend import REPORTED, Plan, best_trial
from unstuck.experiments.blend_methods import METHODS
from unstuck.experiments.blend_record import BlendRecord
from unstuck.training import At, Stat


@dataclass(frozen=True)
class Summary:
    """One method on one data set over the seeds; a diverged run makes the mean infinite.

    Attributes
    ----------
    data, method : str
        What ran on what.
    settings : dict
        The tuned settings (of seed 0 in the source's protocol, where each seed tunes).
    runs, diverged : int
        Seeds run, and how many of them diverged.
    tuned : float
        Validation loss of the best trial, mean over the tuning seeds.
    validation_loss, test_loss, test_accuracy, epoch : Stat
        Mean and standard deviation over the seeds that did not diverge.
    """

    data: str
    method: str
    settings: dict[str, float]
    runs: int
    diverged: int
    tuned: float
    validation_loss: Stat
    test_loss: Stat
    test_accuracy: Stat
    epoch: Stat


@dataclass(frozen=True)
class Comparison:
    """A gate against the best baseline of a data set, seed by seed.

    Attributes
    ----------
    data, gate, baseline : str
        What is compared; the baseline is the one with the lowest mean over the reported seeds,
        chosen for each loss alone.
    loss : str
        ``"validation_loss"`` or ``"test_loss"``.
    difference : Stat
        Mean and standard deviation over seeds of gate minus baseline; negative is better.
    wins, seeds : int
        Seeds on which the gate is lower, and seeds compared.
    """

    data: str
    gate: str
    baseline: str
    loss: str
    difference: Stat
    wins: int
    seeds: int

    @property
    def beyond_spread(self) -> bool:
        """Whether the gate is better by more than one standard deviation of the differences."""
        return self.difference.mean < -self.difference.std


def summarize(record: BlendRecord, plan: Plan, at: At = "last") -> list[Summary]:
    """Return a row for each data set and method of the plan that has runs.

    Parameters
    ----------
    record, plan
        Given to and returned by :func:`unstuck.experiments.run_study`.
    at : {"last", "best"}
        The last epoch, or each run's epoch of lowest validation loss.

    Examples
    --------
    >>> from unstuck.experiments import Plan, run_study
    >>> least = dict(seeds=1, trials=1, tuning_seeds=1, epochs=1)
    >>> plan = Plan(data=("digits",), methods=("adam",), **least)
    >>> summarize(run_study(plan), plan)[0].method
    'adam'
    """
    rows = []
    for data in plan.data:
        for method in plan.methods:
            runs = _runs(record, plan, data, method)
            if not runs:
                continue
            good = [run for run in runs if not run["diverged"]]
            stats = {
                name: Stat.of([float(run[at][name]) for run in good])
                for name in ("validation_loss", "test_loss", "test_accuracy", "epoch")
            }
            key = f"{data}/{method}"
            tuned = (
                best_trial(record, key, plan.trials)["value"]
                if plan.protocol == "honest"
                else math.nan
            )
            rows.append(
                Summary(
                    data=data,
                    method=method,
                    settings=runs[0]["settings"],
                    runs=len(runs),
                    diverged=len(runs) - len(good),
                    tuned=tuned,
                    **stats,
                )
            )
    return rows


def compare(
    record: BlendRecord,
    plan: Plan,
    gate: str,
    *,
    loss: str = "validation_loss",
    at: At = "last",
    against: str = "baseline",
) -> list[Comparison]:
    """Compare a gate with the best other method of role `against`, on each data set.

    Data sets without a run of either are left out. A diverged baseline counts as infinite, a
    diverged gate as :data:`math.inf` too, so that divergence is never an advantage.

    Parameters
    ----------
    record, plan
        Given to and returned by :func:`unstuck.experiments.run_study`.
    gate : str
        The method to compare.
    loss : {"validation_loss", "test_loss"}
        The loss that is compared.
    at : {"last", "best"}
        The last epoch, or each run's epoch of lowest validation loss.
    against : str
        The role of the methods to compare with, as in :data:`unstuck.experiments.METHODS`.

    Examples
    --------
    >>> from unstuck.experiments import Plan, run_study
    >>> least = dict(seeds=1, trials=1, tuning_seeds=1, epochs=1)
    >>> plan = Plan(data=("digits",), methods=("gate", "adam"), **least)
    >>> compare(run_study(plan), plan, "gate")[0].baseline
    'adam'
    """
    found = []
    for data in plan.data:
        ours = _losses(record, plan, data, gate, loss, at)
        others = {
            name: losses
            for name in plan.methods
            if METHODS[name].role == against and name != gate
            if (losses := _losses(record, plan, data, name, loss, at))
        }
        if not ours or not others:
            continue
        best = min(others, key=lambda name: Stat.of(list(others[name].values())).mean)
        seeds = [seed for seed in ours if seed in others[best]]
        differences = [ours[seed] - others[best][seed] for seed in seeds]
        spread = (
            Stat.of(differences) if all(map(math.isfinite, differences)) else Stat(math.inf, 0.0)
        )
        wins = sum(difference < 0 for difference in differences)
        found.append(Comparison(data, gate, best, loss, spread, wins, len(seeds)))
    return found


def markdown(record: BlendRecord, plan: Plan) -> str:
    """Write the study as markdown: a table for each data set, then the comparisons.

    Parameters
    ----------
    record, plan
        Given to and returned by :func:`unstuck.experiments.run_study`.

    Examples
    --------
    >>> from unstuck.experiments import Plan, run_study
    >>> least = dict(seeds=1, trials=1, tuning_seeds=1, epochs=1)
    >>> plan = Plan(data=("digits",), methods=("adam",), **least)
    >>> print(markdown(run_study(plan), plan).splitlines()[0])
    # Blend study, honest protocol
    """
    made = record.made
    trials = f"{plan.trials} Optuna trials a method"
    how = {
        "honest": f"{trials}, each over {plan.tuning_seeds} seeds that are not reported; train, "
        "meta, validation and test rows kept apart",
        "source": f"as reported: for each seed the best of {trials.replace(' a method', '')}, "
        "chosen by the loss shown, whose rows also train the gates that take a second batch",
    }
    lines = [
        f"# Blend study, {plan.protocol} protocol",
        "",
        f"MLP with two hidden layers of 256, {plan.epochs} epochs, batches of {plan.batch_size}, "
        f"{plan.seeds} seeds (mean ± standard deviation), last epoch; {how[plan.protocol]}.",
        "",
    ]
    if made:
        lines += [
            f"Made {made['date']} with unstuck {made['unstuck']} (commit {made['commit']}), "
            f"torch {made['torch']}, CPU, {made['threads']} thread(s).",
            "",
        ]
    rows = summarize(record, plan)
    for data in plan.data:
        lines += _table([row for row in rows if row.data == data], data, plan)
    if plan.protocol == "honest":
        lines += _claims(record, plan)
    return "\n".join(lines)


def describe(settings: dict[str, float]) -> str:
    """Write settings in one short line."""
    return ", ".join(f"{name} {value:.3g}" for name, value in settings.items())


def spread(stat: Stat, digits: int = 4, scale: float = 1.0) -> str:
    """Write mean and standard deviation."""
    if not math.isfinite(stat.mean):
        return "diverged"
    text = f"{scale * stat.mean:.{digits}f}"
    return f"{text} ± {scale * stat.std:.{digits}f}" if math.isfinite(stat.std) else text


def _table(rows: list[Summary], data: str, plan: Plan) -> list[str]:
    """Lay out one data set, lowest validation loss first."""
    if not rows:
        return []
    shows_reported = data == "mnist1d" and any(row.method in REPORTED for row in rows)
    head = ["method", "what it is", "tuned", "validation loss", "test loss", "test accuracy %"]
    head += ["reported validation loss"] if shows_reported else []
    lines = [f"## {data}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in sorted(rows, key=lambda row: _order(row.validation_loss.mean)):
        name = f"**{row.method}**" if METHODS[row.method].role == "gate" else row.method
        if row.diverged:
            name += f" ({row.diverged} of {row.runs} diverged)"
        cells = [
            name,
            METHODS[row.method].about,
            describe(row.settings) if plan.protocol == "honest" else "a seed at a time",
            spread(row.validation_loss),
            spread(row.test_loss),
            spread(row.test_accuracy, 2, 100),
        ]
        if shows_reported:
            cells.append(f"{REPORTED[row.method]:.4f}" if row.method in REPORTED else "")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _claims(record: BlendRecord, plan: Plan) -> list[str]:
    """Say how the gates compare with the best of the others on each data set."""
    gates = [name for name in plan.methods if METHODS[name].role == "gate"]
    lines = [
        "## Gates against the best baseline",
        "",
        "Gate minus baseline on the same seed: negative is better for the gate. The baseline is "
        "the one with the lowest mean of that loss over the seeds shown, picked afterwards: the "
        "comparison that is hardest for the gate.",
        "",
    ]
    lines += _comparisons(record, plan, gates, "baseline", "last")
    if "gate" in gates:
        lines += ["The same with each run stopped at its epoch of lowest validation loss:", ""]
        lines += _comparisons(record, plan, ["gate"], "baseline", "best")
        lines += ["Against the best method with a given schedule (the controls), last epoch:", ""]
        lines += _comparisons(record, plan, ["gate"], "control", "last")
    return lines


def _comparisons(
    record: BlendRecord, plan: Plan, gates: list[str], against: str, at: At
) -> list[str]:
    """Lay comparisons out as a table."""
    lines = [
        "| gate | data | loss | best other | difference | seeds won | beyond the spread |",
        "|---|---|---|---|---|---|---|",
    ]
    for gate in gates:
        for loss in ("validation_loss", "test_loss"):
            for found in compare(record, plan, gate, loss=loss, at=at, against=against):
                cells = [
                    found.gate,
                    found.data,
                    loss.replace("_", " "),
                    found.baseline,
                    spread(found.difference),
                    f"{found.wins} of {found.seeds}",
                    "yes" if found.beyond_spread else "no",
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _runs(record: BlendRecord, plan: Plan, data: str, method: str) -> list[dict[str, Any]]:
    return [run for run in record.runs.get(f"{data}/{method}", []) if run["seed"] < plan.seeds]


def _losses(
    record: BlendRecord, plan: Plan, data: str, method: str, loss: str, at: At
) -> dict[int, float]:
    """Return the losses of a method by seed."""
    return {
        run["seed"]: math.inf if run["diverged"] else float(run[at][loss])
        for run in _runs(record, plan, data, method)
    }


def _order(mean: float) -> float:
    return mean if math.isfinite(mean) else math.inf
