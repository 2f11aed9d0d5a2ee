"""Many runs in one call: every combination, a line for each, resumed and shared out."""

import csv
import fcntl
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from common import ROOT, comparable, everything_in, random_net, same_weights, split_words

import distillation
import distillation_no_three
import train
from support import sweep
from support.checkpoints import load_checkpoint, load_model, save_model
from support.errors import Stopped, TrainingFailed

QUICK = "--epochs 1 --batch-size 500 --quiet"
SMALL = f"--model small --hidden-units 5 {QUICK}"


def lines_of(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def seeds_in(path):
    return "".join(line["seed"] for line in lines_of(path))


def test_every_combination_of_values_and_seeds_is_a_run_with_a_line_as_it_is_alone(call):
    call(train, SMALL, "--learning-rate 0.01 0.02 --seed 3 4 5")
    lines = lines_of("runs/train.csv")
    found = [(float(line["learning_rate"]), int(line["seed"])) for line in lines]
    assert found == [(rate, seed) for rate in (0.01, 0.02) for seed in (3, 4, 5)]
    assert len(list(Path("runs").glob("*.pt"))) == 6
    call(train, SMALL, "--learning-rate 0.02 --seed 3 --output net.pt")
    alone, line = load_checkpoint("net.pt"), lines[3]
    name = "runs/small_model_5_learning_rate_0.02_seed_3.pt"
    assert same_weights(load_model(name), load_model("net.pt"))
    assert int(line["errors"]) == alone["result"]["errors"]
    assert line["errors_per_digit"] == " ".join(map(str, alone["result"]["errors_per_digit"]))
    assert {k: line[k] for k in alone["parameters"]} == {
        k: str(v) for k, v in alone["parameters"].items()
    }


def test_a_line_has_the_lowest_errors_of_any_epoch_too(call):
    words = "--epochs 6 --batch-size 100 --learning-rate 0.05 --results runs.csv"
    call(train, SMALL, words)
    (line,), (path,) = lines_of("runs.csv"), Path("runs").glob("*.pt")
    history = [entry["errors"] for entry in load_checkpoint(path)["history"]]
    assert int(line["lowest_errors"]) == min(history)
    assert int(line["errors"]) == history[-1]


def as_a_spreadsheet_saves_it(text):
    """It writes 20.0 as 20, ends lines otherwise, and begins the file with a byte order mark."""
    assert ",2.0," in text
    return "\ufeff" + text.replace(",2.0,", ",2,").replace("\n", "\r\n")


@pytest.mark.parametrize("saved", [str, as_a_spreadsheet_saves_it])
def test_a_run_that_has_its_line_is_not_run_again(call, monkeypatch, saved):
    words = f"{SMALL} --learning-rate 2 --results lines.csv"
    call(train, words, "--seed 0 1")
    before = saved(Path("lines.csv").read_text()).encode()
    Path("lines.csv").write_bytes(before)
    seeds, run = [], train.run
    monkeypatch.setattr(
        train, "run", lambda planned, *rest: seeds.append(planned.seed) or run(planned, *rest)
    )
    call(train, words, "--seed 0 1 2")
    assert seeds == [2]
    assert Path("lines.csv").read_bytes().startswith(before)
    assert seeds_in("lines.csv") == "012"


def test_a_sweep_that_is_stopped_goes_on_in_the_midst_of_a_run(call, stops, monkeypatch):
    words = f"{SMALL} --epochs 3 --seed 0 1"
    call(train, words, "--results whole.csv")
    for path in Path("runs").glob("*.pt"):
        path.rename(f"{path}.whole")
    train_one_epoch, calls = train.train_one_epoch, []

    def stop_in_the_fifth(*arguments):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return train_one_epoch(*arguments)

    monkeypatch.setattr(train, "train_one_epoch", stop_in_the_fifth)
    stop = stops(train, words, "--results lines.csv")
    assert stop.status == 130
    assert "What is done is in lines.csv: rerun the command to continue." in stop.out
    assert "nothing to continue" not in stop.out
    assert seeds_in("lines.csv") == "0"
    call(train, words, "--results lines.csv")
    assert len(calls) == 5 + 2
    assert comparable(lines_of("lines.csv")) == comparable(lines_of("whole.csv"))
    for path in Path("runs").glob("*.pt"):
        assert same_weights(load_model(path), load_model(f"{path}.whole"))


def test_a_run_that_another_command_has_done_meanwhile_is_not_run_again(call, monkeypatch):
    words, run = f"{SMALL} --results lines.csv", train.run

    def meanwhile(planned, *rest):
        monkeypatch.setattr(train, "run", run)
        call(train, words, "--seed 1")
        return run(planned, *rest)

    monkeypatch.setattr(train, "run", meanwhile)
    call(train, words, "--seed 0 1")
    assert seeds_in("lines.csv") == "10"


def test_a_sweep_goes_on_whether_it_is_told_to_resume_or_not(call):
    call(train, SMALL, "--seed 0 1 --resume")
    assert seeds_in("runs/train.csv") == "01"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--output net.pt", "There is nothing to continue."),
        ("--seed 0 1", "What is done is in runs/train.csv"),
    ],
)
def test_that_it_was_stopped_is_said_by_one_process(stops, monkeypatch, words, told):
    def stop(*_):
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(train, "run", stop)
    assert told in stops(train, SMALL, words).out
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert stops(train, SMALL, "--seed 0 1").out == ""


def test_teachers_whose_sums_look_like_numbers_have_a_line_each(call, monkeypatch):
    """Both of these are infinite."""
    monkeypatch.setattr("support.teacher.sha256", lambda path: path.stem)
    sums = ["696e47183568", "123e45678901"]
    for name in sums:
        save_model(f"{name}.pt", random_net(5))
        call(distillation, f"--teacher {name}.pt --hidden-units 5 {QUICK} --results lines.csv")
    assert [line["teacher"] for line in lines_of("lines.csv")] == sums


# The file while it is written


def test_a_line_waits_for_another_command_that_writes_one(call):
    lock = open("lines.csv.lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    threading.Timer(0.5, lock.close).start()
    call(train, SMALL, "--results lines.csv")
    assert seeds_in("lines.csv") == "0"


def test_lines_are_whole_while_the_file_is_locked(call, monkeypatch):
    """Another command begins it just before it is locked here, and reads it just after."""
    call(train, SMALL, "--results other.csv")
    begun, read, locked = Path("other.csv").read_text(), [], sweep.locked

    @contextmanager
    def between_two(path, *seconds):
        if not path.stat().st_size:
            path.write_text(begun)
        with locked(path, *seconds):
            yield
        read.append(path.read_text())

    monkeypatch.setattr(sweep, "locked", between_two)
    call(train, SMALL, "--seed 1 --results lines.csv")
    assert seeds_in("lines.csv") == "01"
    assert read[-1] == Path("lines.csv").read_text()


# Failing


WILD = "--hidden-units 20 --epochs 3 --quiet --init-std 10 --max-squared-length 0"
IN_A_STACK = "--hidden-units 30 --epochs 2 --quiet --optimizer sgd --learning-rate 1e6"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (train, f"{WILD} --learning-rate 1e-6 1e6"),
        (distillation, f"{IN_A_STACK} --temperature 0.1 1000"),
    ],
)
def test_a_run_that_fails_has_a_line_that_says_so_and_the_others_go_on(
    stops, teacher, script, words
):
    words += " --results lines.csv" + ("" if script is train else f" --teacher {teacher}")
    for _ in range(2):  # the status is the same when the lines are there already
        stop = stops(script, words)
        assert (stop.status, len(stop.err.splitlines())) == (1, 1)
        assert "1 of 2 runs failed" in stop.err
        good, failed = sorted(lines_of("lines.csv"), key=lambda line: line["problem"])
        assert "not finite" in failed["problem"] and not failed["errors"]
        assert not good["problem"] and int(good["errors"]) > 0


def test_failed_lines_of_other_runs_are_not_counted(stops):
    for rate, status in ("1e6", 1), ("1e-6", 0):
        stop = stops(train, f"{WILD} --learning-rate {rate} --seed 0 1 --results lines.csv")
        assert stop.status == status


DAMAGES = {
    "other columns": lambda whole: b"errors,of,others\n1,2,3\n",
    "no words": lambda whole: b"\xff\xfe",
    "nothing": lambda whole: b"\n",
    "a cut end": lambda whole: whole[:-1],
    "a cut line": lambda whole: whole[:-9] + b"\n",
    "a longer line": lambda whole: whole[:-1] + b",more\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_something_else_or_with_a_cut_line_is_not_added_to(call, refused, damage):
    call(train, SMALL, "--results lines.csv")
    Path("lines.csv").write_bytes(DAMAGES[damage](Path("lines.csv").read_bytes()))
    refused(train, SMALL, "--seed 1 --results lines.csv", naming="lines.csv")


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        ("--seed 0 1 --output net.pt", "--output"),
        ("--seed 1 1", "small_model_5_seed_1.pt"),
        ("--learning-rate 0.1 0.1", "small_model_5_seed_0.pt"),
        ("--results net.pt --output net.pt", "--results net.pt"),
        ("--results net.csv --output net", "--results net.csv"),
        ("--results runs/net.pt", "--results runs/net.pt"),
        ("--results net.pt.resume", "--results net.pt.resume"),
        ("--seed 0 1 --results pipe.csv", "pipe.csv"),
        ("--seed 0 1 --results /proc/lines.csv", "/proc/lines.csv"),
        ("--seed 0 7", "small_model_5_seed_7.pt regular"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_training(refused, batches, words, naming):
    os.mkfifo("pipe.csv")
    Path("runs/small_model_5_seed_7.pt").mkdir(parents=True)
    refused(train, SMALL, words, naming=naming)
    assert not batches


def test_students_that_would_have_the_same_file_are_refused(refused, teacher):
    words = f"{QUICK} --temperature 8.0000001 8.0000002"
    refused(distillation, "--teacher", teacher, words, naming="distilled_model_800_8_seed_0.pt")


@pytest.mark.parametrize(
    ("words", "stacks"),
    [
        ("", [4]),
        ("--hidden-units 5 300", [4]),
        ("--learning-rate 0.1 0.2", [4, 4]),
        ("--hard-weight 0.1 0", [4]),
        ("--hidden-units 300", []),
        ("--max-squared-length 15", []),
        ("--dropout-hidden 0.1", []),
        ("--dropout-visible 0.1", []),
        ("--log events", []),
        ("--temperature 1 --seed 0", []),
    ],
)
def test_small_students_that_differ_in_temperature_and_seed_form_a_stack(
    call, teacher, monkeypatch, words, stacks
):
    found, results = [], []

    def no_training(planned, *_):
        results.append(planned)
        raise TrainingFailed("none")

    def no_stack(temperatures, seeds, *_, **__):
        found.append(len(temperatures) * len(seeds))
        raise TrainingFailed("none")

    monkeypatch.setattr(distillation, "train_together", no_stack)
    monkeypatch.setattr(distillation, "run", no_training)
    start = f"--teacher {teacher} --hidden-units 5 --temperature 1 2 --seed 0 1 --quiet"
    with pytest.raises(TrainingFailed):
        call(distillation, start, words, "--results x.csv")
    assert found == stacks
    assert len(results) == len(lines_of("x.csv"))  # what fails together is done one by one


def test_students_of_which_one_has_its_line_are_no_stack_any_more(call, teacher):
    words = f"--teacher {teacher} --hidden-units 5 {QUICK} --results lines.csv"
    call(distillation, words, "--temperature 1 --seed 0")
    call(distillation, words, "--temperature 1 2 --seed 0 1")
    assert len(lines_of("lines.csv")) == len(list(Path("runs").glob("*.pt"))) == 4


def test_students_that_are_no_stack_have_a_file_each(call, teacher):
    words = f"--teacher {teacher} --hidden-units 5 {QUICK} --hard-weight 0.1"
    call(distillation, words, "--temperature 2 8")
    names = {path.name for path in Path("runs").glob("*.pt")}
    assert names == {f"distilled_model_5_{t}_seed_0.pt" for t in (2, 8)}


@pytest.mark.parametrize("script", [train, distillation_no_three])
def test_a_line_that_is_missing_is_written_from_the_finished_checkpoint(
    call, teacher, batches, script
):
    start = SMALL if script is train else f"--teacher {teacher} --hidden-units 20 {QUICK}"
    words = f"{start} --seed 0 1 --results lines.csv"
    call(script, words)
    whole, before = Path("lines.csv").read_text(), everything_in(Path("runs"))
    Path("lines.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    batches.clear()
    call(script, words)
    assert Path("lines.csv").read_text() == whole
    assert everything_in(Path("runs")) == before
    assert not batches


# Several processes


@pytest.mark.parametrize(
    ("rank", "world"),
    [("2", "2"), ("-1", "2"), ("1", "1"), ("9" * 20, "1"), ("1", ""), ("x", "2"), ("0", "x")],
)
def test_a_number_of_a_process_that_cannot_be_is_one_line(refused, monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world) if world else None
    refused(train, SMALL, "--seed 0 1", naming="WORLD_SIZE" if world == "x" else "RANK")


@pytest.fixture
def as_process(call, monkeypatch):
    """as_process(number, script, *words): the script as that one of two."""

    def call_script(number, *words):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(number))
        call(*words)

    return call_script


def test_a_process_does_its_share_of_the_plan_whatever_is_done_already(call, as_process):
    """Each reads the file at another moment, so that shares of what is left would overlap."""
    call(train, f"{SMALL} --seed 1 2 --results x.csv")
    for number, seeds in enumerate(("1204", "12043")):
        as_process(number, train, f"{SMALL} --seed 0 1 2 3 4 --results x.csv")
        assert seeds_in("x.csv") == seeds


def test_a_single_run_is_done_by_the_first_process_alone(as_process, capsys):
    words = SMALL.removesuffix(" --quiet")
    as_process(1, train, words, "--output net.pt")
    assert capsys.readouterr().out == "" and not Path("net.pt").exists()
    as_process(0, train, words, "--output net.pt")
    assert "errors on 1,000 images" in capsys.readouterr().out and Path("net.pt").exists()


def test_a_process_does_its_share_of_what_is_no_stack(as_process, teacher):
    words = f"--teacher {teacher} --hidden-units 5 --hard-weight 0.1 {QUICK}"
    as_process(1, distillation, words, "--seed 0 1 2")
    assert seeds_in("runs/distillation.csv") == "1"


def test_where_nothing_numbers_the_processes_one_does_all(call, monkeypatch):
    """A scheduler of jobs may set the one variable alone."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    call(train, SMALL, "--seed 0 1")
    assert seeds_in("runs/train.csv") == "01"


def test_only_the_process_that_ends_last_reports_that_runs_failed(as_process):
    """Since torchrun ends all processes as soon as one fails."""
    words = f"{WILD} --learning-rate 1e6 1e-6 --results x.csv"
    as_process(0, train, words)
    with pytest.raises(TrainingFailed, match="1 of 2 runs failed"):
        as_process(1, train, words)


def test_a_stack_is_the_work_of_one_process(as_process, teacher):
    words = f"--teacher {teacher} --hidden-units 5 --temperature 1 2 --seed 0 1 {QUICK}"
    for number, count in (1, 0), (0, 4):
        as_process(number, distillation, words)
        assert len(lines_of("runs/distillation.csv")) == count


def test_two_processes_share_the_runs_out(tmp_path):
    torchrun = [*split_words("-m torch.distributed.run --standalone --nproc-per-node 2")]
    words = split_words(SMALL, "--data sample --seed 0 1 2 --results lines.csv")
    command = [sys.executable, *torchrun, ROOT / "train.py", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert sorted(seeds_in(tmp_path / "lines.csv")) == ["0", "1", "2"]
    saved = [load_model(tmp_path / "runs" / f"small_model_5_seed_{seed}.pt") for seed in (0, 1, 2)]
    assert not any(same_weights(saved[i], saved[i - 1]) for i in range(3))


def test_a_run_that_two_commands_did_at_once_has_one_line(call, monkeypatch):
    run = train.run

    def meanwhile(planned, *rest):
        checkpoint = run(planned, *rest)
        if not list(Path(".").glob("other")):
            Path("other").touch()
            call(train, SMALL, "--seed 0 --results lines.csv")
        return checkpoint

    monkeypatch.setattr(train, "run", meanwhile)
    call(train, SMALL, "--seed 0 --results lines.csv")
    assert len(lines_of("lines.csv")) == 1
