import re
from itertools import pairwise

import numpy as np
import pytest
import torch

import distillation_no_three
from dataset import pixels
from distillation_no_three import best_shift, errors_at, label_free_shift, margins
from evaluate import count_errors
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
    ("words", "name", "left"),
    [
        ("", "distilled_model_wo3_20_20.pt", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        ("--omit 5 3 5", "distilled_model_wo35_20_20.pt", [0, 1, 2, 4, 6, 7, 8, 9]),
        ("--keep 8 7 --temperature 2.5", "distilled_model_only78_20_2.5.pt", [7, 8]),
    ],
)
def test_the_student_never_sees_a_digit_that_is_left_out_as_its_name_and_checkpoint_tell(
    call, teacher, sample, batches, words, name, left
):
    call(distillation_no_three, "--teacher", teacher, words, QUICK)
    seen = torch.cat([batch.indices for batch in batches])
    assert len(seen) == len(set(seen.tolist())) == 400 * len(left)
    assert sample.training.labels[seen].unique().tolist() == left
    for batch in batches:
        assert torch.equal(batch.labels, sample.training.labels[batch.indices])
        assert torch.equal(batch.images, pixels(sample.training.images[batch.indices]))
    checkpoint = load_checkpoint(f"runs/{name}")
    assert checkpoint["data_set"]["digits"] == left
    assert checkpoint["data_set"]["training_cases"] == 400 * len(left)
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


@pytest.mark.parametrize("true", [3, 5])
def test_the_best_shift_may_put_all_cases_or_none_in_the_group(true):
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


@pytest.mark.parametrize(
    ("words", "group", "shifts"),
    [
        ("", [3], {"as learned": 0, "as in [KD]": 3.5}),
        ("--keep 7 8", [7, 8], {"as learned": 0, "as in [KD]": -7.6}),
        ("--omit 4 --bias-shift 2.25", [4], {"as learned": 0, "as given": 2.25}),
    ],
)
def test_the_report_counts_errors_as_learned_and_with_the_shift_of_the_paper_or_ones_own(
    report, sample, words, group, shifts
):
    rows = report(words, "--hidden-units 30 --epochs 6")
    assert [row[0].split(" on ")[0] for row in rows] == [
        *shifts,
        "best",
        "by class frequencies, no test labels",
    ]
    net = load_model("net.pt")
    of_group = sample.test[torch.isin(sample.test.labels, torch.tensor(group))]
    for name, shift, *errors in rows[:2]:
        assert shift == shifts[name]
        with torch.no_grad():
            net.output.bias[group] += shift
            assert errors == [int(count_errors(net, digits)) for digits in (sample.test, of_group)]
            net.output.bias[group] -= shift
    assert rows[0][2] == load_checkpoint("net.pt")["result"]["errors"]
    assert rows[2][2] == min(row[2] for row in rows)


def test_a_missing_digit_is_recognised_once_its_bias_is_raised(report):
    rows = report("--hidden-units 60 --epochs 10 --batch-size 100")
    learned, best = rows[0], next(row for row in rows if row[0].startswith("best"))
    assert learned[3] > 40
    assert best[1] > 0
    assert best[2] < learned[2]
    assert best[3] < 0.75 * learned[3]


@pytest.mark.parametrize("omitted", ["3", "0 1 2 3 4 5 6 7 8"])
def test_numbers_stand_below_their_headings(call, capsys, teacher, omitted):
    call(distillation_no_three, "--teacher", teacher, QUICK, "--omit", omitted)
    lines = capsys.readouterr().out.splitlines()
    heading, row = next((h, r) for h, r in pairwise(lines) if r.startswith("as learned"))
    assert len(row) == heading.index("  paper")


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
def test_an_edited_default_of_the_script_is_checked(refused, monkeypatch, default):
    monkeypatch.setattr(distillation_no_three, "DEFAULTS", default)
    refused(distillation_no_three, naming=next(iter(default)))
