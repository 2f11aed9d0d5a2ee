"""Teachers: which are taken, and what is said of them."""

import hashlib

import pytest
import torch
from common import everything_in, first_student, random_net, some_params
from torch import nn

import distillation
from distillation import distill, distill_together, with_logits
from evaluate import count_errors
from support.checkpoints import load_checkpoint, load_model, save_model
from support.errors import UserError

# Teachers of other shapes and kinds


class Pair(nn.Module):
    """Returns logits and something else, as nets of other libraries do."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(784, 10)

    def forward(self, pixels):
        return self.net(pixels), pixels


CONVOLUTIONAL = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 10))
WRONG = {
    "too many classes": nn.Linear(784, 47),
    "one output": nn.Linear(784, 1),
    "one output without an axis": nn.Sequential(nn.Linear(784, 1), nn.Flatten(0)),
    "a logit for each pixel": nn.Sequential(nn.Unflatten(1, (28, 28)), nn.Linear(28, 10)),
    "images": CONVOLUTIONAL,
    "fewer pixels": nn.Linear(100, 10),
    "words": nn.Embedding(300, 10),
    "half precision": nn.Linear(784, 10).half(),
    "a pair": Pair(),
    "an array": lambda pixels: pixels.numpy(),
    "not a module": "models/cumbersome_model_1200.pt",
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_net_of_another_shape_is_refused_before_the_first_step(some_digits, batches, what, role):
    params = some_params("Distilled")
    nets = {"teacher": random_net(), "student": first_student(params)} | {role: WRONG[what]}
    with pytest.raises(UserError) as error:
        distill(nets["student"], nets["teacher"], some_digits, params)
    told = str(error.value)
    assert len(told.splitlines()) == 1
    assert type(WRONG[what]).__name__ in told and "(N, 784)" in told and "(N, 10)" in told
    assert "Unflatten" in told or "wrap it" in told
    assert not batches


def test_the_wrapper_that_is_named_mends_it(some_digits):
    params = some_params("Distilled", epochs=1)
    teacher = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), CONVOLUTIONAL)
    assert len(distill(first_student(params), teacher, some_digits, params)) == 1
    assert len(distill(nn.Linear(784, 10), teacher, some_digits, params)) == 1


def test_a_teacher_that_returns_probabilities_is_refused(some_digits):
    params = some_params("Distilled")
    teacher = nn.Sequential(random_net(), nn.Softmax(dim=1))
    with pytest.raises(UserError, match="softmax"):
        distill(first_student(params), teacher, some_digits, params)
    mended = nn.Sequential(random_net(), nn.LogSoftmax(dim=1))
    assert distill(first_student(params), mended, some_digits, params)


def test_a_teacher_without_finite_logits_is_refused(some_digits):
    with pytest.raises(UserError, match="teacher"):
        distill(random_net(), random_net(std=1e30), some_digits, some_params("Distilled"))


def test_a_net_without_data_is_refused(some_digits):
    with torch.device("meta"):
        hollow = random_net()
    params = some_params("Distilled")
    for student, teacher in ((random_net(), hollow), (hollow, random_net())):
        with pytest.raises(UserError, match="a net must"):
            distill(student, teacher, some_digits, params)


# What is said of a teacher


@pytest.mark.filterwarnings("error")
def test_a_teacher_that_is_mostly_wrong_is_warned_of(some_digits, teacher):
    params, good = some_params("Distilled", epochs=1), load_model(teacher)
    distill(first_student(params), good, some_digits, params)
    # of other pixels than it was trained on
    shifted = nn.Sequential(nn.Hardtanh(), nn.BatchNorm1d(784, affine=False), good)
    shifted[1].running_mean += 30
    for call in (
        lambda: distill(first_student(params), shifted, some_digits, params),
        lambda: distill_together([2.0], [0], shifted, some_digits, params),
    ):
        with pytest.raises(UserWarning, match=r"wrong on \d+ of the 500 training images.*range"):
            call()


def test_the_first_lines_tell_the_errors_of_the_teacher(call, capsys, teacher, sample):
    wrong = int(count_errors(load_model(teacher), sample.training))
    call(distillation, "--teacher", teacher, "--hidden-units 5 --epochs 1 --output net.pt")
    assert (
        f"The teacher is wrong on {wrong} of the 4,000 training images."
        in (capsys.readouterr().out.splitlines()[:5])
    )


def test_a_teacher_of_other_data_is_named_first(call, capsys):
    save_model("teacher.pt", random_net(5), data_set={"name": "FashionMNIST"})
    call(distillation, "--teacher teacher.pt --hidden-units 5 --epochs 1 --output net.pt")
    lines = capsys.readouterr().out.splitlines()
    (place,) = (i for i, line in enumerate(lines) if "FashionMNIST" in line)
    assert "teacher.pt" in lines[place] and place < 3


# The file of the teacher


def test_the_checkpoint_names_the_teacher(call, teacher):
    words = "--hidden-units 10 --epochs 1 --temperature 4 --quiet"
    call(distillation, "--teacher", teacher, words)
    checkpoint = load_checkpoint("runs/distilled_model_10_4.pt")
    assert checkpoint["parameters"]["temperature"] == 4
    assert checkpoint["teacher"] == {
        "file": "cumbersome_model_60.pt",
        "sha256": hashlib.sha256(teacher.read_bytes()).hexdigest(),
    }


def test_going_on_with_another_teacher_is_refused(stops, call, teacher):
    words = "--hidden-units 10 --epochs 2 --batch-size 500 --output net.pt --quiet"
    call(distillation, "--teacher", teacher, words)
    save_model("other.pt", random_net(5))
    stop = stops(distillation, "--teacher", "other.pt", words, "--resume")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "teacher" in stop.err


@pytest.mark.parametrize("suffix", [".lock", ".resume"])
def test_a_teacher_with_the_name_of_a_file_beside_the_output_is_kept(
    stops, teacher, tmp_path, suffix
):
    mine = tmp_path / f"net{suffix}"
    mine.write_bytes(teacher.read_bytes())
    words = ("--teacher", mine, "--output", tmp_path / "net", "--hidden-units 5 --epochs 1")
    assert stops(distillation, *words).status == 2
    assert mine.read_bytes() == teacher.read_bytes()


def test_the_teacher_is_not_overwritten(stops, tmp_path):
    save_model("teacher.pt", random_net(5))
    before = everything_in(tmp_path)
    stop = stops(distillation, "--teacher", "teacher.pt", "--output", "../here/teacher.pt")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert everything_in(tmp_path) == before


# Images that the teacher has seen


@pytest.mark.parametrize(
    ("learned_from", "status"),
    [("MNIST", 2), ("sample", 2), ("MNIST validation", 2), (None, 2), ("sample validation", None)],
)
def test_held_out_images_that_the_teacher_may_have_seen_are_refused(
    stops, call, learned_from, status
):
    save_model("teacher.pt", random_net(5), data_set={"name": learned_from})
    words = "--teacher teacher.pt --hidden-units 5 --epochs 1 --batch-size 800 --validation"
    if status is None:
        call(distillation, words, "--output net.pt")
        assert load_checkpoint("net.pt")["data_set"]["name"] == "sample validation"
        return
    stop = stops(distillation, words, "--output net.pt")
    assert (stop.status, len(stop.err.splitlines())) == (status, 1)
    assert "held-out images" in stop.err and "train.py --validation" in stop.err


def test_it_is_said_that_the_teacher_has_seen_the_test_images_of_the_sample(call, capsys):
    words = "--hidden-units 5 --epochs 1 --batch-size 800 --teacher teacher.pt --output net.pt"
    for learned_from, said in (("MNIST", True), ("sample", False)):
        save_model("teacher.pt", random_net(5), data_set={"name": learned_from})
        call(distillation, words)
        assert ("has seen the sample's test images" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits: logits.softmax(1).bfloat16(),
        lambda logits: (logits.softmax(1) * 100).round() / 100,
        lambda logits: 100 * logits.softmax(1),
        lambda logits: 0.99 * logits.softmax(1),
        lambda logits: logits.sigmoid(),
        lambda logits: (logits > 0).float(),
        lambda logits: logits > 0,
        lambda logits: logits.to(torch.complex64),
        lambda logits: logits[None],
        lambda logits: logits.argmax(1),
        lambda logits: logits.to_sparse(),
    ],
)
def test_answers_that_are_not_logits_are_refused(some_digits, answer):
    class Teacher(nn.Module):
        def forward(self, pixels):
            return answer(random_net(20, std=0.5)(pixels))

    with pytest.raises(UserError):
        with_logits(some_digits, Teacher())


def test_a_lack_of_memory_in_a_net_is_not_taken_for_a_wrong_net(some_digits):
    class Teacher(nn.Module):
        def forward(self, pixels):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate memory"):
        with_logits(some_digits, Teacher())
