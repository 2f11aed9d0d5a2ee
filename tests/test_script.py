"""How a script ends: its status, and what it says then."""

import os
import signal

import pytest

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


def test_an_error_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: fail(ZeroDivisionError()))
