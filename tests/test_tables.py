"""The tables of the pages: what they compute, and that they are those of results/."""

import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import summary
import tables
from common import ROOT

from training_params import UserError


@pytest.fixture
def results(monkeypatch, tmp_path):
    """A copy of results/ to change, which the tables are made from."""
    copy = tmp_path / "results"
    shutil.copytree(ROOT / "results", copy)
    monkeypatch.setattr(summary, "RESULTS", copy)
    return copy


README = ROOT / "README.md"


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name)
def test_the_tables_of_the_pages_are_those_of_the_results(page):
    text = page.read_text()
    assert tables.rewritten(page, text) == text, "run python tables.py"


def test_the_page_of_the_checkpoints_is_that_of_the_checkpoints():
    assert (ROOT / "models" / "README.md").read_text() == tables.models_page(), (
        "run python tables.py"
    )


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, names in tables.PAGES.items() for name in names]
)
def test_the_pages_have_a_place_for_every_table(page, name):
    with pytest.raises(UserError, match=name):
        tables.rewritten(page, page.read_text().replace(f"<!-- {name} -->", ""))


def test_another_result_makes_another_table(results):
    before = tables.rewritten(README, README.read_text())
    path = results / "small_800.csv"
    errors = summary.read("small_800")[0]["errors"]
    assert f",{errors},10000," in path.read_text().splitlines()[1]
    path.write_text(path.read_text().replace(f",{errors},10000,", ",4321,10000,"))
    after = tables.rewritten(README, before)
    assert "| 4,321 |" in after
    assert after != before


HEADER = "data,temperature,epochs,seed,errors,problem"


def write_runs(results, *lines):
    (results / "some.csv").write_text("\n".join([HEADER, *lines]) + "\n")


def test_runs_are_in_the_order_of_their_seeds(results):
    write_runs(results, "MNIST,1,5,10,3,", "MNIST,1,5,9,2,")
    assert [line["seed"] for line in summary.read("some")] == ["9", "10"]
    assert summary.numbers(summary.read("some", seed="10"), "errors") == [3]
    with pytest.raises(UserError, match="some"):
        summary.read("some", seed="1")
    with pytest.raises(UserError, match="missing"):
        summary.read("missing")


def test_runs_of_other_settings_may_be_in_one_file_if_they_are_read_apart(results):
    write_runs(results, "MNIST,1,5,0,3,", "MNIST,1,6,0,4,")
    assert [line["errors"] for line in summary.read("some", epochs="6")] == ["4"]
    with pytest.raises(UserError, match="epochs"):
        summary.read("some")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("sample,1,5,1,3,", "sample"),
        ("MNIST,1,6,1,3,", "epochs"),
        ("MNIST,1,5,0,3,", "twice"),
        ("MNIST,1,5,1,,loss is not finite", "failed"),
        ("MNIST,1,5", "damaged"),
        ("MNIST,1,5,1,3,,7", "damaged"),
    ],
)
def test_runs_that_do_not_belong_together_are_not_averaged(results, line, named):
    write_runs(results, "MNIST,1,5,0,3,", line)
    with pytest.raises(UserError, match=named):
        summary.read("some")


def test_errors_are_paired_by_seed(results):
    runs = [(1, 7, 30), (1, 8, 40), (2, 8, 44), (2, 9, 99), (2, 7, 33)]
    write_runs(results, *(f"MNIST,{t},5,{seed},{errors}," for t, seed, errors in runs))
    assert summary.paired(summary.by_temperature("some")).tolist() == [[30, 40], [33, 44]]


@pytest.mark.parametrize("content", ["{", "[]", '[{"file": "x"}]', '{"a": 1}'])
def test_damaged_results_are_named(results, content):
    text = README.read_text()
    (results / "translated.json").write_text(content)
    with pytest.raises(UserError, match="translated"):
        tables.rewritten(README, text)


def test_a_table_may_be_empty_and_a_lost_mark_loses_no_text():
    text = README.read_text()
    start, _, rest = text.partition("<!-- thirty -->\n")
    empty = f"{start}<!-- thirty -->\n{rest[rest.index('<!-- end -->') :]}"
    assert tables.rewritten(README, empty) == text
    lost = empty.replace("<!-- thirty -->\n<!-- end -->", "<!-- thirty -->\n")
    with pytest.raises(UserError, match="thirty"):
        tables.rewritten(README, lost)


def test_a_spread_is_mean_and_sample_standard_deviation():
    assert summary.spread([1, 2, 6]) == f"3.0 ± {statistics.stdev([1, 2, 6]):.1f}"
    assert summary.spread([1234]) == "1,234"


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),  # from the tables in textbooks
    [(0.975, 9, 2.262), (0.975, 4, 2.776), (0.995, 9, 3.250), (0.95, 1, 6.314), (0.9, 120, 1.289)],
)
def test_quantiles_of_students_t(probability, freedom, quantile):
    assert summary.student_t(probability, freedom) == pytest.approx(quantile, abs=6e-4)


@pytest.mark.parametrize("comparisons", [1, 7])
def test_intervals_hold_the_true_differences_as_often_as_they_say(comparisons):
    """All of several comparisons at once, in at least 95 % of experiments of 10 seeds each."""
    experiments = np.random.default_rng(0).normal(5, 3, (1500, comparisons, 10))
    held = 0
    for experiment in experiments:
        found = [summary.interval(list(differences), comparisons) for differences in experiment]
        held += all(abs(mean - 5) < half for mean, half in found)
    assert 0.935 < held / len(experiments) < 0.97


def test_pooled_intervals_are_those_of_one_standard_deviation_for_all_groups():
    groups = [[1, 2, 6], [10, 12], [5, 5, 5, 7, 8]]
    means, halves = summary.pooled_intervals(groups)
    assert means.tolist() == [3, 11, 6]
    residuals = np.concatenate([np.array(group) - np.mean(group) for group in groups])
    deviation = np.sqrt((residuals**2).sum() / 7)  # 10 values less 3 means
    expected = [2.365 * deviation / np.sqrt(n) for n in (3, 2, 5)]  # t of 7 degrees: textbooks
    assert halves == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("change", "named"), [("twice", "twice"), ("sample", "MNIST")])
def test_nets_twice_or_on_other_images_are_not_averaged(results, change, named):
    nets = json.loads((results / "translated.json").read_text())
    changed = nets + nets[:1] if change == "twice" else [nets[0] | {"data_set": "sample"}]
    (results / "translated.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=named):
        summary.translated("translated", Path(nets[0]["file"]).name)


def test_one_run_has_no_spread(results):
    """Rather an error than a table with nan."""
    path = results / "no_three_800.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    with pytest.raises(UserError, match="biases"):
        tables.rewritten(README, README.read_text())
