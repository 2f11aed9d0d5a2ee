"""The files of a run: what stands in their place is kept."""

import csv
import fcntl
import os
import re
from pathlib import Path

import pytest
from common import SMALL, everything_in, random_net

import train
from support.checkpoints import load_checkpoint, model_from, save_model
from support.runs import RunFiles

# What stands there already


def test_the_history_lies_beside_the_checkpoint(call, teacher):
    call(train, SMALL.replace("--epochs 1", "--epochs 3"), "--output net.pt --quiet")
    with open("net.pt.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3
    for line, entry in zip(lines, load_checkpoint("net.pt")["history"], strict=True):
        assert {name: float(value) for name, value in line.items()} == entry


def test_an_existing_output_is_replaced_only_at_the_end(call, monkeypatch, tmp_path):
    call(train, SMALL, "--output net.pt --quiet")
    old = (tmp_path / "here" / "net.pt").read_bytes()

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_one_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            call(train, SMALL, "--seed 1", "--output net.pt --quiet")
    assert (tmp_path / "here" / "net.pt").read_bytes() == old
    call(train, SMALL, "--seed 1", "--output net.pt --quiet --resume")
    assert load_checkpoint("net.pt")["seed"] == 1


@pytest.mark.parametrize("there", ["lines of runs", "a folder", "a pipe"])
def test_what_stands_where_the_history_would_be_written_is_kept(stops, tmp_path, batches, there):
    if there == "lines of runs":
        Path("net.csv").write_text("data,precision,seed\nMNIST,fp32,0\n")
    elif there == "a folder":
        Path("net.csv").mkdir()
    else:
        os.mkfifo("net.csv")
    before = everything_in(tmp_path)
    stop = stops(train, "--model small --hidden-units 5 --epochs 1 --output net")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "net.csv" in stop.err
    assert everything_in(tmp_path) == before
    assert not batches


def test_an_output_that_another_run_is_writing_is_refused(stops, tmp_path):
    with open(tmp_path / "here" / "net.pt.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        stop = stops(train, SMALL, "--output net.pt")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "net.pt" in stop.err
    assert list(everything_in(tmp_path)) == ["here", "here/net.pt.lock"]


# Names of outputs


def test_a_checkpoint_of_another_run_is_kept_under_another_name(call, capsys):
    """As is a file of something else; one of the same run is replaced."""
    call(train, SMALL, "--output net.pt --quiet")
    first, history = Path("net.pt").read_bytes(), Path("net.pt.csv").read_bytes()
    call(train, SMALL, "--output net.pt --quiet --seed 1")
    assert "net.1.pt" in capsys.readouterr().out
    assert (Path("net.1.pt").read_bytes(), Path("net.1.pt.csv").read_bytes()) == (first, history)
    call(train, SMALL, "--output net.pt --quiet --seed 1")
    assert not Path("net.2.pt").exists()
    Path("net.pt").write_text("notes")
    call(train, SMALL, "--output net.pt --quiet --seed 1")
    assert Path("net.2.pt").read_text() == "notes"
    assert load_checkpoint("net.pt")["seed"] == 1


def record(seed, **changes):
    data_set = {"name": "sample", "training_cases": 3, "test_cases": 3, "digits": [3]}
    return {
        **{"architecture": "SmallNet", "precision": "fp32", "teacher": None, "data_set": data_set},
        **{"parameters": {"epochs": 1} | changes, "seed": seed, "command": "python train.py"},
        "history": [{"epoch": 1, "loss": seed / 2, "rate": 1}],
        "result": {"errors": 1, "cases": 3, "errors_per_digit": [0] * 10},
        "versions": {"threads": 1, "torch": "2"},
    }


def test_a_checkpoint_of_another_run_gets_the_first_number_that_is_quite_free(tmp_path):
    """Neither a checkpoint nor the history of one is lost for a name."""
    (tmp_path / "net.1.pt.csv").write_text("mine")
    (tmp_path / "net.2.pt").write_text("mine")
    for seed in (0, 1):
        RunFiles(tmp_path / "net.pt").save(random_net(5, seed=seed), record(seed))
    assert (tmp_path / "net.1.pt.csv").read_text() == (tmp_path / "net.2.pt").read_text() == "mine"
    assert load_checkpoint(tmp_path / "net.3.pt")["seed"] == 0
    assert "\n1,0.0,1," in (tmp_path / "net.3.pt.csv").read_text()
    assert load_checkpoint(tmp_path / "net.pt")["seed"] == 1


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("result", None),
        ("result", {}),
        ("result", {"errors": "few", "cases": 3, "errors_per_digit": [0]}),
        ("history", None),
        ("history", [{"epoch": 1}]),
        ("history", [{"epoch": 1, "loss": 1.0, "errors": "few"}]),
        ("versions", 3),
    ],
)
def test_a_checkpoint_without_its_result_is_not_taken_for_a_finished_run(
    call, stops, capsys, part, value
):
    """As of a net that was changed and saved again: the run is not skipped, nor this file lost."""
    call(train, SMALL, "--output net.pt --quiet")
    changed = load_checkpoint("net.pt") | {part: value}
    kept = {k: v for k, v in changed.items() if v is not None and k != "state_dict"}
    save_model("net.pt", model_from(changed), **kept)
    before = Path("net.pt").read_bytes()
    stop = stops(train, SMALL, "--output net.pt --resume --quiet")
    assert stop.status == 2
    assert re.fullmatch(r"error: net\.pt does not record how it was trained: .+\n", stop.err)
    call(train, SMALL, "--output net.pt --results lines.csv --quiet")
    assert "net.1.pt" in capsys.readouterr().out
    assert Path("net.1.pt").read_bytes() == before
    assert load_checkpoint("net.pt")["result"]["cases"] == 1000


def test_a_hyperparameter_that_was_added_later_makes_no_other_run(tmp_path):
    files = RunFiles(tmp_path / "net.pt")
    files.save(random_net(5), record(0))
    assert files.unlike(record(0, jitter=3)) == ""
    for other in (record(1), record(0, epochs=2), record(0) | {"precision": "bf16"}):
        assert "belongs to another run" in files.unlike(other)
