import errno
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from common import everything_in, random_digits, random_net, same_weights, weights_of
from torch import nn

import layers
from dataset import pixels
from layers import (
    CumbersomeNet,
    Lock,
    ResumePoint,
    SmallNet,
    StackedNet,
    drop,
    init_weights,
    load_checkpoint,
    load_model,
    read_dict,
    save_model,
    scale_weights,
    write_atomically,
)
from train import logits_of
from training_params import UserError

# The nets


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (CumbersomeNet(), 784 * 1200 + 1200 + 1200 * 1200 + 1200 + 1200 * 10 + 10),
        (SmallNet(800), 784 * 800 + 800 + 800 * 800 + 800 + 800 * 10 + 10),
        (SmallNet(30), 784 * 30 + 30 + 30 * 30 + 30 + 30 * 10 + 10),
    ],
)
def test_the_nets_have_the_layers_of_the_paper(net, count):
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_the_cumbersome_net_drops_out_a_fifth_of_the_pixels_and_half_of_the_hidden_units():
    assert (CumbersomeNet().dropout_visible, CumbersomeNet().dropout_hidden) == (0.2, 0.5)
    assert (SmallNet(30).dropout_visible, SmallNet(30).dropout_hidden) == (0, 0)


@pytest.mark.parametrize("shape", [(5, 784), (5, 28, 28), (5, 1, 28, 28)])
def test_images_are_taken_in_every_usual_shape(shape):
    net, images = random_net().eval(), torch.rand(5, 784)
    assert torch.equal(net(images.view(shape)), net(images))


def test_first_weights_are_normal_with_the_given_deviation_and_biases_are_0():
    net = random_net(300)
    init_weights(net, std=0.01, seed=3)
    for layer in (net.hidden1, net.hidden2, net.output):
        weight, count = layer.weight, layer.weight.numel()
        assert abs(weight.mean().item()) < 4 * 0.01 / count**0.5
        assert abs(weight.std().item() / 0.01 - 1) < 4 / (2 * count) ** 0.5
        assert abs((weight.abs() < 0.01).float().mean().item() - 0.6827) < 2 / count**0.5
        assert not layer.bias.any()


def test_first_weights_depend_on_the_seed_alone():
    nets = []
    for noise, seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(noise)
        nets.append(SmallNet(10))
        init_weights(nets[-1], 0.01, seed)
    assert same_weights(nets[0], nets[1])
    assert not same_weights(nets[0], nets[2])


# Dropout in its original form


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.37])
def test_each_unit_is_dropped_with_the_given_probability(probability):
    torch.manual_seed(0)
    kept = drop(torch.ones(8000, 256), probability).double()
    deviation = (probability * (1 - probability)) ** 0.5
    assert abs(kept.mean().item() - (1 - probability)) < 4 * deviation / kept.numel() ** 0.5
    # the same in each column, for random bits that are shared out in words
    by_column = (kept.mean(dim=0) - (1 - probability)) / deviation * 8000**0.5
    assert by_column.abs().max().item() < 5
    assert abs((by_column**2).mean().item() - 1) < 4 * (2 / 256) ** 0.5


@pytest.mark.parametrize("probability", [0.001, 0.01, 0.99, 0.999, 0.999999])
def test_probabilities_near_0_and_1_are_kept_too(probability):
    torch.manual_seed(0)
    kept = (drop(torch.ones(1000, 1000), probability) > 0).double().mean().item()
    error = 4 * (probability * (1 - probability) / 1e6) ** 0.5 + 2**-16
    assert abs(kept - (1 - probability)) < error


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.37])
@pytest.mark.parametrize("offset", [1, 2, 3, 4, 7, 8, 16])
def test_units_are_dropped_independently_of_each_other(probability, offset):
    torch.manual_seed(1)
    kept = drop(torch.ones(300_000), probability).double()
    both = (kept[offset:] * kept[:-offset]).mean().item()
    expected = (1 - probability) ** 2
    assert abs(both - expected) < 5 * (expected * (1 - expected) / 3e5) ** 0.5


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.37])
def test_two_calls_drop_independently(probability):
    torch.manual_seed(2)
    units = torch.ones(300_000)
    both = (drop(units, probability) * drop(units, probability)).double().mean().item()
    expected = (1 - probability) ** 2
    assert abs(both - expected) < 4 * (expected * (1 - expected) / 3e5) ** 0.5


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 7), (101, 13), (2, 784)])
@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_units_that_are_kept_are_not_rescaled(shape, probability):
    torch.manual_seed(3)
    units = torch.randn(shape) + 10
    dropped = drop(units, probability)
    assert dropped.shape == units.shape
    assert ((dropped == units) | (dropped == 0)).all()


def test_probability_0_drops_nothing():
    units = torch.randn(50, 50)
    assert torch.equal(drop(units, 0.0), units)


def test_dropout_does_not_change_its_argument():
    units = torch.ones(100)
    drop(units, 0.5)
    assert units.sum() == 100


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_the_gradient_passes_through_the_units_that_were_kept(probability):
    torch.manual_seed(4)
    units = torch.randn(1000, requires_grad=True)
    dropped = drop(units, probability)
    dropped.sum().backward()
    assert torch.equal(units.grad, (dropped != 0).float())


def numpy_logits(net, pixels, scales=(1.0, 1.0, 1.0), keep=(1.0, 1.0, 1.0)):
    """The forward pass by hand in float64; `keep` multiplies the units that enter each layer."""
    units = pixels.double().numpy()
    for i, layer in enumerate((net.hidden1, net.hidden2, net.output)):
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        units = (units * keep[i]) @ (weight * scales[i]).T + bias
        if i < 2:
            units = np.maximum(units, 0)
    return units


@pytest.mark.parametrize(("visible", "hidden"), [(0, 0), (0.2, 0.5), (0, 0.5), (0.37, 0)])
def test_at_test_time_outgoing_weights_are_multiplied_by_the_keep_probability(visible, hidden):
    net, images = random_net(20, visible, hidden).eval(), torch.rand(30, 784)
    expected = numpy_logits(net, images, (1 - visible, 1 - hidden, 1 - hidden))
    assert np.allclose(net(images).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_in_training_units_are_dropped_and_weights_are_never_rescaled(monkeypatch):
    net, images = random_net(20, 0.2, 0.5).train(), torch.rand(30, 784) + 0.1
    masks = []

    def drop_and_record(units, probability):
        dropped = drop(units, probability)
        # a unit that is 0 anyway counts as kept
        masks.append(((dropped != 0) | (units == 0)).numpy().astype(float))
        assert 0 < (1 - masks[-1][(units != 0).numpy()]).mean() < 1
        return dropped

    monkeypatch.setattr(layers, "drop", drop_and_record)
    with torch.no_grad():
        found = net(images)
    assert len(masks) == 3
    assert np.allclose(found.numpy(), numpy_logits(net, images, keep=masks), rtol=1e-4, atol=1e-4)


def test_evaluation_draws_no_random_numbers_and_changes_no_weights():
    net = random_net(20, 0.2, 0.5)
    before, random = weights_of(net), torch.get_rng_state()
    first, second = (logits_of(net, random_digits(50).images) for _ in range(2))
    assert torch.equal(first, second)
    assert same_weights(net, before)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("cls", [CumbersomeNet, SmallNet])
def test_a_net_with_scaled_weights_gives_the_same_logits_bit_for_bit(cls):
    net, images = random_net(40, 0.2, 0.5, cls=cls).eval(), torch.rand(64, 784)
    scaled = scale_weights(net)
    assert torch.equal(scaled(images), net(images))
    assert (scaled.dropout_visible, scaled.dropout_hidden, scaled.training) == (0, 0, False)
    plain = nn.Sequential(
        nn.Linear(784, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10)
    )
    plain.load_state_dict(dict(zip(plain.state_dict(), scaled.state_dict().values(), strict=True)))
    assert torch.equal(plain(images), net(images))


def test_scaling_the_weights_is_done_on_a_copy():
    net = random_net(20, 0.2, 0.5)
    before = weights_of(net)
    scaled = scale_weights(net)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.zero_()
    assert same_weights(net, before)


# The constraint on the incoming weights


def squared_lengths(layer):
    return (layer.weight.detach().double() ** 2).sum(dim=1)


def test_only_hidden_units_above_the_squared_length_are_scaled_down_to_it():
    net = random_net(200, std=1)
    with torch.no_grad():  # squared lengths from 0 to 60
        for layer in (net.hidden1, net.hidden2, net.output):
            wanted = torch.linspace(0, 60, len(layer.weight))[:, None].sqrt()
            layer.weight.mul_(wanted / layer.weight.norm(dim=1, keepdim=True))
    before = weights_of(net)
    lengths = {name: squared_lengths(net.get_submodule(name)) for name in ("hidden1", "hidden2")}
    net.constrain(15.0)
    after = weights_of(net)
    for name, length in lengths.items():
        old, new = before[f"{name}.weight"], after[f"{name}.weight"]
        above = length > 15
        assert 0 < above.sum() < len(above)
        assert torch.equal(new[~above], old[~above])
        now = (new[above].double() ** 2).sum(dim=1)
        assert torch.allclose(now, torch.full_like(now, 15), rtol=1e-5, atol=0)
        assert torch.allclose(
            nn.functional.cosine_similarity(new[above].double(), old[above].double()),
            torch.ones(1, dtype=torch.float64),
            atol=1e-9,
        )
    for name in ("hidden1.bias", "hidden2.bias", "output.weight", "output.bias"):
        assert torch.equal(after[name], before[name])


def test_a_unit_without_incoming_weights_stays_so():
    net = random_net(5)
    with torch.no_grad():
        net.hidden1.weight.zero_()
    net.constrain(15.0)
    assert not net.hidden1.weight.any()


# Nets trained together


def test_a_stack_gives_the_logits_of_each_net():
    nets, images = [random_net(12, seed=seed) for seed in range(6)], torch.rand(2, 7, 784)
    stack = StackedNet(nets, orders=2)
    together = stack(images)
    for i, net in enumerate(nets):
        assert torch.allclose(together[i], net(images[i // 3]), atol=1e-5)
        assert torch.allclose(stack(images[0])[i], net(images[0]), atol=1e-5)


def test_unstacking_gives_each_net_its_weights_back():
    nets = [random_net(12, seed=seed) for seed in range(4)]
    others = [random_net(12, seed=seed + 10) for seed in range(4)]
    StackedNet(nets, orders=2).unstack(others)
    assert all(same_weights(*pair) for pair in zip(nets, others, strict=True))


def test_a_stack_takes_no_dropout():
    with pytest.raises(UserError, match="dropout"):
        StackedNet([random_net(), random_net(12, 0.0, 0.5)], orders=1)


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


def a_checkpoint(hidden_units=6):
    return {
        "format_version": 1,
        "architecture": "SmallNet",
        "hidden_units": hidden_units,
        "state_dict": weights_of(random_net(hidden_units)),
    }


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


# Writing


def failing(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "error"), [(failing, UserError), (interrupted, KeyboardInterrupt)]
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, step, failure, error
):
    path = tmp_path / "net.pt"
    write_atomically(path, {"old": 1})
    before = everything_in(tmp_path)
    monkeypatch.setattr(os, step, failure)
    with pytest.raises(error) as caught:
        write_atomically(path, {"new": torch.zeros(1000)})
    monkeypatch.undo()
    assert everything_in(tmp_path) == before
    assert read_dict(path) == {"old": 1}
    if error is UserError:
        assert str(path) in str(caught.value)
        assert "No space left on device" in str(caught.value)


def test_a_write_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "written" / "net.pt"
    path.parent.mkdir()
    for value in (1, 2):
        write_atomically(path, {"value": value})
        assert read_dict(path) == {"value": value}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("path", ["missing/net.pt", "file/net.pt", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=path):
        write_atomically(tmp_path / path, {"value": 1})
    assert everything_in(tmp_path) == before


# Lock


def test_an_output_that_is_being_written_is_refused_to_a_second_run(tmp_path):
    with Lock(tmp_path / "net.pt"):
        with pytest.raises(UserError, match=rf"net\.pt.*{os.getpid()}"), Lock(tmp_path / "net.pt"):
            pass
        with Lock(tmp_path / "other.pt"):
            pass
        with pytest.raises(UserError), Lock(tmp_path / "net.pt"):
            pass


def test_the_lock_goes_however_the_run_ends(tmp_path):
    before = everything_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), Lock(tmp_path / "net.pt"):
        raise KeyboardInterrupt
    assert everything_in(tmp_path) == before
    with Lock(tmp_path / "net.pt"):
        pass


def test_a_lock_that_a_killed_run_left_behind_does_not_count(tmp_path):
    (tmp_path / "net.pt.lock").write_text("12345")
    with Lock(tmp_path / "net.pt"):
        pass


# Resume points


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
    write_atomically(tmp_path / "net.pt.resume", content)
    with pytest.raises(UserError, match=r"net\.pt\.resume"):
        ResumePoint(tmp_path / "net.pt", {"seed": 0}).load()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 nothing"])
def test_a_damaged_resume_point_is_refused(tmp_path, content):
    (tmp_path / "net.pt.resume").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.pt\.resume"):
        ResumePoint(tmp_path / "net.pt", {"seed": 0}).load()
