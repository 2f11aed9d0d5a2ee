"""The nets of the controls are what they are said to be."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from common import random_digits, random_net

from dataset import pixels, translate
from layers import CumbersomeNet
from results import logistic_units, moved_images
from results.logistic_units import LogisticNet
from results.moved_images import moved_loss
from support.checkpoints import save_model
from support.errors import UserError
from support.files import sha256
from support.hyperparameters import Params, default_params


def test_the_targets_of_a_moved_image_are_what_the_teacher_says_of_it_as_it_was_moved():
    """The loss of [KD] s.2 by hand, in float64."""
    teacher, student = (random_net(20, std=0.3, seed=seed) for seed in (1, 2))
    digits = random_digits(8)
    moved = pixels(translate(digits.images, 2, -1))
    logits = student(moved)
    loss = moved_loss(teacher, 20.0)(logits, replace(digits, images=moved))
    z, v = (net(moved).detach().double().numpy() / 20 for net in (student, teacher))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (z, v))
    assert loss.item() == pytest.approx(400 * (q * np.log(q / p)).sum(1).mean(), rel=1e-4)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_student_of_moved_images_has_a_row_that_names_its_teacher(call, monkeypatch, tmp_path):
    path = tmp_path / "teacher.pt"
    save_model(path, random_net(30, cls=CumbersomeNet))
    monkeypatch.setattr(moved_images, "TEACHER", path)
    call(moved_images, "--hidden-units 5 --epochs 1 --results rows.csv --quiet")
    with open("rows.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["teacher"] == sha256(path)[:12]
    assert (row["jitter"], row["objective"].partition(" ")[0]) == ("2", "moved_loss")


def test_a_student_of_moved_images_does_not_replace_its_teacher(refused, monkeypatch, tmp_path):
    path = tmp_path / "teacher.pt"
    save_model(path, random_net(30, cls=CumbersomeNet))
    monkeypatch.setattr(moved_images, "TEACHER", path)
    refused(moved_images, f"--hidden-units 5 --epochs 1 --output {path}", naming="replace teacher")


def test_the_control_of_the_schedule_has_logistic_units_and_is_the_same_otherwise():
    net, rectified = LogisticNet(12, 0.2, 0.5), CumbersomeNet(12, 0.2, 0.5)
    net.load_state_dict(rectified.state_dict())
    x = pixels(random_digits(5).images)
    scale = iter((0.8, 0.5, 0.5))  # of the weights at test time ([DO])
    values = x.numpy().astype(np.float64)
    for place, layer in enumerate((net.hidden1, net.hidden2, net.output)):
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        values = values @ weight.T * next(scale) + bias
        values = values if place == 2 else 1 / (1 + np.exp(-values))
    with torch.no_grad():
        assert net.eval()(x).numpy() == pytest.approx(values, abs=1e-5)


def test_a_run_with_logistic_units_has_the_published_values_and_is_made_once(monkeypatch):
    published = vars(default_params("paper", "Cumbersome")) | {"hidden_units": 6}
    monkeypatch.setattr(logistic_units, "EPOCHS", 2)
    monkeypatch.setattr(logistic_units, "default_params", lambda *_: Params(**published))
    monkeypatch.setattr(logistic_units, "FILE", Path("nets.json"))
    monkeypatch.setattr("sys.argv", ["logistic_units.py", "--data", "sample", "--seed", "3"])
    logistic_units.main()
    first = Path("nets.json").read_bytes()
    logistic_units.main()
    assert Path("nets.json").read_bytes() == first
    (net,) = json.loads(first)
    assert net["parameters"] == published | {"epochs": 2}
    assert (net["seed"], net["data_set"], len(net["history"])) == (3, "sample", 2)
    assert net["result"]["errors"] == net["history"][-1]["errors"]
    assert not list(Path("runs").iterdir())  # no resume point is left


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "3",
        '[{"a": 1}]',
        '[{"seed": 0, "data_set": "MNIST"}]',
        '[{"seed": 0, "data_set": ["MNIST"], "result": {"errors": 3}}]',
        '[{"seed": 0, "data_set": "MNIST", "result": {"errors": NaN}}]',
    ],
)
def test_a_damaged_file_of_the_control_is_named_before_anything_is_trained(monkeypatch, content):
    Path("nets.json").write_text(content)
    monkeypatch.setattr(logistic_units, "FILE", Path("nets.json"))
    with pytest.raises(UserError, match=r"nets\.json is damaged"):
        logistic_units.nets_so_far()
