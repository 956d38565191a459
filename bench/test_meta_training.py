"""What meta-training spends its time on: students that train, each with a rule of its own.

Twenty steps of all students, beside the two kernels in it alone (gradients, then the rule's step)
and beside the rule in plain torch under ``vmap``. Students a second are 20,000 times the students
over the milliseconds.
"""

from __future__ import annotations

import pytest
import torch

from unstuck.learned import MLP, Network, Plan, Task
from unstuck.learned.students import MetaParameters, Students, begin_state
from unstuck.learned.together import step_students_
from unstuck.learned.unroll import Unroll

STEPS = 20


class Plain(MLP):
    """The MLP rule without its kernel."""


class One:
    """A family of one task."""

    name = "one"

    def __init__(self, task: Task) -> None:
        self.task = task

    def sample(self, seed: int) -> Task:
        return self.task


def unroll(rule: MLP, task: Task, students: int) -> Unroll:
    plan = Plan(students=students, horizon=(STEPS, STEPS))
    return Unroll(rule, One(task), plan, key=0, pairs=True)


@pytest.mark.parametrize("students", [8, 32])
@pytest.mark.parametrize("data", ["mnist", "digits"])
def test_students(side_by_side, data: str, students: int) -> None:
    torch.manual_seed(0)
    task, rule, plain = Network(data, (32,)), MLP(), Plain()
    thetas = MetaParameters(rule).read().repeat(students, 1)
    ours, theirs = (unroll(kind, task, students) for kind in (rule, plain))
    net, batch = Students(task), task.batch(0)
    points = net.begin(list(range(students)))
    state, gradients = begin_state(rule, net, points), torch.randn_like(points)

    def train(one: Unroll) -> None:
        one.step = 0
        one.run(thetas, STEPS)

    def kernels() -> None:
        for _ in range(STEPS):
            net.value_and_gradient(points, batch)
            step_students_(rule, thetas, points, gradients, state, net.shapes)

    side_by_side(
        f"{students} students {task.name.split(',')[0]}",
        lambda: train(ours),
        {"kernels": kernels, "torch": lambda: train(theirs)},
    )
