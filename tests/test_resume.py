"""Runs that are stopped go on, from resume points that fit."""

import os
import signal

import pytest
import torch
from common import (
    DROPOUT,
    TRAININGS,
    a_checkpoint,
    everything_in,
    same_weights,
    some_params,
    trained,
)

import train
from support.checkpoints import load_checkpoint
from support.errors import UserError
from support.files import read_dict
from support.reporting import Progress
from support.resume import ResumePoint

# From Python


class Stopping(Progress):
    """Stops the training, as Ctrl-C would, in epoch `epoch`: in its midst, or after it."""

    def __init__(self, epoch, batch=None):
        super().__init__(quiet=True)
        self.last, self.batch, self.batches, self.seen = epoch, batch, None, 0

    def start(self, epochs, batches, done):
        super().start(epochs, batches, done)
        self.batches = batches

    def after_batch(self):
        self.seen += 1
        if self.batch and self.seen == (self.last - 1) * self.batches + self.batch:
            raise KeyboardInterrupt

    def after_epoch(self, entry):
        if not self.batch and entry["epoch"] == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("changes", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("batch", [None, 4], ids=["between epochs", "in an epoch"])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, some_digits, changes, batch):
    params = some_params(epochs=5, schedule_epochs=5, momentum_epochs=3, **changes)
    whole, whole_history = trained(params, some_digits, seed=3, test_set=some_digits)
    with pytest.raises(KeyboardInterrupt):
        trained(
            params,
            some_digits,
            seed=3,
            test_set=some_digits,
            resume_point=ResumePoint(tmp_path / "net.pt.resume", {"seed": 3}),
            progress=Stopping(3, batch),
        )
    torch.manual_seed(99)
    resume_point = ResumePoint(tmp_path / "net.pt.resume", {"seed": 3})
    assert resume_point.load() == (2 if batch else 3)
    resumed, history = trained(
        params, some_digits, seed=3, test_set=some_digits, resume_point=resume_point
    )
    assert same_weights(whole, resumed)
    assert history == whole_history


def test_a_training_may_be_stopped_several_times(tmp_path, some_digits):
    params = some_params(epochs=5, schedule_epochs=5, **DROPOUT)
    whole, _ = trained(params, some_digits)
    for epoch in (1, 2, 4):
        resume_point = ResumePoint(tmp_path / "net.pt.resume", {})
        if epoch > 1:
            resume_point.load()
        with pytest.raises(KeyboardInterrupt):
            trained(params, some_digits, resume_point=resume_point, progress=Stopping(epoch))
    resume_point = ResumePoint(tmp_path / "net.pt.resume", {})
    assert resume_point.load() == 4
    assert same_weights(whole, trained(params, some_digits, resume_point=resume_point)[0])


def test_a_resume_point_of_a_machine_with_gpus_can_be_continued_here(tmp_path, some_digits):
    params, path = some_params(**DROPOUT), tmp_path / "net.pt.resume"
    whole, _ = trained(params, some_digits)
    with pytest.raises(KeyboardInterrupt):
        trained(params, some_digits, resume_point=ResumePoint(path, {}), progress=Stopping(1))
    content = read_dict(path)
    content["random"]["cuda"] = torch.zeros(16, dtype=torch.uint8)
    torch.save(content, path)
    point = ResumePoint(path, {})
    point.load()
    assert same_weights(whole, trained(params, some_digits, resume_point=point)[0])


# From the command line

WORDS = "--hidden-units 10 --epochs 3 --batch-size 500 --seed 4 --output net.pt --quiet"


@pytest.fixture
def stopped(call, monkeypatch):
    """A run of train.py that was stopped after its first epoch, in the working directory."""
    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, "of_run", lambda *_: Stopping(1))
        with pytest.raises(KeyboardInterrupt):
            call(train, WORDS)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_by_a_signal_says_how_to_go_on(
    stops, call, monkeypatch, tmp_path, signum, status
):
    class Signalling(Progress):
        def after_epoch(self, entry):
            os.kill(os.getpid(), signum)

    with monkeypatch.context() as patch:
        patch.setattr(train, "Progress", Signalling)
        stop = stops(train, WORDS)
    assert (stop.status, stop.err) == (status, "")
    assert (
        f"python train.py {WORDS.removesuffix(' --quiet')} --data sample --device cpu --resume"
        in stop.out
    )
    assert list(everything_in(tmp_path)) == ["here", "here/net.pt.resume"]
    call(train, WORDS, "--resume")
    resumed = load_checkpoint("net.pt")
    call(train, WORDS)
    assert same_weights(resumed["state_dict"], load_checkpoint("net.pt")["state_dict"])


def test_a_stopped_run_goes_on_from_the_command_line(call, stopped, tmp_path):
    assert list(everything_in(tmp_path)) == ["here", "here/net.pt.resume"]
    call(train, WORDS, "--resume")
    assert list(everything_in(tmp_path)) == ["here", "here/net.pt", "here/net.pt.csv"]
    resumed = load_checkpoint("net.pt")
    call(train, WORDS)
    whole = load_checkpoint("net.pt")
    assert same_weights(resumed["state_dict"], whole["state_dict"])
    assert resumed["history"] == whole["history"]
    for name in whole.keys() - {"state_dict", "history"}:
        assert resumed[name] == whole[name]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("--seed 5", "seed is 5, was 4"),
        ("--learning-rate 0.25", "learning_rate is 0.25, was 1.0"),
        ("--epochs 4", "epochs is 4, was 3"),
        ("--hidden-units 11", "hidden_units is 11, was 10"),
        ("--dropout-hidden 0", "dropout_hidden is 0.0, was 0.5"),
        ("--model small", "model is 'small', was 'cumbersome'"),
        ("--validation", "data is 'sample validation', was 'sample'"),
        ("--precision bf16", "precision is 'bf16', was 'fp32'"),
    ],
)
def test_going_on_with_other_settings_is_refused_naming_them(
    stops, stopped, tmp_path, change, named
):
    before = everything_in(tmp_path)
    stop = stops(train, WORDS, change, "--resume")
    assert stop.status == 2
    assert named in stop.err
    assert len(stop.err.splitlines()) == 1
    assert everything_in(tmp_path) == before


def test_without_resume_a_stopped_run_is_not_thrown_away(stops, stopped, tmp_path):
    before = everything_in(tmp_path)
    stop = stops(train, WORDS)
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "net.pt.resume" in stop.err
    assert "--resume" in stop.err
    assert everything_in(tmp_path) == before


def test_resuming_a_finished_run_changes_nothing(call, tmp_path, capsys):
    call(train, WORDS)
    before = everything_in(tmp_path)
    call(train, WORDS, "--resume")
    assert "finished" in capsys.readouterr().out
    assert everything_in(tmp_path) == before


def test_resuming_a_finished_run_with_other_settings_is_refused(call, stops, tmp_path):
    call(train, WORDS)
    before = everything_in(tmp_path)
    stop = stops(train, WORDS, "--seed", 5, "--resume")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "seed is 5, was 4" in stop.err
    assert everything_in(tmp_path) == before


# Damaged resume points


@pytest.mark.parametrize(
    "edit",
    [
        lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(3)),
        lambda state: state["optimizer"]["state"][0].update(momentum_buffer="x"),
        lambda state: state["optimizer"]["state"].update({99: {}}),
        lambda state: state["optimizer"]["param_groups"][0].update(lr="x"),
        lambda state: state["optimizer"]["param_groups"][0].pop("lr"),
        lambda state: state["history"].extend(state["history"] * 5),
        lambda state: state["history"].append({5: 3}),
        lambda state: state["settings"].update(seed=torch.ones(2)),
        lambda state: state["model"].update({"output.bias": torch.zeros(3)}),
        lambda state: state["random"].clear(),
    ],
)
def test_a_resume_point_with_odd_values_is_refused_and_kept(stops, stopped, tmp_path, edit):
    path = tmp_path / "here" / "net.pt.resume"
    state = read_dict(path)
    edit(state)
    torch.save(state, path)
    before = path.read_bytes()
    stop = stops(train, WORDS, "--resume")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert path.read_bytes() == before


def test_a_damaged_resume_point_is_refused_and_kept(stops, stopped, tmp_path):
    path = tmp_path / "here" / "net.pt.resume"
    path.write_bytes(path.read_bytes()[:-100])
    before = everything_in(tmp_path)
    stop = stops(train, WORDS, "--resume")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "net.pt.resume" in stop.err
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    "history",
    [
        [{}],
        [{"epoch": 2, "loss": 1.0, "rate": 1.0}],
        [{"epoch": 1, "loss": 1.0}],
        [{"epoch": 1, "loss": 1.0, "rate": 1.0, "more": 2}],
        [{"epoch": 1, "loss": "low", "rate": 1.0}],
        [{"epoch": 1, "loss": 1.0, "rate": 1.0, "errors": "few"}],
        [{"epoch": True, "loss": 1.0, "rate": 1.0}, {"epoch": 1, "loss": 1.0, "rate": 1.0}],
    ],
)
def test_a_resume_point_with_another_history_is_refused(stops, call, monkeypatch, history):
    words = "--model small --hidden-units 5 --epochs 2 --batch-size 500 --output net.pt --quiet"
    monkeypatch.setattr(train.ResumePoint, "remove", lambda point: None)
    call(train, words)
    content = torch.load("net.pt.resume", weights_only=True)
    torch.save(content | {"history": history}, "net.pt.resume")
    stop = stops(train, words, "--resume")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "net.pt.resume" in stop.err


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"settings": {}},
        dict.fromkeys(("settings", "model", "optimizer", "random", "history")),
        a_checkpoint(),
    ],
    ids=["empty", "cut", "hollow", "checkpoint"],
)
def test_a_file_that_is_no_resume_point_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pt.resume")
    with pytest.raises(UserError, match=r"net\.pt\.resume"):
        ResumePoint(tmp_path / "net.pt.resume", {"seed": 0}).load()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 nothing"])
def test_a_damaged_resume_point_is_refused(tmp_path, content):
    (tmp_path / "net.pt.resume").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.pt\.resume"):
        ResumePoint(tmp_path / "net.pt.resume", {"seed": 0}).load()
