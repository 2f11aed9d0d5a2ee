"""How a script ends: its status, and what it says then."""

import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from common import ROOT

from support.checkpoints import MODELS
from support.errors import TrainingFailed, UserError
from support.script import run_script


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("do this"), 2, "error: do this\n"),
        (TrainingFailed("try that"), 1, "error: try that\n"),
    ],
)
def test_each_way_to_stop_has_a_status_of_its_own(capsys, error, status, line):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: fail(error))
    assert stop.value.code == status
    assert capsys.readouterr().err == line


def test_a_warning_is_one_line(capsys):
    arguments = ("be careful", UserWarning, "file.py", 3)
    with pytest.raises(SystemExit):
        run_script(lambda: print(warnings.formatwarning(*arguments), end=""))
    assert capsys.readouterr().out == "warning: be careful\n"
    assert "file.py" in warnings.formatwarning(*arguments)


def test_a_script_that_ends_well_has_status_0():
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: None)
    assert not stop.value.code


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_script_that_is_stopped_has_the_status_of_the_signal(capsys, signum, status):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: os.kill(os.getpid(), signum))
    assert stop.value.code == status
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes do not match")])
def test_an_error_of_the_program_is_not_hidden(error):
    with pytest.raises(type(error)):
        run_script(lambda: fail(error))


def test_a_lack_of_memory_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: torch.empty(2**60))  # PyTorch's own error
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: not enough memory: ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="it stands for a full disk")
@pytest.mark.parametrize(
    ("words", "gone"), [("--help", "reader"), ("MODEL --data sample --verify", "disk")]
)
def test_output_that_cannot_be_written_is_no_traceback(words, gone):
    """With Python's own buffer, which is written when the script ends, and once more after it."""
    words = words.replace("MODEL", str(MODELS / "small_model_800.pt")).split()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        output = full if gone == "disk" else subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "evaluate.py", *words],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
        if gone == "reader":
            process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        status = process.wait(timeout=60)
    assert status == (2 if gone == "disk" else 1)
    assert len([line for line in err.splitlines() if "sample" not in line]) == (gone == "disk")
