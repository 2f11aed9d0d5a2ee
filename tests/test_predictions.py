"""The stored predictions: the errors in results/ follow from them."""

import csv

import pytest
from common import ROOT, random_digits, random_net

from dataset import Mnist
from evaluate import logits_of
from results import predictions
from support.checkpoints import save_model
from support.errors import UserError
from support.files import sha256


def rows_with_predictions():
    sums = {name for name, _ in predictions.stored()}
    for path in sorted((ROOT / "results").glob("*.csv")):
        with open(path, newline="") as file:
            yield from (row for row in csv.DictReader(file) if row["sha256"] in sums)


def test_the_errors_in_the_results_are_those_of_the_stored_predictions(mnist):
    labels, found = mnist.test.labels.numpy(), predictions.stored()
    rows = list(rows_with_predictions())
    assert rows
    for row in rows:
        wrong = found[row["sha256"], 0.0] != labels
        assert wrong.sum() == int(row["errors"])
        assert row["errors_per_digit"] == " ".join(str(wrong[labels == d].sum()) for d in range(10))
        if row.get("paper_errors"):
            shifted = found[row["sha256"], float(row["paper_shift"])]
            assert (shifted != labels).sum() == int(row["paper_errors"])


def test_the_predictions_of_the_published_nets_are_stored():
    sums = {name for name, _ in predictions.stored()}
    assert {sha256(path)[:12] for path in (ROOT / "models").glob("*.pt")} <= sums


@pytest.mark.parametrize(
    ("seen", "shift", "group"),
    [
        ([0, 1, 2, 4, 5, 6, 7, 8, 9], 3.5, [3]),
        ([7, 8], -7.6, [7, 8]),
        (range(10), None, []),
        ([0, 1], None, []),
    ],
)
def test_predictions_are_the_highest_logits_also_with_the_papers_shift(
    tmp_path, seen, shift, group
):
    net, digits = random_net(40, std=0.2), random_digits(300)
    path = tmp_path / "net.pt"
    save_model(path, net, data_set={"name": "MNIST", "digits": list(seen)})
    found = predictions.predictions_of(path, Mnist(digits, digits, "MNIST"))
    own = sha256(path)[:12]
    assert found.keys() == {(own, 0.0), *([(own, shift)] if shift else [])}
    logits = logits_of(net, digits.images).numpy()
    assert found[own, 0.0].tolist() == logits.argmax(1).tolist()
    if shift:
        logits[:, group] += shift
        assert found[own, shift].tolist() == logits.argmax(1).tolist()
        assert (found[own, shift] != found[own, 0.0]).any()


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "predictions.npz"
    assert predictions.stored(path) == {}
    for content in (b"", b"PK\3\4 and no more"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"predictions\.npz is damaged"):
            predictions.stored(path)
