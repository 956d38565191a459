"""Meta-training: it helps within seconds, and stopping it changes nothing."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from unstuck.learned import (
    FAMILIES,
    MLP,
    Backprop,
    Evolution,
    MetaTraining,
    Plan,
    load,
)
from unstuck.learned.training import CHECKPOINT, CURVE, RULE


def estimator(kind=Evolution, **settings):
    torch.manual_seed(0)
    rule = MLP(hidden=4, control=4)
    plan = Plan(unrolls=2, students=8, truncation=10, horizon=(20, 40))
    return kind(rule, FAMILIES["quadratics"], plan, seed=1, **settings)


@pytest.mark.parametrize("kind", [Evolution, Backprop])
def test_improves_on_the_untrained_rule_in_seconds(kind):
    settings = {"sigma": 0.05} if kind is Evolution else {}
    training = MetaTraining(estimator(kind, **settings), steps=40, lr=0.03, judge_every=39)
    untrained = training.judge()  # Adam
    training.run()
    assert training.rows[-1].judged < untrained - 0.1
    assert [row.step for row in training.rows if not math.isnan(row.judged)] == [1, 39, 40]


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    whole = MetaTraining(estimator(), steps=8, judge_every=3, folder=tmp_path / "whole")
    whole.run()
    for stop in (3, 4, 8):
        part = MetaTraining(estimator(), steps=8, judge_every=3, folder=tmp_path / "parts")
        while len(part.rows) < stop:
            part.step()
        part.save()
    assert part.done
    one, two = (load(tmp_path / name / RULE) for name in ("whole", "parts"))
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)
    for a, b in zip(whole.rows, part.rows, strict=True):
        assert repr(a[:-1]) == repr(b[:-1])  # all but the seconds


def test_what_is_written_can_be_used(tmp_path):
    training = MetaTraining(estimator(), steps=2, folder=tmp_path)
    rule = training.run()
    again = load(tmp_path / RULE)
    assert again.config() == rule.config()
    curve = json.loads((tmp_path / CURVE).read_text())
    assert curve["step"] == [1, 2]
    assert curve["options"] == training.options()
    assert curve["student_steps"][-1] == training.rows[-1].student_steps == 2 * 2 * 8 * 10
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CHECKPOINT, CURVE, RULE])


def test_stops_when_time_is_over(tmp_path):
    training = MetaTraining(estimator(), folder=tmp_path)
    training.run(minutes=0.01)
    made = len(training.rows)
    assert made >= 1
    assert training.rows[-2 if made > 1 else -1].seconds < 0.6 or made == 1
    again = MetaTraining(estimator(), folder=tmp_path)
    again.run(minutes=0.0)
    assert len(again.rows) == made
    with pytest.raises(ValueError, match="give minutes="):
        again.run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: MetaTraining(estimator(), steps=9), "steps=8, not 9"),
        (lambda: MetaTraining(estimator(sigma=0.2), steps=8), "sigma=0.03, not 0.2"),
        (lambda: MetaTraining(estimator(Backprop), steps=8), "estimator=evolution, not backprop"),
    ],
)
def test_does_not_go_on_with_other_options(tmp_path, change, message, monkeypatch):
    MetaTraining(estimator(), steps=8, folder=tmp_path).save()
    made = MetaTraining.__init__
    monkeypatch.setattr(
        MetaTraining, "__init__", lambda *a, **k: made(*a, **{**k, "folder": tmp_path})
    )
    with pytest.raises(ValueError, match=message):
        change()


def test_refuses_a_damaged_checkpoint(tmp_path):
    MetaTraining(estimator(), steps=8, folder=tmp_path).save()
    data = bytearray((tmp_path / CHECKPOINT).read_bytes())
    data[-10] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        MetaTraining(estimator(), steps=8, folder=tmp_path)
    MLP().save(tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="no checkpoint of a meta-training"):
        MetaTraining(estimator(), steps=8, folder=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"lr": -1.0}, "lr must be a positive number, not -1.0"),
        ({"clip": math.inf}, "clip must be a positive number, not inf"),
        ({"judges": 0}, "judges must be at least 1, not 0"),
    ],
)
def test_refuses_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        MetaTraining(estimator(), **settings)


KILLED = """
import sys
import torch
from unstuck.learned import FAMILIES, MLP, Evolution, MetaTraining, Plan

torch.set_num_threads(1)
torch.manual_seed(0)
plan = Plan(unrolls=2, students=4, truncation=10, horizon=(20, 40))
es = Evolution(MLP(hidden=4, control=4), FAMILIES["quadratics"], plan, seed=1)
training = MetaTraining(es, steps=12, judge_every=6, folder=sys.argv[1])
training.run(save_every=0.0, progress=lambda row: print(row.step, flush=True))
"""


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(folder)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in first.stdout:
        if int(line) == 4:
            break
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    second = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    steps = [int(line) for line in second.stdout.split()]
    assert steps[0] > 1
    assert steps[-1] == 12
    whole = tmp_path / "whole"
    subprocess.run([*command[:-1], str(whole)], capture_output=True, check=True, timeout=300)
    for p, q in zip(load(folder / RULE).parameters(), load(whole / RULE).parameters(), strict=True):
        assert torch.equal(p, q)


def test_curves_hold_the_time_spent(tmp_path):
    training = MetaTraining(estimator(), steps=3, folder=tmp_path)
    before = time.monotonic()
    training.run()
    assert 0 < training.seconds <= time.monotonic() - before
