"""The study of held-out tasks, small: what is trained, what is run once, what is compared."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from unstuck.experiments import learned_heldout, learned_training
from unstuck.experiments.learned_compare import average
from unstuck.experiments.learned_curves import run_curves
from unstuck.experiments.learned_heldout import (
    BEYOND,
    CONFIRMATION,
    HELD_OUT,
    MULTIPLIERS,
    POWERS,
    HeldOutPlan,
    comparisons,
    equal_time_steps,
    run_heldout,
)
from unstuck.experiments.learned_report import heldout_lines, heldout_markdown
from unstuck.experiments.learned_timing import seconds_per_step
from unstuck.experiments.learned_training import (
    METHODS,
    SCHEDULES,
    Job,
    fingerprint,
    train_baselines,
    train_rule,
)
from unstuck.learned import FAMILIES, MLP, Network, Networks
from unstuck.learned.task import seed_of
from unstuck.optim import Learned
from unstuck.plots import learned_curves_figure

TASK = Network("digits", (12,), "tanh", batch_size=16)
SMALL = HeldOutPlan(("digits 64 sigmoid", "digits 512"), seeds=2, most=3, clock=False)


@pytest.fixture
def rule():
    torch.manual_seed(0)
    made = MLP()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return made


def alone(task, seed, steps, make, schedule="constant"):
    """Train one student as one writes it, and return its loss on all training rows."""
    params = [nn.Parameter(p) for p in task.initial(seed_of("held out", "weights", seed))]
    optimizer = make(params)
    cosine = CosineAnnealingLR(optimizer, T_max=steps) if schedule == "cosine" else None
    for step in range(steps):
        optimizer.zero_grad()
        loss = task.loss(params, task.batch(seed_of("held out", "batch", seed, step)))
        loss.backward()
        optimizer.step()
        if cosine:
            cosine.step()
    return task.loss(params, task.everything("train")).item()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_baselines_are_torchs_own_trainings(schedule):
    jobs = [Job(name, schedule, power) for name in METHODS for power in (-5, -4)]
    makers = {
        "adam": lambda params, lr: torch.optim.Adam(params, lr),
        "adamw": lambda params, lr: torch.optim.AdamW(params, lr, weight_decay=0.01),
        "sgd": lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9),
    }
    found = train_baselines(TASK, 20, 3, jobs)
    for job, figures in zip(jobs, found, strict=True):
        lone = alone(TASK, 3, 20, lambda p, job=job: makers[job.method](p, job.rate), job.schedule)
        assert figures["train"]["loss"] == pytest.approx(lone, rel=2e-4), job


def test_the_rule_steps_as_the_optimizer_does(rule):
    found = train_rule(TASK, 20, 3, rule, MULTIPLIERS)
    for lr, figures in zip(MULTIPLIERS, found, strict=True):
        lone = alone(TASK, 3, 20, lambda p, lr=lr: Learned(p, rule, lr, num_steps=20))
        assert figures["train"]["loss"] == pytest.approx(lone, rel=2e-4)
    assert len({figures["train"]["loss"] for figures in found}) == len(MULTIPLIERS)


def test_figures_are_over_all_rows():
    (found,) = train_baselines(TASK, 1, 0, [Job("sgd", "constant", -40)])  # a rate of nothing
    params = TASK.initial(seed_of("held out", "weights", 0))
    for part, figures in found.items():
        x, y = TASK.everything(part)
        logits = TASK.logits(params, x)
        right = (logits.argmax(1) == y).float().mean()
        assert figures["loss"] == pytest.approx(nn.functional.cross_entropy(logits, y).item(), 1e-5)
        assert figures["accuracy"] == pytest.approx(right.item(), 1e-5)


def test_students_differ_by_seed_and_not_by_company():
    jobs = [Job("adam", "constant", -5), Job("sgd", "cosine", -2), Job("sgd", "constant", 90)]
    together = train_baselines(TASK, 8, 1, jobs)
    assert together[2]["train"]["loss"] is None  # it diverged
    for job, figures in zip(jobs[:2], together[:2], strict=True):
        (lone,) = train_baselines(TASK, 8, 1, [job])
        assert lone["test"]["loss"] == pytest.approx(figures["test"]["loss"], rel=1e-4)
        (other,) = train_baselines(TASK, 8, 2, [job])
        assert other["test"]["loss"] != pytest.approx(figures["test"]["loss"], rel=1e-3)


def test_fingerprints_tell_weights_apart(rule):
    mark = fingerprint(rule)
    assert mark == fingerprint(rule)
    with torch.no_grad():
        next(rule.parameters()).view(-1)[0] += 1e-6
    assert fingerprint(rule) != mark


@pytest.mark.parametrize(("given", "lengths"), [(HELD_OUT, [3, 10]), (CONFIRMATION, [4])])
def test_meta_training_has_not_seen_these(given, lengths):
    seen = FAMILIES["mlp"]
    assert isinstance(seen, Networks)
    tasks = {family: [] for family in dict.fromkeys(h.family for h in given.values())}
    for held in given.values():
        tasks[held.family].append(held)
    assert list(tasks)[:5] == ["width", "depth", "activation", "data", "horizon"]
    assert all(max(held.task.hidden) > seen.width[1] for held in tasks["width"])
    assert all(len(held.task.hidden) > seen.depth[1] for held in tasks["depth"])
    assert not {held.task.activation for held in tasks["activation"]} & set(seen.activations)
    assert not {held.task.data for held in tasks["data"]} & set(seen.data)
    assert [held.steps for held in tasks["horizon"]] == [600 * length for length in lengths]
    assert all(held.task.channels for held in tasks.get("convolutions", []))


def test_what_confirms_was_not_chosen_by():
    assert not {h.task for h in CONFIRMATION.values()} & {h.task for h in HELD_OUT.values()}
    assert not set(CONFIRMATION) & set(HELD_OUT)


def test_what_a_file_holds_is_not_run_again(rule, tmp_path, monkeypatch):
    path, told = tmp_path / "learned.json", []
    record = run_heldout(SMALL, rule, path, told.append)
    assert json.loads(path.read_text())["cells"] == record.cells
    assert len(told) >= 2 * (len(METHODS) + 1)
    monkeypatch.setattr(learned_heldout, "train_baselines", None)
    other = MLP()
    told.clear()
    record = run_heldout(SMALL, other, path, told.append)
    assert told == [f"{name}: rule {fingerprint(other)}, 3 steps" for name in SMALL.tasks]
    monkeypatch.setattr(learned_heldout, "train_rule", None)
    for known in (rule, other):
        again = run_heldout(SMALL, known, path, told.append)
        assert again.cells == record.cells
    assert len(told) == 2
    with pytest.raises(ValueError, match="choose another file"):
        run_heldout(HeldOutPlan(SMALL.tasks, seeds=1, most=3), rule, path)


def stand_in(best, tried):
    """Return a training whose losses are the distance of a job's rate from the best ones."""

    def train(task, steps, seed, jobs):
        tried.extend((steps, job) for job in jobs if seed == 0)
        losses = [abs(job.power - best[job.method]) + 0.01 * seed for job in jobs]
        return [
            {part: {"loss": loss + shift, "accuracy": 0.5} for part, shift in PART_SHIFTS.items()}
            for loss in losses
        ]

    return train


PART_SHIFTS = {"train": 0.0, "validation": 1.0, "test": 2.0}


def test_a_best_rate_at_an_end_leads_further(rule, monkeypatch):
    grid = POWERS["adam"]
    best = {"adam": grid[0] - 2, "adamw": -5, "sgd": POWERS["sgd"][-1] + 50}
    tried = []
    monkeypatch.setattr(learned_heldout, "train_baselines", stand_in(best, tried))
    run_heldout(HeldOutPlan(("digits 512",), seeds=1, clock=False), rule)
    powers = {name: sorted({j.power for _, j in tried if j.method == name}) for name in METHODS}
    assert powers["adam"] == [*range(grid[0] - 3, grid[0]), *grid]
    assert powers["adamw"] == list(POWERS["adamw"])
    assert powers["sgd"] == [*POWERS["sgd"], *range(1, BEYOND + 1)]


def test_equal_time(rule, monkeypatch):
    seconds = {"adam": 1e-3, "adamw": 2e-3, "sgd": 1e-3 / 1.5, "learned": 1.5e-3}
    clock = {"1": dict.fromkeys(seconds, 1.0), "2": seconds}
    monkeypatch.setattr(learned_heldout, "seconds_per_step", lambda *_: clock)
    tried = []
    best = {"adam": -5, "adamw": -6, "sgd": -2}
    monkeypatch.setattr(learned_heldout, "train_baselines", stand_in(best, tried))
    plan = HeldOutPlan(("digits 512",), seeds=2)
    record = run_heldout(plan, rule)
    for method, steps in (("adam", 450), ("adamw", 225), ("sgd", 675)):
        assert equal_time_steps(seconds, method, 300) == steps
        mine = {(j.schedule, j.power) for n, j in tried if j.method == method and n == steps}
        near = {best[method] + move for move in (-1, 0, 1)}
        assert mine == {(schedule, power) for schedule in SCHEDULES for power in near}
    (steps,), (time,) = comparisons(record, plan, rule), comparisons(record, plan, rule, clock=True)
    assert steps.by_training.name == "adam constant 0.00316"
    assert time.by_training.name == "adam constant 0.00316, 450 steps"
    text = heldout_markdown(record, plan, rule, "mine")
    assert "| digits 512 | 2 | 1 | 2 | 0.667 | 1.5 | 1.50 |" in text
    assert text.count("## At equal") == 2
    losses = "0.005 ± 0.0071"  # of seeds 0 and 1 of the stand-in, at the best rate
    rates = (0.00316, 0.00316, 0.001, 0.001, 0.1, 0.1)
    row = " | ".join(f"{losses} ({rate:g})" for rate in rates)
    assert f"| digits 512 | 300 | {row} |" in text


def test_ratios_are_rounded_up():
    def steps(ratio):
        return equal_time_steps({"adam": 1.0, "learned": ratio}, "adam", 1000)

    assert [steps(1.0), steps(1.001), steps(1.05), steps(1.3)] == [1000, 1050, 1050, 1300]


def test_tables_and_lines(rule):
    record = run_heldout(SMALL, rule)
    text, lines = heldout_markdown(record, SMALL, rule, "mine"), heldout_lines(record, SMALL, rule)
    mark = fingerprint(rule)
    assert f"The rule mine ({mark})" in text
    assert "At equal time" not in text
    for one in comparisons(record, SMALL, rule):
        cells = [record.cells[f"{one.task}/3/rule {mark} x {lr:g}"] for lr in MULTIPLIERS]
        assert one.rule.cell in cells
        best = min(sum(cell["train"]["loss"]) for cell in cells)
        assert sum(one.rule.losses("train")) == best
        (row,) = [line for line in text.splitlines() if f"| {one.task} | 3 | " in line][:1]
        shown = [cell.split(" ± ")[0] for cell in row.split(" | ")[2:]]
        assert shown == [f"{average(cell['train']['loss']):.3g}" for cell in cells]
        jobs = [cell for key, cell in record.cells.items() if key.startswith(f"{one.task}/3/")]
        lowest = min(sum(cell["validation"]["loss"]) for cell in jobs if cell not in cells)
        assert sum(one.by_validation.losses("validation")) == lowest
        (line,) = [line for line in lines if f": {one.task}, rule" in line]
        assert one.by_training.name in line
        assert f"({one.difference('train').verdict})" in line
        assert f"| {one.family} | {one.task} | {one.rule.name} | {one.by_training.name} |" in text


def test_curves(rule, monkeypatch):
    plan = HeldOutPlan(("digits 512", "digits 64 sigmoid"), seeds=2, most=3, rounds=1)
    seconds = dict.fromkeys([*METHODS, "learned"], 1e-3)
    monkeypatch.setattr(
        learned_heldout, "seconds_per_step", lambda *_: {"1": seconds, "2": seconds}
    )
    record = run_heldout(plan, rule)
    told = []
    found = run_curves(record, plan, rule, told.append)
    assert list(found) == ["digits 512"]
    assert len(told) == 2
    curves = found["digits 512"]["curves"]
    assert [name.partition(" ")[0] for name in curves] == [*METHODS, "learned"]
    task = HELD_OUT["digits 512"].task
    first = [
        task.loss(
            task.initial(seed_of("held out", "weights", seed)),
            task.batch(seed_of("held out", "batch", seed, 0)),
        ).item()
        for seed in (0, 1)
    ]
    assert all(curve[0] == pytest.approx(sum(first) / 2, rel=1e-3) for curve in curves.values())
    monkeypatch.setattr(learned_training, "Students", None)
    assert run_curves(record, plan, rule, told.append) == found
    assert len(told) == 2
    figure = learned_curves_figure(found)
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]
    assert figure.axes[1].lines[0].get_xdata()[0] == pytest.approx(0.5e-3)


def test_steps_are_timed_and_threads_put_back(rule):
    found = seconds_per_step(TASK, rule, 10, rounds=2)
    assert torch.get_num_threads() == 1
    assert list(found) == ["1", "2"]
    assert all(0 < seconds < math.inf for times in found.values() for seconds in times.values())


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"tasks": ("maze",)}, "unknown task 'maze'"), ({"seeds": 0}, "seeds=0"), ({"most": 0}, "=0")],
)
def test_plans_that_cannot_be_run(settings, text):
    with pytest.raises(ValueError, match=text):
        HeldOutPlan(**settings)
