import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import (
    DROPOUT,
    ROOT,
    TRAININGS,
    everything_in,
    first_net,
    random_digits,
    same_weights,
    some_params,
    trained,
    weights_of,
)

import train as train_script
from dataset import Mnist, pixels
from evaluate import count_errors, measure
from layers import init_weights
from support.checkpoints import load_checkpoint
from support.errors import TrainingFailed, UserError
from support.hyperparameters import default_params
from support.records import provenance
from train import schedule, train

# Schedules


@pytest.mark.parametrize("epochs", [10, 30, 3000, 6000])
def test_rate_and_momentum_are_the_published_ones_in_a_run_of_any_length(epochs):
    params, steps = default_params("paper", "Cumbersome"), epochs * 600
    for epoch in (0, 1, 250, 299, 300, 499, 500, 501, 1500, 2999):
        for step in (-(-epoch * steps // 3000), -(-(epoch + 1) * steps // 3000) - 1):
            rate, momentum = schedule(params, step, steps)
            part = min(epoch / 500, 1)
            assert rate == pytest.approx(10 * 0.998**epoch, rel=1e-12)
            assert momentum == pytest.approx(part * 0.99 + (1 - part) * 0.5, rel=1e-12)


def test_the_linear_schedule_falls_evenly_to_near_0():
    params = some_params(rate_schedule="linear", learning_rate=0.5)
    rates = [schedule(params, step, 600)[0] for step in range(600)]
    assert np.allclose(rates, np.linspace(0.5, 0, 600, endpoint=False), rtol=1e-12)


@pytest.mark.parametrize("start", [0.5, 0.0])
def test_a_training_with_sgd_takes_the_steps_of_the_paper(start):
    """dw(t) = p(t) dw(t-1) - (1 - p(t)) e(t) gradient, also where p(t-1) was 0."""
    digits = random_digits(40)
    params = some_params(
        **{"optimizer": "sgd", "rate_schedule": "exponential", "rate_decay": 0.9},
        **{"learning_rate": 0.5, "epochs": 5, "schedule_epochs": 5, "batch_size": 40},
        **{"momentum_start": start, "momentum_end": 0.9, "momentum_epochs": 4},
    )
    net = first_net(params).double()
    expected = first_net(params).double()
    steps = [torch.zeros_like(p) for p in expected.parameters()]
    for t in range(5):
        momentum, rate = start + (0.9 - start) * min(t / 4, 1), 0.5 * 0.9**t
        loss = F.cross_entropy(expected(pixels(digits.images).double()), digits.labels)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for w, dw, gradient in zip(expected.parameters(), steps, gradients, strict=True):
                dw.copy_(momentum * dw - (1 - momentum) * rate * gradient)
                w += dw
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    train(net, digits, params)
    for name, value in net.state_dict().items():
        assert torch.allclose(value, expected.state_dict()[name], rtol=1e-5, atol=1e-6), name


def test_a_training_with_adam_takes_the_steps_of_adam_with_a_falling_rate():
    digits = random_digits(40)
    params = some_params(
        epochs=4, schedule_epochs=4, batch_size=40, learning_rate=0.01, adam_beta2=0.6
    )
    net, _ = trained(params, digits)
    expected = first_net(params)
    first, second = ([torch.zeros_like(p) for p in expected.parameters()] for _ in range(2))
    for t in range(1, 5):
        loss = F.cross_entropy(expected(pixels(digits.images)), digits.labels)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for w, m, v, g in zip(expected.parameters(), first, second, gradients, strict=True):
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.6 * v + 0.4 * g * g)
                step = m / (1 - 0.9**t) / ((v / (1 - 0.6**t)).sqrt() + 1e-8)
                w -= 0.01 * (1 - (t - 1) / 4) * step
    images = pixels(digits.images)
    assert torch.allclose(net(images), expected(images), atol=2e-3)


@pytest.mark.parametrize(("cases", "batch_size"), [(70, 50), (1, 1)])
def test_the_history_has_the_mean_loss_over_the_cases_and_the_rate(cases, batch_size):
    digits = random_digits(cases)
    params = some_params(epochs=1, learning_rate=1e-12, batch_size=batch_size)
    net, history = trained(params, digits, test_set=digits)
    expected = F.cross_entropy(net.eval()(pixels(digits.images)), digits.labels).item()
    assert [entry["epoch"] for entry in history] == [1]
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert history[0]["rate"] == pytest.approx(1e-12)
    assert history[0]["errors"] == count_errors(net, digits)


# What a training does


@pytest.mark.parametrize("changes", TRAININGS.values(), ids=TRAININGS)
def test_training_learns_the_digits(sample, changes):
    if changes["optimizer"] == "sgd":  # so small a net does not stand so much dropout
        changes = changes | {"dropout_hidden": 0.1, "dropout_visible": 0.05, "jitter": 1}
    params = some_params(hidden_units=60, epochs=4, schedule_epochs=4, batch_size=50, **changes)
    net, _ = trained(params, sample.training)
    assert int(count_errors(net, sample.test)) < 200


def test_all_hidden_units_obey_the_constraint_after_steps_with_a_large_rate(some_digits):
    params = some_params(**DROPOUT | {"learning_rate": 300.0}, epochs=1)
    longest = {}
    for limit in (0.0, 15.0):
        params.max_squared_length = limit
        net = first_net(params)
        with torch.no_grad():
            net.hidden1.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
        train(net, some_digits, params)
        longest[limit] = [
            (layer.weight.double() ** 2).sum(dim=1).max().item()
            for layer in (net.hidden1, net.hidden2, net.output)
        ]
    assert min(longest[0.0]) > 15
    assert max(longest[15.0][:2]) <= 15 * (1 + 1e-5)
    assert longest[15.0][2] > 15  # the output layer is free


@pytest.mark.parametrize("changes", TRAININGS.values(), ids=TRAININGS)
def test_weights_depend_on_the_seed_and_not_on_evaluation(some_digits, changes):
    params = some_params(epochs=3, **changes)
    torch.manual_seed(123)
    one, history = trained(params, some_digits, seed=1, test_set=some_digits)
    torch.manual_seed(456)
    same, without_errors = trained(params, some_digits, seed=1)
    assert same_weights(one, same)
    assert all(entry.pop("errors") > 0 for entry in history)
    assert history == without_errors
    first = first_net(params, seed=1)
    train(first, some_digits, params, seed=2)
    assert not same_weights(one, first)


@pytest.mark.parametrize("modes", [[True, True, False], [True, True]], ids=["tested", "untested"])
def test_units_are_dropped_in_every_epoch_and_never_in_evaluation(some_digits, modes):
    params = some_params(epochs=3, batch_size=250, **DROPOUT)
    net, seen, before = first_net(params), [], some_digits.images.clone()
    net.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    train(net, some_digits, params, test_set=None if all(modes) else some_digits)
    assert seen == [False] + modes * 3  # the first is a look at what it returns
    assert not net.training
    assert torch.equal(some_digits.images, before)


def test_bf16_learns_as_fast_as_fp32_and_leaves_weights_in_float32(some_digits):
    params = some_params(epochs=20, schedule_epochs=20)
    nets, histories = zip(
        *(trained(params, some_digits, precision=precision) for precision in ("fp32", "bf16")),
        strict=True,
    )
    exact, rough = ([entry["loss"] for entry in history] for history in histories)
    assert exact[-1] < exact[0] / 2
    assert rough == pytest.approx(exact, rel=0.1)
    assert all(p.dtype == torch.float32 for p in nets[1].parameters())
    assert not same_weights(*nets)


# Failing


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, batch: logits.sum() * float("nan"),
        lambda logits, batch: logits.sum() * float("inf"),
        lambda logits, batch: (logits * 0).sum().sqrt(),  # 0, whose gradient is not a number
    ],
)
def test_what_is_not_finite_stops_the_training_and_gives_the_global_generator_back(
    some_digits, loss
):
    net = first_net(params := some_params(batch_size=500, epochs=1, **DROPOUT))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with pytest.raises(TrainingFailed, match="epoch 1"):
        train(net, some_digits, params, seed=5, loss=loss)
    assert torch.equal(torch.rand(3), expected)


def test_a_training_that_fails_leaves_no_checkpoint(stops, tmp_path):
    words = "--model small --hidden-units 20 --epochs 30 --learning-rate 1e6 --optimizer sgd"
    stop = stops(train_script, words, "--output net.pt")
    assert stop.status == 1
    assert re.fullmatch(r"error: .* not finite in epoch 1 \(learning rate 1e\+06\).*\n", stop.err)
    assert everything_in(tmp_path) == {"here": None}


def test_a_net_that_never_left_chance_is_reported(stops):
    words = "--model small --hidden-units 2 --epochs 1 --learning-rate 1e-9 --output net.pt"
    stop = stops(train_script, words)
    assert stop.status == 0
    assert "no better than chance" in stop.out
    assert load_checkpoint("net.pt")["result"]["errors"] > 800


def test_the_checkpoint_of_a_run_tells_how_it_was_made(call):
    words = "--model small --hidden-units 10 --epochs 2 --batch-size 500 --seed 7 --output net.pt"
    call(train_script, words, "--quiet")
    checkpoint = load_checkpoint("net.pt")
    assert checkpoint["architecture"] == "SmallNet"
    assert checkpoint["seed"] == 7
    assert checkpoint["precision"] == "fp32"
    assert checkpoint["teacher"] is None
    assert checkpoint["command"] == f"python train.py {words} --data sample --device cpu"
    assert checkpoint["data_set"] == {
        "name": "sample",
        "training_cases": 4000,
        "digits": list(range(10)),
        "test_cases": 1000,
    }
    assert [entry["epoch"] for entry in checkpoint["history"]] == [1, 2]
    assert checkpoint["versions"]["torch"] == torch.__version__
    assert checkpoint["versions"]["device"] == "cpu"
    plain = {k: v for k, v in checkpoint.items() if k != "state_dict"}
    assert json.loads(json.dumps(plain)) == plain


def test_the_recorded_command_names_the_script_without_its_folder(monkeypatch):
    """And a module as Python is to be told to run it."""
    module = str(ROOT / "results" / "moved_images.py")
    for script, called in (("/home/me/train.py", "train.py"), (module, "-m results.moved_images")):
        monkeypatch.setattr("sys.argv", [script, "--seed", "1", "--quiet"])
        assert provenance(torch.device("cpu"))["command"] == f"python {called} --seed 1"


# From Python


@pytest.fixture
def usual(some_digits):
    """What a training with dropout and jitter makes of a net, with nothing odd around it."""
    return weights_of(trained(some_params(**DROPOUT), some_digits, seed=3)[0])


def test_the_default_device_of_the_user_changes_nothing(some_digits, usual):
    net = first_net(params := some_params(**DROPOUT), 3)
    torch.set_default_device("meta")
    try:
        init_weights(net, 0.05, 3)
        train(net, some_digits, params, seed=np.int64(3), test_set=some_digits)
    finally:
        torch.set_default_device(None)
    assert same_weights(usual, net)


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.set_grad_enabled(False),
    ],
    ids=["no_grad", "inference_mode", "autocast", "set_grad_enabled"],
)
def test_the_mode_that_surrounds_a_call_and_earlier_gradients_change_nothing(
    some_digits, usual, mode
):
    net = first_net(params := some_params(**DROPOUT), 3)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with mode():
        train(net, some_digits, params, seed=3)
    assert torch.equal(torch.rand(3), expected)
    assert same_weights(usual, net)


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda net: torch.nn.Sequential(net)])
def test_a_wrapped_net_is_trained_as_the_net_inside(some_digits, wrap):
    constrained = wrap is torch.nn.DataParallel
    params = some_params(max_squared_length=0.01 if constrained else 0.0)
    plain, inside = first_net(params), first_net(params)
    train(plain, some_digits, params)
    train(wrap(inside), some_digits, params)
    assert same_weights(plain, inside)
    assert ((inside.hidden1.weight**2).sum(1).max() < 0.0101) == constrained


def test_dropout_of_another_module_depends_on_the_seed_alone(some_digits):
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(torch.nn.Sequential(first_net(some_params()), torch.nn.Dropout(0.1)))
        train(nets[-1], some_digits, some_params())
    assert same_weights(*nets)


def test_after_a_training_a_net_draws_from_the_generator_of_the_user(some_digits):
    net, _ = trained(params := some_params(**DROPOUT), some_digits)
    state = torch.get_rng_state()
    net.train()(torch.rand(3, 784, generator=torch.Generator()))
    assert not torch.equal(torch.get_rng_state(), state) and params.dropout_hidden


UNFIT = {
    "47 classes": lambda: torch.nn.Linear(784, 47),
    "one class": lambda: torch.nn.Linear(784, 1),
    "half precision": lambda: first_net(some_params()).half(),
    "double precision": lambda: first_net(some_params()).double(),
    "no weights": lambda: torch.nn.Flatten(),
    "frozen": lambda: first_net(some_params()).requires_grad_(False),
    "a class": lambda: torch.nn.Linear,
    "nothing": lambda: None,
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_net_that_cannot_be_trained_is_refused_at_once(some_digits, batches, what):
    with pytest.raises(UserError) as error:
        train(UNFIT[what](), some_digits, some_params())
    assert len(str(error.value).splitlines()) == 1
    assert not batches
    if what not in ("no weights", "frozen"):
        with pytest.raises(UserError):
            measure(UNFIT[what](), some_digits)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        *[({"seed": seed}, "64 bits") for seed in (1.5, "one", None, [1.5], 2**64, -(2**63) - 1)],
        *[({"seed": seed}, "64 bits") for seed in ([], [None])],
        *[({"seed": seed}, "one seed") for seed in ([1], [1, 2])],
        ({"precision": "fp16"}, "fp16"),
        ({"params": some_params(optimizer="adamw")}, "optimizer"),
        ({"params": some_params(batch_size=501)}, "501"),
        ({"test_set": Mnist(None, None, "MNIST")}, "Mnist is not a set of Digits"),
        ({"training_set": Mnist(None, None, "MNIST")}, "Mnist is not a set of Digits"),
        ({"training_set": (random_digits(5).images, 3)}, "tuple is not a set of Digits"),
        ({"training_set": None}, "NoneType is not a set of Digits"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_argument_is_refused_before_any_step(some_digits, wrong, named):
    net = first_net(some_params())
    before = weights_of(net)
    with pytest.raises(UserError, match=named):
        train(net, **{"training_set": some_digits, "params": some_params()} | wrong)
    assert same_weights(net, before)


def test_a_constraint_for_a_net_that_has_none_is_refused(some_digits):
    with pytest.raises(UserError, match="max_squared_length"):
        train(torch.nn.Linear(784, 10), some_digits, some_params(max_squared_length=0.01))
