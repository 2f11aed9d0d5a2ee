"""The files of a run: what stands in their place is kept."""

import csv
import fcntl
import os
from pathlib import Path

import pytest
from common import SMALL, random_net

import train
from support.checkpoints import load_checkpoint, model_from, save_model
from support.runs import RunFiles

QUICK = f"{SMALL} --batch-size 1000 --quiet"

# What stands there already


def test_the_history_lies_beside_the_checkpoint(call):
    call(train, QUICK, "--epochs 3 --output net.pt")
    with open("net.pt.csv", newline="") as file:
        lines = [{k: float(v) for k, v in line.items()} for line in csv.DictReader(file)]
    assert lines == load_checkpoint("net.pt")["history"] and len(lines) == 3


def test_an_existing_output_is_replaced_only_at_the_end(call, monkeypatch):
    call(train, QUICK, "--output net.pt")
    old = Path("net.pt").read_bytes()

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "train_one_epoch", stop)
        call(train, QUICK, "--seed 1", "--output net.pt")
    assert Path("net.pt").read_bytes() == old
    call(train, QUICK, "--seed 1", "--output net.pt --resume")
    assert load_checkpoint("net.pt")["seed"] == 1


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.write_text("data,precision,seed\nMNIST,fp32,0\n"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
    ],
    ids=["lines of runs", "a folder", "a pipe"],
)
def test_what_stands_where_the_history_would_be_written_is_kept(refused, batches, put):
    put(Path("net.csv"))
    refused(train, QUICK, "--output net", naming="net.csv")
    assert not batches


def test_an_output_that_another_run_is_writing_is_refused(refused):
    with open("net.pt.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(train, QUICK, "--output net.pt", naming="net.pt another run")


# Names of outputs


def test_a_checkpoint_of_another_run_is_kept_under_another_name(call, capsys):
    """As is a file of something else; one of the same run is replaced."""
    call(train, QUICK, "--output net.pt")
    first, history = Path("net.pt").read_bytes(), Path("net.pt.csv").read_bytes()
    call(train, QUICK, "--output net.pt --seed 1")
    assert "net.1.pt" in capsys.readouterr().out
    assert (Path("net.1.pt").read_bytes(), Path("net.1.pt.csv").read_bytes()) == (first, history)
    call(train, QUICK, "--output net.pt --seed 1")
    assert not Path("net.2.pt").exists()
    Path("net.pt").write_text("notes")
    call(train, QUICK, "--output net.pt --seed 1")
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


def test_a_checkpoint_of_another_run_gets_the_first_number_that_is_quite_free():
    """Neither a checkpoint nor the history of one is lost for a name."""
    mine = [Path("net.1.pt.csv"), Path("net.2.pt")]
    for path in mine:
        path.write_text("mine")
    for seed in (0, 1):
        RunFiles(Path("net.pt")).save(random_net(5, seed=seed), record(seed))
    assert [path.read_text() for path in mine] == ["mine"] * 2
    assert load_checkpoint("net.3.pt")["seed"] == 0
    assert "\n1,0.0,1," in Path("net.3.pt.csv").read_text()
    assert load_checkpoint("net.pt")["seed"] == 1


def test_a_renaming_that_is_stopped_loses_neither_file(monkeypatch):
    files, rename, renamed = RunFiles(Path("net.pt")), os.rename, []
    files.save(random_net(5), record(0))

    def stop_at_the_second(*paths):
        renamed.append(paths)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        rename(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", stop_at_the_second)
        files.save(random_net(5), record(1))
    files.save(random_net(5), record(1))
    assert sum("\n1,0.0,1," in path.read_text() for path in Path().glob("*.pt.csv")) == 1
    assert sorted(load_checkpoint(path)["seed"] for path in Path().glob("*.pt")) == [0, 1]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("result", None),
        ("result", {}),
        ("result", {"errors": "few", "cases": 3, "errors_per_digit": [0]}),
        *[("history", value) for value in (None, [])],
        ("history", [{"epoch": 1}]),
        ("history", [{"epoch": 1, "loss": 1.0, "errors": "few"}]),
        ("versions", 3),
    ],
)
def test_a_checkpoint_without_its_result_is_not_taken_for_a_finished_run(
    call, refused, capsys, part, value
):
    """As of a net that was changed and saved again: the run is not skipped, nor this file lost."""
    call(train, QUICK, "--output net.pt")
    changed = load_checkpoint("net.pt") | {part: value}
    lost = {"state_dict"} | ({part} if value is None else set())
    kept = {k: v for k, v in changed.items() if k not in lost}
    save_model("net.pt", model_from(changed), **kept)
    before = Path("net.pt").read_bytes()
    told = "net.pt does not record how it was trained"
    refused(train, QUICK, "--output net.pt --resume", naming=told)
    call(train, QUICK, "--output net.pt --results lines.csv")
    assert "net.1.pt" in capsys.readouterr().out
    assert Path("net.1.pt").read_bytes() == before
    assert load_checkpoint("net.pt")["result"]["cases"] == 1000


def test_a_hyperparameter_that_was_added_later_makes_no_other_run(tmp_path):
    files = RunFiles(tmp_path / "net.pt")
    files.save(random_net(5), record(0))
    assert files.unlike(record(0, jitter=3)) == ""
    for other in (record(1), record(0, epochs=2), record(0) | {"precision": "bf16"}):
        assert "belongs to another run" in files.unlike(other)
