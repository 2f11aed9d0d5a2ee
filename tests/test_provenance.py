"""Where a run comes from: commit, date and processor, in its checkpoint and row."""

import csv
import subprocess
import sys
from datetime import datetime, timezone

import pytest
import torch
from common import ROOT

import train
from support.checkpoints import load_checkpoint
from support.records import commit


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not git("rev-parse", "HEAD"), reason="this is no checkout of Git")
def test_the_commit_is_that_of_the_checkout_if_the_script_is_in_it(monkeypatch, tmp_path):
    (tmp_path / "own.py").write_text("")
    for script, is_own in ((ROOT / "train.py", False), (tmp_path / "own.py", True)):
        monkeypatch.setattr(sys, "argv", [str(script)])
        told, mark, _ = commit.__wrapped__().partition("-dirty")
        assert len(told) >= 12 and git("rev-parse", "HEAD").startswith(told)
        assert bool(mark) == bool(is_own or git("diff", "HEAD", "--name-only"))


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit.__wrapped__() == ""


def test_a_run_records_its_date_and_commit_in_file_and_row(call):
    before = datetime.now(timezone.utc).date()
    call(train, "--model small --hidden-units 5 --epochs 1 --quiet --results rows.csv")
    after = datetime.now(timezone.utc).date()
    with open("rows.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    record = load_checkpoint(row["checkpoint"])
    assert record["date"] in (str(before), str(after))
    assert record["commit"] == commit()
    assert record["versions"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert {name: row[name] for name in ("date", "commit", "cpu_capability")} == {
        **{name: record[name] for name in ("date", "commit")},
        "cpu_capability": record["versions"]["cpu_capability"],
    }
