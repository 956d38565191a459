import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from unstuck.problems import load_data, make_model
from unstuck.training import evaluate, fit, steps
from unstuck.training.loop import Batches


@pytest.fixture(scope="module")
def data():
    return load_data("digits", meta=0.15)


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **settings})


class Listening(torch.optim.SGD):
    """SGD that notes what the loop tells it, in order."""

    def __init__(self, model, lr=0.1):
        super().__init__(model.parameters(), lr=lr)
        self.told = []

    def record_loss(self, loss):
        self.told.append(("loss", float(loss)))

    def step(self, closure=None):
        self.told.append(("step", None))
        return super().step(closure)

    def meta_step(self):
        first = self.param_groups[0]["params"][0]
        self.told.append(("meta", (first.detach().clone(), first.grad.clone())))


def test_does_what_a_loop_by_hand_does(data):
    model, twin = make_model("mlp", data, 1), make_model("mlp", data, 1)
    fit(model, sgd(model, momentum=0.9), data, epochs=2, batch_size=100, seed=7)
    optimizer = sgd(twin, momentum=0.9)
    generator = np.random.default_rng([7, 0])
    for _ in range(2):
        order = generator.permutation(len(data.train))
        for start in range(0, len(order), 100):
            rows = torch.from_numpy(order[start : start + 100])
            optimizer.zero_grad()
            cross_entropy(twin(data.train.x[rows]), data.train.y[rows]).backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_epoch_visits_every_row_once_in_an_order_of_the_seed(data):
    def order(batches):
        return [row for x, _ in batches for row in x.flatten(1).sum(1).tolist()]

    batches = Batches(data.train, 64, seed=3, stream=0)
    first, second = order(batches), order(batches)
    assert first != second
    assert sorted(first) == sorted(second) == sorted(data.train.x.flatten(1).sum(1).tolist())
    assert first == order(Batches(data.train, 64, seed=3, stream=0))
    assert first != order(Batches(data.train, 64, seed=4, stream=0))
    assert first != order(Batches(data.train, 64, seed=3, stream=1))


def test_history_is_measured_with_the_weights_at_the_end_of_each_epoch(data):
    model = make_model("logistic", data)
    start = evaluate(model, data.validation)
    history = fit(model, sgd(model), data, epochs=3)
    assert history.epochs == 3
    assert (history.validation_loss[0], history.validation_accuracy[0]) == start
    with torch.no_grad():
        for part in ("train", "validation", "test"):
            split = getattr(data, part)
            loss = cross_entropy(model(split.x), split.y).item()
            assert getattr(history, f"{part}_loss")[-1] == pytest.approx(loss, rel=1e-5)
        right = (model(data.test.x).argmax(1) == data.test.y).float().mean().item()
    assert history.test_accuracy[-1] == pytest.approx(right)
    assert history.seconds[0] == 0
    assert np.all(np.diff(history.seconds) > 0)
    assert history.train_loss[-1] < 0.5 * history.train_loss[0]


def test_evaluate_in_pieces_and_keeps_the_mode(data, monkeypatch):
    model = make_model("mlp", data).train()
    whole = evaluate(model, data.test)
    monkeypatch.setattr("unstuck.training.loop.EVALUATION_ROWS", 7)
    assert evaluate(model, data.test) == pytest.approx(whole)
    assert model.training


def test_best_epoch_is_chosen_by_validation(data):
    model = make_model("logistic", data)
    history = fit(model, sgd(model), data, epochs=2)
    history.validation_loss[:] = [3.0, 1.0, 2.0]
    history.test_loss[:] = [0.0, 5.0, 1.0]
    assert history.at("best").epoch == 1
    assert history.at("best").test_loss == 5.0
    assert history.at("last").epoch == 2
    with pytest.raises(ValueError, match="'first' is unknown"):
        history.at("first")


def test_optimizer_is_told_the_loss_before_the_step(data):
    model = make_model("logistic", data)
    x, y = next(iter(Batches(data.train, 64, seed=0, stream=0)))
    expected = cross_entropy(model(x), y).item()
    optimizer = Listening(model)
    fit(model, optimizer, data, epochs=1, batch_size=64)
    assert [what for what, _ in optimizer.told] == ["loss", "step"] * steps(data, 1, 64)
    assert optimizer.told[0][1] == pytest.approx(expected)


def test_held_out_gradient_is_of_meta_rows_at_the_new_parameters(data):
    model = make_model("logistic", data)
    optimizer = Listening(model)
    fit(model, optimizer, data, epochs=1, batch_size=64, meta_every=3)
    kinds = [what for what, _ in optimizer.told if what != "loss"]
    assert kinds[:8] == ["step", "step", "step", "meta"] * 2
    twin = make_model("logistic", data)
    hand = sgd(twin)
    train = iter(Batches(data.train, 64, seed=0, stream=0))
    for _ in range(3):
        x, y = next(train)
        hand.zero_grad()
        cross_entropy(twin(x), y).backward()
        hand.step()
    x, y = next(Batches(data.meta, 64, seed=0, stream=1).forever())
    hand.zero_grad()
    cross_entropy(twin(x), y).backward()
    weight, gradient = next(told for what, told in optimizer.told if what == "meta")
    expected = next(iter(twin.parameters()))
    torch.testing.assert_close(weight, expected.detach())
    torch.testing.assert_close(gradient, expected.grad)


def test_held_out_gradients_do_not_move_the_parameters(data):
    model, twin = make_model("logistic", data), make_model("logistic", data)
    fit(model, Listening(model), data, epochs=1, meta_every=1)
    fit(twin, Listening(twin), data, epochs=1)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_batches_of_a_part_go_on_for_ever(data):
    endless = Batches(data.meta, 100, seed=0, stream=1).forever()
    assert sum(len(next(endless)[1]) for _ in range(7)) > 2 * len(data.meta)


def test_closure_for_optimizers_that_evaluate_several_times(data):
    model = make_model("logistic", data)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    history = fit(model, optimizer, data, epochs=2, batch_size=500, closure=True)
    assert history.train_loss[-1] < 0.5 * history.train_loss[0]


def test_scheduler_moves_after_every_batch(data):
    model = make_model("logistic", data)
    optimizer = sgd(model, lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, steps(data, 2, 64))
    fit(model, optimizer, data, epochs=2, batch_size=64, scheduler=scheduler)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    assert scheduler.last_epoch == 2 * math.ceil(len(data.train) / 64)


def test_divergence_ends_the_run_and_is_marked(data):
    model = make_model("mlp", data)
    history = fit(model, sgd(model, lr=1e6), data, epochs=5)
    assert history.diverged
    assert history.epochs < 5
    assert not math.isfinite(history.train_loss[-1])
    assert history.at("best").epoch == 0


def test_probes_are_read_after_every_epoch(data):
    model = make_model("logistic", data)
    scheduler = torch.optim.lr_scheduler.LinearLR(opt := sgd(model, lr=1.0), 1.0, 0.0, 4)
    history = fit(
        model,
        opt,
        data,
        epochs=2,
        batch_size=500,
        scheduler=scheduler,
        probes={"rate": lambda o: o.param_groups[0]["lr"]},
    )
    assert history.probes["rate"] == pytest.approx([1.0, 0.5, 0.0])


def test_on_epoch_sees_the_start_and_may_stop(data):
    model, seen = make_model("logistic", data), []

    def stop(history):
        seen.append(history.epochs)
        if history.epochs == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, sgd(model), data, epochs=9, on_epoch=stop)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"meta_every": -1}])
def test_counts_below_their_minimum(data, bad):
    model = make_model("logistic", data)
    with pytest.raises(ValueError, match=f"{next(iter(bad))}={next(iter(bad.values()))}"):
        fit(model, sgd(model), data, **{"epochs": 1, **bad})


def test_meta_steps_need_meta_rows_and_a_taker(data):
    model = make_model("logistic", data)
    with pytest.raises(ValueError, match="SGD has no meta_step"):
        fit(model, sgd(model), data, epochs=1, meta_every=1)
    with pytest.raises(ValueError, match=r"load_data\(..., meta=0.2\)"):
        fit(model, Listening(model), load_data("digits"), epochs=1, meta_every=1)
