import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from common import some_params

import distillation_no_three
from dataset import pixels
from distillation import distill
from distillation_no_three import best_shift, errors_at, label_free_shift, margins
from evaluate import count_errors
from layers import SmallNet, init_weights
from support.checkpoints import load_checkpoint, load_model

GROUPS = [[3], [0], [9], [7, 8], [0, 4, 9], list(range(9))]
QUICK = "--hidden-units 20 --epochs 1 --batch-size 200 --quiet"


def random_case(cases=200, seed=0, decimals=None):
    """Logits that are right more often than not, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (cases,), generator=generator)
    logits = torch.randn(cases, 10, generator=generator)
    logits[torch.arange(cases), labels] += 1.5
    logits[:, 3] -= 1.0
    return logits if decimals is None else logits.round(decimals=decimals), labels


def errors_by_hand(logits, labels, group, shift):
    """Errors in all and on the digits in `group` with `shift` added to the logits of `group`."""
    wrong = [0, 0]
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        shifted = [value + shift * (digit in group) for digit, value in enumerate(row)]
        if shifted.index(max(shifted)) != label:
            wrong[0] += 1
            wrong[1] += label in group
    return tuple(wrong)


# What the student is shown


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("", {0, 1, 2, 4, 5, 6, 7, 8, 9}),
        ("--omit 3", {0, 1, 2, 4, 5, 6, 7, 8, 9}),
        ("--omit 3 5 3", {0, 1, 2, 4, 6, 7, 8, 9}),
        ("--keep 7 8", {7, 8}),
    ],
    ids=["default", "one", "two", "keep"],
)
def test_the_student_never_sees_a_digit_that_is_left_out(
    call, teacher, sample, batches, words, left
):
    call(distillation_no_three, "--teacher", teacher, words, QUICK)
    training = sample.training
    seen = torch.cat([batch.indices for batch in batches])
    assert len(seen) == len(set(seen.tolist())) == 400 * len(left)
    assert set(training.labels[seen].tolist()) == left
    for batch in batches:
        assert set(batch.labels.tolist()) <= left
        assert torch.equal(batch.images, pixels(training.images[batch.indices]))


def test_the_digit_is_left_out_in_every_epoch(call, teacher, sample, batches):
    words = "--hidden-units 5 --epochs 4 --batch-size 3000 --quiet"
    call(distillation_no_three, "--teacher", teacher, words)
    seen = torch.cat([batch.indices for batch in batches])
    assert len(seen) == 4 * 3600
    assert not (sample.training.labels[seen] == 3).any()


def test_the_student_is_that_of_a_distillation_without_the_digit(call, teacher, sample):
    call(distillation_no_three, "--teacher", teacher, QUICK, "--output net.pt")
    parameters = load_checkpoint("net.pt")["parameters"]
    params = some_params("Distilled", **parameters)
    student = SmallNet(20)
    init_weights(student, params.init_std, 0)
    kept = sample.training[sample.training.labels != 3]
    distill(student, load_model(teacher), kept, params)
    for saved, made in zip(load_model("net.pt").parameters(), student.parameters(), strict=True):
        assert torch.equal(saved, made)


@pytest.mark.parametrize(
    ("words", "name", "digits"),
    [
        ("", "distilled_model_wo3_20_8.pt", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        ("--omit 5 3", "distilled_model_wo35_20_8.pt", [0, 1, 2, 4, 6, 7, 8, 9]),
        ("--keep 8 7 --temperature 2.5", "distilled_model_only78_20_2.5.pt", [7, 8]),
    ],
)
def test_name_and_checkpoint_tell_which_digits_the_student_saw(call, teacher, words, name, digits):
    call(distillation_no_three, "--teacher", teacher, words, QUICK)
    checkpoint = load_checkpoint(f"runs/{name}")
    assert checkpoint["data_set"]["digits"] == digits
    assert checkpoint["data_set"]["training_cases"] == 400 * len(digits)
    assert checkpoint["result"]["cases_per_digit"] == [100] * 10


# Shifts of the biases


@pytest.mark.parametrize("group", GROUPS, ids=str)
@pytest.mark.parametrize("shift", [-7.6, -1.0, 0.0, 0.3, 3.5])
def test_errors_are_those_of_the_shifted_logits(group, shift):
    logits, labels = random_case()
    found = errors_at(margins(logits, labels, group), labels, group, shift)
    assert found == errors_by_hand(logits, labels, group, shift)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_no_shift_makes_fewer_errors_than_the_best(group, seed):
    logits, labels = random_case(seed=seed)
    best = best_shift(margins(logits, labels, group))
    grid = np.arange(-8, 8, 0.02)
    shifted = logits.double().numpy()[None] + (
        grid[:, None, None] * np.isin(np.arange(10), group)[None, None]
    )
    errors = (shifted.argmax(axis=2) != labels.numpy()).sum(axis=1)
    assert errors_by_hand(logits, labels, group, best)[0] <= errors.min()
    assert errors.min() < errors.max()


@pytest.mark.parametrize("seed", range(10))
def test_the_best_shift_is_right_where_margins_are_equal(seed):
    logits, labels = random_case(cases=40, seed=seed, decimals=0)
    cases = margins(logits, labels, [3])
    best = best_shift(cases)
    assert not (cases.needed == best).any()  # where the outcome would be a matter of rounding
    errors = [errors_by_hand(logits, labels, [3], s + 0.5)[0] for s in range(-12, 12)]
    assert errors_by_hand(logits, labels, [3], best)[0] == min(errors)


@pytest.mark.parametrize(("true", "sign"), [(3, 1), (5, -1)])
def test_the_best_shift_may_put_all_cases_or_none_in_the_group(true, sign):
    logits = torch.randn(30, 10, generator=torch.Generator().manual_seed(0))
    logits[:, 5] += 4.0  # outside the group all cases are taken for a 5
    labels = torch.full((30,), true)
    best = best_shift(margins(logits, labels, [3]))
    assert errors_by_hand(logits, labels, [3], best)[0] == 0
    assert np.isfinite(best)


def test_the_best_shift_lies_in_the_middle_of_the_best_interval():
    logits = torch.zeros(4, 10)
    logits[:, 0] = torch.tensor([1.0, 2.0, 6.0, 7.0])  # how far class 3 is behind
    labels = torch.tensor([3, 3, 0, 0])
    cases = margins(logits - torch.nn.functional.one_hot(torch.full((4,), 5), 10), labels, [3])
    assert best_shift(cases) == pytest.approx(4)
    assert errors_at(cases, labels, [3], 4.0) == (0, 0)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("group", [[3], [7, 8]], ids=str)
def test_the_shift_without_labels_puts_the_right_share_of_cases_in_the_group(group, share):
    logits, labels = random_case(400)
    shift = label_free_shift(margins(logits, labels, group).needed, share)
    logits[:, group] += shift
    in_group = np.isin(logits.argmax(dim=1).numpy(), group).sum()
    assert in_group == round(share * 400)


def test_the_shift_without_labels_does_not_depend_on_the_labels():
    logits, labels = random_case()
    shifts = [
        label_free_shift(margins(logits, given, [3]).needed, 0.1)
        for given in (labels, (labels + 1) % 10, torch.zeros_like(labels))
    ]
    assert len(set(shifts)) == 1


@pytest.fixture
def report(call, capsys, teacher):
    """report(*words): the rows of the table of shifts as (name, shift, errors, on the group)."""

    def run(*words):
        capsys.readouterr()
        call(distillation_no_three, "--teacher", teacher, *words, "--output net.pt --quiet")
        row = re.compile(r"^(.+?) +([+-]\d+\.\d\d) +([\d,]+) +([\d,]+)(?: .*)?$", re.MULTILINE)
        rows = row.findall(capsys.readouterr().out)
        return [
            (name, float(shift), *(int(errors.replace(",", "")) for errors in both))
            for name, shift, *both in rows
        ]

    return run


def errors_with_shift(sample, group, shift):
    net = load_model("net.pt")
    with torch.no_grad():
        net.output.bias[group] += shift
    of_group = sample.test[torch.isin(sample.test.labels, torch.tensor(group))]
    return int(count_errors(net, sample.test)), int(count_errors(net, of_group))


@pytest.mark.parametrize(
    ("words", "group", "paper"), [("", [3], 3.5), ("--keep 7 8", [7, 8], -7.6)]
)
def test_the_report_counts_errors_as_learned_and_with_the_shift_of_the_paper(
    report, sample, words, group, paper
):
    rows = report(words, "--hidden-units 30 --epochs 6")
    result = load_checkpoint("net.pt")["result"]
    on_group = sum(result["errors_per_digit"][digit] for digit in group)
    assert rows[0][1:] == (0, result["errors"], on_group)
    assert rows[1][1:] == (paper, *errors_with_shift(sample, group, paper))
    best = min(row[2] for row in rows)
    assert [row[2] for row in rows if row[0].startswith("best")] == [best]


def test_a_missing_digit_is_recognised_once_its_bias_is_raised(report):
    rows = report("--hidden-units 60 --epochs 10 --batch-size 100")
    learned, best = rows[0], next(row for row in rows if row[0].startswith("best"))
    assert learned[3] > 40
    assert best[1] > 0
    assert best[2] < learned[2]
    assert best[3] < 0.75 * learned[3]


def test_errors_at_a_shift_of_ones_own_are_counted_too(report, sample):
    rows = report("--bias-shift 2.25 --hidden-units 20 --epochs 2")
    own = [row[1:] for row in rows if row[1] == 2.25]
    assert own == [(2.25, *errors_with_shift(sample, [3], 2.25))]


def test_another_choice_of_digits_has_no_shift_of_the_paper(report):
    rows = report("--omit 4 --hidden-units 5 --epochs 1")
    assert rows[0][0] == "as learned"
    assert 3.5 not in [row[1] for row in rows]
    assert len(rows) == 3


@pytest.mark.parametrize("omitted", ["3", "0 1 2 3 4 5 6 7 8"])
def test_numbers_stand_below_their_headings(call, capsys, teacher, omitted):
    call(distillation_no_three, "--teacher", teacher, QUICK, "--omit", omitted)
    lines = capsys.readouterr().out.splitlines()
    heading, row = next((h, r) for h, r in pairwise(lines) if r.startswith("as learned"))
    assert len(row) == heading.index("  paper")


def test_errors_on_the_sample_do_not_stand_beside_those_of_the_paper(call, capsys, teacher):
    call(distillation_no_three, "--teacher", teacher, QUICK)
    assert "206" not in capsys.readouterr().out


def test_the_best_shift_of_huge_logits_is_found():
    """1 is lost in rounding beside them."""
    logits, labels = torch.zeros(4, 10), torch.tensor([3, 3, 0, 0])
    logits[:, 0] = torch.tensor([1e9, 2e9, 3e9, 4e9])
    cases = margins(logits, labels, [3])
    assert errors_at(cases, labels, [3], best_shift(cases)) == (0, 0)
    equal = margins(logits[:1], labels[:1], [3])
    assert errors_at(equal, labels[:1], [3], best_shift(equal)) == (0, 0)


@pytest.mark.parametrize(
    "default", [{"temprature": 8.0}, {"hidden_units": "many"}, {"epochs": 0}, {"epochs": None}]
)
def test_an_edited_default_of_the_script_is_checked(stops, monkeypatch, default):
    monkeypatch.setattr(distillation_no_three, "DEFAULTS", default)
    stop = stops(distillation_no_three)
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert next(iter(default)) in stop.err
