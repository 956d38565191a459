"""Whether a meta-training that is run again ends where the first one did: one objective for all.

Run ``python bench/quality/learned_objective.py mlp-v1 learned/rule.safetensors``, the latter made
by the command of docs/meta-training.md with another ``--seed``. The objective is that of this
command, at the longest horizon, on tasks of its family that no training has drawn: lower is better.
Groups of eight tasks are the same for all rules; differences are paired, with their standard error.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from unstuck.learned import (
    FAMILIES,
    Evolution,
    MetaTraining,
    Objective,
    Plan,
    UpdateRule,
    load,
)

PLAN = Plan(
    truncation=50,
    horizon=(600, 600),
    told=0.75,
    multiplier=(0.1, 1.0),
    objective=Objective(late=3.0, validation=0.6, resolution=3e-4),
)
FIRST = 100  # seed of the first group: far from those that trainings are run with


def objective(rule: UpdateRule, seed: int) -> float:
    """Return the objective on a group of eight tasks."""
    return MetaTraining(Evolution(rule, FAMILIES["mlp"], PLAN, seed)).judge()


def main() -> None:
    """Judge the rules and compare each with the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rules", nargs="+", help="names or files")
    parser.add_argument("--groups", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in args.rules:
        rule = load(name)
        found[name] = [objective(rule, FIRST + group) for group in range(args.groups)]
        print(f"{name}: {statistics.fmean(found[name]):.4f}", flush=True)
    first, *others = args.rules
    for name in others:
        apart = [a - b for a, b in zip(found[name], found[first], strict=True)]
        error = statistics.stdev(apart) / len(apart) ** 0.5
        print(f"{name} minus {first}: {statistics.fmean(apart):+.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
