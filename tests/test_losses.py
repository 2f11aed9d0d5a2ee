"""The loss is part of what a run is: another one is another run, in files, rows and resuming."""

import csv
import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import comparable, first_student, random_net, same_weights, some_params
from torch import nn

import distillation
import train
from distillation import distill, distillation_loss
from support.checkpoints import load_checkpoint, load_model, save_model
from support.files import locked
from support.objective import objective_of
from train import hard_loss

NONE = SimpleNamespace()


def smoothed(amount, inner=hard_loss):
    def loss(logits, batch):
        return (1 - amount) * inner(logits, batch) - amount * F.log_softmax(logits, -1).mean()

    return loss


def squared(logits, batch, weight=1):
    """Matching of logits, as [KD] s.2.1 has it."""
    return weight * (logits - batch.teacher_logits).square().mean()


class Weighted:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, logits, batch):
        return self.weight * hard_loss(logits, batch)

    loss = __call__


def closure(value):
    return lambda logits, batch: value * hard_loss(logits, batch)


@pytest.mark.parametrize(
    ("loss", "objective"),
    [
        (hard_loss, "hard_loss"),
        (distillation_loss(8, 0.1), "distillation_loss hard_weight=0.1 temperature=8.0"),
        (smoothed(0.1), "smoothed amount=0.1 inner=(hard_loss)"),
        (smoothed(0.1, distillation_loss(2, 0)), "smoothed amount=0.1 inner=(distillation_loss "),
        (functools.partial(squared, weight=3), "squared weight=3"),
        (Weighted(0.5), "Weighted weight=0.5"),
        (torch.nn.CrossEntropyLoss(label_smoothing=0.1), "CrossEntropyLoss "),
        (torch.nn.CrossEntropyLoss(label_smoothing=0.1).eval(), "CrossEntropyLoss "),
        (lambda logits, batch: logits.sum(), "<lambda>"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_loss_is_its_name_and_its_numbers(loss, objective):
    assert objective_of(loss, NONE).startswith(objective)
    assert "training" not in objective_of(loss, NONE)


def test_losses_that_differ_in_a_number_differ():
    made = (distillation_loss(8, 0), distillation_loss(9, 0), smoothed(0.1), smoothed(0.2))
    made += (functools.partial(squared, weight=2), squared, Weighted(1), Weighted(2))
    made += (smoothed(0.1, Weighted(1).__call__), smoothed(0.1, smoothed(0.2)))
    made += (smoothed(0.1, Weighted(2).__call__), Weighted(1).loss, Weighted(2).loss)
    made += tuple(map(closure, (1, 2, True, None, np.float32(3), [1, 2], {"a": torch.tensor(1)})))
    made += (closure(torch.ones(10)), closure(torch.zeros(10)), closure(torch.ones(10, 10)))
    made += (closure(torch.zeros(10, 10)), closure(random_net()), closure(nn.Linear(1, 1)))
    told = [objective_of(loss, NONE) for loss in made]
    assert len({*told}) == len(made), told
    assert max(map(len, told)) < 100


WEIGHT = 0.5


def test_numbers_that_a_loss_finds_elsewhere_count():
    args = SimpleNamespace(weight=0.3, resume=True, model=random_net())
    module_global = objective_of(lambda logits, batch: WEIGHT * logits.mean(), NONE)
    assert module_global.endswith("<lambda> WEIGHT=0.5")

    def mixture(logits, batch):
        return args.weight * logits.mean()

    told = objective_of(mixture, NONE)
    assert told.endswith("mixture weight=0.3")  # and not what it does not use
    args.weight = 0.7
    assert objective_of(mixture, NONE) != told
    assert objective_of(functools.partial(smoothed, inner=mixture), NONE).count("weight=0.7") == 1


def test_any_callable_has_an_objective():
    def one(logits, batch):
        return other(logits, batch)

    def other(logits, batch):
        return one(logits, batch)

    odd = functools.partial(functools.partial(squared, weight=2), weight=3)
    assert objective_of(odd, NONE) == "squared weight=3"
    for loss in (one, other, torch.sum, np.mean, nn.ReLU(), functools.cache(one)):
        assert 0 < len(objective_of(loss, NONE)) < 200
    early = []

    def later(logits, batch):
        return value

    early.append(objective_of(later, NONE))  # its variable has no value yet
    value = 1
    assert objective_of(later, NONE) == f"{early[0]} value={value}"


def test_numbers_that_are_hyperparameters_are_recorded_as_such_alone():
    params = some_params("Distilled", temperature=8.0, hard_weight=0.1)
    assert objective_of(distillation_loss(8, 0.1), params) == "distillation_loss"
    assert objective_of(distillation_loss(9, 0.1), params) == "distillation_loss temperature=9.0"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def with_loss(monkeypatch, loss):
    """The script with another loss, as a user would write it there."""
    monkeypatch.setattr(distillation, "loss_of", lambda params: loss)


def test_another_loss_is_another_run(call, teacher, monkeypatch, capsys):
    words = f"--teacher {teacher} --hidden-units 20 --epochs 1 --results rows.csv --quiet --seed 3"
    path = "runs/distilled_model_20_20_seed_3.pt"
    call(distillation, words)
    assert load_checkpoint(path)["objective"] == "distillation_loss"
    with_loss(monkeypatch, squared)
    capsys.readouterr()
    call(distillation, words)
    out = capsys.readouterr().out
    assert "finished already" not in out and "renamed to" in out
    assert load_checkpoint(path)["objective"] == "squared weight=1"
    call(distillation, words)
    assert "1 of them in rows.csv already" in capsys.readouterr().out
    first, second = rows_of("rows.csv")
    assert (first["objective"], second["objective"]) == ("distillation_loss", "squared weight=1")
    assert first["sha256"] != second["sha256"]
    with_loss(monkeypatch, functools.partial(squared, weight=0.5))
    call(distillation, words)
    assert len(rows_of("rows.csv")) == 3


def test_small_students_with_another_loss_are_not_trained_together(call, teacher, monkeypatch):
    """A stack has the usual loss."""
    monkeypatch.setattr(distillation, "train_together", None)
    with_loss(monkeypatch, squared)
    words = f"--teacher {teacher} --hidden-units 8 --epochs 1 --quiet --seed 0 1"
    call(distillation, words, "--results rows.csv")
    assert {row["objective"] for row in rows_of("rows.csv")} == {"squared weight=1"}


def test_a_checkpoint_from_before_losses_were_recorded_is_still_of_its_run(call, teacher, capsys):
    words = f"--teacher {teacher} --hidden-units 20 --epochs 1 --quiet --seed 3 --results"
    call(distillation, words, "rows.csv")
    path = Path("runs/distilled_model_20_20_seed_3.pt")
    record = load_checkpoint(path)
    del record["objective"], record["state_dict"]
    save_model(path, load_model(path), **record)
    capsys.readouterr()
    call(distillation, words, "others.csv")
    assert "finished already" in capsys.readouterr().out
    assert len(rows_of("others.csv")) == 1


def test_a_run_is_not_resumed_with_another_loss(call, teacher, stops, refused, monkeypatch):
    words = f"--teacher {teacher} --hidden-units 20 --epochs 3 --quiet"
    train_one_epoch, epochs = train.train_one_epoch, []

    def stop(*arguments):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return train_one_epoch(*arguments)

    monkeypatch.setattr(train, "train_one_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        call(distillation, words)
    with_loss(monkeypatch, squared)
    refused(distillation, words, "--resume", naming="objective squared distillation_loss")


def test_a_loss_of_ones_own_is_taken_by_distill(some_digits):
    """It gets the teacher's logits; what it returns is minimised."""
    params, teacher = some_params("Distilled", epochs=8, learning_rate=0.005), random_net(20)
    student = first_student(params)
    history = distill(student, teacher, some_digits, params, loss=squared)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    usual, same = first_student(params), first_student(params)
    distill(usual, teacher, some_digits, params)
    loss = distillation_loss(params.temperature, params.hard_weight)
    distill(same, teacher, some_digits, params, loss=loss)
    assert same_weights(usual, same) and not same_weights(usual, student)


def test_at_a_temperature_of_1000_distilling_is_matching_logits():
    """[KD] s.2.1: 1/2 of the mean over classes of squared differences of centred logits."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(50, 10, generator=generator) for _ in range(2))
    batch = SimpleNamespace(teacher_logits=teacher)
    centred = (logits - logits.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    found = distillation_loss(1000, 0)(logits.double(), SimpleNamespace(**vars(batch)))
    assert float(found) == pytest.approx(float(centred.square().mean() / 2), rel=0.01)


# Students that are trained together are saved


def test_every_student_of_a_stack_is_saved_as_if_it_was_trained_alone(call, teacher, capsys):
    start = f"--teacher {teacher} --hidden-units 12 --epochs 2 --quiet"
    call(distillation, start, "--temperature 2 8 --seed 0 1 --results together.csv")
    out = capsys.readouterr().out
    assert out.count("Saved in runs/distilled_model_12_") == 4
    for row in rows_of("together.csv"):
        words = f"--temperature {row['temperature']} --seed {row['seed']} --output alone.pt"
        call(distillation, start, words)
        together, alone = load_checkpoint(row["checkpoint"]), load_checkpoint("alone.pt")
        assert together.keys() == alone.keys()
        for name in ("parameters", "seed", "data_set", "teacher", "objective", "architecture"):
            assert together[name] == alone[name]
        for one, other in zip(together["history"], alone["history"], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
            assert abs(one["errors"] - other["errors"]) <= 3
        assert row["loss"] == str(together["history"][-1]["loss"])
        with open(f"{row['checkpoint']}.csv") as file:
            assert len(file.readlines()) == 3
    assert all(cell for row in rows_of("together.csv") for cell in row.values() if cell != "")


def test_a_stack_whose_students_are_there_is_not_trained_again(call, teacher, batches):
    words = f"--teacher {teacher} --hidden-units 12 --epochs 1 --quiet --temperature 2 8"
    call(distillation, words, "--results rows.csv")
    before = comparable(rows_of("rows.csv"))
    batches.clear()
    call(distillation, words, "--results others.csv")
    assert comparable(rows_of("others.csv")) == before and not batches


def test_a_stack_that_was_killed_while_it_was_saved_is_the_same_in_the_end(call, teacher):
    """All its students are trained again: alone, or in a smaller stack, rounding would differ."""
    words = f"--teacher {teacher} --hidden-units 12 --epochs 2 --quiet --temperature 2 8 --seed 0 1"
    call(distillation, words, "--results whole.csv")
    nets = sorted(Path("runs").glob("*.pt"))
    weights = [load_model(path) for path in nets]
    for path in nets[:3]:
        path.unlink()
    Path(f"{nets[1]}.resume").write_bytes(b"of a training alone")
    call(distillation, words, "--results lines.csv")
    assert comparable(rows_of("lines.csv")) == comparable(rows_of("whole.csv"))
    assert sorted(Path("runs").glob("*.pt*")) == sorted(
        path for net in nets for path in (net, Path(f"{net}.csv"))
    )
    assert all(map(same_weights, weights, map(load_model, nets)))


def test_a_stack_does_not_begin_if_another_run_is_writing_one_of_its_files(teacher, stops):
    words = f"--teacher {teacher} --hidden-units 12 --epochs 1 --quiet --temperature 2 8"
    path = Path("runs/distilled_model_12_8_seed_0.pt")
    path.parent.mkdir()
    with locked(path):
        stop = stops(distillation, words)
    assert stop.status == 2 and f"{path} is being written by another run" in stop.err
    assert not list(Path("runs").glob("*.pt*")) and not rows_of("runs/distillation.csv")
