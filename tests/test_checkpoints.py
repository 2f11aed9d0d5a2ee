"""Checkpoints: what is saved comes back, and nothing else is taken for one."""

import collections
import contextlib
import enum
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from common import a_checkpoint, everything_in, random_digits, random_net, same_weights, weights_of
from torch import nn
from torch.nn.utils import prune

from dataset import pixels
from layers import CumbersomeNet, SmallNet
from support.checkpoints import load_checkpoint, load_model, model_from, save_model
from support.errors import UserError
from support.files import packed
from support.resume import ResumePoint


@pytest.mark.parametrize("cls", [CumbersomeNet, SmallNet])
def test_a_checkpoint_gives_the_same_net_back_ready_for_test_time(tmp_path, cls):
    net, images = random_net(20, 0.2, 0.5, cls=cls), random_digits(40).images
    before = weights_of(net)
    save_model(tmp_path / "net.pt", net)
    assert same_weights(net, before) and net.training  # it is not changed
    loaded = load_model(tmp_path / "net.pt")
    assert type(loaded) is cls
    assert not loaded.training
    assert torch.equal(loaded(pixels(images)), net.eval()(pixels(images)))
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in loaded.parameters())


def test_a_checkpoint_holds_plain_values_and_float32_tensors_that_load_safely(tmp_path):
    record = {"result": {"errors": 74}, "seed": 0, "history": [{"loss": 0.5}], "teacher": None}
    save_model(tmp_path / "net.pt", random_net(20).double(), **record)
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    state = content.pop("state_dict")
    known = {"format_version": 1, "architecture": "SmallNet", "hidden_units": 20}
    assert content == record | known
    assert type(state) is dict
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        **{"hidden1.weight": (20, 784), "hidden1.bias": (20,)},
        **{"hidden2.weight": (20, 20), "hidden2.bias": (20,)},
        **{"output.weight": (10, 20), "output.bias": (10,)},
    }
    assert all(v.dtype == torch.float32 and not v.requires_grad for v in state.values())


def test_a_net_can_be_changed_without_its_checkpoint(tmp_path):
    save_model(tmp_path / "net.pt", random_net(5))
    checkpoint = load_checkpoint(tmp_path / "net.pt")
    nn.init.zeros_(model_from(checkpoint).hidden1.weight)
    assert same_weights(checkpoint["state_dict"], random_net(5))


def test_a_net_that_is_loaded_in_inference_mode_can_be_trained(tmp_path):
    save_model(tmp_path / "net.pt", random_net(5))
    with torch.inference_mode():
        net = load_model(tmp_path / "net.pt")
    net(torch.rand(3, 784)).sum().backward()


# What is no checkpoint


def assert_refused(path):
    """In one line that names the file, by all that read such files; no code in it is run."""
    resume_point = ResumePoint(Path(path), {})
    for load in (lambda: load_model(path), lambda: load_checkpoint(path), resume_point.load):
        with pytest.raises(UserError) as error:
            load()
        assert str(path) in str(error.value)
        assert len(str(error.value).splitlines()) == 1
    assert not Path("trace").exists()


class MakesFolder:
    """When it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trace",)


def archive_of(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def saved(content, new=True):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


WHOLE = bytes(packed(a_checkpoint(20)))
MIDDLE = len(WHOLE) // 2
DAMAGED = {
    "empty": b"",
    "cut in half": WHOLE[:MIDDLE],
    "one byte short": WHOLE[:-1],
    "text": b"errors: 74\n" * 100,
    "zeros": bytes(len(WHOLE)),
    "a picture": b"\x89PNG\r\n\x1a\n" + WHOLE[8:],
    "a changed byte": WHOLE[:MIDDLE] + bytes([WHOLE[MIDDLE] ^ 0x40]) + WHOLE[MIDDLE + 1 :],
    "the start of an archive": b"PK\x03\x04 nothing",
    "an archive of something else": archive_of("readme.txt", "hello"),
    "a plain pickle": pickle.dumps(a_checkpoint()),
    "an old archive": saved(a_checkpoint(), new=False),
    "a module": saved(random_net(6)),
    "code": saved(a_checkpoint() | {"note": MakesFolder()}),
    "code in an old archive": saved(a_checkpoint() | {"note": MakesFolder()}, new=False),
    "code in a pickle": pickle.dumps({"note": MakesFolder()}),
    **{f"a {type(what).__name__}": saved(what) for what in (torch.zeros(3), [3], None, {})},
    "the weights alone": saved(weights_of(random_net(6))),
    "keys of several types": saved({1: 2, "a": 3, None: 4}),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_is_damaged_or_something_else_is_refused(what):
    Path("net.pt").write_bytes(DAMAGED[what])
    assert_refused("net.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in ("missing.pt", "", "missing/net.pt"):
        assert_refused(tmp_path / path)


MISSING = object()
INFINITE = torch.tensor([*[0.0] * 9, float("inf")])
OF_A_WRAPPER = nn.DataParallel(random_net(6)).state_dict()
OF_ANOTHER_NET = nn.Sequential(nn.Linear(784, 6), nn.Linear(6, 10)).state_dict()


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("format_version", value) for value in (MISSING, 2, "1", torch.ones(2))],
        *[("architecture", v) for v in (MISSING, "ResNet", ["SmallNet"], torch.ones(2))],
        *[("hidden_units", v) for v in (MISSING, 7, "6", 0, 10**9, True, torch.tensor([6, 6]))],
        *[("state_dict", value) for value in (MISSING, [1], OF_A_WRAPPER, OF_ANOTHER_NET)],
        ("extra.weight", torch.zeros(2)),
        ("hidden2.weight", torch.zeros(6, 7)),
        ("hidden2.weight", torch.eye(6).to_sparse()),
        ("hidden2.weight", torch.zeros(6, 6, device="meta")),
        ("hidden2.bias", torch.zeros(6, dtype=torch.float64)),
        ("output.bias", torch.zeros(10, dtype=torch.int64)),
        *[("output.bias", v) for v in (MISSING, [0.0] * 10, INFINITE, INFINITE * 0)],
    ],
)
def test_a_checkpoint_with_a_wrong_value_is_refused(name, value):
    content = a_checkpoint()
    torch.save(content, "net.pt")
    assert same_weights(load_model("net.pt"), random_net(6))
    part = content["state_dict"] if "." in name else content
    part[name] = value
    if value is MISSING:
        del part[name]
    torch.save(content, "net.pt")
    assert_refused("net.pt")


# What Python users pass


def test_plain_values_of_other_classes_are_saved_as_plain_values(tmp_path):
    class Odd(str):
        pass

    class Optimizer(str, enum.Enum):
        ADAM = "adam"

    record = {
        "accuracy": np.mean([0.5, 1.0]),
        "errors": np.int64(74),
        "half": np.float16(0.5),
        "flag": np.bool_(True),
        "torch": torch.__version__,
        "name": Odd("mine"),
        "count": torch.tensor(3),
        "zero": np.array(1.5),
        "data_set": collections.OrderedDict(name=Odd("MNIST")),
        "history": [{"loss": np.float32(0.25)}],
        "pair": (np.int8(1), None),
        "parameters": {"optimizer": Optimizer.ADAM},
        "result": collections.defaultdict(int, {Odd("errors"): np.int16(2)}),
    }
    save_model(tmp_path / "net.pt", SmallNet(np.int64(5)), **record)
    loaded = load_checkpoint(tmp_path / "net.pt")
    expected = {
        **{"accuracy": 0.75, "errors": 74, "half": 0.5, "flag": True, "torch": torch.__version__},
        **{"name": "mine", "count": 3, "zero": 1.5, "data_set": {"name": "MNIST"}},
        **{"history": [{"loss": 0.25}], "pair": [1, None], "result": {"errors": 2}},
        **{"parameters": {"optimizer": "adam"}, "hidden_units": 5},
    }
    assert {name: loaded[name] for name in expected} == expected
    assert type(loaded["accuracy"]) is float and type(loaded["torch"]) is str
    assert type(loaded["flag"]) is bool and type(loaded["data_set"]) is dict


@pytest.mark.parametrize(
    "value", [np.arange(3), torch.ones(2), {1, 2}, object(), {(3,): 4}, 1j, b"x", Path("x"), len]
)
def test_what_is_not_a_plain_value_is_refused_before_anything_is_written(tmp_path, value):
    for record in ({"note": value}, {"history": [{"x": value}]}):
        with pytest.raises(UserError, match=r"net\.pt was not written"):
            save_model(tmp_path / "net.pt", random_net(5), **record)
    assert list(tmp_path.glob("net*")) == []


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda net: nn.DataParallel(torch.compile(net))],
    ids=["DataParallel", "compile", "both"],
)
def test_a_wrapped_net_is_saved_as_the_net_inside(tmp_path, wrap):
    net = random_net(8, 0.2, 0.5, cls=CumbersomeNet)
    save_model(tmp_path / "plain.pt", net)
    save_model(tmp_path / "wrapped.pt", wrap(net))
    assert (tmp_path / "plain.pt").read_bytes() == (tmp_path / "wrapped.pt").read_bytes()


def test_a_net_that_was_changed_by_a_tool_is_refused_naming_what_is_odd(tmp_path):
    net = random_net(5)
    prune.l1_unstructured(net.hidden1, "weight", amount=0.5)
    with pytest.raises(UserError, match="hidden1"):
        save_model(tmp_path / "net.pt", net)
    prune.remove(net.hidden1, "weight")
    save_model(tmp_path / "net.pt", net)
    assert same_weights(load_model(tmp_path / "net.pt"), net)


class Wrapper(nn.Module):
    """A module of the user, whose attribute has the name that DataParallel uses."""

    def __init__(self):
        super().__init__()
        self.module = random_net(5)

    def forward(self, pixels):
        return 2 * self.module((pixels - 0.1307) / 0.3081)


def changed(layer, name, value):
    net = random_net(5, 0.2, 0.5, cls=CumbersomeNet)
    setattr(net.get_submodule(layer), name, value)
    return net


OTHER_NETS = {
    "another kind": lambda: nn.Linear(784, 10),
    "another kind in a wrapper": lambda: nn.DataParallel(nn.ReLU()),
    "no net": lambda: None,
    "a wrapper of the user": Wrapper,
    "another nonlinearity": lambda: changed("", "relu1", nn.Sigmoid()),
    "a layer without dropout": lambda: changed("", "hidden2", nn.Linear(5, 5)),
    "other dropout in a layer": lambda: changed("hidden1", "dropout", 0.0),
    "other dropout in the net": lambda: changed("", "dropouts", (0.1, 0.1, 0.1)),
    "more classes": lambda: changed("", "output", nn.Linear(5, 47)),
    "complex weights": lambda: random_net(5).to(torch.complex64),
    "weights without data": lambda: random_net(5).to("meta"),
}


@pytest.mark.filterwarnings("ignore:.*complex")
@pytest.mark.parametrize("what", OTHER_NETS)
def test_a_net_of_another_kind_or_that_computes_something_else_is_not_saved(tmp_path, what):
    save_model(tmp_path / "net.pt", random_net(5))
    before, told = everything_in(tmp_path), r"net\.pt was not written"
    if "kind" in what or what == "no net":
        told += r": a \w+ is not a CumbersomeNet"
    with pytest.raises(UserError, match=told):
        save_model(tmp_path / "net.pt", OTHER_NETS[what]())
    assert everything_in(tmp_path) == before


def nested(depth):
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize("value", [10**1000, -(2**64), nested(900)], ids=["huge", "large", "deep"])
def test_what_could_not_be_loaded_again_is_not_written_over_a_good_file(tmp_path, value):
    save_model(tmp_path / "net.pt", random_net(5), note=1)
    with contextlib.suppress(UserError):
        save_model(tmp_path / "net.pt", random_net(5), note=value)
    assert load_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_default_dtype_of_the_user_changes_nothing(tmp_path, dtype):
    net, images = random_net(5), random_digits(3).images
    expected = net.eval()(pixels(images))
    torch.set_default_dtype(dtype)
    try:
        save_model(tmp_path / "net.pt", net)
        loaded = load_model(tmp_path / "net.pt")
        assert torch.equal(loaded(pixels(images)), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_a_net_may_be_named_by_a_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model("~/net.pt", random_net(5))
    assert same_weights(load_model("~/net.pt"), random_net(5))
    assert (tmp_path / "net.pt").exists()
