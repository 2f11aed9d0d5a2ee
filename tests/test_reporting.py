"""What a run tells: its progress, the time it takes, its result and events for TensorBoard."""

import io
import os
import re
import sys
import time
from contextlib import nullcontext

import pytest
from common import (
    FAKE_TENSORBOARD,
    SMALL,
    FakeWriter,
    random_net,
    some_params,
    trained,
)

import distillation
import train
from support.checkpoints import load_checkpoint, save_model
from support.reporting import Progress

# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_at(terminal, monkeypatch):
    """What takes the place of stderr."""
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    return sys.stderr


@pytest.mark.parametrize("epochs", [3, 150])
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_progress_survives_epochs_without_an_evaluation(
    monkeypatch, capsys, epochs, quiet, terminal
):
    screen = shown_at(terminal, monkeypatch)
    progress = Progress(quiet)
    progress.start(epochs, 2, 0)
    for epoch in range(1, 4):
        progress.after_batch()
        progress.after_batch()
        progress.after_epoch({"epoch": epoch, "loss": 0.5} | ({"errors": 7} if epoch == 3 else {}))
    progress.close()
    assert ("errors 7" in capsys.readouterr().out) == (not quiet and not terminal)
    assert bool(screen.getvalue()) == (terminal and not quiet)


@pytest.mark.parametrize("terminal", [False, True])
def test_each_run_of_a_sweep_shows_its_epochs_at_a_bar_alone(call, capsys, monkeypatch, terminal):
    screen = shown_at(terminal, monkeypatch)
    call(train, SMALL.replace("--epochs 1", "--epochs 2"), "--seed 0 1")
    for shown in ("small_model_10_seed_0: 100%", "small_model_10_seed_1: 100%", "epoch 2/2"):
        assert (shown in screen.getvalue()) == terminal
    out = capsys.readouterr().out
    assert "estimated" not in out and "epoch 1/2" not in out and "Training" not in out


def test_the_bar_of_a_sweep_ends_above_the_last_line(call, monkeypatch):
    screen = shown_at(True, monkeypatch)
    monkeypatch.setattr(sys, "stdout", screen)  # a terminal shows both
    call(train, SMALL, "--seed 0 1")
    assert screen.getvalue().endswith("\n2 runs in runs/train.csv\n")


@pytest.mark.parametrize("end", [None, KeyboardInterrupt])
def test_progress_is_closed_however_a_training_ends(monkeypatch, some_digits, end):
    closed = []

    class Closing(Progress):
        def after_batch(self):
            if end:
                raise end

        def close(self):
            closed.append(1)

    with pytest.raises(end) if end else nullcontext():
        trained(some_params(), some_digits, progress=Closing(quiet=True))
    assert closed == [1]


def test_a_single_run_with_a_file_of_results_tells_what_it_trains(call, capsys):
    call(train, SMALL, "--output net.pt --results lines.csv")
    assert "Training SmallNet" in capsys.readouterr().out


def test_without_a_terminal_a_run_of_a_sweep_tells_its_epochs_once_a_minute(monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr("support.reporting.time.perf_counter", lambda: clock[0])
    progress = Progress(name="net_seed_1")
    progress.start(400, 1, 0)
    for epoch in range(1, 9):  # one in 25 seconds
        clock[0] += 25
        progress.after_epoch({"epoch": epoch, "loss": 0.5, "errors": 100 - epoch})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"net_seed_1: epoch {n}/400" for n in (3, 6)]
    assert "test errors 94" in lines[1] and "2:44:10 left" in lines[1]


def test_without_a_terminal_there_is_a_plain_line_for_each_evaluation_below_the_first(call, capfd):
    call(train, SMALL.replace("--epochs 1", "--epochs 3"), "--output net.pt")
    out, err = capfd.readouterr()
    assert err == "" and "\r" not in out
    first = out.splitlines()[2]  # below two that say that it is the sample
    assert re.search(r"784-10-10-10 .* 4,000 images of the sample, cpu, 1 thread, fp32", first)
    history = load_checkpoint("net.pt")["history"]
    found = re.findall(r"^epoch (\d)/3 .* test errors (\d+) ", out, re.MULTILINE)
    assert found == [(str(entry["epoch"]), str(entry["errors"])) for entry in history]


@pytest.mark.parametrize("data", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("script", [train, distillation])
def test_quiet_is_the_result_alone(call, capfd, script, data):
    save_model("teacher.pt", random_net(5), data_set={"name": data})
    words = "--model small" if script is train else "--teacher teacher.pt"
    call(script, words, "--hidden-units 5 --epochs 3 --output net.pt --quiet")
    out, err = capfd.readouterr()
    lines = [line for line in out.splitlines() if "was renamed to" not in line]
    assert len(lines) == 1 + ("no better than chance" in out) and err == ""
    assert re.search(r"\d+ errors on 1,000 images", lines[0])


# Time


def test_the_first_epoch_tells_the_time_that_is_left(monkeypatch, capsys):
    """Later lines come with errors. In epochs that are still to be done after resuming."""
    clock = iter([0.0, 60.0, 120.0, 150.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    progress = Progress()
    progress.start(epochs=10, batches=600, done=4)
    for epoch, more in (5, {}), (6, {}), (7, {"errors": 3}):
        progress.after_epoch({"epoch": epoch, "loss": 0.5, "rate": 1.0, **more})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "epoch 5/10  loss 0.5000  0:05:00 left"
    assert second == "epoch 7/10  loss 0.5000  test errors 3  0:02:30 left"


# Events for TensorBoard


def test_events_for_tensorboard_are_those_of_the_history(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", FAKE_TENSORBOARD)
    call(train, SMALL.replace("--epochs 1", "--epochs 2"), "--output net.pt --log events --quiet")
    history = load_checkpoint("net.pt")["history"]
    assert (FakeWriter.last.folder, FakeWriter.last.first) == (os.path.join("events", "net"), 1)
    expected = [(n, e[n], e["epoch"]) for e in history for n in ("loss", "rate", "errors")]
    assert sorted(FakeWriter.last.scalars) == sorted(expected)


def test_without_tensorboard_log_says_how_to_install_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not there
    refused(train, SMALL, "--output net.pt --log events", naming="pip install tensorboard")
