import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from common import ROOT, SMALL, everything_in, split_words

import distillation
import distillation_no_three
import evaluate
import train
from support.checkpoints import load_checkpoint, load_model
from support.errors import UserError
from support.machine import choose_device
from training_params import LocalParams


def python(*words, cwd, status=0):
    """`python words` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *split_words(*words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == status, done.stderr
    return done


def test_the_scripts_train_distil_and_evaluate_from_the_command_line(tmp_path):
    """One process each, in another folder than the repository."""
    here = tmp_path / "here"
    words = "--data sample --threads 1 --epochs 1 --hidden-units 30"

    done = python(ROOT / "train.py", "--model small", words, cwd=here)
    assert done.stderr == ""
    assert re.search(r"\d+ errors on 1,000 images of the sample", done.stdout)
    assert f"learning_rate={LocalParams.Small.learning_rate}" in done.stdout

    teacher = "--teacher runs/small_model_30.pt"
    done = python(ROOT / "distillation.py", teacher, words, cwd=here)
    assert done.stderr == ""
    assert "temperature=20.0" in done.stdout

    done = python(ROOT / "distillation_no_three.py", teacher, words, "--quiet", cwd=here)
    assert done.stderr == ""
    assert "as learned" in done.stdout

    names = ["small_model_30", "distilled_model_30_20", "distilled_model_wo3_30_8"]
    paths = [here / "runs" / f"{name}.pt" for name in names]
    histories = [Path(f"{path}.csv") for path in paths]
    assert sorted(here.rglob("*")) == sorted([here / "runs", *paths, *histories])
    done = python(ROOT / "evaluate.py", "--data sample --json", *paths, cwd=here)
    assert done.stderr == ""
    for row, path in zip(json.loads(done.stdout), paths, strict=True):
        result = load_checkpoint(path)["result"]
        assert {name: row[name] for name in result} == result
        assert not load_model(path).training


def test_a_refused_command_line_is_one_line_and_status_2_for_the_shell(tmp_path):
    done = python(ROOT / "train.py", "--epochs", 0, cwd=tmp_path / "here", status=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: argument --epochs: '0' is not a whole number")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_stops_reading_causes_no_traceback(tmp_path, teacher):
    command = f"{sys.executable} {ROOT}/evaluate.py --data sample --json {teacher} | exec true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=100)
    assert done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_stops_nothing(tmp_path, closed):
    command = f"{sys.executable} {ROOT}/train.py {SMALL} --data sample --output net.pt {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, cwd=tmp_path, timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "net.pt").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_a_pipe_is_not_waited_for(stops, teacher, tmp_path):
    os.mkfifo("pipe")
    assert stops(evaluate, "pipe").status == 2
    assert stops(distillation, "--teacher pipe").status == 2
    assert stops(train, SMALL, "--output pipe").status == 2
    assert stops(train, SMALL, "--data mnist --data-dir pipe").status == 2


DEVICES = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
BAD = [
    # numbers
    *[(train, f"--epochs {value}") for value in ("0", "-1", "x", "1.5", "nan", "")],
    *[(train, f"{SMALL} --epochs {value}") for value in ("0", "1e3")],
    *[(distillation, f"--temperature {value}") for value in ("0", "-1", "nan", "inf", "x")],
    *[(train, f"--hidden-units {value}") for value in ("0", "-3", "99999", "x")],
    *[(train, f"--learning-rate {value}") for value in ("0", "-0.1", "nan", "inf")],
    *[(train, f"--batch-size {value}") for value in ("0", "x")],
    *[(train, f"--dropout-hidden {value}") for value in ("1", "-0.1", "nan")],
    *[(train, f"--seed {value}") for value in ("-1", "4294967296", "x", "0.5")],
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
    *[(train, f"--device {name}") for name in DEVICES if not DEVICES[name]],
    (train, "--precision fp8"),
    # flags and arguments that there are not
    *[(script, "--verbose") for script in (train, distillation, distillation_no_three, evaluate)],
    (train, "--epoch 3"),
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
    *[(script, "--teacher missing.pt") for script in (distillation, distillation_no_three)],
    *[(script, "--teacher folder") for script in (distillation, distillation_no_three)],
    *[(script, "--teacher text.pt") for script in (distillation, distillation_no_three)],
    (train, f"{SMALL} --output missing/net.pt"),
    (train, f"{SMALL} --output text.pt/net.pt"),
    (train, f"{SMALL} --output net.pt --results net.pt.csv"),
    (train, f"{SMALL} --output net.pt --log text.pt"),
    (train, f"{SMALL} --output folder"),
    (train, f"{SMALL} --output ."),
    (distillation, "--output missing/net.pt --epochs 1"),
    (distillation, "--output folder --epochs 1"),
    (distillation_no_three, "--output folder --epochs 1"),
    (train, f"{SMALL} --output net.pt --resume"),
    (train, f"{SMALL} --output text.pt --resume"),
    (distillation, "--output net.pt --resume"),
    (evaluate, "--json --verify"),
    (evaluate, "missing.pt"),
    (evaluate, "text.pt"),
    (evaluate, "folder"),
    (train, "--data mnist --data-dir missing"),
    (train, "--data mnist --data-dir text.pt"),
    (evaluate, "text.pt --data mnist --data-dir missing"),
    # together with the data
    (train, f"{SMALL} --batch-size 4001 --output net.pt"),
    (distillation, "--batch-size 4001 --output net.pt"),
    (distillation_no_three, "--batch-size 3601 --output net.pt"),
    (distillation, "--jitter 2 --output net.pt"),
]


@pytest.mark.parametrize(
    ("script", "words"), BAD, ids=[f"{script.__name__} {words}" for script, words in BAD]
)
def test_bad_input_gives_one_line_and_status_2_and_writes_nothing(
    stops, monkeypatch, tmp_path, teacher, script, words
):
    here = tmp_path / "here"
    (here / "folder").mkdir()
    (here / "text.pt").write_text("hello")
    if script in (distillation, distillation_no_three) and "--teacher" not in words:
        words = f"--teacher {teacher} {words}"
    before = everything_in(here)
    stop = stops(script, words)
    assert stop.status == 2
    assert re.fullmatch(r"error: .+\n", stop.err)
    assert "errors on" not in stop.out
    assert everything_in(here) == before


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("script", [train, distillation, distillation_no_three])
def test_a_device_that_is_not_there_is_refused(stops, tmp_path, teacher, script, device):
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if there[device]():
        pytest.skip(f"this machine has {device}")
    words = "" if script is train else f"--teacher {teacher}"
    stop = stops(script, words, "--device", device)
    assert stop.status == 2
    assert re.fullmatch(rf"error: .*{device}.*\n", stop.err)
    assert everything_in(tmp_path / "here") == {}


def test_a_number_of_a_gpu_that_is_none_is_refused(monkeypatch):
    """As on a machine with GPUs, where torchrun gives each process the number of its own."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(UserError, match="LOCAL_RANK is 'first'"):
        choose_device("cuda")
