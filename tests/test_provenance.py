"""Where a run comes from: commit, date and processor, in its checkpoint and row."""

import csv
import importlib.util
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
        edited = git("diff", "HEAD", "--name-only", "--", ".", ":!results/*.csv", ":!results/*.npz")
        assert bool(mark) == bool(is_own or edited)


def test_rows_that_a_run_adds_do_not_make_the_checkout_dirty_but_edited_code_does(
    tmp_path, monkeypatch
):
    """In a checkout of its own, with this code in it."""
    names = ["support/records.py", "results/rows.csv", "train.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\n" if "rows" in name else (ROOT / name).read_bytes())
    user = ["-c", "user.name=x", "-c", "user.email=x"]
    for words in (["init", "-q"], ["add", "."], [*user, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    spec = importlib.util.spec_from_file_location("copied", tmp_path / names[0])
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    marks = []
    for edited in (None, *reversed(names)):
        if edited:
            (tmp_path / edited).write_text("# another line\n")
        marks.append(copied.commit.__wrapped__().partition("-")[2])
        subprocess.run(["git", "checkout", "-q", "."], cwd=tmp_path, check=True)
    assert marks == ["", "dirty", "", "dirty"]


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
