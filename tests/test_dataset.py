import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from common import random_digits

import dataset
from dataset import (
    Digits,
    Mnist,
    as_digits,
    filter_by_class,
    get_dataloader,
    hold_out,
    load_mnist,
    pixels,
    translate,
)
from support.errors import UserError


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image translated, pixel by pixel; zeros move in."""
    result = np.zeros_like(image)
    for y, x in itertools.product(range(28), repeat=2):
        if 0 <= y - down < 28 and 0 <= x - right < 28:
            result[y, x] = image[y - down, x - right]
    return result


def one_pass(loader) -> Digits:
    fields = zip(*(vars(batch).values() for batch in loader), strict=True)
    return Digits(*(None if column[0] is None else torch.cat(column) for column in fields))


def order_of(loader) -> list[int]:
    return one_pass(loader).indices.tolist()


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """Pixels in [0, 1] of shape (N, 784) as the bytes that they were."""
    return images.mul(255).round().to(torch.uint8).view(-1, 28, 28).numpy()


# Translation jitter


@pytest.mark.parametrize("jitter", [1, 2, 3])
def test_a_jittered_image_is_the_image_moved_by_up_to_that_many_pixels(jitter):
    digits = random_digits(40)
    originals = digits.images.numpy().copy()
    far = 0
    for batch in get_dataloader(digits, 12, seed=1, jitter=jitter):
        assert batch.images.dtype == torch.float32
        assert batch.images.shape == (len(batch), 784)
        for image, index in zip(as_bytes(batch.images), batch.indices.tolist(), strict=True):
            shifts = [
                shift
                for shift in itertools.product(range(-jitter, jitter + 1), repeat=2)
                if np.array_equal(image, moved(originals[index], *shift))
            ]
            assert len(shifts) == 1
            far += jitter in map(abs, shifts[0])
        batch.images.zero_()
    assert far > 0
    assert np.array_equal(digits.images.numpy(), originals)


def test_all_25_shifts_are_equally_frequent_and_drawn_anew_in_each_pass():
    images = torch.zeros(10_000, 28, 28, dtype=torch.uint8)
    images[:, 14, 14] = 255
    loader = get_dataloader(as_digits(images, torch.zeros(10_000)), 100, seed=3, jitter=2)
    passes = []
    for seen in (one_pass(loader), one_pass(loader)):
        places = seen.images.argmax(dim=1)[seen.indices.argsort()].numpy()
        passes.append((places // 28 - 12) * 5 + places % 28 - 12)  # from 0 to 24
        counts = np.bincount(passes[-1], minlength=25)
        assert len(counts) == 25
        # chi-square, 24 degrees of freedom: p < 0.0001
        assert ((counts - 400) ** 2 / 400).sum() < 60
    same = (passes[0] == passes[1]).mean()
    assert abs(same - 1 / 25) < 4 * (1 / 25 * 24 / 25 / 10_000) ** 0.5


@pytest.mark.parametrize("down, right", [(0, 0), (1, 0), (0, -2), (3, 3), (-1, 2), (27, -28)])
def test_a_translated_image_is_the_image_moved_by_that_many_pixels(down, right):
    images = random_digits(3).images
    found = translate(images, down, right).numpy()
    for image, original in zip(found, images.numpy(), strict=True):
        np.testing.assert_array_equal(image, moved(original, down, right))


def test_pixels_are_bytes_divided_by_255():
    images = torch.arange(256, dtype=torch.uint8).repeat(4)[:784].view(1, 28, 28)
    expected = np.arange(1024)[:784] % 256 / 255
    assert np.allclose(pixels(images).numpy(), expected[None], rtol=1e-6, atol=0)


# Minibatches


@pytest.mark.parametrize(("cases", "batch_size"), [(100, 10), (103, 10), (7, 7), (7, 1), (9, 5)])
@pytest.mark.parametrize("jitter", [0, 2])
def test_each_pass_has_every_case_once_and_keeps_the_smaller_last_batch(cases, batch_size, jitter):
    loader = get_dataloader(random_digits(cases), batch_size, seed=5, jitter=jitter)
    for _ in range(2):
        sizes = [len(batch) for batch in loader]
        assert sizes == [min(batch_size, cases - i) for i in range(0, cases, batch_size)]
        assert len(loader) == len(sizes)
        assert sorted(order_of(loader)) == list(range(cases))
    if cases > 100:
        assert order_of(loader) != order_of(loader)


def test_order_and_jitter_depend_on_the_seed_alone():
    """Not on the global generator, from which nothing is drawn, nor on the threads."""
    digits = random_digits(3000)
    passes = []
    for seed, threads in ((8, 1), (8, 2), (9, 1)):
        torch.manual_seed(len(passes))
        torch.set_num_threads(threads)
        before = torch.get_rng_state()
        passes.append(one_pass(get_dataloader(digits, 100, seed=seed, jitter=2)))
        assert torch.equal(torch.get_rng_state(), before)
    first, again, other = passes
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.indices, other.indices)


def test_several_seeds_give_each_the_order_it_has_alone():
    digits = random_digits(55)
    seeds = [3, 0, 11]
    alone = [list(get_dataloader(digits, 20, seed, jitter=1)) for seed in seeds]
    batches = get_dataloader(digits, np.int64(20), np.array(seeds), np.uint8(1))
    for i, batch in enumerate(batches):
        for place in range(3):
            for field in ("indices", "labels", "images"):
                expected = getattr(alone[place][i], field)
                assert torch.equal(getattr(batch, field)[place], expected)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        *[({"batch_size": size}, "batch_size") for size in (0, -1, 2.5, None, True)],
        *[({"jitter": jitter}, "jitter") for jitter in (-1, 1.5, None)],
        ({"batch_size": 51}, "51.*50"),
    ],
    ids=str,
)
def test_an_impossible_batch_size_or_jitter_is_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        get_dataloader(random_digits(50), **{"batch_size": 5} | wrong)


# Leaving out digits


@pytest.mark.parametrize("named", [[3], [7, 8], [0, 9, 0], list(range(9)), range(4)])
@pytest.mark.parametrize("kind", ["keep", "omit"])
def test_filtering_selects_what_a_plain_loop_selects(kind, named):
    digits = random_digits(500)
    digits = replace(digits, teacher_logits=torch.randn(500, 10))
    expected = [
        i for i, label in enumerate(digits.labels.tolist()) if (label in named) == (kind == "keep")
    ]
    chosen = filter_by_class(digits, **{kind: named})
    assert chosen.indices.tolist() == expected
    assert torch.equal(chosen.images, digits.images[expected])
    assert torch.equal(chosen.labels, digits.labels[expected])
    assert torch.equal(chosen.teacher_logits, digits.teacher_logits[expected])


def test_all_fields_stay_aligned_after_filtering_shuffling_and_slicing():
    digits = random_digits(300)
    digits = replace(digits, teacher_logits=torch.randn(300, 10))
    some = filter_by_class(digits[torch.randperm(300)][20:], omit=[3])
    seen = one_pass(get_dataloader(some, 32, seed=1))
    assert sorted(seen.indices.tolist()) == sorted(some.indices.tolist())
    assert torch.equal(seen.labels, digits.labels[seen.indices])
    assert torch.equal(seen.teacher_logits, digits.teacher_logits[seen.indices])
    assert np.array_equal(as_bytes(seen.images), digits.images[seen.indices].numpy())
    assert not (digits.labels[seen.indices] == 3).any()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        *[({"omit": digits}, "some of") for digits in ([], [-1], [3, 11], [3.5])],
        *[({"keep": digits}, "some of") for digits in ([], [10], ["3"])],
        *[(both, "give either") for both in ({}, {"keep": [3], "omit": [4]})],
        *[(none, "no image") for none in ({"keep": [2]}, {"omit": [1]}, {"omit": range(10)})],
    ],
    ids=str,
)
def test_a_choice_of_digits_that_makes_no_sense_is_refused(wrong, named):
    digits = random_digits(100)
    with pytest.raises(UserError, match=named):
        filter_by_class(digits[digits.labels == 1], **wrong)


# The bundled sample and the validation set


def test_the_sample_has_each_digit_equally_often_and_no_image_twice(sample):
    assert sample.name == "sample"
    assert sample.training.labels.bincount().tolist() == [400] * 10
    assert sample.test.labels.bincount().tolist() == [100] * 10
    for digits in (sample.training, sample.test):
        assert digits.images.shape == (len(digits.labels), 28, 28)
        assert digits.images.dtype == torch.uint8
    images = {image.numpy().tobytes() for digits in sample[:2] for image in digits.images}
    assert len(images) == 5000


def test_a_damaged_sample_is_named(tmp_path, monkeypatch):
    damaged = tmp_path / "sample-5000.npz"
    damaged.write_bytes(dataset.SAMPLE.read_bytes()[:-1])
    monkeypatch.setattr(dataset, "SAMPLE", damaged)
    with pytest.raises(UserError, match=r"sample-5000\.npz"):
        load_mnist(source="sample")


@pytest.mark.parametrize(("cases", "held_out"), [(60_000, 10_000), (4000, 800)])
def test_hold_out_sets_the_last_training_cases_apart_without_a_look_at_the_test_set(
    cases, held_out
):
    training = random_digits(cases)
    held = hold_out(Mnist(training, None, "MNIST"))
    assert held.training.indices.tolist() == list(range(cases - held_out))
    assert held.test.indices.tolist() == list(range(cases - held_out, cases))
    assert torch.equal(held.test.images, training.images[-held_out:])
    assert held.name == "MNIST validation"
    assert len(training) == cases


def test_hold_out_refuses_to_leave_nothing_to_train_on():
    for cases in (1, 4):
        with pytest.raises(UserError):
            hold_out(Mnist(random_digits(cases), random_digits(5), "MNIST"))


BLANK = torch.zeros(3, 28, 28, dtype=torch.uint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        *[(images, torch.zeros(3)) for images in (BLANK.float(), BLANK.view(3, 784), BLANK[:2])],
        *[(BLANK, torch.tensor([0, 9, wrong])) for wrong in (10, -1, 2.5, float("nan"))],
        *[(BLANK, wrong) for wrong in (torch.zeros(3, 1), [0, 1, 2])],
        *[(BLANK, torch.ones(3, dtype=torch.complex64)), (BLANK, torch.eye(3)[0].to_sparse())],
    ],
)
def test_what_are_no_labelled_digits_is_refused(images, labels):
    with pytest.raises(UserError):
        as_digits(images, labels)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]
)
def test_labels_may_be_whole_numbers_of_any_kind(dtype):
    digits = as_digits(BLANK, torch.tensor([0, 5, 9]).to(dtype))
    assert digits.labels.tolist() == [0, 5, 9] and digits.labels.dtype == torch.int64


# MNIST itself


def test_without_files_and_network_auto_takes_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "HERE", tmp_path)
    assert load_mnist(source="auto").name == "sample"
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]  # of the tests: nothing is left behind


def test_mnist_has_60000_and_10000_cases_and_6131_and_1010_threes(mnist):
    assert (len(mnist.training), len(mnist.test), mnist.name) == (60_000, 10_000, "MNIST")
    assert int((mnist.test.labels == 3).sum()) == 1010
    assert len(filter_by_class(mnist.training, omit=[3])) == 60_000 - 6131
    assert mnist.training.images.shape == (60_000, 28, 28)
    assert mnist.training.indices.tolist() == list(range(60_000))


def test_the_sample_is_of_the_training_set_of_mnist(mnist, sample):
    labels, *samples = (
        dict(zip(map(bytes, d.images.numpy()), d.labels.tolist(), strict=True))
        for d in (mnist.training, sample.training, sample.test)
    )
    for image, label in (samples[0] | samples[1]).items():
        assert labels[image] == label
