"""Teachers: which are taken, and what is said of them."""

import pytest
import torch
from common import first_student, random_net, some_params
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


# The file of the teacher


def test_a_teacher_is_not_overwritten_by_any_run_of_a_sweep(refused):
    save_model(path := "runs/distilled_model_5_20_seed_1.pt", random_net(5))
    words = f"--teacher {path} --hidden-units 5 --epochs 1 --seed 0 1"
    refused(distillation, words, naming=f"replace its teacher {path}")


@pytest.mark.parametrize("name", ["net", "net.lock", "net.resume"])
def test_the_teacher_is_not_overwritten(refused, name):
    save_model(name, random_net(5))
    words = f"--teacher {name} --output ../here/net --hidden-units 5 --epochs 1"
    refused(distillation, words, naming=f"replace its teacher {name}")


# Images that the teacher has seen


@pytest.mark.parametrize("learned_from", ["MNIST", "sample", "MNIST validation", None])
def test_held_out_images_that_the_teacher_may_have_seen_are_refused(call, refused, learned_from):
    words = "--hidden-units 5 --epochs 1 --batch-size 800 --validation --output net.pt --teacher"
    save_model("teacher.pt", random_net(5), data_set={"name": learned_from})
    told = "held-out images train.py --validation"
    refused(distillation, words, "teacher.pt", naming=told)
    save_model("other.pt", random_net(5), data_set={"name": "sample validation"})
    call(distillation, words, "other.pt")
    assert load_checkpoint("net.pt")["data_set"]["name"] == "sample validation"


def test_it_is_said_what_a_teacher_has_learned_from(call, capsys):
    words = "--hidden-units 5 --epochs 1 --batch-size 800 --teacher teacher.pt --output net.pt"
    for name in ("MNIST", "MNIST validation", "sample", "sample validation", "FashionMNIST"):
        save_model("teacher.pt", random_net(5), data_set={"name": name})
        call(distillation, words)
        lines = capsys.readouterr().out.splitlines()
        seen = any("teacher.pt has seen the sample" in line for line in lines)
        assert seen == name.startswith("MNIST")
        told = [place for place, line in enumerate(lines) if "teacher.pt was trained on" in line]
        assert told in ([0], [1], [2]) if name == "FashionMNIST" else told == []


PROBABILITIES, OTHER = "returns probabilities, not logits", "a net must"


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        (PROBABILITIES, lambda logits: logits.softmax(1)),
        (PROBABILITIES, lambda logits: logits.softmax(1).bfloat16()),
        (PROBABILITIES, lambda logits: (logits.softmax(1) * 100).round() / 100),
        (PROBABILITIES, lambda logits: 100 * logits.softmax(1)),
        (PROBABILITIES, lambda logits: 0.99 * logits.softmax(1)),
        (PROBABILITIES, lambda logits: logits.sigmoid()),
        (PROBABILITIES, lambda logits: (logits > 0).float()),
        (OTHER, lambda logits: logits > 0),
        (OTHER, lambda logits: logits.to(torch.complex64)),
        (OTHER, lambda logits: logits[None]),
        (OTHER, lambda logits: logits.argmax(1)),
        (OTHER, lambda logits: logits.to_sparse()),
        ("logits of the teacher are not finite", lambda logits: logits * 1e38 * 1e38),
        ("nothing", lambda logits: logits.log_softmax(1)),
    ],
)
def test_answers_that_are_not_logits_are_refused(some_digits, told, answer):
    class Teacher(nn.Module):
        def forward(self, pixels):
            return answer(random_net(20, std=0.5)(pixels))

    params = some_params("Distilled", epochs=1)
    if told == "nothing":
        assert distill(first_student(params), Teacher(), some_digits, params)
        return
    with pytest.raises(UserError, match=told):
        distill(first_student(params), Teacher(), some_digits, params)


def test_a_lack_of_memory_in_a_net_is_not_taken_for_a_wrong_net(some_digits):
    class Teacher(nn.Module):
        def forward(self, pixels):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate memory"):
        with_logits(some_digits, Teacher())
