"""The tables of both READMEs: what they compute, and that they are those of results/."""

import shutil
import statistics

import numpy as np
import pytest
from common import ROOT

import summary
import tables
from training_params import UserError


@pytest.fixture
def results(monkeypatch, tmp_path):
    """A copy of results/ to change, which the tables are made from."""
    copy = tmp_path / "results"
    shutil.copytree(ROOT / "results", copy)
    monkeypatch.setattr(summary, "RESULTS", copy)
    return copy


def test_the_tables_of_the_readme_are_those_of_the_results():
    text = (ROOT / "README.md").read_text()
    assert tables.rewritten(text) == text, "run python tables.py"


def test_the_page_of_the_checkpoints_is_that_of_the_checkpoints():
    assert (ROOT / "models" / "README.md").read_text() == tables.models_page(), (
        "run python tables.py"
    )


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_readme_has_a_place_for_every_table(name):
    text = (ROOT / "README.md").read_text()
    with pytest.raises(UserError, match=name):
        tables.rewritten(text.replace(f"<!-- {name} -->", ""))


def test_another_result_makes_another_table(results):
    before = tables.rewritten((ROOT / "README.md").read_text())
    path = results / "small_800.csv"
    line = path.read_text().splitlines()[1]
    errors = summary.read("small_800")[0]["errors"]
    assert f",{errors},10000," in line
    path.write_text(path.read_text().replace(f",{errors},10000,", ",4321,10000,"))
    after = tables.rewritten(before)
    assert "| 4,321 |" in after
    assert after != before


HEADER = "data,temperature,epochs,seed,errors,problem"


def write_runs(results, *lines):
    (results / "some.csv").write_text("\n".join([HEADER, *lines]) + "\n")


def test_runs_are_in_the_order_of_their_seeds_and_failed_ones_left_out(results):
    write_runs(results, "MNIST,1,5,10,3,", "MNIST,1,5,9,2,", "MNIST,1,5,1,,loss is not finite")
    assert [line["seed"] for line in summary.read("some")] == ["9", "10"]
    assert summary.numbers(summary.read("some", seed="10"), "errors") == [3]
    with pytest.raises(UserError, match="some"):
        summary.read("some", seed="1")
    with pytest.raises(UserError, match="missing"):
        summary.read("missing")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("sample,1,5,1,3,", "sample"),
        ("MNIST,1,6,1,3,", "epochs"),
        ("MNIST,1,5,0,3,", "twice"),
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
    text = (ROOT / "README.md").read_text()
    (results / "translated.json").write_text(content)
    with pytest.raises(UserError, match="translated"):
        tables.rewritten(text)


def test_a_table_may_be_empty_and_a_lost_mark_loses_no_text():
    text = (ROOT / "README.md").read_text()
    start, _, rest = text.partition("<!-- thirty -->\n")
    empty = f"{start}<!-- thirty -->\n{rest[rest.index('<!-- end -->') :]}"
    assert tables.rewritten(empty) == text
    with pytest.raises(UserError, match="thirty"):
        tables.rewritten(empty.replace("<!-- thirty -->\n<!-- end -->", "<!-- thirty -->\n"))


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
