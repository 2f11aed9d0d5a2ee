"""The page of explore.py, as far as it can be seen without a browser: what it carries and says."""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from common import ROOT, random_net

import explore
from distillation_no_three import errors_at, margins
from evaluate import logits_of, measure
from layers import LAYERS, CumbersomeNet, RectifierNet, SmallNet
from support.checkpoints import load_checkpoint, load_model, save_model
from support.page import packed, packed_net, page

ALL = list(range(10))
TEMPLATES = [ROOT / "support" / f"explore.{kind}" for kind in ("html", "css", "js")]
OUTPUT = Path("runs/explore.html")


def unpacked(field):
    """What the page makes of a packed array."""
    kind = {"Float32Array": "<f4", "Uint8Array": "u1"}[field["type"]]
    return np.frombuffer(gzip.decompress(base64.b64decode(field["gzip"])), kind)


def decoded(net) -> RectifierNet:
    """The net that the page computes with."""
    low, high = unpacked(net["weights"]).reshape(2, -1)
    multiples = torch.tensor(low.astype(int) + 256 * high.view(np.int8).astype(int))
    biases = torch.tensor(unpacked(net["biases"]))
    units = net["units"]
    model = SmallNet(units)
    for name, step, inputs in zip(LAYERS, net["steps"], (784, units, units), strict=True):
        layer = model.get_submodule(name)
        outputs = len(layer.bias)
        weights, multiples = multiples.tensor_split([inputs * outputs])
        layer.weight.data = step * weights.view(inputs, outputs).T.float()
        layer.bias.data, biases = biases.tensor_split([outputs])
    assert not len(multiples) and not len(biases)
    return model.eval()


def carried(path=OUTPUT):
    """The data in a page."""
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text()
    )
    return json.loads(text)


def record(digits=ALL, teacher=None, name="CumbersomeNet", units=1200, **parameters):
    """As much of a checkpoint as says what a net is."""
    data = {"name": "MNIST", "digits": digits}
    rest = {"architecture": name, "hidden_units": units, "parameters": parameters}
    return {"data_set": data, "teacher": teacher, **rest}


# The file


def test_the_page_of_the_published_nets_is_one_file_of_at_most_15_mb(explored):
    assert explored.file.stat().st_size <= 15e6
    assert carried(explored.file) == explored.data


def test_the_published_nets_keep_their_answers_to_mnist_on_the_page(mnist):
    for path in explore.PUBLISHED:
        data, answers = explore.net_data(path, load_checkpoint(path), mnist)
        shown = logits_of(decoded(data), mnist.test.images).argmax(1)
        assert (shown != answers).sum() <= 5


def test_the_page_needs_nothing_beside_itself():
    text = page("explore", {}).decode()
    links = re.findall(r"\b(?:src=|href=|url\(|import\b|https?:)\S*", text)
    assert links == ['href="https://arxiv.org/abs/1503.02531">distillation</a>.']
    assert all(template.read_text() in text for template in TEMPLATES[1:])


def test_the_templates_are_short_enough_to_read():
    lines = [line for template in TEMPLATES for line in template.read_text().splitlines()]
    assert len(lines) <= 400
    assert max(map(len, lines)) <= 100


def test_a_name_cannot_break_out_of_the_data():
    data = {"name": "</script><script>alert(1)</script><!--"}
    text = page("explore", data).decode()
    assert text.count("</script>") == 2 and "alert(1)</script>" not in text
    Path("page.html").write_text(text)
    assert carried(Path("page.html")) == data


# What it carries


@pytest.mark.parametrize("place", range(5), ids=lambda place: explore.PUBLISHED[place].stem)
def test_at_most_5_of_10_000_answers_differ_from_those_of_pytorch(explored, place):
    images = explored.mnist.test.images
    model = load_model(explore.PUBLISHED[place])
    expected = logits_of(model, images).argmax(1)
    net = explored.data["nets"][place]
    assert torch.equal(torch.tensor(unpacked(net["answers"])).long(), expected)
    answers = logits_of(decoded(net), images).argmax(1)
    assert int((answers != expected).sum()) <= 5


@pytest.mark.parametrize("std", [0.0, 1e-30, 0.05, 1e30])
def test_weights_of_any_size_are_rounded_to_a_step(std):
    net = random_net(3)
    for parameter in net.parameters():
        parameter.data *= std / 0.1
    net.hidden1.weight.data[0, 0] *= 1e6  # one that is much larger than the others
    rounded, steps = decoded(packed_net(net, 160)), packed_net(net, 160)["steps"]
    for name, step in zip(LAYERS, steps, strict=True):
        one, other = (each.get_submodule(name) for each in (net, rounded))
        assert (one.weight - other.weight).abs().max() <= 0.51 * step
        assert torch.equal(one.bias, other.bias)


def test_images_labels_and_margins_are_those_of_the_data(explored):
    data, digits = explored.data, explored.mnist.test
    assert (unpacked(data["test"]["images"]) == digits.images.flatten().numpy()).all()
    assert (unpacked(data["test"]["labels"]) == digits.labels.numpy()).all()
    for path, net in zip(explore.PUBLISHED, data["nets"], strict=True):
        if shift := net["shift"]:
            logits = logits_of(load_model(path), digits.images)
            for name, field in margins(logits, digits.labels, shift["group"])._asdict().items():
                assert (unpacked(shift[name]) == field.numpy()).all()


def test_shifts_of_the_paper_and_the_best_are_within_the_slider(explored):
    shifts = [net["shift"] for net in explored.data["nets"]]
    assert [shift and shift["group"] for shift in shifts] == [None, None, None, [3], [7, 8]]
    for shift, paper in zip(shifts[3:], (3.5, -7.6), strict=True):
        rows = {row["column"]: row for row in shift["rows"]}
        assert (rows["learned"]["shift"], rows["paper"]["shift"]) == (0, paper)
        assert all(shift["low"] < row["shift"] < shift["high"] for row in rows.values())
        assert not any("[KD]" in row["name"] for row in rows.values())


def test_the_best_shift_has_the_fewest_errors(explored):
    digits = explored.mnist.test
    for path, net in zip(explore.PUBLISHED[3:], explored.data["nets"][3:], strict=True):
        group, rows = net["shift"]["group"], net["shift"]["rows"]
        cases = margins(logits_of(load_model(path), digits.images), digits.labels, group)
        best = errors_at(cases, digits.labels, group, rows[-1]["shift"])[0]
        low, high = net["shift"]["low"], net["shift"]["high"]
        others = [errors_at(cases, digits.labels, group, s)[0] for s in np.linspace(low, high, 99)]
        assert best <= min(others)


def test_the_digits_beside_a_shift_are_turned_right_by_it(explored):
    for net in explored.data["nets"][3:]:
        shift, turned = net["shift"], net["shift"]["turned"]
        needed, inside, outside = (
            unpacked(shift[name])[turned] for name in ("needed", "inside_wrong", "outside_wrong")
        )
        assert 5 < len(turned) <= explore.TURNED
        assert np.where(needed < 0, inside, outside).all()
        assert not np.where(needed < shift["rows"][-1]["shift"], inside, outside).any()


def test_some_fifty_digits_can_be_picked_among_them_those_in_dispute(explored):
    picks, labels = explored.data["picks"], explored.mnist.test.labels
    assert labels[picks["plain"]].bincount().tolist() == [explore.PLAIN] * 10
    teacher, student = (unpacked(net["answers"]) for net in explored.data["nets"][:2])
    disputed = np.flatnonzero(teacher != student).tolist()
    assert picks["disputed"] == disputed[: explore.DISPUTED]
    assert explored.data["pair"] == ["Teacher", "Distilled student"]
    if explored.mnist.name == "MNIST":
        assert 40 <= sum(map(len, picks.values())) <= 60


# What nets are called


@pytest.mark.parametrize(
    ("digits", "unseen"),
    [
        (ALL, None),
        ([d for d in ALL if d != 3], ("omit", [3])),
        ([8, 7], ("keep", [7, 8])),
        ([0, 1, 2, 3, 4], ("omit", [5, 6, 7, 8, 9])),
        ([], None),
        (None, None),
        ("0123", None),
        ([0.0, 1.0], None),
        ([True, False], None),
        ([3, 10], None),
        ([[3]], None),
        ([7, 7, 8], ("keep", [7, 8])),
    ],
)
def test_digits_that_a_net_did_not_see_are_read_from_its_record(digits, unseen):
    assert explore.unseen_digits(record(digits)) == unseen


@pytest.mark.parametrize(
    ("checkpoint", "name", "detail"),
    [
        (record(), "Teacher", "1,200 units per layer, learned from labels"),
        (
            record(teacher={"file": "t.pt"}, name="SmallNet", units=800, temperature=20.0),
            "Distilled student",
            "800 units per layer, learned from soft targets at T = 20",
        ),
        (
            record(teacher={"file": "t.pt"}, name="SmallNet", units=30, temperature="hot"),
            "Distilled student",
            "30 units per layer, learned from soft targets",
        ),
        (record(name="SmallNet", units=5), "Small net", "5 units per layer, learned from labels"),
        (
            record([7, 8], {"file": "t.pt"}, "SmallNet", 300, temperature=2.5),
            "Saw only 7s and 8s",
            "300 units per layer, learned from soft targets at T = 2.5",
        ),
        (
            record([d for d in ALL if d not in (4, 9)]),
            "Never saw a 4 or a 9",
            "1,200 units per layer, learned from labels",
        ),
        (
            {"architecture": "SmallNet", "hidden_units": 3},
            "Small net",
            "3 units per layer",
        ),
    ],
)
def test_a_net_is_named_by_its_record(checkpoint, name, detail):
    (label,) = explore.labelled([checkpoint], [Path("x.pt")])
    assert label == {"name": name, "detail": detail}


def test_nets_that_are_alike_are_told_apart_by_their_files():
    paths = [Path("a.pt"), Path("runs/a.pt"), Path("b.pt")]
    labels = explore.labelled([record(), record(), record([7, 8])], paths)
    shown = [label["name"].partition(" (")[2] for label in labels]
    assert shown == ["a.pt)", "runs/a.pt)", ""]


@pytest.mark.parametrize("weight", [1e4, 1e6])
def test_a_net_that_rounding_would_change_is_refused(refused, weight):
    """Though it does so on no test image: the pixel is blank in all."""
    net = load_model(explore.MODELS / "distilled_model_300_8.pt")
    net.hidden1.weight.data[0, 0] = weight
    save_model("odd.pt", net)
    refused(explore, "odd.pt", naming="odd.pt rounded answers change")


@pytest.mark.parametrize("biases", [{0: 3e38, 3: -3e38}, {0: -3e38, 3: 3e38}, {5: 1e35}])
def test_a_net_with_logits_that_cannot_be_compared_is_refused(refused, biases):
    net = random_net(5)
    for digit, bias in biases.items():
        net.output.bias.data[digit] = bias
    save_model("odd.pt", net, data_set={"digits": [d for d in ALL if d != 3]})
    refused(explore, "odd.pt", naming="odd.pt logits too large")


@pytest.mark.parametrize("temperature", [10**400, float("inf"), float("nan"), True, "8", None, -1])
def test_an_odd_temperature_on_record_is_not_shown(temperature):
    odd = record() | {"teacher": {"file": "t.pt"}, "parameters": {"temperature": temperature}}
    assert explore.detail_of(odd).endswith("soft targets")


# The script


@pytest.mark.parametrize("linked", [False, True])
def test_a_checkpoint_is_not_replaced_by_the_page(refused, linked):
    save_model("net.html", random_net(5))
    output = "net.html"
    if linked:
        output = "link.html"
        Path(output).symlink_to("net.html")
    refused(explore, "net.html --output", output, naming=f"{output} checkpoint")


def test_own_checkpoints_are_shown_in_place_of_the_published(call, capsys, teacher, sample):
    save_model("student.pt", random_net(5), data_set={"digits": [d for d in ALL if d != 3]})
    call(explore, "student.pt", teacher, "student.pt", "--output here.html")
    out, err = capsys.readouterr()
    assert (out.splitlines()[-1].split(" (")[0], err) == ("The page is in here.html", "")
    assert not Path("runs").exists()
    data = carried(Path("here.html"))
    assert [net["name"] for net in data["nets"]] == ["Never saw a 3", "Teacher"]
    for net, path in zip(data["nets"], (Path("student.pt"), teacher), strict=True):
        labels, answers = unpacked(data["test"]["labels"]), unpacked(net["answers"])
        assert (labels != answers).sum() == measure(load_model(path), sample.test)["errors"]
    assert "1,000 digits of the sample, which published nets have seen" in data["test"]["name"]
    rows = data["nets"][0]["shift"]["rows"]
    assert [row["paper"] for row in rows] == ["", "", ""]  # of MNIST, not of the sample


def test_a_single_net_makes_a_page_in_the_folder_of_runs(call, capsys, monkeypatch, teacher):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    call(explore, teacher)
    assert not opened
    assert f"The page is in {OUTPUT}" in capsys.readouterr().out.splitlines()[-1]
    data = carried()
    assert (len(data["nets"]), data["picks"]["disputed"]) == (1, [])
    call(explore, teacher, "--open")
    assert opened == [OUTPUT.resolve().as_uri()]


def test_a_page_is_written_whole_or_not_at_all(call, teacher, monkeypatch):
    call(explore, teacher)
    before = OUTPUT.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(Exception, match="disk full"):
        call(explore, teacher)
    assert OUTPUT.read_bytes() == before and list(OUTPUT.parent.iterdir()) == [OUTPUT]


def test_a_net_whose_logits_are_not_finite_is_refused(refused, teacher):
    save_model("wild.pt", random_net(5, std=1e20))
    refused(explore, teacher, "wild.pt", naming="wild.pt not finite leave it out")


def test_a_net_of_other_data_is_shown_with_a_note(stops, teacher):
    save_model("net.pt", random_net(5, cls=CumbersomeNet), data_set={"name": "FashionMNIST"})
    stop = stops(explore, "net.pt")
    assert stop.status == 0 and "FashionMNIST" in stop.err and OUTPUT.exists()


@pytest.mark.parametrize("digits", [[3], [0, 1, 2], ["a"], 7, {"3": 4}])
def test_digits_that_are_oddly_recorded_make_a_page_too(call, digits):
    save_model("net.pt", random_net(5), data_set={"digits": digits}, teacher=["x"])
    call(explore, "net.pt")
    assert load_checkpoint("net.pt")["data_set"]["digits"] == digits
    assert len(carried()["nets"]) == 1


def test_arrays_are_packed_with_their_type():
    for array in (np.array([1.5, -2], np.float32), np.array([0, 255], np.uint8), np.array([True])):
        assert (unpacked(packed(array)) == array).all()
