"""From the command line to the net, its file and its line: each word reaches the right place."""

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from common import FAKE_TENSORBOARD, a_checkpoint, random_net, same_weights, some_params

import dataset
import distillation
import distillation_no_three
import evaluate
import layers
import train
from dataset import Digits, Mnist, filter_by_class, hold_out
from distillation import distill, distill_together
from distillation_no_three import best_shift, errors_at, label_free_shift, margins
from evaluate import logits_of, measure
from layers import SmallNet, init_weights, scale_weights
from support.checkpoints import load_checkpoint, load_model, model_from, save_model
from training_params import LocalParams, PaperParams

STUDENTS = [distillation, distillation_no_three]
SCRIPTS = [train, *STUDENTS]
NAN = float("nan")
QUICK = "--hidden-units 5 --epochs 1 --batch-size 100 --quiet"


@pytest.fixture
def given(monkeypatch) -> Callable[..., Mnist]:
    """given(training, test, name): what every script loads from now on, whatever it asks for."""
    original = dataset.load_mnist

    def give(training: Digits, test: Digits, name: str = "sample") -> Mnist:
        mnist = Mnist(training, test, name)
        for module in [m for m in sys.modules.values() if isinstance(m, ModuleType)]:
            if vars(module).get("load_mnist") is original:
                monkeypatch.setattr(module, "load_mnist", lambda *_, **__: mnist)
        return mnist

    return give


@pytest.fixture
def few(given: Callable[..., Mnist], sample: Mnist) -> Mnist:
    """200 real digits to train on and 100 to test."""
    return given(sample.training[:200], sample.test[:100])


@pytest.fixture
def start(teacher: Path) -> Callable[..., str]:
    """start(script, validation): the words without which it does not start on small data."""

    def words(script: ModuleType, validation: bool = False) -> str:
        path = teacher
        if validation:
            path = Path("teacher_of_part.pt")
            save_model(path, load_model(teacher), data_set={"name": "sample validation"})
        words = "--model small" if script is train else f"--teacher {path}"
        return f"{words} --validation" if validation else words

    return words


def lines_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def shown(script: ModuleType, digits: Digits) -> Digits:
    """Those of `digits` that a net of the script learns from."""
    return filter_by_class(digits, omit=[3]) if script is distillation_no_three else digits


def flags(values: dict[str, object]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())


# Values are used, not only recorded

SGD = "--epochs 2 --optimizer sgd --rate-schedule exponential --learning-rate 0.1"
ADAM = "--epochs 2 --optimizer adam"
TO_SGD = [
    *("--epochs 3", "--schedule-epochs 5", "--batch-size 50", "--learning-rate 0.2"),
    *("--rate-schedule linear", "--rate-decay 0.5", "--momentum-start 0.1", "--momentum-end 0.7"),
    *("--momentum-epochs 900", "--dropout-visible 0.3", "--dropout-hidden 0.3", "--init-std 0.1"),
    *("--max-squared-length 0.01", "--optimizer adam", "--precision bf16", "--seed 1"),
]
TO_STUDENT = ["--temperature 2", "--hard-weight 0.3", "--teacher other.pt"]


@pytest.mark.parametrize(
    ("script", "words", "changes"),
    [
        *[(script, SGD, TO_SGD) for script in SCRIPTS],
        *[(script, ADAM, ["--adam-beta2 0.5"]) for script in SCRIPTS],
        (train, SGD, ["--jitter 1"]),
        *[(script, ADAM, TO_STUDENT) for script in STUDENTS],
        *[(script, f"{ADAM} --teacher other.pt", ["--arithmetic-mean"]) for script in STUDENTS],
    ],
)
def test_another_value_makes_another_net(call, few, start, script, words, changes):
    save_model("other.pt", random_net(5, std=0.3))
    call(script, start(script), QUICK, words, "--output net.pt")
    net, without_effect = load_model("net.pt"), []
    for place, change in enumerate(changes):
        call(script, start(script), QUICK, words, change, f"--output net{place}.pt")
        if same_weights(load_model(f"net{place}.pt"), net):
            without_effect.append(change)
    assert without_effect == []


VALUES = {
    **{"hidden_units": 7, "epochs": 2, "schedule_epochs": 3, "batch_size": 30},
    **{"optimizer": "sgd", "learning_rate": 0.3, "rate_schedule": "exponential"},
    **{"rate_decay": 0.8, "momentum_start": 0.4, "momentum_end": 0.8, "momentum_epochs": 2},
    **{"dropout_visible": 0.1, "dropout_hidden": 0.3, "max_squared_length": 0.5},
    **{"init_std": 0.07, "adam_beta2": 0.9},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_net_is_the_one_of_the_function(call, few, start, teacher, script, precision):
    more = {"jitter": 1} if script is train else {"temperature": 3.5, "hard_weight": 0.3}
    words = f"--seed 7 --precision {precision} --quiet --output net.pt"
    call(script, start(script), flags(VALUES | more), words)
    net, seen = SmallNet(7, 0.1, 0.3), shown(script, few.training)
    init_weights(net, 0.07, 7)
    params = some_params("Small" if script is train else "Distilled", **VALUES | more)
    options = {"seed": 7, "precision": precision, "test_set": few.test}
    if script is train:
        history = train.train(net, seen, params, **options)
    else:
        history = distill(net, load_model(teacher), seen, params, **options)
    assert same_weights(load_model("net.pt"), scale_weights(net))
    assert load_checkpoint("net.pt")["history"] == history


@pytest.mark.parametrize("how", [*SCRIPTS, "distill"])
def test_dropout_depends_on_the_seed_and_on_nothing_else(call, few, start, monkeypatch, how):
    drop, states = layers.drop, {}

    def record(units, probability, generator):
        states.setdefault(place, []).append((probability, generator.get_state().tolist()))
        return drop(units, probability, generator)

    monkeypatch.setattr(layers, "drop", record)
    for place, seed in enumerate((1, 1, 2)):
        torch.rand(place)
        if how == "distill":
            params = some_params("Distilled", epochs=1, batch_size=100)
            distill(SmallNet(5, 0.1, 0.3), random_net(), few.training, params, seed=seed)
        else:
            words = "--dropout-visible 0.1 --dropout-hidden 0.3 --output net.pt"
            call(how, start(how), QUICK, words, "--seed", seed)
    assert [probability for probability, _ in states[0][:3]] == [0.1, 0.3, 0.3]
    assert states[0] == states[1]
    assert states[0][0] != states[2][0]


ROLES = [(train, "Cumbersome"), (train, "Small"), *[(script, "Distilled") for script in STUDENTS]]


@pytest.mark.parametrize(("script", "role"), ROLES)
def test_the_class_of_values_that_is_named_is_taken(call, few, start, monkeypatch, script, role):
    monkeypatch.setattr(getattr(PaperParams, role), "learning_rate", 0.0123)
    model = "--model cumbersome" if role == "Cumbersome" else ""
    call(script, start(script), model, QUICK, "--params paper --output net.pt")
    assert load_checkpoint("net.pt")["parameters"]["learning_rate"] == 0.0123


@pytest.mark.parametrize("script", STUDENTS)
def test_the_teacher_is_the_published_one_if_none_is_named(call, few, script):
    call(script, QUICK, "--output net.pt")
    assert load_checkpoint("net.pt")["teacher"]["file"] == "cumbersome_model_1200.pt"


@pytest.mark.parametrize("script", SCRIPTS)
def test_threads_are_those_asked_for(call, few, start, script):
    call(script, start(script), QUICK, "--threads 2 --output net.pt")
    assert torch.get_num_threads() == load_checkpoint("net.pt")["versions"]["threads"] == 2


# Images


@pytest.mark.parametrize("script", [*SCRIPTS, evaluate])
def test_the_folder_of_the_data_is_the_one_that_is_named(stops, start, teacher, script):
    words = [teacher] if script is evaluate else [start(script), QUICK]
    stop = stops(script, *words, "--data mnist --data-dir no_such_folder")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "no_such_folder" in stop.err


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_net_is_trained_and_tested_on_its_own_images(
    call, capsys, few, start, batches, script, validation
):
    mnist = hold_out(few) if validation else few
    words = "--hidden-units 5 --epochs 3 --batch-size 40 --output net.pt"
    call(script, start(script, validation), words)
    seen = torch.cat([batch.indices for batch in batches])
    expected = shown(script, mnist.training).indices.tolist() * 3
    assert sorted(seen.tolist()) == sorted(expected)
    checkpoint, net = load_checkpoint("net.pt"), load_model("net.pt")
    assert checkpoint["data_set"]["name"] == mnist.name
    assert checkpoint["result"] == measure(net, mnist.test)
    assert checkpoint["result"]["errors"] == checkpoint["history"][-1]["errors"]
    told = re.findall(r"^epoch .* (\S+) errors \d+ ", capsys.readouterr().out, re.MULTILINE)
    assert told == ["held-out" if validation else "test"] * 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_of_many_epochs_the_last_has_errors_and_is_the_one_in_the_line(call, few, start, script):
    """Not every epoch of so many is measured, and their number is odd."""
    call(script, start(script), QUICK, "--epochs 53 --results lines.csv --output net.pt")
    history, (line,) = load_checkpoint("net.pt")["history"], lines_of("lines.csv")
    assert len(history) == 53 and sum("errors" in entry for entry in history) < 53
    assert history[-1]["errors"] == load_checkpoint("net.pt")["result"]["errors"]
    assert float(line["loss"]) == history[-1]["loss"] != history[0]["loss"]
    assert int(lines_of("net.pt.csv")[-1]["errors"]) == int(line["errors"])


# Lines of results


def test_the_lines_of_a_stack_are_those_of_its_students(call, sample, teacher):
    net, found = load_model(teacher), []
    words = "--hidden-units 12 --epochs 2 --batch-size 200 --temperature 8 2 --seed 3 1 --quiet"
    params = some_params("Distilled", batch_size=200, schedule_epochs=20)
    for precision in ("fp32", "bf16"):
        path = f"{precision}.csv"
        call(distillation, "--teacher", teacher, words, f"--precision {precision} --results", path)
        options = {"precision": precision}
        students = distill_together([8, 2], [3, 1], net, sample.training, params, **options)
        for line in lines_of(path):
            student, history = students[float(line["temperature"]), int(line["seed"])]
            saved = load_checkpoint(line["checkpoint"])
            assert same_weights(student, model_from(saved))
            assert [entry["loss"] for entry in saved["history"]] == [e["loss"] for e in history]
            assert saved["history"][-1]["errors"] == saved["result"]["errors"]
            assert float(line["loss"]) == history[-1]["loss"]
            assert (
                hashlib.sha256(Path(line["checkpoint"]).read_bytes())
                .hexdigest()
                .startswith(line["sha256"])
            )
            assert len(line["sha256"]) == 12
            per_digit = measure(student, sample.test)["errors_per_digit"]
            assert line["errors_per_digit"] == " ".join(map(str, per_digit))
            assert int(line["errors"]) == sum(per_digit)
            found.append(line["errors_per_digit"])
    assert len(set(found[:4])) == 4 and found[:4] != found[4:]


def test_small_students_with_events_are_saved_one_by_one(call, few, start, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", FAKE_TENSORBOARD)
    call(distillation, start(distillation), QUICK, "--temperature 2 8 --log events")
    assert len(list(Path("runs").glob("*.pt"))) == 2


def shifts_by_hand(net, mnist, group, paper):
    """By column, shift, errors and errors on the group; none for a shift that there is not."""
    training, test = mnist.training, mnist.test
    cases = margins(logits_of(net, test.images), test.labels, group)
    seen = margins(logits_of(net, training.images), training.labels, group)
    share = torch.isin(training.labels, torch.tensor(group)).float().mean().item()
    label_free = label_free_shift(seen.needed, share)
    shifts = {"learned": 0.0, "paper": paper, "best": best_shift(cases), "label_free": label_free}
    assert len(set(shifts.values())) == 4
    counted = {k: [s, *errors_at(cases, test.labels, group, s)] for k, s in shifts.items()}
    return counted if paper == paper else counted | {"paper": [paper] * 3}


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize(
    ("which", "digits", "paper"), [("omit", "3", 3.5), ("keep", "7 8", -7.6), ("omit", "3 9", NAN)]
)
def test_the_line_of_a_student_that_missed_digits_has_its_shifts_and_teacher(
    call, given, sample, start, which, digits, paper, validation
):
    """3, 7 and 8 are more frequent in the training set than in the test set."""
    frequent = torch.isin(sample.training.labels, torch.tensor([3, 7, 8])).nonzero()[:600, 0]
    chosen = torch.cat((torch.arange(600), frequent))
    chosen = chosen[torch.randperm(1200, generator=torch.Generator().manual_seed(0))]
    mnist = given(sample.training[chosen], sample.test)
    mnist = hold_out(mnist) if validation else mnist
    words = start(distillation_no_three, validation)
    run = f"--{which} {digits} --hidden-units 20 --epochs 3 --quiet --output net.pt"
    call(distillation_no_three, words, run, "--results lines.csv")
    (line,), net = lines_of("lines.csv"), load_model("net.pt")
    expected = shifts_by_hand(net, mnist, [int(digit) for digit in digits.split()], paper)
    for name, row in expected.items():
        found = [line[f"{name}_{part}"] for part in ("shift", "errors", "on_group")]
        assert [float(word or "nan") for word in found] == pytest.approx(row, abs=6e-4, nan_ok=True)
    biases = [float(word) for word in line["biases"].split()]
    assert biases == pytest.approx(net.output.bias.tolist(), abs=6e-4)
    digest = hashlib.sha256(Path(words.split()[1]).read_bytes()).hexdigest()
    assert (line[which], line["teacher"], line["data"]) == (digits, digest[:12], mnist.name)


@pytest.mark.parametrize(
    ("script", "change"),
    [
        *[(script, "--precision bf16") for script in SCRIPTS],
        *[(script, "--hidden-units 6") for script in SCRIPTS],
        (train, "--validation"),
        (train, "--model cumbersome"),
        *[(script, "--teacher other.pt") for script in STUDENTS],
        (distillation_no_three, "--omit 4"),
    ],
)
def test_another_run_in_the_same_file_of_results_is_not_skipped(
    call, few, start, batches, script, change
):
    save_model("other.pt", random_net(5), data_set={"name": "sample"})
    local = {k: v for k, v in vars(LocalParams.Small).items() if not k.startswith("_")}
    words = flags(local) if script is train else ""  # those of the cumbersome net too
    for place, more in enumerate(("", change), start=1):
        batches.clear()
        call(script, start(script), words, QUICK, more, "--results lines.csv")
        assert batches and len(lines_of("lines.csv")) == place


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_finished_run_is_trained_again_unless_resumed(call, few, start, batches, script):
    for more, trains in (("", True), ("", True), ("--resume", False)):
        batches.clear()
        call(script, start(script), QUICK, "--output net.pt", more)
        assert bool(batches) == trains


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stopped_run_goes_on_to_the_same_net(call, few, start, monkeypatch, script):
    words = f"{start(script)} {QUICK} --epochs 3 --dropout-hidden 0.3"
    call(script, words, "--output whole.pt")
    iterate, passes = dataset.Loader.__iter__, []

    def stop_in_the_second(loader):
        passes.append(1)
        if len(passes) == 2:
            raise KeyboardInterrupt
        return iterate(loader)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset.Loader, "__iter__", stop_in_the_second)
        call(script, words, "--output net.pt")
    call(script, words, "--output net.pt --resume")
    assert len(passes) == 2
    whole, resumed = load_checkpoint("whole.pt"), load_checkpoint("net.pt")
    assert same_weights(whole["state_dict"], resumed["state_dict"])
    assert whole["history"] == resumed["history"]


# The paper's numbers


@pytest.mark.parametrize(
    ("name", "more"), [("MNIST", ""), ("MNIST", "--validation"), ("sample", "")]
)
@pytest.mark.parametrize(
    ("script", "words", "paper"),
    [
        (train, "--model small", ["(the paper: 146)"]),
        (distillation, "", ["(the paper: 74)"]),
        (distillation_no_three, "--hidden-units 5", ["206 (133)", "109 (14)"]),
        (distillation_no_three, "--hidden-units 5 --keep 7 8", ["4,730", "1,320"]),
    ],
)
def test_the_numbers_of_the_paper_stand_beside_errors_on_its_test_images_alone(
    call, capsys, given, sample, teacher, script, words, paper, name, more
):
    given(sample.training[:60], sample.test[:20], name)
    if script is not train:
        save_model("mine.pt", load_model(teacher), data_set={"name": f"{name} validation"})
        words += " --teacher mine.pt"
    call(script, words.strip(), "--epochs 1 --batch-size 8 --quiet --output net.pt", more)
    out = capsys.readouterr().out
    expected = name == "MNIST" and not more
    assert [number in out for number in paper] == [expected] * len(paper)


@pytest.mark.parametrize("name", ["MNIST", "sample"])
def test_evaluation_shows_the_number_of_the_paper_for_its_test_images_alone(
    call, capsys, given, sample, name
):
    given(sample.training[:60], sample.test[:20], name)
    record = {"parameters": {}, "data_set": {"name": "MNIST", "digits": list(range(10))}}
    save_model("net.pt", random_net(800), **record)
    call(evaluate, "net.pt --json")
    assert json.loads(capsys.readouterr().out)[0]["paper"] == (146 if name == "MNIST" else None)
    call(evaluate, "net.pt")
    assert (" 146 " in capsys.readouterr().out) == (name == "MNIST")


@pytest.mark.parametrize("part", ["errors", "errors_per_digit", "cases"])
def test_verifying_finds_each_part_of_a_result_that_is_wrong(stops, few, teacher, part):
    net = load_model(teacher)
    result = measure(net, few.test)
    first, *rest = result["errors_per_digit"]
    wrong = [*rest, first] if part == "errors_per_digit" else result[part] + 1
    assert wrong != result[part]
    save_model("net.pt", net, result=result | {part: wrong})
    stop = stops(evaluate, "--verify net.pt")
    assert stop.status == 1 and f"{part} {result[part]}, recorded" in stop.out


# Files that run code


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trace",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4], ids=["GLOBAL", "STACK_GLOBAL"])
@pytest.mark.parametrize(
    ("script", "words", "path"),
    [
        (evaluate, "bad.pt", "bad.pt"),
        *[(script, f"--teacher bad.pt {QUICK}", "bad.pt") for script in STUDENTS],
        (train, f"--output bad.pt --resume {QUICK}", "bad.pt.resume"),
        (train, f"--output bad.pt --resume {QUICK}", "bad.pt"),
        (train, f"--output bad.pt --results lines.csv {QUICK}", "bad.pt"),
    ],
)
def test_code_in_a_file_is_not_run_by_a_script(stops, few, protocol, script, words, path):
    """The file is refused or, where a run of a sweep would be written, kept by another name."""
    content = a_checkpoint() | {"note": MakesFolder()}
    torch.save(content, path, pickle_protocol=protocol)
    torch.load(path, weights_only=False)
    os.rmdir("trace")  # so it is harmful indeed
    stop, refused = stops(script, words), "--results" not in words
    assert (stop.status, len(stop.err.splitlines())) == ((2, 1) if refused else (0, 0))
    assert path in stop.err if refused else Path("bad.1.pt").exists()
    assert not Path("trace").exists()
