"""How a script ends: its status, and what it says then."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from common import ROOT

import train
from support.errors import TrainingFailed, UserError
from support.script import run_script


def fail(error):
    raise error


def ends(main, capsys):
    """Exit status and stderr of a script."""
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    return stop.value.code or 0, capsys.readouterr().err


def test_a_warning_is_one_line(capsys):
    arguments = ("be careful", UserWarning, "file.py", 3)
    with pytest.raises(SystemExit):
        run_script(lambda: print(warnings.formatwarning(*arguments), end=""))
    assert capsys.readouterr().out == "warning: be careful\n"
    assert "file.py" in warnings.formatwarning(*arguments)


def test_each_way_to_end_has_a_status_of_its_own(capsys):
    assert ends(lambda: None, capsys) == (0, "")
    assert ends(lambda: fail(UserError("do this")), capsys) == (2, "error: do this\n")
    assert ends(lambda: fail(TrainingFailed("try that")), capsys) == (1, "error: try that\n")
    for signum, status in (signal.SIGINT, 130), (signal.SIGTERM, 143):
        assert ends(lambda signum=signum: os.kill(os.getpid(), signum), capsys) == (status, "")
    status, told = ends(lambda: torch.empty(2**60), capsys)  # PyTorch's own error
    assert status == 2 and told.startswith("error: not enough memory: ")


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes do not match")])
def test_an_error_of_the_program_is_not_hidden(error):
    with pytest.raises(type(error)):
        run_script(lambda: fail(error))


QUICK = "--data sample --hidden-units 5 --epochs 1 --output net.pt"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_stops_no_training(call, monkeypatch, stream):
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: call(train, QUICK))
    assert not stop.value.code and Path("net.pt").exists()


@pytest.mark.parametrize(
    ("words", "streams", "status"),
    [
        (f"distillation.py --teacher TEACHER {QUICK}", ">&- 2>&-", 0),
        ("distillation_no_three.py --help", "| true", 1),  # a reader that has gone
        ("evaluate.py TEACHER --data sample --verify", ">/dev/full", 2),
    ],
)
def test_output_that_nobody_reads_is_no_traceback(teacher, words, streams, status):
    """In a process in another folder, with Python's own buffer, written when the script ends."""
    if "full" in streams and not os.path.exists("/dev/full"):
        pytest.skip("there is nothing that stands for a full disk")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = f"{sys.executable} {ROOT}/{words} {streams}".replace("TEACHER", str(teacher))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == (status == 2)
    assert Path("net.pt").exists() == (QUICK in words)
