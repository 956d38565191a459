"""Several processes estimate what one does, bit for bit."""

import pytest
import torch

from unstuck.learned import FAMILIES, MLP, Evolution, MetaTraining, Plan, Workers, load
from unstuck.learned.training import RULE

PLAN = Plan(unrolls=3, students=4, truncation=5, horizon=(8, 12))


def estimator():
    torch.manual_seed(0)
    return Evolution(MLP(hidden=4, control=4), FAMILIES["quadratics"], PLAN, seed=3)


def test_processes_do_not_change_the_result(tmp_path):
    alone = MetaTraining(estimator(), steps=5, judge_every=5, folder=tmp_path / "alone")
    alone.run()
    with Workers(estimator(), 2) as workers:
        first = MetaTraining(workers, steps=5, judge_every=5, folder=tmp_path / "shared")
        while len(first.rows) < 2:
            first.step()
        first.save()
    with pytest.raises(RuntimeError, match="the processes have ended"):
        first.step()
    with Workers(estimator(), 1) as workers:  # and another number of them goes on
        second = MetaTraining(workers, steps=5, judge_every=5, folder=tmp_path / "shared")
        assert len(second.rows) == 2
        second.run()
    one, two = (load(tmp_path / name / RULE) for name in ("alone", "shared"))
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)
    for a, b in zip(alone.rows, second.rows, strict=True):
        assert repr(a[:-1]) == repr(b[:-1])


@pytest.mark.parametrize("count", [0, 4])
def test_refuses_processes_that_would_have_nothing_to_do(count):
    with pytest.raises(ValueError, match=f"from 1 to the 3 unrolls of the plan, not {count}"):
        Workers(estimator(), count)


def test_errors_come_back_and_a_death_is_noticed():
    with Workers(estimator(), 1) as workers:
        numbers, tensors = workers.numbers(), workers.tensors()
        del tensors["unroll.1.points"]
        with pytest.raises(ValueError, match="points is missing"):
            workers.restore(numbers, tensors)
        assert workers.estimate(workers.layout.read()).student_steps == 60
        workers._processes[0].kill()
        with pytest.raises(RuntimeError, match="a process has ended by itself"):
            workers.estimate(workers.layout.read())
