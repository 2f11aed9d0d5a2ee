"""Errors are counted, shown in a table, and compared with those on record."""

import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from common import ROOT, everything_in, random_digits, random_net

import evaluate
from dataset import Mnist, pixels
from evaluate import count_errors, logits_of, measure
from support.checkpoints import load_checkpoint, load_model, save_model

MODELS = ROOT / "models"
CUMBERSOME = ("CumbersomeNet", 1200, None, list(range(10)))
WITHOUT_THREE = [0, 1, 2, 4, 5, 6, 7, 8, 9]
EXPECTED = {
    **{f"cumbersome_model_1200{s}": CUMBERSOME for s in ("", "_paper", "_paper_rate_3")},
    **{f"cumbersome_model_1200_seed_{seed}": CUMBERSOME for seed in (1, 2)},
    "small_model_800": ("SmallNet", 800, None, list(range(10))),
    "distilled_model_800_20": ("SmallNet", 800, 20.0, list(range(10))),
    "distilled_model_300_8": ("SmallNet", 300, 8.0, list(range(10))),
    "distilled_model_wo3_300_8": ("SmallNet", 300, 8.0, WITHOUT_THREE),
    "distilled_model_wo3_800_20": ("SmallNet", 800, 20.0, WITHOUT_THREE),
    "distilled_model_only78_300_8": ("SmallNet", 300, 8.0, [7, 8]),
    "distilled_model_only78_800_20": ("SmallNet", 800, 20.0, [7, 8]),
}
TRAINING_CASES = {10: 60_000, 9: 53_869, 2: 12_116}  # by the number of digits
PUBLISHED = sorted(MODELS.glob("*.pt"))
needs_models = pytest.mark.skipif(not PUBLISHED, reason="there is no checkpoint in models/")

# Counting errors


def test_errors_are_counted_as_a_plain_loop_counts_them(some_digits):
    net = random_net(20)
    digits = some_digits[torch.randperm(500)[:373]]
    per_digit = [0] * 10
    for image, label in zip(digits.images, digits.labels.tolist(), strict=True):
        per_digit[label] += int(net.eval()(pixels(image[None])).argmax()) != label
    assert count_errors(net, digits) == sum(per_digit)
    assert measure(net, digits) == {
        "errors": sum(per_digit),
        "cases": 373,
        "errors_per_digit": per_digit,
        "cases_per_digit": [int((digits.labels == d).sum()) for d in range(10)],
    }


def test_every_image_is_scored_in_its_place_whatever_the_chunks():
    net, images = random_net(), random_digits(25).images
    whole = logits_of(net, images, chunk=25)
    for chunk in (1, 7, 100):
        assert torch.allclose(logits_of(net, images, chunk=chunk), whole, atol=1e-5)
    assert logits_of(net, images).grad_fn is None


# The table


@pytest.fixture
def rows_of(call, capsys):
    """rows_of(*words): the rows of evaluate.py."""

    def rows(*words):
        call(evaluate, *words, "--json")
        return json.loads(capsys.readouterr().out)

    return rows


@pytest.fixture
def as_mnist(monkeypatch, sample):
    """The sample under another name."""
    named = Mnist(sample.training, sample.test, "MNIST")
    monkeypatch.setattr(evaluate, "load_mnist", lambda *_: named)


def test_errors_are_those_that_the_training_recorded(rows_of, teacher, tmp_path):
    before = everything_in(tmp_path), teacher.read_bytes()
    (row,) = rows_of(teacher)
    result = load_checkpoint(teacher)["result"]
    assert {name: row[name] for name in result} == result
    weights = sum(p.numel() for p in load_model(teacher).parameters())
    assert (row["file"], row["parameters"]) == (str(teacher), weights)
    assert row["architecture"] == "CumbersomeNet 784-60-60-10"
    assert (row["data_set"], row["paper"]) == ("sample", None)
    assert (everything_in(tmp_path), teacher.read_bytes()) == before


def test_the_table_has_a_row_for_each_checkpoint_in_the_given_order(call, capsys, teacher, sample):
    save_model("b.pt", random_net(5, seed=1), parameters={"temperature": 2.5})
    save_model("a.pt", random_net(5, seed=2), parameters={"temperature": 20.0})
    call(evaluate, "b.pt", teacher, "a.pt")
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["b.pt", str(teacher), "a.pt"]
    assert [float(line.split()[4]) for line in (lines[0], lines[2])] == [2.5, 20]
    for line, path in zip(lines, ("b.pt", teacher, "a.pt"), strict=True):
        result = measure(load_model(path), sample.test)
        assert str(result["errors"]) in line.split()
        assert list(map(int, line.split()[-10:])) == result["errors_per_digit"]


def test_a_net_without_a_record_is_evaluated_on_mnist_too(rows_of, as_mnist):
    save_model("net.pt", random_net(5))
    (row,) = rows_of("net.pt")
    assert (row["paper"], row["temperature"], row["cases"]) == (None, None, 1000)


@pytest.mark.parametrize(
    "record",
    [
        {"parameters": 3},
        {"parameters": None},
        {"data_set": [1]},
        {"parameters": {"temperature": [1, 2]}},
        {"parameters": {"temperature": torch.ones(2)}},
        {"parameters": {"jitter": []}},
        {"result": {"errors": torch.ones(2)}},
    ],
)
def test_a_record_of_another_form_does_not_break_the_table(refused, as_mnist, record):
    save_model("net.pt", random_net(5))
    torch.save(load_checkpoint("net.pt") | record, "net.pt")
    refused(evaluate, "net.pt", naming="net.pt")


def test_without_arguments_all_checkpoints_in_models_are_evaluated(
    rows_of, refused, monkeypatch, tmp_path
):
    monkeypatch.setattr(evaluate, "MODELS", tmp_path)
    refused(evaluate, naming="models/ train.py")  # there are none
    for name in ("b", "a"):
        save_model(tmp_path / f"{name}.pt", random_net(5))
    assert [Path(row["file"]).name for row in rows_of()] == ["a.pt", "b.pt"]


def test_a_checkpoint_of_other_data_is_named_when_it_is_evaluated(call, capsys):
    save_model("net.pt", random_net(5), data_set={"name": "FashionMNIST"})
    call(evaluate, "net.pt")
    assert re.search(r"net\.pt was trained on 'FashionMNIST'", capsys.readouterr().err)


# Translated test images


def test_translated_errors_are_the_mean_of_the_eight_directions(
    call, capsys, rows_of, teacher, sample
):
    net, errors = load_model(teacher), []
    for down, right in itertools.product((-2, 0, 2), repeat=2):
        images = torch.zeros(1000, 32, 32, dtype=torch.uint8)
        images[:, 2 + down : 30 + down, 2 + right : 30 + right] = sample.test.images
        images = images[:, 2:30, 2:30].contiguous()
        wrong = net(pixels(images)).argmax(1) != sample.test.labels
        errors.append(int(wrong.sum()))
    original = errors.pop(4)
    (row,) = rows_of(teacher, "--translate 0 2")
    assert row["translated"] == {"0": original, "2": sum(errors) / 8}
    call(evaluate, teacher, "--translate 2 0")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split() == [str(teacher), f"{sum(errors) / 8:.1f}", f"{original:.1f}"]


@pytest.mark.parametrize("words", ["--translate 1 2 net.pt", "net.pt --translate 1 2"])
def test_numbers_and_checkpoints_are_told_apart(rows_of, words):
    save_model("net.pt", random_net(5))
    (row,) = rows_of(words)
    assert row["file"] == "net.pt" and row["translated"].keys() == {"1", "2"}


@pytest.mark.parametrize("words", ["-1", "1.5", "29", "net.pt", "1.5 net.pt"])
@pytest.mark.parametrize("before", ["", "net.pt"])
def test_no_image_is_moved_by_a_part_of_a_pixel_or_out_of_sight(refused, before, words):
    save_model("net.pt", random_net(5))
    refused(evaluate, before, "--translate", words, naming="--translate")


# Verifying


def test_verifying_compares_with_the_record_and_with_the_listed_sums(stops, teacher, sample):
    net = load_model(teacher)
    result = measure(net, sample.test)
    save_model("net.pt", net, result=result)
    save_model("wrong.pt", net, result=result | {"errors": result["errors"] - 1})
    stop = stops(evaluate, "--verify net.pt")
    assert (stop.status, stop.out) == (0, "net.pt: as recorded\n")
    for words in ("net.pt wrong.pt", "wrong.pt net.pt"):
        stop = stops(evaluate, "--verify", words)
        assert stop.status == 1 and "net.pt: as recorded\n" in stop.out
        assert f"errors {result['errors']}, recorded {result['errors'] - 1}\n" in stop.out
    digest = hashlib.sha256(Path("net.pt").read_bytes()).hexdigest()
    for listed, status in (digest, 0), (digest[::-1], 1):
        Path("SHA256SUMS").write_text(f"{listed}  net.pt\n")
        stop = stops(evaluate, "--verify net.pt")
        assert (stop.status, "SHA-256" in stop.out) == (status, status == 1)


# The published checkpoints


@needs_models
@pytest.mark.parametrize("name", EXPECTED)
def test_the_published_checkpoints_are_what_their_names_say(name):
    checkpoint = load_checkpoint(MODELS / f"{name}.pt")
    architecture, units, temperature, digits = EXPECTED[name]
    data = checkpoint["data_set"]
    assert (checkpoint["architecture"], checkpoint["hidden_units"]) == (architecture, units)
    assert checkpoint["parameters"].get("temperature") == temperature
    assert (data["name"], data["digits"]) == ("MNIST", digits)
    assert data["training_cases"] == TRAINING_CASES[len(digits)]
    assert checkpoint["result"]["cases"] == 10_000
    if temperature:
        teacher = MODELS / "cumbersome_model_1200.pt"
        digest = hashlib.sha256(teacher.read_bytes()).hexdigest()
        assert checkpoint["teacher"] == {"file": teacher.name, "sha256": digest}


@needs_models
def test_the_sums_of_the_published_checkpoints_are_listed():
    listed = (MODELS / "SHA256SUMS").read_text().splitlines()
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in PUBLISHED}
    assert sorted(listed) == sorted(f"{digest}  {name}" for name, digest in digests.items())


@needs_models
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_checkpoint_makes_the_errors_that_it_records(mnist, path):
    row, result = evaluate.evaluate(path, mnist), load_checkpoint(path)["result"]
    assert {name: row[name] for name in result} == result


# What a checkpoint records


@needs_models
def test_what_a_checkpoint_records_is_described(stops):
    path = MODELS / "distilled_model_800_20.pt"
    record = load_checkpoint(path)
    shown = stops(evaluate, "--describe", path)
    assert (shown.status, shown.err) == (0, "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for words in (
        [str(path), sha256, record["command"], "SmallNet", "temperature=20.0", "epochs=20"],
        ["seed 0", "errors=84", record["teacher"]["sha256"], record["versions"]["torch"]],
        ["digits=0,1,2,3,4,5,6,7,8,9", f"loss={record['history'][-1]['loss']}"],
    ):
        text = re.sub(" +", " ", shown.out)
        assert all(word in text for word in words)


def test_several_descriptions_are_json_of_all_but_the_weights(stops, tmp_path):
    for seed in range(2):
        save_model(f"{seed}.pt", random_net(), seed=seed, result={"errors": 9}, note='a "word"')
    before = everything_in(tmp_path)
    found = json.loads(stops(evaluate, "--describe --json 0.pt 1.pt").out)
    assert [row["seed"] for row in found] == [0, 1] and everything_in(tmp_path) == before
    for row in found:
        record = load_checkpoint(row["file"])
        del record["state_dict"], record["format_version"]
        assert {name: row[name] for name in record} == record
        assert row.keys() - record.keys() == {"file", "sha256"}


def test_a_record_does_not_replace_file_and_sum(stops):
    save_model("a.pt", random_net(), file="b.pt", sha256="0" * 64)
    (found,) = json.loads(stops(evaluate, "--describe --json a.pt").out)
    sha256 = hashlib.sha256(Path("a.pt").read_bytes()).hexdigest()
    assert (found["file"], found["sha256"]) == ("a.pt", sha256)


def test_a_file_that_is_no_checkpoint_is_not_described(refused):
    Path("a.pt").write_bytes(b"no checkpoint")
    refused(evaluate, "--describe a.pt", naming="a.pt")


@pytest.mark.parametrize(
    "words",
    [
        *("--verify --describe", "--verify --json", "--verify --image a.png"),
        *("--describe --image a.png", "--describe --translate 1", "--describe --ensemble"),
        *("--image a.png --translate 1", "--image a.png --ensemble"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(stops, words):
    save_model("a.pt", random_net())
    stop = stops(evaluate, "a.pt a.pt", words)
    assert stop.status == 2 and len(stop.err.splitlines()) == 1 and not stop.out
