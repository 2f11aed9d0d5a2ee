from dataclasses import replace

import numpy as np
import pytest
import torch
from common import first_student, random_digits, random_net, same_weights, some_params, weights_of
from torch import nn

import distillation
from dataset import pixels
from distillation import distill, distill_together, distillation_loss, soft_targets
from evaluate import count_errors, logits_of
from support.checkpoints import load_model, save_model
from support.errors import UserError
from support.hyperparameters import default_params
from support.reporting import Progress
from support.resume import ResumePoint
from train import train
from training_params import LocalParams

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
@pytest.mark.parametrize("cases", [1, 6])
def test_the_gradient_is_that_of_the_cross_entropy_with_soft_targets_times_t_squared(
    temperature, cases
):
    digits, logits = some_batch(cases)
    _, gradient = loss_and_gradient(digits, logits, temperature)
    p = softmax(logits.detach().numpy(), temperature)
    q = softmax(digits.teacher_logits.numpy(), temperature)
    expected = (p - q) / temperature * temperature**2 / cases
    assert np.allclose(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_agrees_with_finite_differences_of_the_cross_entropy(temperature):
    digits, logits = some_batch(3)
    _, gradient = loss_and_gradient(digits, logits, temperature)
    q, z = softmax(digits.teacher_logits.numpy(), temperature), logits.detach().numpy().copy()

    def cross_entropy(z):
        return temperature**2 * np.mean(-np.sum(q * np.log(softmax(z, temperature)), axis=1))

    for place in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope = (cross_entropy(up) - cross_entropy(down)) / 2e-5
        assert gradient[place] == pytest.approx(slope, abs=1e-6)


def test_at_a_high_temperature_distillation_is_matching_logits():
    """[KD] s.2.1: with zero-mean logits dC/dz_i -> (z_i - v_i) / (10 N T^2), before T^2."""
    digits, logits = some_batch(5)
    with torch.no_grad():
        for each in (digits.teacher_logits, logits):
            each -= each.mean(dim=1, keepdim=True)
    z, v = logits.detach().numpy(), digits.teacher_logits.numpy()
    limit = (z - v) / (10 * 5)
    errors = [
        np.abs(loss_and_gradient(digits, logits, temperature)[1] - limit).max()
        for temperature in (100.0, 1000.0, 10_000.0)
    ]
    assert errors[1] < 0.01 * np.abs(limit).max()
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_loss_is_0_where_the_student_agrees_with_the_teacher_and_above_0_elsewhere(temperature):
    digits, logits = some_batch()
    assert loss_and_gradient(digits, logits, temperature)[0] > 0
    agreeing = (digits.teacher_logits + 5).requires_grad_()  # equal logits but for a constant
    loss, gradient = loss_and_gradient(digits, agreeing, temperature)
    assert loss == pytest.approx(0, abs=1e-12)
    assert np.allclose(gradient, 0, atol=1e-12)


@pytest.mark.parametrize("hard_weight", [0.0, 0.1, 1.0])
def test_the_loss_is_averaged_over_cases_only(hard_weight):
    digits, logits = some_batch(4)
    loss = distillation_loss(20.0, hard_weight)
    whole = loss(logits, digits).item()
    each = [loss(logits[i : i + 1], digits[slice(i, i + 1)]).item() for i in range(4)]
    assert whole == pytest.approx(np.mean(each), rel=1e-10)
    repeated = torch.arange(4).repeat(3)
    assert loss(logits[repeated], digits[repeated]).item() == pytest.approx(whole, rel=1e-10)
    # the classes are summed over: for a single case this is all there is
    p, q = (
        softmax(logits.detach().numpy()[:1], 20.0),
        softmax(digits.teacher_logits.numpy()[:1], 20.0),
    )
    hard = -np.log(softmax(logits.detach().numpy()[0]))[digits.labels[0]]
    soft = 400 * np.sum(q * (np.log(q) - np.log(p)))
    assert each[0] == pytest.approx((1 - hard_weight) * soft + hard_weight * hard, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
@pytest.mark.parametrize("hard_weight", [0.0, 0.1, 0.5, 1.0])
def test_hard_weight_makes_a_weighted_average_with_the_correct_labels_at_temperature_1(
    temperature, hard_weight
):
    digits, logits = some_batch(5)
    _, gradient = loss_and_gradient(digits, logits, temperature, hard_weight)
    z = logits.detach().numpy()
    soft = temperature * (
        softmax(z, temperature) - softmax(digits.teacher_logits.numpy(), temperature)
    )
    hard = softmax(z) - np.eye(10)[digits.labels.numpy()]
    expected = ((1 - hard_weight) * soft + hard_weight * hard) / 5
    assert np.allclose(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.01, 1000.0])
def test_at_the_ends_of_the_range_of_temperatures_float32_gives_the_loss_of_float64(temperature):
    digits, logits = some_batch(cases=100)
    exact, _ = loss_and_gradient(digits, logits, temperature)
    digits = replace(digits, teacher_logits=digits.teacher_logits.float())
    loss, _ = loss_and_gradient(digits, logits.float(), temperature)
    assert loss == pytest.approx(exact, rel=0.01)


def test_images_without_logits_of_a_teacher_are_refused(some_digits):
    params = some_params("Distilled")
    with pytest.raises(UserError, match="with_logits"):
        train(first_student(params), some_digits, params, loss=distillation_loss(20.0, 0.0))


def test_large_logits_give_a_finite_loss_and_gradient():
    logits = (torch.randn(3, 10) * 1e4).requires_grad_()
    digits = replace(random_digits(3), teacher_logits=-logits.detach())
    loss, gradient = loss_and_gradient(digits, logits, 1.0)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


# Distilling


class Counting(nn.Module):
    """A teacher that counts how often it runs and on how many images, and with what switched on."""

    def __init__(self, net):
        super().__init__()
        self.net, self.images, self.states = net, 0, set()

    def forward(self, images):
        self.images += len(images)
        self.states.add((self.training, self.net.training, torch.is_grad_enabled()))
        return self.net(images)


def test_the_teacher_runs_once_over_the_transfer_set_without_dropout_or_gradient(some_digits):
    teacher = Counting(random_net(20, 0.2, 0.5)).train()
    before = weights_of(teacher)
    params = some_params("Distilled", epochs=4)
    distill(first_student(params), teacher, some_digits, params)
    assert teacher.images == len(some_digits)
    assert teacher.states == {(False, False, False)}
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert same_weights(teacher, before)


def test_the_targets_in_each_batch_are_the_logits_of_the_teacher_for_its_images(
    some_digits, batches
):
    teacher, params = random_net(20, 0.2, 0.5), some_params("Distilled", epochs=2)
    distill(first_student(params), teacher, some_digits, params)
    assert sum(map(len, batches)) == 2 * 500
    teacher.eval()
    for batch in batches:
        with torch.no_grad():
            assert torch.allclose(batch.teacher_logits, teacher(batch.images), atol=1e-5)
            fresh = teacher(pixels(some_digits.images[batch.indices]))
        assert torch.allclose(batch.teacher_logits, fresh, atol=1e-5)
        assert not batch.teacher_logits.requires_grad


def test_the_images_of_the_transfer_set_are_not_moved(some_digits, batches):
    params = some_params("Distilled", epochs=1)
    distill(first_student(params), random_net(), some_digits, params)
    for batch in batches:
        assert torch.equal(batch.images, pixels(some_digits.images[batch.indices]))


def test_distillation_refuses_jitter(some_digits):
    params = some_params("Distilled", jitter=1)
    student = first_student(params)
    with pytest.raises(UserError, match="jitter"):
        distill(student, random_net(), some_digits, params)
    assert same_weights(student, first_student(params))


def test_the_transfer_set_is_not_changed(some_digits):
    params = some_params("Distilled", epochs=1)
    distill(first_student(params), random_net(), some_digits, params)
    assert some_digits.teacher_logits is None


def test_without_hard_weight_no_label_is_looked_at(some_digits):
    params, teacher = some_params("Distilled"), random_net()
    right, wrong = first_student(params), first_student(params)
    distill(right, teacher, some_digits, params)
    relabelled = replace(some_digits, labels=(some_digits.labels + 1) % 10)
    distill(wrong, teacher, relabelled, params)
    assert same_weights(right, wrong)


def test_with_hard_weight_1_only_the_labels_count(some_digits):
    params = some_params("Distilled", hard_weight=1.0)
    one, other, plain = (first_student(params) for _ in range(3))
    distill(one, random_net(seed=1), some_digits, params)
    distill(other, random_net(seed=2), some_digits, params)
    train(plain, some_digits, params)
    for a, b, c in zip(one.parameters(), other.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        assert torch.allclose(a, c, atol=1e-6)


def test_the_student_learns_the_digits_from_the_teacher_alone(sample, teacher):
    net = load_model(teacher)
    params = some_params("Distilled", hidden_units=60, epochs=8, learning_rate=0.002)
    student = first_student(params)
    unlabelled = replace(sample.training, labels=torch.zeros(4000, dtype=torch.int64))
    distill(student, net, unlabelled, params)
    images = sample.test.images
    agreeing = logits_of(student, images).argmax(1) == logits_of(net, images).argmax(1)
    assert agreeing.float().mean() > 0.8
    assert int(count_errors(student, sample.test)) < 250


def test_a_stopped_distillation_goes_on_to_the_same_weights(tmp_path, some_digits):
    class Stopping(Progress):
        def after_epoch(self, entry):
            if entry["epoch"] == 2:
                raise KeyboardInterrupt

    params, teacher = some_params("Distilled", epochs=4), random_net()
    whole, stopped, resumed = (first_student(params) for _ in range(3))
    distill(whole, teacher, some_digits, params)
    point = ResumePoint(tmp_path / "net.pt.resume", {})
    with pytest.raises(KeyboardInterrupt):
        distill(
            stopped, teacher, some_digits, params, resume_point=point, progress=Stopping(quiet=True)
        )
    point = ResumePoint(tmp_path / "net.pt.resume", {})
    assert point.load() == 2
    distill(resumed, teacher, some_digits, params, resume_point=point)
    assert same_weights(whole, resumed)
    assert not same_weights(whole, stopped)


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
    teacher, params = random_net(20), some_params("Distilled", **changes)
    together = distill_together([2.0, 20.0], [0, 3], teacher, some_digits, params)
    assert together.keys() == {(2.0, 0), (20.0, 0), (2.0, 3), (20.0, 3)}
    for (temperature, seed), student in together.items():
        params.temperature = temperature
        alone = first_student(params, seed)
        distill(alone, teacher, some_digits, params, seed=seed)
        untrained = first_student(params, seed)
        for a, b, c in zip(
            student.parameters(), alone.parameters(), untrained.parameters(), strict=True
        ):
            assert (a - b).abs().max() < 0.01 * (b - c).abs().max()


def test_students_distilled_together_report_the_losses_they_have_alone(some_digits):
    class Recording(Progress):
        entries: list = []  # noqa: RUF012

        def after_epoch(self, entry):
            self.entries.append(entry)

    teacher, params = random_net(20), some_params("Distilled", batch_size=60)
    distill_together(
        [2.0, 20.0],
        [0, 3],
        teacher,
        some_digits,
        params,
        test_set=some_digits,
        progress=Recording(quiet=True),
    )
    column = 0
    for seed in (0, 3):
        for temperature in (2.0, 20.0):
            params.temperature = temperature
            history = distill(
                first_student(params, seed),
                teacher,
                some_digits,
                params,
                seed=seed,
                test_set=some_digits,
            )
            for entry, together in zip(history, Recording.entries, strict=True):
                # In float32 the divergence of two distributions is exact to 1e-7, here times T^2.
                expected = pytest.approx(entry["loss"], rel=1e-3, abs=2e-5)
                assert together["loss"][column] == expected
                assert abs(together["errors"][column] - entry["errors"]) <= 2
            column += 1


@pytest.mark.parametrize(
    "changes",
    [{"hard_weight": 0.1}, {"dropout_hidden": 0.5}, {"jitter": 1}, {"max_squared_length": 15.0}],
    ids=lambda changes: next(iter(changes)),
)
def test_students_distilled_together_take_no_regularisation(some_digits, changes):
    params = some_params("Distilled", **changes)
    with pytest.raises(UserError):
        distill_together([2.0], [0], random_net(), some_digits, params)


@pytest.mark.parametrize(
    ("temperatures", "seeds"), [([2.0], [0, 0]), ([2.0, 2.0], [0]), ([], [0]), ([2.0], [])]
)
def test_students_distilled_together_differ_in_temperature_or_seed(
    some_digits, temperatures, seeds
):
    with pytest.raises(UserError):
        distill_together(temperatures, seeds, random_net(), some_digits, some_params("Distilled"))


def test_students_distilled_together_take_a_class_of_hyperparameters(some_digits):
    class Mine(LocalParams.Distilled):
        hidden_units = 12
        epochs = 1

    students = distill_together([2.0], [0], random_net(), some_digits, Mine)
    same = default_params("local", "Distilled")
    same.hidden_units, same.epochs = 12, 1
    others = distill_together([2.0], [0], random_net(), some_digits, same)
    assert same_weights(students[2.0, 0], others[2.0, 0])


def test_numbers_and_sequences_of_numpy_are_taken(some_digits):
    params = some_params(
        "Distilled", epochs=1, batch_size=np.int64(50), learning_rate=np.float32(1)
    )
    nets = [first_student(params), first_student(params)]
    distill(nets[0], random_net(), some_digits, params, seed=np.int64(1))
    distill(nets[1], random_net(), some_digits, params, seed=1)
    assert same_weights(*nets)
    params.learning_rate = 0.01
    found = distill_together(np.array([2.0, 8.0]), np.arange(2), random_net(), some_digits, params)
    expected = distill_together((2, 8), range(2), random_net(), some_digits, params)
    assert found.keys() == expected.keys()
    assert all(same_weights(found[run], expected[run]) for run in found)


# The script


def test_the_script_distils_what_the_function_distils(call, teacher, sample):
    words = "--hidden-units 10 --epochs 2 --batch-size 500 --temperature 4 --seed 7 --quiet"
    call(distillation, "--teacher", teacher, words, "--output", "net.pt")
    params = some_params("Distilled", hidden_units=10, batch_size=500, temperature=4.0)
    params.schedule_epochs = LocalParams.Distilled.schedule_epochs
    student = first_student(params, 7)
    distill(student, load_model(teacher), sample.training, params, seed=7)
    assert same_weights(load_model("net.pt"), student)


def test_of_a_sweep_the_teacher_is_read_and_asked_once(call, monkeypatch, teacher):
    asked = []
    logits_of = distillation.logits_of
    monkeypatch.setattr(
        distillation, "logits_of", lambda net, images: asked.append(1) or logits_of(net, images)
    )
    words = "--hidden-units 5 --epochs 1 --batch-size 500 --temperature 2 8 --hard-weight 0.1 0.2"
    call(distillation, "--teacher", teacher, words)
    assert len(asked) == 1


def test_the_default_device_of_the_user_changes_nothing(some_digits, tmp_path):
    params, teacher = some_params("Distilled", epochs=1), random_net(20)
    save_model(tmp_path / "teacher.pt", teacher)
    students = [first_student(params), first_student(params)]
    distill(students[0], teacher, some_digits, params)
    together = [distill_together([2.0], [1], teacher, some_digits, params)]
    torch.set_default_device("meta")
    try:
        teacher = load_model(tmp_path / "teacher.pt")
        distill(students[1], teacher, some_digits, params)
        together.append(distill_together([2.0], [1], teacher, some_digits, params))
    finally:
        torch.set_default_device(None)
    assert same_weights(*students)
    assert same_weights(*(found[2.0, 1] for found in together))


def test_students_distilled_together_take_whole_numbers_as_seeds(some_digits):
    for seeds in ([1.5], [], [1, 1]):
        with pytest.raises(UserError, match="seed"):
            distill_together([2.0], seeds, random_net(), some_digits, some_params("Distilled"))


def test_an_empty_transfer_set_is_refused(some_digits):
    params = some_params("Distilled")
    with pytest.raises(UserError, match="no image"):
        distill(first_student(params), random_net(), some_digits[:0], params)


def test_jitter_of_a_student_is_refused_when_it_is_set():
    with pytest.raises(UserError, match="jitter"):
        default_params("local", "Distilled").jitter = 2
