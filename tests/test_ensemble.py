"""Ensembles: several nets as one teacher, and their errors together."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from common import first_student, random_digits, random_net, same_weights, some_params
from torch import nn

import distillation
import evaluate
from dataset import pixels
from distillation import distill, distill_together, soft_targets, with_logits
from evaluate import count_errors, logits_of, mean_logits, measure
from layers import StackedNet
from support.checkpoints import load_checkpoint, load_model, save_model
from support.errors import UserError
from train import train

QUICK = "--hidden-units 5 --epochs 1 --batch-size 500"


def some_nets(count=3):
    return [random_net(20, std=0.3, seed=seed) for seed in range(count)]


def distributions(nets, digits, temperature):
    """float64 (nets, cases, 10), by NumPy."""
    with torch.no_grad():
        logits = np.stack([net(pixels(digits.images)).double().numpy() for net in nets])
    odds = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    return odds / odds.sum(-1, keepdims=True)


# The two means of [KD] s.1


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_soft_targets_are_the_mean_of_those_of_the_nets(temperature):
    nets, digits = some_nets(), random_digits(40)
    each = distributions(nets, digits, temperature)
    product, arithmetic = each.prod(0) ** (1 / 3), each.mean(0)
    geometric = product / product.sum(-1, keepdims=True)
    assert not np.allclose(geometric, arithmetic, atol=1e-3)
    logits = with_logits(digits, nets).teacher_logits
    assert np.allclose(soft_targets(logits, temperature), geometric, atol=1e-5)
    logits = with_logits(digits, nets, temperature).teacher_logits
    assert np.allclose(soft_targets(logits, temperature), arithmetic, atol=1e-6)


def test_the_arithmetic_mean_keeps_small_probabilities():
    logits = [torch.tensor([[0.0, -200.0]]), torch.tensor([[0.0, -300.0]])]
    mean = mean_logits(logits, 1.0)
    assert (mean[0, 0] - mean[0, 1]).item() == pytest.approx(200 + np.log(2))


def test_at_a_high_temperature_the_means_agree():
    logits = torch.randn(3, 50, 10, generator=torch.Generator().manual_seed(0)) * 10
    geometric, arithmetic = mean_logits([*logits]), mean_logits([*logits], 1e6)
    assert torch.allclose(geometric.diff(dim=1), arithmetic.diff(dim=1), atol=1e-3)


def test_a_single_net_is_an_ensemble_of_one(some_digits):
    (net,) = some_nets(1)
    one = with_logits(some_digits, net).teacher_logits
    assert torch.equal(with_logits(some_digits, [net]).teacher_logits, one)


# From Python


@pytest.mark.parametrize("kind", [list, tuple, nn.ModuleList])
def test_an_ensemble_is_not_trained_as_one_net(some_digits, kind):
    with pytest.raises(UserError, match="one by one"):
        train(kind(some_nets()), some_digits, some_params("Small"))


@pytest.mark.parametrize("kind", [list, tuple, nn.ModuleList])
@pytest.mark.parametrize("arithmetic", [False, True])
def test_a_student_learns_from_the_mean_of_several_nets(some_digits, kind, arithmetic):
    class Together(nn.Module):
        def forward(self, images):
            logits = torch.stack([net(images) for net in nets])
            return 4 * (logits / 4).softmax(-1).mean(0).log() if arithmetic else logits.mean(0)

    nets, params = some_nets(), some_params("Distilled", temperature=4.0, epochs=5)
    students = [first_student(params) for _ in range(4)]
    distill(students[0], kind(nets), some_digits, params, arithmetic_mean=arithmetic)
    distill(students[1], Together(), some_digits, params)
    distill(students[2], nets[0], some_digits, params)
    distill(students[3], nets, some_digits, params, arithmetic_mean=not arithmetic)
    outputs, expected, of_one, other_mean = (logits_of(s, some_digits.images) for s in students)
    assert torch.allclose(outputs, expected, atol=1e-3)
    assert not torch.allclose(outputs, of_one, atol=0.05)
    assert not torch.allclose(outputs, other_mean, atol=0.01)


def test_students_distilled_together_learn_from_an_ensemble(some_digits):
    nets, params = some_nets(), some_params("Distilled", temperature=4.0)
    ((student, _),) = distill_together([4.0], [0], nets, some_digits, params).values()
    alone = first_student(params)
    distill(alone, nets, some_digits, params)
    images = some_digits.images
    assert torch.allclose(logits_of(student, images), logits_of(alone, images), atol=1e-3)


def test_the_errors_of_several_nets_are_those_of_the_mean_of_their_logits(some_digits):
    nets = some_nets()
    logits = torch.stack([net(pixels(some_digits.images)) for net in nets]).mean(0)
    wrong = int((logits.argmax(1) != some_digits.labels).sum())
    assert count_errors(nets, some_digits) == wrong == measure(tuple(nets), some_digits)["errors"]


def test_a_net_of_an_ensemble_that_does_not_fit_is_refused(some_digits):
    params, student = some_params("Distilled"), random_net()
    bad = {
        "softmax": nn.Sequential(random_net(), nn.Softmax(dim=1)),
        "Linear": nn.Linear(784, 47),
        "finite": random_net(std=1e30),
        "str": "models/cumbersome_model_1200.pt",
    }
    for told, net in bad.items():
        with pytest.raises(UserError, match=told):
            distill(student, [*some_nets(2), net], some_digits, params)
    for no_ensemble in ([], [some_nets(2), random_net()]):
        with pytest.raises(UserError, match="at least one"):
            distill(student, no_ensemble, some_digits, params)
        with pytest.raises(UserError, match="at least one"):
            measure(no_ensemble, some_digits)
    stack = StackedNet(some_nets(2), orders=1)
    for teacher in (stack, [random_net(), stack], [stack, stack]):
        with pytest.raises(UserError, match="stack"):
            distill(student, teacher, some_digits, params)


def test_an_ensemble_without_finite_logits_is_refused(some_digits):
    """Though each of its nets has some: their sum does not fit into float32."""
    nets = some_nets(2)
    for net in nets:
        net.output.bias.data[0] = 3e38
    with pytest.raises(UserError, match="finite"):
        with_logits(some_digits, nets)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_there_is_no_mean_at_an_impossible_temperature(some_digits, temperature):
    with pytest.raises(UserError, match="temperature"):
        with_logits(some_digits, some_nets(), temperature)


# The scripts


@pytest.fixture
def files(teacher):
    """Three checkpoints, the first of them of a net that knows the digits."""
    for seed, name in ((1, "b.pt"), (2, "c.pt")):
        save_model(name, random_net(5, seed=seed), data_set={"name": "sample"})
    return [str(teacher), "b.pt", "c.pt"]


def sums_of(files):
    return [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]


@pytest.mark.parametrize("flag", ["", "--arithmetic-mean"])
def test_the_script_distils_what_the_function_distils(call, capsys, files, sample, flag):
    words = f"{QUICK} --temperature 4 --output net.pt"
    call(distillation, "--teacher", *files, flag, words)
    params = some_params("Distilled", hidden_units=5, epochs=1, batch_size=500, temperature=4.0)
    sums = dict(sorted(zip(sums_of(files), files, strict=True)))
    student, nets = first_student(params), [load_model(file) for file in sums.values()]
    distill(student, nets, sample.training, params, arithmetic_mean=bool(flag))
    assert same_weights(load_model("net.pt"), student)
    names = ", ".join(Path(file).name for file in sums.values())
    means = {"mean": "arithmetic" if flag else "geometric"}
    recorded = {"file": names, "sha256": ", ".join(sums)} | means
    assert load_checkpoint("net.pt")["teacher"] == recorded
    assert f"  on the soft targets of {names}\n" in capsys.readouterr().out


def test_the_lines_of_a_sweep_tell_ensembles_and_means_apart(call, files):
    words = f"{QUICK} --temperature 4 --quiet --results runs.csv"
    for teachers in (files, files[:2], files[:1]):
        call(distillation, "--teacher", *teachers, words)
    call(distillation, "--teacher", *files, "--arithmetic-mean", words)
    call(distillation, "--teacher", *files[::-1], words)  # is there already
    call(distillation, *[f"--teacher {file}" for file in files], words)  # too
    with open("runs.csv", newline="") as file:
        found = [line["teacher"] for line in csv.DictReader(file)]
    sums = [text[:12] for text in sums_of(files)]
    three, two = (" ".join(sorted(some)) for some in (sums, sums[:2]))
    assert found == [f"{three} geometric", f"{two} geometric", sums[0], f"{three} arithmetic"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--teacher b.pt c.pt b.pt", "b.pt is the same net as b.pt"),
        ("--teacher b.pt trained_again.pt", "is the same net as"),
        ("--teacher b.pt gone.pt", "gone.pt"),
        ("--teacher b.pt c.pt --output c.pt", "replace its teacher c.pt"),
        ("--teacher b.pt --arithmetic-mean", "several nets"),
        ("--teacher b.pt ", "empty"),
        ("--teacher b.pt c.pt --arithmetic-mean --temperature 2 4", "single --temperature"),
        ("--teacher b.pt c.pt --validation", "held-out images"),
    ],
)
def test_what_is_no_ensemble_is_refused(refused, files, words, told):
    save_model("trained_again.pt", random_net(5, seed=1), command="another one")
    refused(distillation, QUICK, words, naming=told)


def test_the_ensemble_is_the_last_row(call, capsys, files, sample):
    call(evaluate, *files, "--ensemble --json --translate 1")
    *rows, last = json.loads(capsys.readouterr().out)
    nets = [load_model(file) for file in files]
    assert [row["file"] for row in rows] == files
    assert last["errors"] == count_errors(nets, sample.test)
    assert last["parameters"] == sum(row["parameters"] for row in rows)
    assert last["translated"]["1"] == evaluate.translated_errors(nets, sample.test, 1)
    call(evaluate, *files, "--ensemble")
    line = capsys.readouterr().out.splitlines()[-1]
    assert "ensemble" in line and f" {last['errors']} " in line and "3 nets" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--ensemble", "two or more"),
        ("--ensemble b.pt", "two or more"),
        ("--ensemble b.pt c.pt b.pt", "the same net"),
        ("--ensemble b.pt c.pt --verify", "leave out"),
    ],
)
def test_errors_of_what_is_no_ensemble_are_not_counted(refused, files, words, told):
    refused(evaluate, words, naming=told)
