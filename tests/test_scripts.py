"""The scripts one after the other, and what they say to words that make no sense."""

import json
import os
from pathlib import Path

import pytest
import torch
from common import SMALL

import distillation
import distillation_no_three
import evaluate
import explore
import train
from support.checkpoints import load_checkpoint
from support.errors import UserError
from support.machine import choose_device
from training_params import LocalParams

STUDENTS = [distillation, distillation_no_three]


def test_the_scripts_train_distil_and_evaluate_one_after_the_other(stops):
    words = "--epochs 1 --hidden-units 30"
    teacher = "--teacher runs/small_model_30.pt"
    rate = f"learning_rate={LocalParams.Small.learning_rate}"
    for script, more, told in (
        (train, "--model small", ["errors on 1,000 images of the sample", rate]),
        (distillation, teacher, ["temperature=20.0"]),
        (distillation_no_three, f"{teacher} --quiet", ["as learned"]),
    ):
        stop = stops(script, more, words)
        assert (stop.status, stop.err) == (0, "")
        assert all(text in stop.out for text in told)
    names = ["small_model_30", "distilled_model_30_20", "distilled_model_wo3_30_20"]
    paths = [Path("runs") / f"{name}.pt" for name in names]
    histories = [Path(f"{path}.csv") for path in paths]
    assert sorted(Path().rglob("*")) == sorted([Path("runs"), *paths, *histories])
    stop = stops(evaluate, "--json", *paths)
    assert (stop.status, stop.err) == (0, "")
    for row, path in zip(json.loads(stop.out), paths, strict=True):
        result = load_checkpoint(path)["result"]
        assert {name: row[name] for name in result} == result


DEVICES = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
BAD = [
    # numbers
    *[(train, f"--epochs {value}") for value in ("0", "-1", "x", "1.5", "nan", "", "\n5000000\n")],
    *[(train, f"{SMALL} --epochs {value}") for value in ("0", "1e3")],
    *[(distillation, f"--temperature {value}") for value in ("0", "-1", "nan", "inf", "x")],
    *[(train, f"--hidden-units {value}") for value in ("0", "-3", "99999", "x")],
    *[(train, f"--learning-rate {value}") for value in ("0", "-0.1", "nan", "inf")],
    *[(train, f"--batch-size {value}") for value in ("0", "x")],
    *[(train, f"--dropout-hidden {value}") for value in ("1", "-0.1", "nan")],
    *[(train, f"--seed {value}") for value in ("-1", "2147483648", "x", "0.5")],
    *[(train, f"--threads {value}") for value in ("0", "-1")],
    *[(distillation, f"--hard-weight {value}") for value in ("-0.1", "1.1")],
    *[(distillation_no_three, f"--bias-shift {value}") for value in ("x", "nan", "inf")],
    # words
    (train, "--optimizer rmsprop"),
    (train, "--rate-schedule cosine"),
    (train, "--model large"),
    (train, "--params mine"),
    (train, "--data cifar"),
    (train, "--device tpu"),
    (train, "--precision fp8"),
    # flags and arguments that there are not
    *[(script, "--verbose") for script in (train, *STUDENTS, evaluate, explore)],
    (train, "--epoch 3"),
    (train, "--foo\nbar"),
    (train, "--temperature 3"),
    (train, "3"),
    (train, "--epochs"),
    (distillation, "--keep 3"),
    # digits
    (distillation_no_three, "--keep 3 --omit 3"),
    (distillation_no_three, "--keep 3 --omit 4"),
    *[(distillation_no_three, f"--omit {digits}") for digits in ("10", "-1", "x", "3.5", "3 10")],
    *[(distillation_no_three, f"--keep {digits}") for digits in ("10", "3 -1", "three")],
    (distillation_no_three, "--omit 0 1 2 3 4 5 6 7 8 9"),
    (distillation_no_three, "--keep 0 1 2 3 4 5 6 7 8 9 --epochs 1 --hidden-units 5"),
    (distillation_no_three, "--omit"),
    # files
    (train, f"{SMALL} --output net.pt --results net.pt.csv"),
    (train, f"{SMALL} --output ."),
    (train, f"{SMALL} --output net.pt --log text.pt"),
    (distillation, "--output net.pt --resume"),
    (evaluate, "--json --verify"),
    (explore, "--open page"),
    (explore, "--output page.pt"),
    (explore, "--output"),
    # together with the data
    (train, f"{SMALL} --batch-size 4001 --output net.pt"),
    (distillation, "--batch-size 4001 --output net.pt"),
    (distillation_no_three, "--batch-size 3601 --output net.pt"),
    (distillation, "--jitter 2 --output net.pt"),
]
PLACES = ("missing", "folder", "text.pt", "pipe")
NAMED = [
    *[(script, "--device", name) for script in (train, *STUDENTS) for name in DEVICES],
    *[(script, "--teacher", path) for script in STUDENTS for path in PLACES],
    *[(script, "", path) for script in (evaluate, explore) for path in PLACES],
    *[(train, "--data mnist --data-dir", path) for path in PLACES if path != "folder"],
    (evaluate, "text.pt --data mnist --data-dir", "missing"),
    *[(train, f"{SMALL} --output", path) for path in ("missing/net.pt", "text.pt/net.pt")],
    *[(train, f"{SMALL} --output", path) for path in ("folder", "pipe")],
    *[(train, f"{SMALL} --resume --output", path) for path in ("net.pt", "text.pt")],
    *[(script, "--epochs 1 --output", "folder") for script in STUDENTS],
    (distillation, "--epochs 1 --output", "missing/net.pt"),
    (explore, "--output", "missing/page.html"),
    (explore, "--output", "folder.html"),
]
NAMED = [(script, f"{words} {last}".strip(), last) for script, words, last in NAMED]


@pytest.mark.parametrize(
    ("script", "words", "naming"), [*[(script, words, "") for script, words in BAD], *NAMED]
)
def test_bad_input_gives_one_line_and_status_2_and_writes_nothing(
    refused, batches, teacher, script, words, naming
):
    if DEVICES.get(naming):
        pytest.skip(f"this machine has {naming}")
    Path("folder").mkdir()
    Path("folder.html").mkdir()
    os.mkfifo("pipe")
    Path("text.pt").write_text("hello")
    if script in STUDENTS and "--teacher" not in words:
        words = f"--teacher {teacher} {words}"
    refused(script, words, naming=naming)
    assert not batches


def test_a_number_of_a_gpu_that_is_none_is_refused(monkeypatch):
    """As on a machine with GPUs, where torchrun gives each process the number of its own."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(UserError, match="LOCAL_RANK is 'first'"):
        choose_device("cuda")
