"""What a run tells: its progress, the time it takes, its result and events for TensorBoard."""

import io
import os
import re
import sys
import time

import pytest
from common import (
    FAKE_TENSORBOARD,
    SMALL,
    FakeWriter,
    everything_in,
    random_net,
    same_weights,
    some_params,
    trained,
)

import distillation
import train
from support.checkpoints import load_checkpoint, load_model, save_model
from support.command_line import Parser, training_flags
from support.errors import UserError
from support.reporting import Progress, in_units

# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("epochs", [3, 150])
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_progress_survives_epochs_without_an_evaluation(
    monkeypatch, capsys, epochs, quiet, terminal
):
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = Progress(quiet)
    progress.start(epochs, 2, 0)
    for epoch in range(1, 4):
        progress.after_batch()
        progress.after_batch()
        progress.after_epoch({"epoch": epoch, "loss": 0.5} | ({"errors": 7} if epoch == 3 else {}))
    progress.close()
    out = capsys.readouterr().out
    assert ("errors 7" in out) == (not quiet and not terminal)
    assert bool(screen.getvalue()) == (terminal and not quiet)


@pytest.mark.parametrize("terminal", [False, True])
def test_each_run_of_a_sweep_shows_its_epochs_at_a_bar_alone(call, capsys, monkeypatch, terminal):
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    call(train, SMALL.replace("--epochs 1", "--epochs 2"), "--seed 0 1")
    for seed in (0, 1):
        shown = f"small_model_10_seed_{seed}: 100%" in screen.getvalue()
        assert shown == terminal
    assert ("epoch 2/2" in screen.getvalue()) == terminal
    out = capsys.readouterr().out
    assert "estimated" not in out and "epoch 1/2" not in out and "Training" not in out


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


def test_of_several_processes_the_first_alone_shows_progress(monkeypatch):
    for number, quiet in (("0", False), ("1", True)):
        monkeypatch.setenv("RANK", number)
        parser = Parser("")
        training_flags(parser)
        assert parser.parse_args([]).quiet == quiet
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UserError, match="RANK"):
        training_flags(Parser(""))


def test_a_training_without_a_test_set_shows_its_progress(monkeypatch, some_digits):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    trained(some_params(), some_digits, progress=Progress())
    assert "epoch 2/2" in screen.getvalue()
    assert "loss" in screen.getvalue()


def test_without_a_terminal_progress_is_a_plain_line_for_each_evaluation(call, capfd):
    call(train, SMALL.replace("--epochs 1", "--epochs 3"), "--output net.pt")
    out, err = capfd.readouterr()
    assert err == ""
    history = load_checkpoint("net.pt")["history"]
    found = re.findall(r"^epoch (\d)/3 .* test errors (\d+) ", out, re.MULTILINE)
    assert found == [(str(entry["epoch"]), str(entry["errors"])) for entry in history]
    assert "\r" not in out


def test_the_first_lines_say_what_on_which_data_and_for_how_long(call, capsys):
    call(train, SMALL, "--output net.pt")
    lines = capsys.readouterr().out.splitlines()[2:]  # below two that say that it is the sample
    assert re.search(r"784-10-10-10 .* 4,000 images of the sample, cpu, 1 thread, fp32", lines[0])
    assert re.fullmatch(r"  estimated time: about \d+ s", lines[2])


@pytest.mark.parametrize("script", [train, distillation])
def test_quiet_prints_the_result_only(call, capfd, teacher, script):
    words = "--model small" if script is train else f"--teacher {teacher}"
    call(script, words, "--hidden-units 5 --epochs 3 --output net.pt --quiet")
    out, err = capfd.readouterr()
    assert err == ""
    assert "epoch 1/3" not in out
    assert re.search(r"\d+ errors on 1,000 images", out)


def test_quiet_is_the_result_alone(call, capfd, monkeypatch):
    for name in ("MNIST", "FashionMNIST"):
        save_model("teacher.pt", random_net(5), data_set={"name": name})
        call(distillation, "--teacher teacher.pt --hidden-units 5 --epochs 1 --quiet")
        out, err = capfd.readouterr()
        lines = [line for line in out.splitlines() if "was renamed to" not in line]
        assert len(lines) == 1 + ("never left chance" in out) and err == ""
        assert "errors on 1,000 images" in lines[0]


# Time


def test_the_time_is_that_of_the_first_minibatches(monkeypatch, capsys):
    """Without the very first, which sets up much; for what is left to do, of all epochs."""
    clock = iter([0.0, 100.0, 100.0 + 50 * 0.2])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    progress = Progress()
    progress.start(epochs=10, batches=600, done=4)
    for _ in range(60):
        progress.after_batch()
    assert capsys.readouterr().out == "  estimated time: about 12 min\n"  # 6 * 600 * 0.2 s


def test_telling_the_time_changes_nothing(call):
    call(train, SMALL, "--dropout-hidden 0.5 --output told.pt")
    call(train, SMALL, "--dropout-hidden 0.5 --output quiet.pt --quiet")
    assert same_weights(load_model("told.pt"), load_model("quiet.pt"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3000, "50 min"), (5500, "1.5 hours")],
)
def test_a_time_is_told_in_the_unit_that_suits_it(seconds, words):
    assert in_units(seconds) == words


# Colour


@pytest.mark.parametrize("variable", ["", "NO_COLOR", "TERM"])
def test_colour_is_for_terminals_that_want_it(call, monkeypatch, capsys, variable):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable:
        monkeypatch.setenv(variable, "dumb")
    call(train, SMALL, "--output net.pt --quiet")
    assert "\033" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    call(train, SMALL, "--output net.pt --quiet")
    assert ("\033" in capsys.readouterr().out) == (not variable)


# Events for TensorBoard


def test_events_for_tensorboard_are_those_of_the_history(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", FAKE_TENSORBOARD)
    call(train, SMALL.replace("--epochs 1", "--epochs 2"), "--output net.pt --log events --quiet")
    history = load_checkpoint("net.pt")["history"]
    assert (FakeWriter.last.folder, FakeWriter.last.first) == (os.path.join("events", "net"), 1)
    expected = [(n, e[n], e["epoch"]) for e in history for n in ("loss", "rate", "errors")]
    assert sorted(FakeWriter.last.scalars) == sorted(expected)


def test_without_tensorboard_log_says_how_to_install_it(stops, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not there
    stop = stops(train, SMALL, "--output net.pt --log events")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "pip install tensorboard" in stop.err
    assert everything_in(tmp_path / "here") == {}
