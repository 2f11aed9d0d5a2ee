import contextlib
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import (
    DROPOUT,
    TRAININGS,
    everything_in,
    first_net,
    random_digits,
    random_net,
    same_weights,
    some_params,
    trained,
    weights_of,
)

import train as train_script
from dataset import as_digits, get_dataloader, pixels
from distillation import distill
from evaluate import count_errors, logits_of, measure
from layers import CumbersomeNet, init_weights, scale_weights
from support.checkpoints import load_checkpoint, load_model
from support.errors import TrainingFailed, UserError
from support.hyperparameters import default_params
from train import hard_loss, make_optimizer, schedule, set_schedule, train
from training_params import LocalParams, PaperParams

# Schedules


@pytest.mark.parametrize("epoch", [0, 1, 250, 499, 500, 501, 2999])
@pytest.mark.parametrize("batch", [0, 599])
def test_rate_and_momentum_are_the_published_ones(epoch, batch):
    rate, momentum = schedule(PaperParams.Cumbersome, epoch * 600 + batch, 3000 * 600)
    part = min(epoch / 500, 1)
    assert rate == pytest.approx(10 * 0.998**epoch, rel=1e-12)
    assert momentum == pytest.approx(part * 0.99 + (1 - part) * 0.5, rel=1e-12)


@pytest.mark.parametrize("epochs", [10, 30, 3000, 6000])
def test_a_training_of_another_length_passes_through_the_whole_schedule(epochs):
    params = default_params("paper", "Cumbersome")
    params.epochs = epochs
    steps = epochs * 600
    assert schedule(params, 0, steps) == (10, 0.5)
    for share, epoch in ((0.1, 300), (1 / 6, 500), (0.5, 1500), (1 - 1 / steps, 2999)):
        rate, momentum = schedule(params, round(share * steps), steps)
        assert rate == pytest.approx(10 * 0.998**epoch, rel=1e-12)
        assert momentum == pytest.approx(0.5 + 0.49 * min(epoch / 500, 1), rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 40])
def test_the_linear_schedule_falls_evenly_to_near_0(epochs):
    params, steps = some_params(rate_schedule="linear", learning_rate=0.5), epochs * 600
    rates = [schedule(params, step, steps)[0] for step in range(steps)]
    assert rates[0] == 0.5
    assert rates[-1] == pytest.approx(0.5 / steps)
    assert np.allclose(np.diff(rates), -0.5 / steps)


def test_the_momentum_method_is_that_of_the_paper_step_by_step():
    """dw(t) = p(t) dw(t-1) - (1 - p(t)) e(t) gradient, on (1/2) sum of a (w - c)^2."""
    a, c = np.array([1.0, 3.0, 0.5]), np.array([0.3, -1.0, 2.0])
    module = torch.nn.Linear(3, 1, bias=False).double()
    params = some_params(optimizer="sgd", learning_rate=0.3, momentum_start=0.5)
    optimizer = make_optimizer(module, params)
    w, dw = module.weight.detach().numpy()[0].copy(), np.zeros(3)
    for rate, momentum in ((0.3, 0.5), (0.2, 0.7), (0.1, 0.9), (0.4, 0.99)):
        factor = set_schedule(optimizer, rate, momentum)
        loss = (torch.tensor(a) * (module.weight - torch.tensor(c)) ** 2).sum() / 2
        (loss * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
        dw = momentum * dw - (1 - momentum) * rate * a * (w - c)
        w = w + dw
        assert np.allclose(module.weight.detach().numpy()[0], w, rtol=1e-12, atol=1e-12)


def test_a_momentum_that_starts_at_0_keeps_the_last_step_for_the_next():
    """dw(t) = p(t) dw(t-1) - ..., with dw(t-1) that of a step whose own p was 0."""
    module = torch.nn.Linear(1, 1, bias=False)
    params = some_params(optimizer="sgd", momentum_start=0.0)
    optimizer = make_optimizer(module, params)
    w, dw = module.weight.item(), 0.0
    for rate, momentum in ((0.5, 0.0), (0.4, 0.0), (0.3, 0.6), (0.2, 0.9)):
        factor = set_schedule(optimizer, rate, momentum)
        ((module.weight**2).sum() / 2 * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
        dw = momentum * dw - (1 - momentum) * rate * w
        w += dw
        assert module.weight.item() == pytest.approx(w, rel=1e-4, abs=1e-7)


def test_a_training_with_sgd_takes_the_steps_of_the_paper():
    digits = random_digits(40)
    params = some_params(
        **{"optimizer": "sgd", "rate_schedule": "exponential", "rate_decay": 0.9},
        **{"learning_rate": 0.5, "epochs": 5, "schedule_epochs": 5, "batch_size": 40},
        **{"momentum_start": 0.5, "momentum_end": 0.9, "momentum_epochs": 4},
    )
    net = first_net(params).double()
    expected = first_net(params).double()
    steps = [torch.zeros_like(p) for p in expected.parameters()]
    for t in range(5):
        momentum, rate = 0.5 + 0.4 * min(t / 4, 1), 0.5 * 0.9**t
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


def test_the_update_does_not_depend_on_how_often_the_cases_of_a_batch_are_repeated():
    digits = random_digits(20)
    params = some_params(optimizer="sgd", learning_rate=0.5, epochs=1, batch_size=20)
    once, _ = trained(params, digits)
    params.batch_size = 60
    thrice, _ = trained(params, digits[torch.arange(20).repeat(3)])
    for one, other in zip(once.parameters(), thrice.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_history_has_the_mean_loss_over_the_cases_and_the_rate():
    digits = random_digits(70)  # batches of 50 and 20
    params = some_params(epochs=1, learning_rate=1e-12)
    net, history = trained(params, digits, test_set=digits)
    expected = F.cross_entropy(net.eval()(pixels(digits.images)), digits.labels).item()
    assert [entry["epoch"] for entry in history] == [1]
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert history[0]["rate"] == pytest.approx(1e-12)
    assert history[0]["errors"] == count_errors(net, digits)


# What a training does


def test_hard_loss_is_the_cross_entropy_averaged_over_the_cases():
    logits, digits = torch.randn(7, 10).double(), random_digits(7)
    exponentials = np.exp(logits.numpy())
    right = exponentials[range(7), digits.labels.numpy()] / exponentials.sum(axis=1)
    assert hard_loss(logits, digits).item() == pytest.approx(-np.log(right).mean(), rel=1e-12)


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
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(some_digits, changes):
    params = some_params(**changes)
    torch.manual_seed(123)
    one, history = trained(params, some_digits, seed=1, test_set=some_digits)
    torch.manual_seed(456)
    same, same_history = trained(params, some_digits, seed=1, test_set=some_digits)
    assert same_weights(one, same)
    assert history == same_history
    first = first_net(params, seed=1)
    train(first, some_digits, params, seed=2)
    assert not same_weights(one, first)


@pytest.mark.parametrize("changes", TRAININGS.values(), ids=TRAININGS)
def test_evaluating_each_epoch_or_never_gives_the_same_weights(some_digits, changes):
    params = some_params(epochs=3, **changes)
    often, history = trained(params, some_digits, test_set=some_digits)
    never, other = trained(params, some_digits)
    assert all("errors" in entry for entry in history)
    assert not any("errors" in entry for entry in other)
    assert same_weights(often, never)


def test_units_are_dropped_in_every_epoch_and_never_in_evaluation(some_digits):
    params = some_params(epochs=3, batch_size=250, **DROPOUT)
    net, modes = first_net(params), []
    net.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    train(net, some_digits, params, test_set=some_digits)
    assert modes == [False] + [True, True, False] * 3  # the first is a look at what it returns


def test_a_test_set_of_another_kind_is_refused_before_training(some_digits, sample, batches):
    with pytest.raises(UserError, match="Mnist is not a set of Digits"):
        train(random_net(), some_digits, some_params(), test_set=sample)
    assert not batches


def test_bf16_leaves_weights_in_float32_and_changes_them_little(some_digits):
    params = some_params()
    exact, _ = trained(params, some_digits)
    rough, _ = trained(params, some_digits, precision="bf16")
    assert all(p.dtype == torch.float32 for p in rough.parameters())
    assert not same_weights(exact, rough)
    images = some_digits.images
    assert (logits_of(exact, images) - logits_of(rough, images)).abs().max() < 0.5


def test_bf16_learns_as_fast_as_fp32(some_digits):
    params = some_params(epochs=20, schedule_epochs=20)
    losses = [
        [entry["loss"] for entry in trained(params, some_digits, precision=precision)[1]]
        for precision in ("fp32", "bf16")
    ]
    assert losses[0][-1] < losses[0][0] / 2
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_a_first_epoch_of_the_loader_is_the_first_of_the_training(some_digits, batches):
    trained(some_params(epochs=1), some_digits, seed=5)
    seen = list(batches)
    batches.clear()
    alone = list(get_dataloader(some_digits, 50, seed=5))
    assert all(
        torch.equal(one.indices, other.indices) for one, other in zip(seen, alone, strict=True)
    )


def test_a_single_image_can_be_trained_on():
    digits = as_digits(torch.zeros(1, 28, 28, dtype=torch.uint8), torch.tensor([3]))
    net, history = trained(some_params(batch_size=1, epochs=3), digits)
    assert len(history) == 3
    assert all(torch.isfinite(p).all() for p in net.parameters())


@pytest.mark.parametrize("misspelt", [{"optimizer": "adamw"}, {"rate_schedule": "cosine"}])
def test_a_misspelt_value_is_an_error_from_python_too(some_digits, misspelt):
    with pytest.raises(UserError):
        trained(some_params(**misspelt), some_digits)
    with pytest.raises(UserError):
        trained(some_params(), some_digits, precision="fp16")


def test_a_batch_size_larger_than_the_data_set_is_refused(some_digits):
    with pytest.raises(UserError, match="501"):
        trained(some_params(batch_size=501), some_digits)


def test_training_leaves_the_data_set_as_it_was(some_digits):
    before = some_digits.images.clone()
    trained(some_params(epochs=1, jitter=2), some_digits)
    assert torch.equal(some_digits.images, before)


def test_training_in_place_starts_from_the_present_weights(some_digits):
    params = some_params(epochs=1, learning_rate=1e-12)
    net = random_net()
    before = weights_of(net)
    train(net, some_digits, params)
    assert all(torch.allclose(net.state_dict()[k], before[k], atol=1e-6) for k in before)


# Failing


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(some_digits, value):
    with pytest.raises(TrainingFailed, match="epoch 1"):
        trained(some_params(), some_digits, loss=lambda logits, batch: logits.sum() * value)


def test_weights_that_are_not_finite_after_the_last_step_are_a_failure_too(some_digits):
    params = some_params(epochs=1, batch_size=500)
    with pytest.raises(TrainingFailed):  # the loss is 0, its gradient is not a number
        trained(params, some_digits, loss=lambda logits, batch: (logits * 0).sum().sqrt())


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
    assert "never left chance" in stop.out
    assert load_checkpoint("net.pt")["result"]["errors"] > 800


# The checkpoint of a run


def test_the_checkpoint_of_a_run_tells_how_it_was_made(call, sample):
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
    assert checkpoint["result"] == measure(load_model("net.pt"), sample.test)
    assert checkpoint["result"]["errors"] == checkpoint["history"][-1]["errors"]
    plain = {k: v for k, v in checkpoint.items() if k != "state_dict"}
    assert json.loads(json.dumps(plain)) == plain


def test_the_script_trains_what_the_function_trains(call, sample):
    words = "--hidden-units 10 --epochs 2 --batch-size 500 --seed 7 --output net.pt --quiet"
    call(train_script, words)
    params = some_params("Cumbersome", hidden_units=10, epochs=2, batch_size=500)
    params.schedule_epochs = LocalParams.Cumbersome.schedule_epochs
    net = CumbersomeNet(10, 0.2, 0.5)
    init_weights(net, params.init_std, 7)
    train(net, sample.training, params, seed=7)
    assert same_weights(load_model("net.pt"), scale_weights(net))


def test_with_validation_the_last_cases_are_held_out_and_the_test_set_is_not_used(
    call, sample, batches
):
    words = "--model small --hidden-units 10 --epochs 1 --batch-size 400 --validation"
    call(train_script, words, "--output net.pt --quiet")
    seen = torch.cat([batch.indices for batch in batches])
    assert sorted(seen.tolist()) == sorted(sample.training.indices[:3200].tolist())
    checkpoint = load_checkpoint("net.pt")
    assert checkpoint["data_set"]["name"] == "sample validation"
    assert checkpoint["result"] == measure(load_model("net.pt"), sample.training[3200:])


def test_the_cumbersome_net_is_trained_on_jittered_images_and_the_small_one_is_not(
    call, sample, batches
):
    for model, moved in (("cumbersome", True), ("small", False)):
        batches.clear()
        words = f"--model {model} --hidden-units 5 --epochs 1 --batch-size 2000 --output {model}.pt"
        call(train_script, words, "--quiet")
        unmoved = torch.cat(
            [(b.images == pixels(sample.training.images[b.indices])).all(dim=1) for b in batches]
        )
        assert len(unmoved) == 4000
        if moved:
            assert unmoved.float().mean() < 0.1  # 1 in 25
        else:
            assert unmoved.all()


def test_more_threads_are_used_if_asked_for(call):
    words = "--hidden-units 2 --epochs 1 --batch-size 4000 --output net.pt --quiet --threads 2"
    call(train_script, words)
    assert torch.get_num_threads() == 2
    assert load_checkpoint("net.pt")["versions"]["threads"] == 2


# From Python


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_generator_is_given_back_as_it_was(some_digits, fails):
    params = some_params(**DROPOUT)
    net = first_net(params)
    loss = (lambda logits, _: logits.mean() * float("nan")) if fails else hard_loss
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with pytest.raises(TrainingFailed) if fails else contextlib.nullcontext():
        train(net, some_digits, params, seed=5, loss=loss)
    assert torch.equal(torch.rand(3), expected)


def test_the_weights_do_not_depend_on_the_global_generator(some_digits):
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(trained(some_params(**DROPOUT), some_digits, seed=5)[0])
    assert same_weights(*nets)


def test_the_default_device_of_the_user_changes_nothing(some_digits):
    params = some_params(**DROPOUT)
    usual, _ = trained(params, some_digits, seed=np.int64(3))
    net = first_net(params, 3)
    torch.set_default_device("meta")
    try:
        init_weights(net, 0.05, 3)
        train(net, some_digits, params, seed=3, test_set=some_digits)
    finally:
        torch.set_default_device(None)
    assert same_weights(usual, net)


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda net: torch.nn.Sequential(net)])
def test_a_wrapped_net_is_trained_as_the_net_inside(some_digits, wrap):
    params = some_params(optimizer="sgd", learning_rate=0.1)
    plain, inside = first_net(params), first_net(params)
    train(plain, some_digits, params)
    train(wrap(inside), some_digits, params)
    assert same_weights(plain, inside)


def test_the_constraint_acts_on_a_wrapped_net_too(some_digits):
    params = some_params(max_squared_length=0.01)
    net = first_net(params)
    train(torch.nn.DataParallel(net), some_digits, params)
    lengths = (net.hidden1.weight**2).sum(1)
    assert lengths.max() < 0.0101
    with pytest.raises(UserError, match="max_squared_length"):
        train(torch.nn.Linear(784, 10), some_digits, params)


@pytest.mark.parametrize("seed", [1.5, "one", None, [1.5]])
def test_a_seed_that_is_not_a_whole_number_is_refused(some_digits, seed):
    with pytest.raises(UserError, match="seed"):
        train(first_net(some_params()), some_digits, some_params(), seed=seed)


@pytest.mark.parametrize("test_set", [False, True])
def test_a_trained_net_is_left_in_eval_mode(some_digits, test_set):
    net = first_net(some_params(**DROPOUT))
    train(net, some_digits, some_params(**DROPOUT), test_set=some_digits if test_set else None)
    assert not net.training


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, []])
def test_a_seed_of_more_than_64_bits_is_refused(some_digits, seed):
    with pytest.raises(UserError, match="64 bits"):
        train(first_net(some_params()), some_digits, some_params(), seed=seed)


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
def test_the_mode_that_surrounds_a_call_changes_nothing(some_digits, mode):
    params = some_params(**DROPOUT)
    usual, inside = first_net(params), first_net(params)
    train(usual, some_digits, params)
    with mode():
        train(inside, some_digits, params)
    assert same_weights(usual, inside)


def test_gradients_that_were_there_before_do_not_count(some_digits):
    params = some_params(optimizer="sgd", learning_rate=0.1)
    usual, other = first_net(params), first_net(params)
    for parameter in other.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    train(usual, some_digits, params)
    train(other, some_digits, params)
    assert same_weights(usual, other)


def frozen():
    net = first_net(some_params())
    return net.requires_grad_(False)


UNFIT = {
    "47 classes": lambda: torch.nn.Linear(784, 47),
    "one class": lambda: torch.nn.Linear(784, 1),
    "half precision": lambda: first_net(some_params()).half(),
    "double precision": lambda: first_net(some_params()).double(),
    "no weights": lambda: torch.nn.Flatten(),
    "frozen": frozen,
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


@pytest.mark.parametrize("seed", [[1], [1, 2]])
def test_several_seeds_are_for_a_stack(some_digits, seed):
    with pytest.raises(UserError, match="one seed"):
        train(first_net(some_params()), some_digits, some_params(), seed=seed)


@pytest.mark.parametrize("wrong", ["all of MNIST", "a pair", "nothing"])
def test_a_data_set_of_another_class_is_refused(sample, wrong):
    digits = sample.training
    data = {"all of MNIST": sample, "a pair": (digits.images, digits.labels), "nothing": None}
    with pytest.raises(UserError, match="Digits"):
        train(first_net(some_params()), data[wrong], some_params())
    with pytest.raises(UserError, match="Digits"):
        distill(
            first_net(some_params()),
            first_net(some_params()),
            data[wrong],
            some_params("Distilled"),
        )
