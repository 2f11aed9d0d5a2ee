import copy

import numpy as np
import pytest
import torch
from common import random_digits, random_net, same_weights, weights_of
from torch import nn

import layers
from evaluate import logits_of
from layers import CumbersomeNet, SmallNet, StackedNet, drop, init_weights, scale_weights
from support.checkpoints import load_model, save_model

# The nets


@pytest.mark.parametrize(
    ("net", "units"), [(CumbersomeNet(), 1200), (SmallNet(), 800), (SmallNet(30), 30)]
)
def test_the_nets_have_the_layers_of_the_paper_and_no_dropout_of_their_own(net, units):
    count = 784 * units + units + units * units + units + units * 10 + 10
    assert sum(parameter.numel() for parameter in net.parameters()) == count
    assert net.dropouts == (0, 0, 0)


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
    for noise, seed, device in ((0, 5, "cpu"), (1, 5, "meta"), (1, 6, "cpu")):
        torch.manual_seed(noise)
        nets.append(SmallNet(10))
        with torch.device(device):
            init_weights(nets[-1], 0.01, seed)
    assert same_weights(nets[0], nets[1])
    assert not same_weights(nets[0], nets[2])


# Dropout in its original form


@pytest.mark.parametrize("mask", [layers._mask_from_bits, layers._mask_from_floats])
@pytest.mark.parametrize("probability", [0.2, 0.5, 0.37, 0.001, 0.01, 0.99, 0.999, 0.999999])
def test_each_unit_is_dropped_with_the_given_probability(mask, probability):
    """On the processor and on all other devices."""
    torch.manual_seed(0)
    kept = mask(torch.ones(8000, 256), probability).double()
    deviation = (probability * (1 - probability)) ** 0.5
    error = 4 * deviation / kept.numel() ** 0.5 + 2**-16  # of 16 random bits
    assert abs(kept.mean().item() - (1 - probability)) < error
    if 0.2 <= probability <= 0.5:
        # the same in each column, for random bits that are shared out in words
        by_column = (kept.mean(dim=0) - (1 - probability)) / deviation * 8000**0.5
        assert by_column.abs().max().item() < 5
        assert abs((by_column**2).mean().item() - 1) < 4 * (2 / 256) ** 0.5


@pytest.mark.parametrize("mask", [layers._mask_from_bits, layers._mask_from_floats])
def test_a_mask_comes_from_the_generator_that_is_given(mask):
    before, units = torch.get_rng_state(), torch.ones(1000)
    one, other, again = (
        mask(units, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 2, 1)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.37])
def test_units_are_dropped_independently_of_each_other_and_of_earlier_calls(probability):
    torch.manual_seed(1)
    kept, again = (drop(torch.ones(300_000), probability).double() for _ in range(2))
    pairs = [(kept[offset:], kept[:-offset]) for offset in (1, 2, 3, 4, 7, 8, 16)]
    expected = (1 - probability) ** 2
    for one, other in [*pairs, (kept, again)]:
        both = (one * other).mean().item()
        assert abs(both - expected) < 5 * (expected * (1 - expected) / 3e5) ** 0.5


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 7), (101, 13), (2, 784)])
@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5])
def test_units_that_are_kept_are_not_rescaled_and_pass_the_gradient(shape, probability):
    torch.manual_seed(3)
    units = (torch.randn(shape) + 10).requires_grad_()
    before = units.detach().clone()
    dropped = drop(units, probability)
    assert dropped.shape == units.shape
    assert ((dropped == units) | (dropped == 0)).all()
    assert probability or torch.equal(dropped, units)
    dropped.sum().backward()
    assert torch.equal(units.grad, (dropped != 0).float())
    assert torch.equal(units, before)


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

    def drop_and_record(units, probability, _):
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
def test_a_copy_with_scaled_weights_gives_the_same_logits_bit_for_bit(cls):
    net, images = random_net(40, 0.2, 0.5, cls=cls).eval(), torch.rand(64, 784)
    logits, before, scaled = net(images), weights_of(net), scale_weights(net)
    assert torch.equal(scaled(images), logits)
    assert (scaled.dropouts, scaled.training) == ((0, 0, 0), False)
    plain = nn.Sequential(
        nn.Linear(784, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10)
    )
    plain.load_state_dict(dict(zip(plain.state_dict(), scaled.state_dict().values(), strict=True)))
    assert torch.equal(plain(images), logits)
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
    with pytest.raises(ValueError, match="dropout"):
        StackedNet([random_net(), random_net(12, 0.0, 0.5)], orders=1)


# An ordinary module


@pytest.fixture
def loaded(tmp_path):
    save_model(tmp_path / "net.pt", random_net(20, 0.2, 0.5, cls=CumbersomeNet))
    return load_model(tmp_path / "net.pt")


def test_a_loaded_net_is_three_linear_layers_and_two_relus(loaded):
    assert [type(module) for module in loaded.children()] == [nn.Linear] * 3 + [nn.ReLU] * 2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("training", [False, True])
def test_hooks_on_every_layer_fire_once_and_see_what_the_net_computes(training, dropout):
    net, calls, gradients = random_net(20, dropout, dropout).train(training), [], []
    for name, module in net.named_children():
        module.register_forward_hook(lambda _, x, y, name=name: calls.append((name, x[0], y)))
        module.register_full_backward_hook(lambda _, x, y: gradients.append(y[0]))
    images = torch.rand(3, 784, requires_grad=True)
    logits = net(images)
    logits[:, 3].sum().backward()
    names = [name for name, _, _ in calls]
    assert names == ["hidden1", "relu1", "hidden2", "relu2", "output"]
    assert torch.equal(calls[0][1], images) and torch.equal(calls[-1][2], logits)
    assert [g.shape for g in gradients] == [y.shape for _, _, y in reversed(calls)]


@pytest.mark.filterwarnings("ignore")  # some of these tools are on their way out
@pytest.mark.parametrize("shape", [(3, 784), (3, 28, 28), (3, 1, 28, 28)])
@pytest.mark.parametrize(
    "tool",
    [
        lambda net, images: torch.jit.script(net),
        lambda net, images: torch.jit.freeze(torch.jit.script(net)),
        lambda net, images: torch.jit.trace(net, images),
        lambda net, images: torch.fx.symbolic_trace(net),
        lambda net, images: torch.export.export(net, (images,)).module(),
        lambda net, images: copy.deepcopy(net),
        lambda net, images: lambda x: torch.func.functional_call(net, net.state_dict(), (x,)),
        lambda net, images: torch.func.vmap(lambda x: net(x[None])[0]),
    ],
    ids=["script", "freeze", "trace", "fx", "export", "deepcopy", "functional", "vmap"],
)
def test_tools_that_take_modules_take_a_loaded_net(loaded, tool, shape):
    images = torch.rand(shape)
    expected = numpy_logits(loaded, images.view(3, 784))
    assert np.allclose(tool(loaded, images)(images).detach(), expected, rtol=1e-4, atol=1e-4)
