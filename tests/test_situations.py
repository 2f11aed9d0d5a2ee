"""What users give to functions and scripts, and what these leave behind."""

import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import (
    DROPOUT,
    ROOT,
    first_student,
    random_digits,
    random_net,
    same_weights,
    some_params,
    trained,
    weights_of,
)
from torch import nn

import evaluate
import train
from dataset import as_digits, filter_by_class, pixels
from distillation import distill, distill_together, distillation_loss
from evaluate import count_errors, logits_of, measure
from layers import CumbersomeNet, SmallNet, init_weights, scale_weights
from support.checkpoints import load_checkpoint, load_model, save_model
from support.errors import UserError
from support.files import read_dict, replace_file
from support.hyperparameters import default_params
from support.reporting import Progress
from support.resume import ResumePoint
from support.script import run_script

# Weights that are loaded compute what was saved

PUBLISHED = sorted((ROOT / "models").glob("*.pt"))


def linear_layers(units):
    layers = nn.Linear(784, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(units, 10))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_net_computes_the_same_however_it_is_loaded(path):
    checkpoint = torch.load(path, weights_only=True)
    units, state = checkpoint["hidden_units"], checkpoint["state_dict"]
    images = random_digits(50).images
    expected = logits_of(load_model(path), images)
    own = linear_layers(units)
    own.load_state_dict(dict(zip(own.state_dict(), state.values(), strict=True)))
    assert torch.equal(logits_of(own, images), expected)
    for cls in (CumbersomeNet, SmallNet):
        net = cls(units)
        net.load_state_dict(state)
        assert torch.equal(logits_of(net, images), expected)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("saved", "loading"),
    [((0, 0), (0.2, 0.5)), ((0.2, 0.5), (0, 0)), ((0.2, 0.5), (0.2, 0.4)), ((0, 0.5), (0.5, 0))],
)
def test_weights_of_a_net_with_other_dropout_are_refused(saved, loading, inside, strict):
    """They would be scaled twice for test time, or not at all."""
    one, other = random_net(5, *saved), random_net(5, *loading)
    if inside:  # a module of the user
        one, other = nn.Sequential(one), nn.Sequential(other)
    with pytest.raises(RuntimeError, match="dropout"):
        other.load_state_dict(one.state_dict(), strict=strict)


def test_weights_of_a_net_with_the_same_dropout_are_loaded():
    one, other = random_net(5, 0.2, 0.5), random_net(5, 0.2, 0.5, seed=1)
    other.load_state_dict(one.state_dict())
    assert torch.equal(*(logits_of(net, random_digits(9).images) for net in (one, other)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_that_were_rounded_are_loaded_as_well(dtype):
    one, other = random_net(5, 0.2, 0.5), random_net(5, 0.2, 0.5, seed=1)
    other.load_state_dict(one.to(dtype).state_dict())
    assert torch.equal(other.hidden1.weight, one.hidden1.weight.float())


# What functions are given


def test_pixels_from_0_to_1_count_as_such_and_others_are_refused():
    images, net = random_digits(20).images, random_net()
    expected = logits_of(net, images)
    ready = images / 255  # as torchvision's ToTensor makes them
    assert torch.equal(logits_of(net, ready), expected)
    assert torch.equal(logits_of(net, ready.double()), expected)
    for given in ((ready - 0.1307) / 0.3081, images.float(), images.long(), images / 1.0, -ready):
        for function in (pixels, lambda given: logits_of(net, given)):
            with pytest.raises(UserError, match="from 0 to 1"):
                function(given)


def test_a_net_learns_from_pixels_from_0_to_1_the_same(some_digits):
    ready = replace(some_digits, images=some_digits.images / 255)
    for jitter in (0, 2):
        params = some_params(jitter=jitter)
        nets = [trained(params, digits)[0] for digits in (some_digits, ready)]
        assert same_weights(*nets)


def test_a_net_that_ends_in_a_softmax_is_not_trained(some_digits):
    net = nn.Sequential(random_net(), nn.Softmax(-1))
    with pytest.raises(UserError, match="softmax"):
        train.train(net, some_digits, some_params())
    zeros = random_net()  # which softmax does not return
    nn.init.zeros_(zeros.output.weight), nn.init.zeros_(zeros.output.bias)
    train.train(zeros, some_digits, some_params(epochs=1))


@pytest.mark.parametrize("shape", ["not averaged", "averaged over nets too"])
def test_a_loss_that_is_not_averaged_over_the_minibatch_alone_is_refused(some_digits, shape):
    def loss(logits, batch):
        each = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        return each if shape == "not averaged" else each.mean()[None]

    with pytest.raises(UserError, match="averaged over the minibatch"):
        train.train(random_net(), some_digits, some_params(), loss=loss)


def test_batch_normalisation_with_a_last_minibatch_of_one_image_is_refused(some_digits):
    net = nn.Sequential(nn.Linear(784, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 10))
    with pytest.raises(UserError, match="batch_size"):
        train.train(net, some_digits[:101], some_params(batch_size=50))
    for batch_size in (51, 101):
        train.train(net, some_digits[:101], some_params(batch_size=batch_size))


def test_images_with_stored_logits_are_not_moved(some_digits):
    moved = replace(some_digits, teacher_logits=torch.zeros(500, 10))
    with pytest.raises(UserError, match="jitter"):
        train.train(random_net(), moved, some_params(jitter=1))


def test_a_layer_that_is_not_trained_is_not_constrained():
    net = random_net(5, std=1.0)
    net.hidden1.weight.requires_grad_(False)
    before = weights_of(net)
    net.constrain(15.0)
    assert torch.equal(net.hidden1.weight, before["hidden1.weight"])
    assert not torch.equal(net.hidden1.weight.square().sum(1) > 15.1, torch.zeros(5).bool())
    assert (net.hidden2.weight.square().sum(1) <= 15.1).all()


def test_a_net_with_logits_that_are_not_finite_is_told_of(call):
    net = random_net(5)
    with torch.no_grad():
        for layer in (net.hidden2, net.output):
            layer.weight.fill_(1e30)
    save_model("net.pt", net)
    with pytest.warns(UserWarning, match="not finite"):
        call(evaluate, "net.pt")


@pytest.mark.parametrize(
    "labels", [torch.zeros(3, 1, 1).long(), torch.zeros(3, 28, 28).long(), torch.tensor(3)]
)
def test_labels_of_another_shape_are_refused(labels):
    with pytest.raises(UserError, match="labels"):
        as_digits(torch.zeros(3, 28, 28, dtype=torch.uint8), labels)


@pytest.mark.parametrize("temperature", [0, -1, 1e6, float("inf"), float("nan"), "x", None])
def test_a_temperature_outside_of_what_float32_can_do_is_refused(some_digits, temperature):
    params, net = some_params("Distilled"), random_net()
    for function in (
        lambda: distillation_loss(temperature, 0.0),
        lambda: distill_together([temperature], [0], net, some_digits, params),
    ):
        with pytest.raises(UserError, match="temperature"):
            function()


@pytest.mark.parametrize("given", [None, [1], torch.zeros(3)])
def test_what_is_no_set_of_digits_is_refused(given):
    for function in (measure, count_errors, train.train):
        with pytest.raises(UserError, match="Digits"):
            function(random_net(), given, *([some_params()] if function is train.train else []))
    with pytest.raises(UserError, match="Digits"):
        filter_by_class(given, omit=[3])


def test_an_empty_training_set_is_refused(some_digits):
    with pytest.raises(UserError, match="larger than the data set"):
        train.train(random_net(), some_digits[:0], some_params())


def test_images_of_another_kind_are_not_blamed_on_the_net():
    for given in (None, [1], np.zeros((3, 28, 28))):
        with pytest.raises(UserError, match="images must be a tensor"):
            logits_of(random_net(), given)


def test_a_teacher_with_a_constant_added_to_its_logits_is_one(some_digits):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = random_net(30, std=0.3)

        def forward(self, pixels):
            return self.net(pixels) + 200

    distill(random_net(), Shifted(), some_digits, some_params("Distilled", epochs=1))


def test_a_test_set_is_looked_at_before_the_first_epoch(some_digits, batches):
    for test_set in (
        as_digits(some_digits.images),
        replace(some_digits, images=some_digits.images.float()),
    ):
        with pytest.raises(UserError):
            train.train(random_net(), some_digits, some_params(epochs=99), test_set=test_set)
    assert not batches


# Images without labels


def test_a_student_learns_the_same_from_images_without_labels(some_digits):
    """[KD] s.1: the transfer set "could consist entirely of unlabeled data"."""
    params, teacher = some_params("Distilled"), random_net(30, seed=1)
    students = []
    for digits in (some_digits, as_digits(some_digits.images)):
        students.append(first_student(params))
        with warnings.catch_warnings():
            if digits.labels is None:
                warnings.simplefilter("error")  # whether the teacher is wrong is not known
            distill(students[-1], teacher, digits, params)
    assert same_weights(*students)
    together = [
        distill_together([2, 8], [0, 1], teacher, digits, params)[8, 1][0]
        for digits in (some_digits, as_digits(some_digits.images))
    ]
    assert same_weights(*together)


def test_where_labels_are_needed_their_lack_is_said(some_digits):
    digits, net = as_digits(some_digits.images), random_net()
    students = some_params("Distilled", hard_weight=0.1)
    for function in (
        lambda: train.train(net, digits, some_params()),
        lambda: train.train(net, some_digits, some_params(), test_set=digits),
        lambda: distill(net, net, digits, students),
        lambda: count_errors(net, digits),
        lambda: measure(net, digits),
        lambda: filter_by_class(digits, omit=[3]),
    ):
        with pytest.raises(UserError, match="no labels"):
            function()


@pytest.mark.parametrize("images", [torch.zeros(3, 28, 27), torch.zeros(3, 28, 28), 3, None])
def test_images_without_labels_are_checked_as_well(images):
    with pytest.raises(UserError, match="images"):
        as_digits(images)


# What is left behind


def denormals_are_flushed():
    tiny = torch.tensor(5e-324, dtype=torch.float64)
    return not np.float64(5e-324) * 1 > 0 or not tiny * 1 > 0


def test_denormal_numbers_are_as_they_were(some_digits, call):
    during = []

    class Looking(Progress):
        def after_batch(self):
            during.append(denormals_are_flushed())

    assert not denormals_are_flushed()
    trained(some_params(), some_digits, progress=Looking(quiet=True))
    assert all(during) and not denormals_are_flushed()
    with pytest.raises(SystemExit):
        run_script(lambda: call(train, "--model small --hidden-units 5 --epochs 1 --quiet"))
    assert not denormals_are_flushed()
    torch.set_flush_denormal(True)
    trained(some_params(), some_digits)
    assert denormals_are_flushed()
    torch.set_flush_denormal(False)


def test_signals_are_handled_as_they_were():
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    for end in (lambda: None, lambda: os.kill(os.getpid(), signal.SIGINT)):
        with pytest.raises(SystemExit):
            run_script(end)
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_no_function_draws_from_the_generator_of_the_user(tmp_path, some_digits):
    net, params = random_net(5, 0.2, 0.5), some_params("Distilled", epochs=1)
    for function in (
        lambda: save_model(tmp_path / "net.pt", net),
        lambda: load_model(tmp_path / "net.pt"),
        lambda: scale_weights(net),
        lambda: init_weights(net, 0.1),
        lambda: train.train(net, some_digits, some_params(**DROPOUT)),
        lambda: distill_together([2.0], [0], net, some_digits, params),
    ):
        before = torch.get_rng_state()
        function()
        assert torch.equal(torch.get_rng_state(), before)


def test_nets_are_in_the_mode_in_which_they_should_be(tmp_path, some_digits):
    net = random_net(5, 0.2, 0.5).train()
    net.hidden1.eval()
    save_model(tmp_path / "net.pt", net)
    assert [m.training for m in (net, net.hidden1, net.hidden2)] == [True, False, True]
    for progress in (Progress(quiet=True), None):

        def fail(*_):
            raise KeyboardInterrupt

        if progress:
            progress.after_epoch = fail
        with contextlib.suppress(KeyboardInterrupt):
            train.train(net, some_digits, some_params(), progress=progress)
        assert not net.training and not net.hidden1.training


def test_a_training_on_the_processor_seeds_no_other_device(monkeypatch, some_digits):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    trained(some_params(**DROPOUT), some_digits)
    assert not seeded


def test_warnings_are_shown_after_nets_were_loaded_in_threads(tmp_path):
    save_model(tmp_path / "net.pt", random_net(5))
    before = list(warnings.filters)
    load = [lambda: [load_model(tmp_path / "net.pt") for _ in range(20)]] * 4
    threads = [threading.Thread(target=function) for function in load]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_a_signal_that_is_ignored_stays_ignored():
    """As of a script that the shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: os.kill(os.getpid(), signal.SIGINT))
    assert not stop.value.code and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.signal(signal.SIGINT, before)


def test_saving_a_net_while_it_is_trained_changes_nothing(tmp_path, some_digits):
    class Saving(Progress):
        def after_epoch(self, entry):
            save_model(tmp_path / "net.pt", net)
            load_model(tmp_path / "net.pt")

    params = some_params(epochs=3, **DROPOUT)
    expected, _ = trained(params, some_digits, seed=4)
    net = CumbersomeNet(params.hidden_units, 0.2, 0.5)
    init_weights(net, 0.05, 4)
    train.train(net, some_digits, params, seed=4, progress=Saving(quiet=True))
    assert same_weights(net, expected)


def test_nets_that_are_trained_in_threads_are_those_of_their_seeds(some_digits):
    params, found = some_params(epochs=3, **DROPOUT), {}

    def train_one(seed):
        found[seed] = trained(params, some_digits, seed)

    threads = [threading.Thread(target=train_one, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        assert same_weights(found[seed][0], trained(params, some_digits, seed)[0])


# Resume points of another version of PyTorch


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_options_that_pytorch_added_or_dropped_do_not_matter(tmp_path, some_digits, optimizer):
    params, path = some_params(epochs=3, optimizer=optimizer), tmp_path / "net.pt.resume"
    whole, _ = trained(params, some_digits)
    point = ResumePoint(path, {})

    class Stopping(Progress):
        def after_epoch(self, entry):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(params, some_digits, resume_point=point, progress=Stopping(quiet=True))
    state = read_dict(path)
    group = state["optimizer"]["param_groups"][0]
    del group["maximize"]  # an older version, which had not it yet
    group["of_later"] = True
    torch.save(state, path)
    point.load()
    assert same_weights(trained(params, some_digits, resume_point=point)[0], whole)


# Disks and folders


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_fsync_is_written_to_with_a_warning(
    tmp_path, monkeypatch, capsys, number
):
    monkeypatch.setattr(os, "fsync", failing(number))
    replace_file(tmp_path / "net.pt", b"content")
    assert (tmp_path / "net.pt").read_bytes() == b"content"
    assert "fsync" in capsys.readouterr().err


@pytest.mark.parametrize("times", [2, 99])
def test_a_file_that_is_held_for_a_moment_is_replaced_after_it(tmp_path, monkeypatch, times):
    replace_once, tries = os.replace, []

    def held(*paths):
        tries.append(1)
        return failing(errno.EACCES)() if len(tries) <= times else replace_once(*paths)

    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if times == 99:
        with pytest.raises(UserError, match=r"net\.pt"):
            replace_file(tmp_path / "net.pt", b"content")
        assert list(tmp_path.glob("*net*")) == []
    else:
        replace_file(tmp_path / "net.pt", b"content")
        assert (tmp_path / "net.pt").read_bytes() == b"content"


def test_a_link_stays_and_its_target_is_written(call, tmp_path):
    (tmp_path / "here" / "net.pt").symlink_to(tmp_path / "target.pt")
    words = "--model small --hidden-units 5 --epochs 1 --quiet --output net.pt"
    for seed in (0, 1):
        call(train, words, "--seed", seed)
        if not seed:
            assert (tmp_path / "here" / "net.pt").is_symlink()
    assert load_checkpoint(tmp_path / "here" / "net.pt")["seed"] == 1


def test_a_link_into_no_folder_is_refused_before_any_training(refused, batches):
    os.symlink("/nowhere/net.pt", "net.pt")
    words = "--model small --hidden-units 5 --epochs 1 --output net.pt"
    refused(train, words, naming="net.pt folder")
    assert not batches


def test_a_net_is_saved_to_a_folder_that_is_not_there_yet(tmp_path):
    save_model(tmp_path / "runs" / "mine" / "net.pt", random_net(5))
    assert same_weights(load_model(tmp_path / "runs" / "mine" / "net.pt"), random_net(5))


def test_hidden_files_are_no_checkpoints(call, capsys, monkeypatch, tmp_path):
    """As macOS puts one beside each file on some disks."""
    save_model(tmp_path / "net.pt", random_net(5))
    (tmp_path / "._net.pt").write_bytes(b"\0\5\26\7")
    monkeypatch.setattr(evaluate, "MODELS", tmp_path)
    call(evaluate)
    assert "._net.pt" not in capsys.readouterr().out


# Surroundings


def test_values_that_were_edited_since_are_taken(monkeypatch, tmp_path):
    text = (ROOT / "training_params.py").read_text()
    path = tmp_path / "training_params.py"
    monkeypatch.delitem(sys.modules, "training_params")
    monkeypatch.syspath_prepend(tmp_path)
    for epochs in (400, 7, 8):
        path.write_text(text.replace("epochs = 400  # [DO]", f"epochs = {epochs}  # [DO]"))
        os.utime(path, (epochs, epochs))
        assert default_params("local", "Cumbersome").epochs == epochs


def test_a_process_alone_needs_no_other(call, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    call(train, "--model small --hidden-units 5 --epochs 1 --quiet --output net.pt")
    assert load_checkpoint("net.pt")["seed"] == 0


@pytest.mark.parametrize("stderr", [None, SimpleNamespace(write=lambda text: None)])
def test_progress_needs_no_terminal_and_no_stream(monkeypatch, capsys, some_digits, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    trained(some_params(), some_digits, progress=Progress())
    assert "epoch 1/2" in capsys.readouterr().out


# Images and nets that would be wrong without a word


def test_images_that_look_inverted_are_told(sample):
    images = sample.test.images[:100]
    for given in (255 - images, (255 - images) / 255):
        with pytest.warns(UserWarning, match="white on black"):
            logits_of(random_net(), given)
    with pytest.warns(UserWarning, match="white on black"):
        as_digits(255 - images)


def test_other_images_are_not_said_to_be_inverted(sample):
    images = sample.test.images[:100]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (images, images[:0], random_digits(9).images):
            logits_of(random_net(), as_digits(given).images)
        logits_of(random_net(), images / 255)


class Deeper(SmallNet):
    def __init__(self):
        super().__init__(12)
        self.hidden3 = nn.Linear(12, 12)


def test_a_net_with_another_layer_is_not_left_with_weights_that_nobody_drew():
    net = Deeper()
    before = weights_of(net)
    with pytest.raises(ValueError, match=r"hidden3\.bias, hidden3\.weight"):
        init_weights(net, 0.1)
    assert same_weights(net, before)


def nets_with_other_layers():
    for layer in (nn.Linear(12, 10, bias=False), nn.Identity(), nn.Conv1d(12, 10, 1)):
        net = SmallNet(12)
        net.output = layer
        yield net
    shared = SmallNet(784)
    shared.hidden2 = shared.hidden1
    yield shared
    yield nn.Linear(784, 10)


@pytest.mark.parametrize("net", list(nets_with_other_layers()), ids=str)
def test_nets_with_other_layers_are_not_given_first_weights(net):
    before = weights_of(net)
    with pytest.raises(ValueError, match="draw all its weights yourself"):
        init_weights(net, 0.1)
    assert same_weights(net, before)


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, batch: None,
        lambda logits, batch: 1.0,
        lambda logits, batch: (logits.mean(), 1),
        lambda logits, batch: logits.detach().mean(),
        lambda logits, batch: torch.tensor(1.0),
    ],
)
def test_what_a_loss_must_return_is_said(some_digits, loss):
    net = random_net()
    before = weights_of(net)
    with pytest.raises(UserError, match="must return a tensor that depends on the logits"):
        train.train(net, some_digits, some_params(), loss=loss)
    assert same_weights(net, before)


@pytest.mark.parametrize("record", [{"hidden_units": 800}, {"parameters": {"hidden_units": 800}}])
def test_hidden_units_on_record_are_those_of_the_net(tmp_path, record):
    with pytest.raises(UserError, match="800 hidden units, but the net has 12"):
        save_model(tmp_path / "a.pt", random_net(12), **record)
    assert not [*tmp_path.glob("*.pt")]
    save_model(tmp_path / "a.pt", random_net(12), parameters={"hidden_units": 12})
