from dataclasses import replace

import numpy as np
import pytest
import torch
from common import first_student, random_digits, random_net, same_weights, some_params, weights_of
from torch import nn

import distillation
from dataset import Mnist, pixels
from distillation import distill, distill_together, distillation_loss, soft_targets
from evaluate import count_errors, logits_of
from support.checkpoints import load_model, save_model
from support.errors import UserError
from support.hyperparameters import default_params
from train import train

TEMPERATURES = [1.0, 2.7, 8.0, 20.0]


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    exponentials = np.exp(logits / temperature)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def some_batch(cases: int = 6, seed: int = 0, spread: float = 3.0):
    """A minibatch with the logits of a teacher, and the logits of a student, in float64."""
    generator = torch.Generator().manual_seed(seed)
    digits = random_digits(cases, seed)
    teacher, student = (
        torch.randn(cases, 10, generator=generator, dtype=torch.float64) * spread for _ in range(2)
    )
    return replace(digits, teacher_logits=teacher), student.requires_grad_()


def loss_and_gradient(digits, logits, temperature, hard_weight=0.0):
    loss = distillation_loss(temperature, hard_weight)(logits, digits)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.item(), gradient.numpy()


# The loss


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_targets_are_the_softmax_of_the_logits_at_the_temperature(temperature):
    logits = torch.randn(7, 10, dtype=torch.float64) * 5
    expected = softmax(logits.numpy(), temperature)
    assert np.allclose(soft_targets(logits, temperature).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("hard_weight", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("cases", [1, 5])
def test_loss_and_gradient_are_those_of_a_weighted_average_over_the_cases(
    temperature, hard_weight, cases
):
    """The divergence from the soft targets times T^2, and the labels at a temperature of 1."""
    digits, logits = some_batch(cases)
    loss, gradient = loss_and_gradient(digits, logits, temperature, hard_weight)
    z, v, right = logits.detach().numpy(), digits.teacher_logits.numpy(), digits.labels.numpy()
    p, q, hard_p = softmax(z, temperature), softmax(v, temperature), softmax(z)
    soft = temperature**2 * np.sum(q * (np.log(q) - np.log(p)), axis=1).mean()
    hard = -np.log(hard_p[range(cases), right]).mean()
    assert loss == pytest.approx((1 - hard_weight) * soft + hard_weight * hard, rel=1e-6)
    soft, hard = temperature * (p - q), hard_p - np.eye(10)[right]
    expected = ((1 - hard_weight) * soft + hard_weight * hard) / cases
    assert np.allclose(gradient, expected, rtol=1e-6, atol=1e-9)


def test_at_a_high_temperature_distillation_is_matching_logits():
    """[KD] s.2.1: with zero-mean logits dC/dz_i -> (z_i - v_i) / (10 N T^2), before T^2."""
    digits, logits = some_batch(5)
    difference = (logits - digits.teacher_logits).detach().numpy()
    difference -= difference.mean(axis=1, keepdims=True)
    _, gradient = loss_and_gradient(digits, logits, 1000.0)
    assert np.allclose(gradient, difference / (10 * 5), rtol=0, atol=0.01 * np.abs(gradient).max())


@pytest.mark.parametrize("temperature", [0.01, 1000.0])
def test_at_the_ends_of_the_range_of_temperatures_float32_gives_the_loss_of_float64(temperature):
    digits, logits = some_batch(cases=100)
    exact, _ = loss_and_gradient(digits, logits, temperature)
    digits = replace(digits, teacher_logits=digits.teacher_logits.float())
    loss, gradient = loss_and_gradient(digits, logits.float(), temperature)
    assert loss == pytest.approx(exact, rel=0.01)
    assert np.isfinite(gradient).all()


def test_images_without_logits_of_a_teacher_are_refused(some_digits):
    params = some_params("Distilled")
    with pytest.raises(UserError, match="with_logits"):
        train(first_student(params), some_digits, params, loss=distillation_loss(20.0, 0.0))


# Distilling


class Counting(nn.Module):
    """A teacher that counts on how many images it runs, and with what switched on."""

    def __init__(self, net):
        super().__init__()
        self.net, self.images, self.states = net, 0, set()

    def forward(self, images):
        self.images += len(images)
        self.states.add((self.training, self.net.training, torch.is_grad_enabled()))
        return self.net(images)


def test_the_targets_are_what_the_teacher_says_once_of_each_image_without_dropout(
    some_digits, batches
):
    teacher, params = Counting(random_net(20, 0.2, 0.5)).train(), some_params("Distilled")
    before = weights_of(teacher)
    distill(first_student(params), teacher, some_digits, params)
    assert teacher.images == len(some_digits) and teacher.states == {(False, False, False)}
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert same_weights(teacher, before)
    assert some_digits.teacher_logits is None
    assert sum(map(len, batches)) == 2 * 500
    for batch in batches:
        with torch.no_grad():
            fresh = teacher(pixels(some_digits.images[batch.indices]))
        assert torch.allclose(batch.teacher_logits, fresh, atol=1e-5)
        assert not batch.teacher_logits.requires_grad
        assert torch.equal(batch.images, pixels(some_digits.images[batch.indices]))  # not moved


def test_distillation_refuses_jitter(some_digits):
    params = some_params("Distilled", jitter=1)
    student = first_student(params)
    with pytest.raises(UserError, match="jitter"):
        distill(student, random_net(), some_digits, params)
    assert same_weights(student, first_student(params))
    with pytest.raises(UserError, match="jitter"):
        default_params("local", "Distilled").jitter = 2


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (random_digits(5)[:0], "no image"),
        (Mnist(random_digits(5), None, "MNIST"), "Mnist is not a set of Digits"),
        ((random_digits(5).images, random_digits(5).labels), "tuple is not a set of Digits"),
        (None, "NoneType is not a set of Digits"),
    ],
    ids=["no images", "all of MNIST", "a pair", "nothing"],
)
def test_what_is_no_transfer_set_is_refused(data, named):
    params = some_params("Distilled")
    with pytest.raises(UserError, match=named):
        distill(first_student(params), random_net(), data, params)


def test_the_student_learns_the_digits_from_the_teacher_alone(sample, teacher):
    net = load_model(teacher)
    params = some_params("Distilled", hidden_units=60, epochs=5, learning_rate=0.004)
    student = first_student(params)
    unlabelled = replace(sample.training, labels=torch.zeros(4000, dtype=torch.int64))
    distill(student, net, unlabelled, params)
    images = sample.test.images
    agreeing = logits_of(student, images).argmax(1) == logits_of(net, images).argmax(1)
    assert agreeing.float().mean() > 0.8
    assert int(count_errors(student, sample.test)) < 250


# Students distilled together


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "learning_rate": 0.5, "rate_schedule": "exponential"},
    ],
    ids=["adam", "sgd"],
)
def test_students_distilled_together_are_those_distilled_alone(some_digits, changes):
    teacher = random_net(20)
    params = some_params("Distilled", batch_size=60, **changes)
    common = {"teacher": teacher, "transfer_set": some_digits, "test_set": some_digits}
    temperatures, seeds = np.array([2.0, 20.0]), np.arange(0, 6, 3)
    students = distill_together(temperatures, seeds, params=params, **common)
    assert [*students] == [(2.0, 0), (20.0, 0), (2.0, 3), (20.0, 3)]
    for (temperature, seed), (student, together) in students.items():
        params.temperature = temperature
        alone, untrained = first_student(params, seed), first_student(params, seed)
        history = distill(alone, params=params, seed=seed, **common)
        parameters = (net.parameters() for net in (student, alone, untrained))
        for a, b, c in zip(*parameters, strict=True):
            assert (a - b).abs().max() < 0.01 * (b - c).abs().max()
        for one, other in zip(history, together, strict=True):
            # In float32 the divergence of two distributions is exact to 1e-7, here times T^2.
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=2e-5)
            assert abs(other["errors"] - one["errors"]) <= 2
            assert (other["epoch"], other["rate"]) == (one["epoch"], one["rate"])


@pytest.mark.parametrize(
    ("temperatures", "seeds", "changes", "named"),
    [
        *[([2.0], [0], {f"dropout_{units}": 0.5}, "take no") for units in ("visible", "hidden")],
        ([2.0], [0], {"hard_weight": 0.1}, "take no"),
        ([2.0], [0], {"max_squared_length": 15.0}, "take no"),
        ([2.0], [0], {"jitter": 1}, "jitter"),
        *[([2.0], [0, 0], {}, "only once"), ([2.0, 2.0], [0], {}, "only once")],
        *[([], [0], {}, "only once"), ([2.0], [], {}, "seed"), ([2.0], [1.5], {}, "seed")],
        ([-1.0], [0], {}, "temperatures"),
    ],
    ids=str,
)
def test_what_cannot_be_distilled_together_is_refused(
    some_digits, temperatures, seeds, changes, named
):
    params = some_params("Distilled", **changes)
    with pytest.raises(UserError, match=named):
        distill_together(temperatures, seeds, random_net(), some_digits, params)


def test_the_default_device_of_the_user_changes_nothing(some_digits, tmp_path):
    params, teacher = some_params("Distilled", epochs=1), random_net(20)
    save_model(tmp_path / "teacher.pt", teacher)

    nets = [first_student(params), first_student(params)]

    def students():
        student, net = nets.pop(), load_model(tmp_path / "teacher.pt")
        distill(student, net, some_digits, params)
        return [student, distill_together([2.0], [1], net, some_digits, params)[2.0, 1][0]]

    usual = students()
    torch.set_default_device("meta")
    try:
        others = students()
    finally:
        torch.set_default_device(None)
    assert all(same_weights(*pair) for pair in zip(usual, others, strict=True))


def test_of_a_sweep_the_teacher_is_read_and_asked_once(call, monkeypatch, teacher):
    asked = []
    monkeypatch.setattr(
        distillation, "logits_of", lambda net, images: asked.append(1) or logits_of(net, images)
    )
    words = "--hidden-units 5 --epochs 1 --batch-size 500 --temperature 2 8 --hard-weight 0.1 0.2"
    call(distillation, "--teacher", teacher, words)
    assert len(asked) == 1
