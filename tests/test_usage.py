"""Every example of docs/usage.md runs, and what it prints or writes is what the page says."""

import csv
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from common import ROOT
from onnx.reference import ReferenceEvaluator
from PIL import Image

import dataset
import distillation
from results import summary
from results.runs import students
from support.checkpoints import load_checkpoint, load_model
from training_params import LocalParams

USAGE = (ROOT / "docs" / "usage.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", USAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = [code for language, code in BLOCKS if language == "python"]


@pytest.fixture(autouse=True)
def here(monkeypatch, sample):
    """A folder like that of the repository, with few images and short trainings."""
    few = sample._replace(training=sample.training[:1000])
    monkeypatch.setattr(dataset, "load_mnist", lambda *_: few)
    for role in (LocalParams.Cumbersome, LocalParams.Small, LocalParams.Distilled):
        monkeypatch.setattr(role, "epochs", 2)
    monkeypatch.setattr(LocalParams.Cumbersome, "hidden_units", 20)
    monkeypatch.setattr(LocalParams.Cumbersome, "init_std", 0.1)
    monkeypatch.setenv("MPLBACKEND", "agg")
    Path("models").symlink_to(ROOT / "models")
    Path("runs").mkdir()
    Image.fromarray(sample.test.images[7].numpy()).resize((90, 90)).save("seven.png")


def example(words: str) -> str:
    """The one that holds them."""
    (code,) = [code for code in EXAMPLES if words in code]
    return code


def ran(words: str, **names) -> dict:
    exec(compile(example(words), words, "exec"), names)
    return names


def test_every_example_is_tested_below():
    tested = re.findall(r'(?:ran|example)\("([^"]+)"', Path(__file__).read_text())
    tested += ["Normalize", "FashionMNIST"]  # in test_readme
    assert all(any(words in code for words in tested) for code in EXAMPLES)


def test_a_picture_is_answered_with_its_soft_targets(capsys):
    ran("from_picture(")
    answer, probabilities = capsys.readouterr().out.split(maxsplit=1)
    shares = [*map(float, re.findall(r"\d\.\d+(?:e-\d+)?", probabilities))]
    assert answer == "7" and len(shares) == 10 and int(np.argmax(shares)) == 7
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_a_convolutional_teacher_is_distilled_by_its_logits(capsys, call, monkeypatch):
    monkeypatch.setitem(dataset.TRAINING_CASES, "sample", 1000)
    monkeypatch.setattr("support.machine.load_mnist", lambda *_: dataset.load_mnist())
    found = ran("nn.Conv2d")
    assert int(capsys.readouterr().out) < 500
    logits = np.load("runs/logits.npy")
    assert logits.shape == (1000, 10) and logits.dtype == np.float32
    call(distillation, "--teacher-logits runs/logits.npy --hidden-units 9 --output a.pt --quiet")
    assert load_checkpoint("a.pt")["teacher"]["file"] == "logits.npy"
    ran("Normalize", conv_net=found["conv_net"][1:])


def test_a_loss_of_ones_own_is_distilled(capsys):
    found = ran("options = {")
    assert found["history"][-1]["loss"] < found["history"][0]["loss"]
    assert capsys.readouterr().out.split()[-1] == str(found["history"][-1]["errors"])
    record = load_checkpoint("runs/squared.pt")
    assert record["result"]["errors"] == record["history"][-1]["errors"]
    assert record.keys() >= {"command", "commit", "date", "versions", "parameters", "seed"}


def test_a_script_with_a_loss_of_ones_own_has_rows_and_files(monkeypatch, capsys):
    Path("squared.py").write_text(example("setting(args"))
    for more in ("--seed 0 1", "--seed 0 1 2"):
        words = f"squared.py --data sample --hidden-units 8 --quiet --device cpu {more}"
        monkeypatch.setattr(sys, "argv", words.split())
        with pytest.raises(SystemExit) as stop:
            runpy.run_path("squared.py", run_name="__main__")
        assert not stop.value.code
    with open("runs/squared.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    for row in rows:
        assert load_checkpoint(row["checkpoint"])["objective"] == row["objective"] == "squared"
    assert "3 runs, 2 of them in runs/squared.csv already" in capsys.readouterr().out


def test_a_teacher_with_smoothed_labels_is_trained():
    history = ran("label_smoothing")["history"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_a_transfer_set_of_ones_own_is_learned_and_resumed(monkeypatch, capsys):
    ran("ResumePoint(")
    errors, words = capsys.readouterr().out.split(maxsplit=1)
    assert "never saw" in words and not list(Path("runs").iterdir())
    code, epochs = example("ResumePoint("), []
    train_one_epoch = sys.modules["train"].train_one_epoch

    def stop(*arguments):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return train_one_epoch(*arguments)

    monkeypatch.setattr("train.train_one_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        exec(code, {})
    exec(code, {})
    assert len(epochs) == 3  # the first once, the second twice, as it was stopped
    assert capsys.readouterr().out.split()[0] == errors


def test_calibration_is_that_of_a_plain_loop(capsys):
    found = ran("calibration error")
    *_, last = capsys.readouterr().out.split()
    expected, cases = 0.0, len(found["right"])
    for low in range(15):
        inside = [
            (float(c), float(r))
            for c, r in zip(found["confidence"], found["right"], strict=True)
            if low / 15 <= c < (low + 1) / 15 or (low == 14 and c == 1)
        ]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            expected += len(inside) / cases * abs(confidence - accuracy)
    assert float(last) == pytest.approx(expected, abs=1e-4)


def test_soft_targets_are_drawn():
    axes = ran("matplotlib")["axes"]
    for axis, temperature in zip(axes, (1, 4, 20), strict=True):
        assert sum(bar.get_height() for bar in axis.patches) == pytest.approx(1, abs=1e-3)
        assert axis.get_title() == f"T = {temperature}"
    highest = [max(bar.get_height() for bar in axis.patches) for axis in axes]
    assert highest == sorted(highest, reverse=True)
    assert Path("runs/soft_targets.png").stat().st_size > 5000


def test_a_net_without_the_repository_is_the_same():
    net = ran("zip(net.state_dict()")["net"]
    images = torch.rand(5, 784)
    assert torch.equal(net(images), load_model("models/distilled_model_300_8.pt")(images))


@pytest.mark.filterwarnings("ignore")
def test_the_file_of_onnx_is_whole_and_takes_any_number_of_images():
    student = ran("onnx.export")["student"]
    assert [path.name for path in Path("runs").iterdir()] == ["student.onnx"]
    evaluator = ReferenceEvaluator("runs/student.onnx")
    for cases in (1, 2, 7):
        images = torch.rand(cases, 784)
        (logits,) = evaluator.run(None, {"pixels": images.numpy()})
        assert np.allclose(logits, student(images).detach(), atol=1e-4)


def test_the_tables_of_means_are_those_of_the_runs(monkeypatch, capsys, tmp_path):
    """Of the default teacher's students of 300 units, seeds 0 to 2."""
    rows = [row for row in students("distilled_300").lines if row["seed"] in "012"]
    rows = [row for row in rows if row["temperature"] in ("2.0", "8.0", "20.0")]
    with open("rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setattr(sys, "argv", ["summary", "rows.csv", "--compare", "temperature"])
    summary.main()
    shown = [block for language, block in BLOCKS if language == "text"]
    means, compared = capsys.readouterr().out.split("\n\n", 1)
    assert shown[0].startswith(means) and shown[1] == compared


def test_what_the_page_says_of_inverted_and_normalised_images(mnist):
    net, labels = load_model(ROOT / "models" / "distilled_model_800_20.pt"), mnist.test.labels
    ready = mnist.test.images.flatten(1) / 255
    errors = [
        int((net(images).argmax(1) != labels).sum())
        for images in (1 - ready, (ready - 0.1307) / 0.3081, ready)
    ]
    assert all(f"{count:,}" in USAGE for count in errors)
    assert errors[2] == 84
