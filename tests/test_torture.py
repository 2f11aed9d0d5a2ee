"""The short form of torture.py, in a process of its own: it forks, which pytest may not bear."""

import subprocess
import sys

import pytest
from common import ROOT

PARTS = ("preparation", "kills", "signals", "sweeps", "locks", "disks", "damage")


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, str(ROOT / "tests" / "torture.py"), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return run.stdout + run.stderr


@pytest.mark.parametrize("part", PARTS)
def test_nothing_fails_under_torture(printed, part):
    assert f"\n{part}: " in f"\n{printed}", printed
    counts = f"\n{printed}".split(f"\n{part}: ")[1].splitlines()[0]
    assert ", 0 failed (" in counts, printed
