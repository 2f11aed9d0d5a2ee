"""--teacher-logits: any teacher from anywhere, as a .npy file of logits of the training images."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from common import random_net, same_weights

import distillation
import distillation_no_three
from evaluate import logits_of
from support.checkpoints import load_checkpoint, load_model, save_model

STUDENT = "--hidden-units 8 --epochs 1 --quiet"


@pytest.fixture
def logits(sample) -> np.ndarray:
    return logits_of(random_net(20, std=0.3), sample.training.images).numpy()


@pytest.mark.parametrize("script", [distillation, distillation_no_three])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_student_learns_the_same_from_stored_logits_as_from_the_net(call, logits, script, dtype):
    """Also if digits are left out: each image keeps its logits."""
    save_model("teacher.pt", random_net(20, std=0.3))
    np.save("logits.npy", logits.astype(dtype))
    call(script, STUDENT, "--teacher teacher.pt --output a.pt")
    call(script, STUDENT, "--teacher-logits logits.npy --output b.pt --results rows.csv")
    assert same_weights(load_model("a.pt"), load_model("b.pt"))
    sha256 = hashlib.sha256(Path("logits.npy").read_bytes()).hexdigest()
    assert load_checkpoint("b.pt")["teacher"] == {"file": "logits.npy", "sha256": sha256}
    with open("rows.csv", newline="") as file:
        assert [row["teacher"] for row in csv.DictReader(file)] == [sha256[:12]]


def test_held_out_images_are_left_out_of_the_logits_too(call, stops, logits, batches, sample):
    np.save("logits.npy", logits)
    words = "--teacher-logits logits.npy --validation --hidden-units 8 --epochs 1 --output a.pt"
    call(distillation, words)
    seen = torch.cat([batch.indices for batch in batches])
    assert sorted(seen.tolist()) == [*range(3200)]
    for batch in batches:
        assert torch.equal(batch.teacher_logits, torch.from_numpy(logits)[batch.indices])
    told = stops(distillation, words.replace("a.pt", "b.pt"))
    assert "Make sure" in told.out and "held-out" in told.out


def test_other_logits_are_another_run(call, refused, logits):
    np.save("logits.npy", logits)
    call(distillation, STUDENT, "--teacher-logits logits.npy --output a.pt")
    np.save("logits.npy", 2 * logits)
    words = (STUDENT, "--teacher-logits logits.npy --output a.pt --resume")
    refused(distillation, *words, naming="teacher")


PROBABILITIES = np.full((4000, 10), 0.1)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (np.zeros((60_000, 10)), "logits.npy float64 (60000, 10) (4000, 10)"),
        (np.zeros((4000, 11)), "logits.npy (4000, 11)"),
        (np.zeros(4000), "logits.npy (4000,)"),
        (np.zeros((4000, 10), int), "logits.npy int64"),
        (np.zeros((4000, 10), complex), "logits.npy complex"),
        (PROBABILITIES, "logits.npy probabilities"),
        (np.where(np.arange(10) == 3, np.nan, -np.ones((4000, 10))), "logits.npy finite"),
        (np.full((4000, 10), -1e300), "logits.npy finite"),
        (np.array([None] * 4), "logits.npy .npy"),
        (b"", "logits.npy .npy"),
        (b"no array", "logits.npy .npy"),
        ("npz", "logits.npy .npy"),
        ("cut", "logits.npy .npy"),
        (None, "logits.npy No such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_something_else_is_refused(refused, logits, content, named):
    if isinstance(content, np.ndarray):
        np.save("logits.npy", content, allow_pickle=True)
    elif content == "npz":
        np.savez("logits.npz", logits)
        Path("logits.npz").rename("logits.npy")
    elif content is not None:
        np.save("logits.npy", logits)
        cut = Path("logits.npy").read_bytes()[:-100]
        Path("logits.npy").write_bytes(cut if content == "cut" else content)
    refused(distillation, STUDENT, "--teacher-logits logits.npy", naming=named)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--teacher {teacher}", "--teacher-logits"),
        ("--arithmetic-mean", "--teacher-logits"),
        ("--output logits.npy", "replace its teacher logits.npy"),
    ],
)
def test_flags_that_do_not_go_with_it_are_refused(refused, logits, teacher, words, named):
    np.save("logits.npy", logits)
    words = words.format(teacher=teacher)
    refused(distillation, STUDENT, "--teacher-logits logits.npy", words, naming=named)
