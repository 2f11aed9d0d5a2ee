"""Many runs in one call: every combination, a line for each, resumed and shared out."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from common import ROOT, everything_in, same_weights, split_words

import distillation
import distillation_no_three
import train
from support.checkpoints import load_checkpoint, load_model
from support.errors import TrainingFailed

QUICK = "--epochs 1 --batch-size 500 --quiet"
SMALL = f"--model small --hidden-units 5 {QUICK}"


def lines_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_combination_of_values_and_seeds_is_a_run_with_a_line(call):
    call(train, SMALL, "--learning-rate 0.01 0.02 --seed 3 4 5")
    lines = lines_of("runs/train.csv")
    found = [(float(line["learning_rate"]), int(line["seed"])) for line in lines]
    assert found == [(rate, seed) for rate in (0.01, 0.02) for seed in (3, 4, 5)]
    assert len(list(Path("runs").glob("*.pt"))) == 6


def test_a_line_has_the_lowest_errors_of_any_epoch_too(call):
    call(
        train,
        "--model small --hidden-units 5 --epochs 6 --batch-size 100 --learning-rate 0.05",
        "--quiet --results runs.csv",
    )
    (line,), (path,) = lines_of("runs.csv"), Path("runs").glob("*.pt")
    history = [entry["errors"] for entry in load_checkpoint(path)["history"]]
    assert int(line["lowest_errors"]) == min(history)
    assert int(line["errors"]) == history[-1]


def test_a_file_that_a_spreadsheet_saved_is_continued(call, batches):
    """It writes 20.0 as 20, ends lines otherwise, and begins the file with a byte order mark."""
    call(train, SMALL, "--seed 0 1 --learning-rate 2 --results x.csv")
    lines, seen = Path("x.csv").read_text().replace(",2.0,", ",2,"), len(batches)
    Path("x.csv").write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())
    call(train, SMALL, "--seed 0 1 --learning-rate 2 --results x.csv")
    assert len(batches) == seen
    call(train, SMALL, "--seed 0 1 2 --learning-rate 2 --results x.csv")
    assert len(batches) == seen * 3 / 2


def test_a_run_of_a_sweep_is_the_run_alone(call):
    call(train, SMALL, "--learning-rate 0.01 0.02 --seed 3 4")
    call(train, SMALL, "--learning-rate 0.02 --seed 3 --output net.pt")
    alone = load_checkpoint("net.pt")
    name = "runs/small_model_5_learning_rate_0.02_seed_3.pt"
    assert same_weights(load_model(name), load_model("net.pt"))
    line = lines_of("runs/train.csv")[2]
    assert int(line["errors"]) == alone["result"]["errors"]
    assert line["errors_per_digit"] == " ".join(map(str, alone["result"]["errors_per_digit"]))
    assert {k: line[k] for k in alone["parameters"]} == {
        k: str(v) for k, v in alone["parameters"].items()
    }


def test_a_run_that_has_its_line_is_not_run_again(call, monkeypatch):
    call(train, SMALL, "--seed 0 1 --results lines.csv")
    before = Path("lines.csv").read_text()
    seeds = []
    run = train.run
    monkeypatch.setattr(
        train, "run", lambda planned, *rest: seeds.append(planned.seed) or run(planned, *rest)
    )
    call(train, SMALL, "--seed 0 1 2 --results lines.csv")
    assert seeds == [2]
    assert Path("lines.csv").read_text().startswith(before)
    assert [line["seed"] for line in lines_of("lines.csv")] == ["0", "1", "2"]


def test_a_sweep_that_is_stopped_goes_on_in_the_midst_of_a_run(call, monkeypatch):
    words = "--model small --hidden-units 5 --epochs 3 --batch-size 500 --quiet --seed 0 1"
    call(train, words, "--results whole.csv")
    for path in Path("runs").glob("*.pt"):
        path.rename(f"{path}.whole")
    train_one_epoch, calls = train.train_one_epoch, []

    def stop_in_the_fifth(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return train_one_epoch(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "train_one_epoch", stop_in_the_fifth)
        call(train, words, "--results lines.csv")
    assert len(lines_of("lines.csv")) == 1
    call(train, words, "--results lines.csv")
    assert lines_of("lines.csv") == lines_of("whole.csv")
    for path in Path("runs").glob("*.pt"):
        assert same_weights(load_model(path), load_model(f"{path}.whole"))


def test_a_run_that_fails_has_a_line_that_says_so_and_the_others_go_on(call):
    wild = "--init-std 10 --max-squared-length 0 --learning-rate 1e6 1e-6"
    with pytest.raises(TrainingFailed, match="1 of 2 runs failed"):
        call(train, "--hidden-units 20 --epochs 3 --quiet", wild)
    failed, good = lines_of("runs/train.csv")
    assert "not finite" in failed["problem"]
    assert not failed["errors"]
    assert not good["problem"]
    assert int(good["errors"]) > 0


def test_a_single_run_has_a_line_if_asked_for(call):
    call(train, SMALL, "--results lines.csv --output net.pt")
    assert int(lines_of("lines.csv")[0]["errors"]) == load_checkpoint("net.pt")["result"]["errors"]


@pytest.mark.parametrize("content", ["errors,of,others\n1,2,3\n", "\xff\xfe", "\n"])
def test_a_file_of_something_else_is_refused_and_kept(stops, content):
    Path("lines.csv").write_text(content, encoding="latin-1")
    stop = stops(train, SMALL, "--seed 0 1 --results lines.csv")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "lines.csv" in stop.err
    assert Path("lines.csv").read_text(encoding="latin-1") == content


def test_one_output_for_several_runs_is_refused(stops, tmp_path):
    stop = stops(train, SMALL, "--seed 0 1 --output net.pt")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert everything_in(tmp_path) == {"here": None}


def test_the_shifts_of_a_student_without_threes_are_in_its_line(call, teacher, capsys):
    words = "--hidden-units 20 --epochs 4 --temperature 2 8"
    call(distillation_no_three, "--teacher", teacher, words, "--results lines.csv")
    for line in lines_of("lines.csv"):
        assert line["omit"] == "3"
        assert int(line["learned_errors"]) == int(line["errors"])
        assert int(line["best_errors"]) <= int(line["label_free_errors"])
        assert int(line["best_errors"]) <= int(line["paper_errors"])
        biases = [float(bias) for bias in line["biases"].split()]
        name = f"runs/distilled_model_wo3_20_{float(line['temperature']):g}_seed_0.pt"
        learned = load_model(name).output.bias
        assert torch.allclose(torch.tensor(biases), learned, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "stacks"),
    [
        ("--temperature 1 2 --seed 0 1", [4]),
        ("--temperature 1 2 --seed 0 1 --hidden-units 5 300", [4]),
        ("--temperature 1 2 --seed 0 1 --learning-rate 0.1 0.2", [4, 4]),
        ("--temperature 1 2 --seed 0 1 --hidden-units 300", []),
        ("--temperature 1 2 --seed 0 1 --hard-weight 0.1 0", [4]),
        ("--temperature 1", []),
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
    words = split_words("--hidden-units 5", words, "--quiet --results x.csv")
    with pytest.raises(TrainingFailed):
        call(distillation, "--teacher", teacher, *words)
    assert found == stacks
    assert len(results) == len(lines_of("x.csv"))  # what fails together is done one by one


def test_small_students_are_distilled_together_with_the_errors_they_make_alone(
    call, teacher, monkeypatch
):
    words = "--hidden-units 20 --epochs 4 --temperature 2 8 --seed 0 1 --batch-size 500"
    call(distillation, "--teacher", teacher, words, "--results together.csv")
    assert not list(Path(".").glob("runs/*.pt"))
    monkeypatch.setattr("support.sweep.STACKED_UNITS", 0)
    call(distillation, "--teacher", teacher, words, "--results alone.csv")
    together, alone = (
        {
            (line["temperature"], line["seed"]): int(line["errors"])
            for line in lines_of(f"{name}.csv")
        }
        for name in ("together", "alone")
    )
    assert together.keys() == alone.keys()
    assert all(abs(together[run] - alone[run]) <= 3 for run in together)  # of 1,000: rounding


@pytest.mark.parametrize("flag", ["max-squared-length 15", "dropout-hidden 0.1", "hard-weight 0.1"])
def test_what_a_stack_cannot_do_is_done_one_by_one(call, teacher, flag):
    words = f"--teacher {teacher} --hidden-units 5 {QUICK} --seed 0 1 --{flag}"
    call(distillation, words)
    assert len(lines_of("runs/distillation.csv")) == 2


@pytest.mark.parametrize(
    "words",
    [
        "--seed 1 1",
        "--learning-rate 0.1 0.1",
        "--results net.pt --output net.pt",
        "--results net.csv --output net",
        "--results runs/net.pt",
        "--results net.pt.resume",
    ],
)
def test_runs_given_twice_and_results_that_are_outputs_are_refused(stops, tmp_path, words):
    stop = stops(train, SMALL, words)
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert everything_in(tmp_path / "here") == {}


def test_runs_that_would_have_the_same_file_are_refused(stops, teacher, tmp_path):
    words = f"{QUICK} --temperature 8.0000001 8.0000002"
    stop = stops(distillation, "--teacher", teacher, words)
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert everything_in(tmp_path / "here") == {}


def test_of_students_in_a_stack_only_the_one_that_fails_has_failed(call, teacher):
    wild = "--optimizer sgd --learning-rate 1e6 --epochs 2 --temperature 0.1 1000"
    with pytest.raises(TrainingFailed, match="1 of 2 runs failed"):
        call(distillation, "--teacher", teacher, wild, "--hidden-units 30 --quiet")
    good, failed = lines_of("runs/distillation.csv")
    assert "not finite" in failed["problem"] and not failed["errors"]
    assert not good["problem"] and int(good["errors"]) > 0


def test_a_results_file_that_cannot_be_written_is_refused_before_any_training(stops, batches):
    os.mkfifo("pipe.csv")
    for path in ("pipe.csv", "/proc/lines.csv"):
        stop = stops(train, SMALL, "--seed 0 1 --results", path)
        assert (stop.status, len(stop.err.splitlines())) == (2, 1)
        assert path in stop.err
    assert not batches


def test_a_later_run_that_cannot_be_written_is_refused_before_any_training(stops, batches):
    Path("runs/small_model_5_seed_1.pt").mkdir(parents=True)
    stop = stops(train, SMALL, "--seed 0 1")
    assert stop.status == 2
    assert "small_model_5_seed_1.pt is a folder" in stop.err
    assert not batches


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("1", ""), ("x", "2")])
def test_a_number_of_a_process_that_cannot_be_is_one_line(stops, monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world) if world else None
    stop = stops(train, SMALL, "--seed 0 1")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "RANK" in stop.err


def test_a_process_does_its_share_of_the_plan_whatever_is_done_already(call, monkeypatch):
    """Each reads the file at another moment, so that shares of what is left would overlap."""
    words = f"{SMALL} --seed 0 1 2 3 4 --results x.csv"
    call(train, f"{SMALL} --seed 1 2 --results x.csv")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, seeds in ("0", "1204"), ("1", "12043"):
        monkeypatch.setenv("RANK", rank)
        call(train, words)
        assert "".join(line["seed"] for line in lines_of("x.csv")) == seeds


def test_only_the_process_that_ends_last_reports_that_runs_failed(call, monkeypatch, capsys):
    """Since torchrun ends all processes as soon as one fails."""
    wild = "--hidden-units 20 --epochs 2 --quiet --init-std 10 --max-squared-length 0"
    words = f"{wild} --learning-rate 1e6 1e-6 --results x.csv"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    call(train, words)
    assert "1 run failed" not in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(TrainingFailed, match="1 of 2 runs failed"):
        call(train, words)


def test_a_stack_is_the_work_of_one_process(call, teacher, monkeypatch):
    words = f"--teacher {teacher} --hidden-units 5 --temperature 1 2 --seed 0 1 {QUICK}"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    call(distillation, words)
    assert lines_of("runs/distillation.csv") == []
    monkeypatch.setenv("RANK", "0")
    call(distillation, words)
    assert len(lines_of("runs/distillation.csv")) == 4


def test_a_file_of_results_with_a_cut_line_is_not_added_to(stops, call):
    call(train, SMALL, "--results lines.csv")
    whole = Path("lines.csv").read_text()
    for damaged in (whole[:-1], whole[:-9] + "\n", whole[:-1] + ",more\n"):
        Path("lines.csv").write_text(damaged)
        stop = stops(train, SMALL, "--seed 1 --results lines.csv")
        assert (stop.status, len(stop.err.splitlines())) == (2, 1)
        assert Path("lines.csv").read_text() == damaged


def test_two_processes_share_the_runs_out(tmp_path):
    words = f"train.py {SMALL} --data sample --seed 0 1 2 --results {tmp_path}/lines.csv"
    done = torchrun(words, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = lines_of(tmp_path / "lines.csv")
    assert sorted(line["seed"] for line in lines) == ["0", "1", "2"]
    saved = [load_model(tmp_path / "runs" / f"small_model_5_seed_{seed}.pt") for seed in (0, 1, 2)]
    assert not any(same_weights(saved[i], saved[i - 1]) for i in range(3))


def test_a_sweep_that_is_stopped_says_how_to_go_on(stops, monkeypatch):
    train_one_epoch, calls = train.train_one_epoch, []

    def stop_in_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return train_one_epoch(*arguments)

    monkeypatch.setattr(train, "train_one_epoch", stop_in_the_second)
    stop = stops(train, SMALL, "--seed 0 1 2 --results lines.csv")
    assert stop.status == 130
    assert "What is done is in lines.csv: rerun the command to continue." in stop.out
    assert "nothing to continue" not in stop.out
    assert len(lines_of("lines.csv")) == 1


def test_a_line_that_is_missing_is_written_from_the_finished_checkpoint(call, batches):
    words = "--seed 0 1 --results lines.csv"
    call(train, SMALL, words)
    whole = Path("lines.csv").read_text()
    before = everything_in(Path("runs"))
    Path("lines.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    batches.clear()
    call(train, SMALL, words)
    assert Path("lines.csv").read_text() == whole
    assert everything_in(Path("runs")) == before
    assert not batches


def test_the_line_of_a_student_without_threes_is_written_from_its_checkpoint(
    call, teacher, batches
):
    words = f"--teacher {teacher} --hidden-units 20 {QUICK} --results lines.csv"
    call(distillation_no_three, words)
    whole = Path("lines.csv").read_text()
    Path("lines.csv").unlink()
    batches.clear()
    call(distillation_no_three, words)
    assert Path("lines.csv").read_text() == whole
    assert not batches


def test_a_checkpoint_of_other_settings_gives_no_line(call, batches):
    call(train, SMALL, "--seed 0 --results lines.csv")
    Path("lines.csv").unlink()
    batches.clear()
    call(train, SMALL, "--seed 0 --results lines.csv --learning-rate 0.02")
    assert batches
    assert lines_of("lines.csv")[0]["learning_rate"] == "0.02"
    assert Path("runs/small_model_5_seed_0.1.pt").exists()


@pytest.mark.parametrize("results", ["", "--results lines.csv"])
def test_a_run_that_fails_has_status_1_in_a_sweep_as_alone(stops, results):
    wild = "--init-std 10 --max-squared-length 0 --learning-rate 1e6 --hidden-units 20 --epochs 2"
    stop = stops(train, wild, "--quiet", results)
    assert (stop.status, len(stop.err.splitlines())) == (1, 1)
    again = stops(train, wild, "--quiet", results)
    assert again.status == 1  # also when its line is there already


def torchrun(words, cwd):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    script, *rest = split_words(words)
    return subprocess.run(
        [*command, "--standalone", str(ROOT / script), *rest],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_single_run_is_done_by_the_first_process(tmp_path):
    done = torchrun(f"train.py {SMALL} --data sample --output net.pt", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("errors on 1,000 images") == 1
    assert load_model(tmp_path / "net.pt")
    assert sorted(path.name for path in tmp_path.glob("net*")) == ["net.pt", "net.pt.csv"]


RENDEZVOUS = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29761", "PYTHONUNBUFFERED": "1"}


def process_of(tmp_path, **environment):
    words = SMALL.replace(" --quiet", "")
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", *split_words(words, "--data sample --output net.pt")],
        cwd=tmp_path,
        env=os.environ | RENDEZVOUS | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_waits_for_others_can_be_stopped(tmp_path):
    signum = signal.SIGTERM  # SIGINT goes the same way
    process = process_of(tmp_path, RANK="0", WORLD_SIZE="2")
    assert "sample" in process.stdout.readline()
    time.sleep(1)  # until it waits
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode in (-signum, 128 + signum)


@pytest.mark.parametrize("rank", ["1", "-1", "9" * 20])
def test_a_rank_that_there_is_not_is_one_line(tmp_path, rank):
    process = process_of(tmp_path, RANK=rank, WORLD_SIZE="1")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (2, 1)


def test_when_the_first_process_is_refused_the_others_have_no_traceback(tmp_path):
    done = torchrun(f"train.py {SMALL} --data sample --output missing/net.pt", tmp_path)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any("missing/net.pt" in line for line in ours)
    assert "all_gather_object" not in done.stderr
