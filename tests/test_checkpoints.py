import collections
import contextlib
import enum
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
from support.checkpoints import load_checkpoint, load_model, save_model
from support.errors import UserError
from support.files import read_dict

# Checkpoints


@pytest.mark.parametrize("cls", [CumbersomeNet, SmallNet])
def test_a_checkpoint_gives_the_same_net_back_ready_for_test_time(tmp_path, cls):
    net, images = random_net(20, 0.2, 0.5, cls=cls), random_digits(40).images
    save_model(tmp_path / "net.pt", net)
    loaded = load_model(tmp_path / "net.pt")
    assert type(loaded) is cls
    assert not loaded.training
    assert torch.equal(loaded(pixels(images)), net.eval()(pixels(images)))
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in loaded.parameters())


def test_a_checkpoint_holds_plain_values_and_float32_tensors_that_load_safely(tmp_path):
    record = {"result": {"errors": 74}, "seed": 0, "history": [{"loss": 0.5}], "teacher": None}
    save_model(tmp_path / "net.pt", random_net(20).double(), **record)
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    assert content["format_version"] == 1
    assert content["architecture"] == "SmallNet"
    assert content["hidden_units"] == 20
    assert {name: content[name] for name in record} == record
    state = content["state_dict"]
    assert type(state) is dict
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "hidden1.weight": (20, 784),
        "hidden1.bias": (20,),
        "hidden2.weight": (20, 20),
        "hidden2.bias": (20,),
        "output.weight": (10, 20),
        "output.bias": (10,),
    }
    assert all(v.dtype == torch.float32 and not v.requires_grad for v in state.values())


def test_saving_does_not_change_the_net(tmp_path):
    net = random_net(20, 0.2, 0.5)
    before = weights_of(net)
    save_model(tmp_path / "net.pt", net)
    assert same_weights(net, before)
    assert net.training


def with_state(**changes):
    content = a_checkpoint()
    for name, value in changes.items():
        content["state_dict"][name.replace("_", ".")] = value
    return content


def without(name):
    return {k: v for k, v in a_checkpoint().items() if k != name}


def without_layer(name):
    content = a_checkpoint()
    del content["state_dict"][name]
    return content


NOT_FINITE = torch.zeros(10)
NOT_FINITE[3] = float("nan")
FOREIGN = {
    "a state_dict alone": weights_of(random_net(6)),
    "a tensor": torch.zeros(3),
    "a list": [a_checkpoint()],
    "nothing": None,
    "an empty dict": {},
    "no format version": without("format_version"),
    "no architecture": without("architecture"),
    "no hidden units": without("hidden_units"),
    "no state_dict": without("state_dict"),
    "a later format": a_checkpoint() | {"format_version": 2},
    "a format in words": a_checkpoint() | {"format_version": "1"},
    "a format that is a tensor": a_checkpoint() | {"format_version": torch.ones(2)},
    "another architecture": a_checkpoint() | {"architecture": "ResNet"},
    "an architecture that is a list": a_checkpoint() | {"architecture": ["SmallNet"]},
    "an architecture that is a tensor": a_checkpoint() | {"architecture": torch.ones(2)},
    "another width": a_checkpoint() | {"hidden_units": 7},
    "a width in words": a_checkpoint() | {"hidden_units": "6"},
    "a width of 0": a_checkpoint() | {"hidden_units": 0},
    "an immense width": a_checkpoint() | {"hidden_units": 10**9},
    "a width that is true": a_checkpoint() | {"hidden_units": True},
    "a width that is a tensor": a_checkpoint() | {"hidden_units": torch.tensor([6, 6])},
    "a state_dict that is a list": a_checkpoint() | {"state_dict": [1]},
    "the state_dict of another net": a_checkpoint()
    | {"state_dict": nn.Sequential(nn.Linear(784, 6), nn.Linear(6, 10)).state_dict()},
    "the state_dict of a wrapped net": a_checkpoint()
    | {"state_dict": nn.DataParallel(random_net(6)).state_dict()},
    "one layer more": with_state(extra_weight=torch.zeros(2)),
    "one bias less": without_layer("output.bias"),
    "a wrong shape": with_state(hidden2_weight=torch.zeros(6, 7)),
    "double precision": with_state(hidden2_bias=torch.zeros(6, dtype=torch.float64)),
    "whole numbers": with_state(output_bias=torch.zeros(10, dtype=torch.int64)),
    "a list for a tensor": with_state(output_bias=[0.0] * 10),
    "NaN": with_state(output_bias=NOT_FINITE),
    "infinity": with_state(output_bias=NOT_FINITE.nan_to_num(float("inf"))),
    "a sparse tensor": with_state(hidden2_weight=torch.eye(6).to_sparse()),
    "a tensor without data": with_state(hidden2_weight=torch.zeros(6, 6, device="meta")),
    "keys of several types": {1: 2, "a": 3, None: 4},
}


def assert_refused(path):
    """Refused in one line that names the file, by all that read checkpoints."""
    for load in (load_model, load_checkpoint):
        with pytest.raises(UserError) as error:
            load(path)
        assert str(path) in str(error.value)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_that_is_no_checkpoint_of_this_project_is_refused(tmp_path, what):
    torch.save(FOREIGN[what], tmp_path / "net.pt")
    assert_refused(tmp_path / "net.pt")


def test_the_checkpoint_that_the_foreign_ones_are_made_of_is_taken(tmp_path):
    torch.save(a_checkpoint(), tmp_path / "net.pt")
    assert same_weights(load_model(tmp_path / "net.pt"), random_net(6))


@pytest.mark.parametrize(
    "damage",
    {
        "empty": lambda whole: b"",
        "cut in half": lambda whole: whole[: len(whole) // 2],
        "one byte short": lambda whole: whole[:-1],
        "text": lambda whole: b"errors: 74\n" * 100,
        "zeros": lambda whole: bytes(len(whole)),
        "a picture": lambda whole: b"\x89PNG\r\n\x1a\n" + whole[8:],
        "a plain pickle": lambda whole: pickle.dumps({"format_version": 1}),
        "a changed byte": lambda whole: (
            whole[: len(whole) // 2]
            + bytes([whole[len(whole) // 2] ^ 0x40])
            + whole[len(whole) // 2 + 1 :]
        ),
    }.items(),
    ids=lambda damage: damage[0],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    save_model(tmp_path / "whole.pt", random_net(20))
    (tmp_path / "net.pt").write_bytes(damage[1]((tmp_path / "whole.pt").read_bytes()))
    assert_refused(tmp_path / "net.pt")


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert_refused(tmp_path / "net.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert_refused(tmp_path / "missing.pt")
    assert_refused(tmp_path)
    assert_refused(tmp_path / "missing" / "net.pt")


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(random_net(6), tmp_path / "net.pt")
    assert_refused(tmp_path / "net.pt")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["archive", "old archive", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, form):
    trace, path = tmp_path / "trace", tmp_path / "net.pt"
    content = a_checkpoint() | {"note": Payload(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"note": Payload(trace)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "archive")
    assert_refused(path)
    with pytest.raises(UserError):
        read_dict(path)
    assert not trace.exists()


# What Python users pass


def test_plain_values_of_other_classes_are_saved_as_plain_values(tmp_path):
    class Odd(str):
        pass

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
        "result": collections.defaultdict(int, {Odd("errors"): np.int16(2)}),
    }
    save_model(tmp_path / "net.pt", random_net(5), **record)
    loaded = load_checkpoint(tmp_path / "net.pt")
    expected = {
        **{"accuracy": 0.75, "errors": 74, "half": 0.5, "flag": True, "torch": torch.__version__},
        **{"name": "mine", "count": 3, "zero": 1.5, "data_set": {"name": "MNIST"}},
        **{"history": [{"loss": 0.25}], "pair": [1, None], "result": {"errors": 2}},
    }
    assert {name: loaded[name] for name in record} == expected
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


@pytest.mark.parametrize(
    "net", [nn.Linear(784, 10), nn.Sequential(nn.Linear(784, 10)), nn.DataParallel(nn.ReLU()), None]
)
def test_a_net_of_another_kind_is_refused(tmp_path, net):
    with pytest.raises(UserError, match=r"net\.pt was not written: a \w+ is not a CumbersomeNet"):
        save_model(tmp_path / "net.pt", net)


def test_a_net_that_was_changed_by_a_tool_is_refused_naming_what_is_odd(tmp_path):
    net = random_net(5)
    prune.l1_unstructured(net.hidden1, "weight", amount=0.5)
    with pytest.raises(UserError, match="hidden1"):
        save_model(tmp_path / "net.pt", net)
    prune.remove(net.hidden1, "weight")
    save_model(tmp_path / "net.pt", net)
    assert same_weights(load_model(tmp_path / "net.pt"), net)


def test_units_may_be_a_number_of_numpy(tmp_path):
    save_model(tmp_path / "net.pt", SmallNet(np.int64(5)))
    assert load_checkpoint(tmp_path / "net.pt")["hidden_units"] == 5


class Wrapper(nn.Module):
    """A module of the user, whose attribute has the name that DataParallel uses."""

    def __init__(self):
        super().__init__()
        self.module = random_net(5)

    def forward(self, pixels):
        return 2 * self.module((pixels - 0.1307) / 0.3081)


def changed(change):
    net = random_net(5, 0.2, 0.5, cls=CumbersomeNet)
    change(net)
    return net


OTHER_FUNCTIONS = {
    "a wrapper of the user": Wrapper,
    "another nonlinearity": lambda: changed(lambda net: setattr(net, "relu1", nn.Sigmoid())),
    "a layer without dropout": lambda: changed(
        lambda net: setattr(net, "hidden2", nn.Linear(5, 5))
    ),
    "other dropout in a layer": lambda: changed(lambda net: setattr(net.hidden1, "dropout", 0.0)),
    "other dropout in the net": lambda: changed(
        lambda net: setattr(net, "dropouts", (0.1, 0.1, 0.1))
    ),
    "more classes": lambda: changed(lambda net: setattr(net, "output", nn.Linear(5, 47))),
    "complex weights": lambda: random_net(5).to(torch.complex64),
    "weights without data": lambda: random_net(5).to("meta"),
}


@pytest.mark.filterwarnings("ignore:Complex")
@pytest.mark.parametrize("what", OTHER_FUNCTIONS)
def test_a_net_that_computes_something_else_is_not_saved(tmp_path, what):
    save_model(tmp_path / "net.pt", random_net(5))
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=r"net\.pt was not written"):
        save_model(tmp_path / "net.pt", OTHER_FUNCTIONS[what]())
    assert everything_in(tmp_path) == before


def nested(depth):
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize("value", [10**1000, -(2**64), nested(900)], ids=["huge", "large", "deep"])
def test_what_could_not_be_loaded_again_is_not_written_over_a_good_file(tmp_path, value):
    save_model(tmp_path / "net.pt", random_net(5), note=1)
    with contextlib.suppress(UserError):
        save_model(tmp_path / "net.pt", random_net(5), note=value)
    assert load_checkpoint(tmp_path / "net.pt")


def test_a_word_of_an_enum_is_saved_as_the_word(tmp_path):
    class Optimizer(str, enum.Enum):
        ADAM = "adam"

    save_model(tmp_path / "net.pt", random_net(5), parameters={"optimizer": Optimizer.ADAM})
    assert load_checkpoint(tmp_path / "net.pt")["parameters"] == {"optimizer": "adam"}


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
