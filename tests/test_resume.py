"""Runs that are stopped go on, from resume points that fit."""

import os
import signal
import sys
from contextlib import nullcontext

import pytest
import torch
from common import (
    DROPOUT,
    FAKE_TENSORBOARD,
    TRAININGS,
    FakeWriter,
    a_checkpoint,
    everything_in,
    random_net,
    same_weights,
    some_params,
    trained,
)
from torch import nn

import train
from support.checkpoints import load_checkpoint
from support.errors import UserError
from support.files import packed, read_dict
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
        self.batches, self.seen = batches, done * batches

    def after_batch(self):
        self.seen += 1
        if self.batch and self.seen == (self.last - 1) * self.batches + self.batch:
            raise KeyboardInterrupt

    def after_epoch(self, entry):
        if not self.batch and entry["epoch"] == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("changes", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("batch", [None, 4], ids=["between epochs", "in an epoch"])
def test_a_training_that_is_stopped_several_times_goes_on_to_the_same_weights(
    tmp_path, some_digits, changes, batch
):
    params = some_params(epochs=5, schedule_epochs=5, momentum_epochs=3, **changes)
    whole, whole_history = trained(params, some_digits, seed=3, test_set=some_digits)
    done = 0
    for epoch in (2, 3, 9):
        point = ResumePoint(tmp_path / "net.pt.resume", {"seed": 3})
        assert epoch == 2 or point.load() == done
        torch.manual_seed(99)
        with pytest.raises(KeyboardInterrupt) if epoch < 9 else nullcontext():
            options = {"resume_point": point, "progress": Stopping(epoch, batch)}
            resumed, history = trained(params, some_digits, seed=3, test_set=some_digits, **options)
        done = epoch - 1 if batch else epoch
    assert same_weights(whole, resumed)
    assert history == whole_history


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


def test_what_another_module_draws_goes_on_from_where_it_was(tmp_path, some_digits):
    def train_one(**options):
        net = nn.Sequential(random_net(), nn.Dropout(0.1))
        train.train(net, some_digits, some_params(), **options)
        return net

    point = ResumePoint(tmp_path / "net.pt.resume", {})
    with pytest.raises(KeyboardInterrupt):
        train_one(resume_point=point, progress=Stopping(1))
    point.load()
    assert same_weights(train_one(resume_point=point), train_one())


def test_a_resume_point_that_does_not_fit_is_not_continued(tmp_path, some_digits):
    params, path = some_params(epochs=3), tmp_path / "net.pt.resume"
    with pytest.raises(KeyboardInterrupt):
        first = ResumePoint(path, {"seed": 0, "note": 1})
        trained(params, some_digits, resume_point=first, progress=Stopping(2))
    point = ResumePoint(path, {"seed": 0})
    with pytest.raises(UserError, match="note is None, was 1"):
        point.load()
    anew, _ = trained(params, some_digits, seed=1, resume_point=point)
    assert same_weights(anew, trained(params, some_digits, seed=1)[0])


def test_a_resume_point_after_the_last_epoch_is_refused(tmp_path, some_digits):
    point = ResumePoint(tmp_path / "net.pt.resume", {})
    trained(some_params(epochs=2), some_digits, resume_point=point)
    point.load()
    with pytest.raises(UserError, match="damaged"):
        trained(some_params(epochs=1), some_digits, resume_point=point)


# From the command line

WORDS = "--hidden-units 10 --epochs 3 --batch-size 500 --seed 4 --output net.pt --quiet"


@pytest.fixture
def stopped(call, monkeypatch, tmp_path):
    """The resume point of a run of train.py that was stopped after its first epoch."""
    with monkeypatch.context() as patch:
        patch.setattr(train.Progress, "of_run", lambda *_: Stopping(1))
        with pytest.raises(KeyboardInterrupt):
            call(train, WORDS)
    return tmp_path / "here" / "net.pt.resume"


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
    assert list(everything_in(tmp_path)) == ["here", "here/net.pt", "here/net.pt.csv"]
    resumed = load_checkpoint("net.pt")
    call(train, WORDS)
    whole = load_checkpoint("net.pt")
    assert same_weights(resumed.pop("state_dict"), whole.pop("state_dict"))
    assert resumed == whole


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
def test_going_on_with_other_settings_is_refused_naming_them(refused, stopped, change, named):
    assert named in refused(train, WORDS, change, "--resume")


def test_without_resume_a_stopped_run_is_not_thrown_away(refused, stopped):
    refused(train, WORDS, naming="net.pt.resume --resume")


def test_a_resumed_run_tells_after_which_epoch_it_goes_on(call, stopped, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", FAKE_TENSORBOARD)
    call(train, WORDS.removesuffix(" --quiet"), "--resume --log events")
    assert "continuing after epoch 1 of 3" in capsys.readouterr().out
    assert FakeWriter.last.first == 2


def test_resuming_a_finished_run_changes_nothing(call, refused, tmp_path, capsys):
    call(train, WORDS)
    before = everything_in(tmp_path)
    call(train, WORDS, "--resume")
    assert "finished" in capsys.readouterr().out
    assert everything_in(tmp_path) == before
    assert "seed is 5, was 4" in refused(train, WORDS, "--seed 5 --resume")


# Damaged resume points

ENTRY = {"epoch": 1, "loss": 1.0, "rate": 1.0}


@pytest.mark.parametrize(
    "edit",
    [
        lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(3)),
        lambda state: state["optimizer"]["state"][0].update(momentum_buffer="x"),
        lambda state: state["optimizer"]["state"].update({99: {}}),
        lambda state: state["optimizer"]["param_groups"][0].update(lr="x"),
        lambda state: state["optimizer"]["param_groups"][0].pop("lr"),
        lambda state: state["settings"].update(seed=torch.ones(2)),
        lambda state: state["model"].update({"output.bias": torch.zeros(3)}),
        lambda state: state["random"].clear(),
        lambda state: state["history"].append({5: 3}),
        *[
            lambda state, history=history: state.update(history=history)
            for history in (
                [{}],
                [ENTRY | {"epoch": 2}],
                [{"epoch": 1, "loss": 1.0}],
                [ENTRY | {"more": 2}],
                [ENTRY | {"loss": "low"}],
                [ENTRY | {"errors": "few"}],
                [ENTRY | {"epoch": True}, ENTRY],
                [ENTRY | {"epoch": epoch} for epoch in (1, 2, 3, 4)],
            )
        ],
    ],
)
def test_a_resume_point_with_odd_values_is_refused_and_kept(refused, stopped, edit):
    state = read_dict(stopped)
    edit(state)
    torch.save(state, stopped)
    refused(train, WORDS, "--resume", naming="net.pt.resume")


def test_a_damaged_resume_point_is_refused_and_kept(refused, stopped):
    stopped.write_bytes(stopped.read_bytes()[:-100])
    refused(train, WORDS, "--resume", naming="net.pt.resume")


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"text", b"PK\x03\x04 nothing"],
        *[{}, {"settings": {}}, a_checkpoint()],
        dict.fromkeys(("settings", "model", "optimizer", "random")) | {"history": []},
    ],
)
def test_a_file_that_is_no_resume_point_is_refused(tmp_path, content):
    path = tmp_path / "net.pt.resume"
    path.write_bytes(content if isinstance(content, bytes) else packed(content))
    with pytest.raises(UserError, match=r"net\.pt\.resume"):
        ResumePoint(path, {"seed": 0}).load()
