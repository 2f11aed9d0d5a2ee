"""The statistics of runs over their seeds."""

import statistics

import numpy as np
import pytest
from common import write_runs
from scipy import stats

from results import summary
from results.runs import runs_in
from results.temperatures import MARGIN, against, is_similar
from support.errors import UserError
from support.means import deviation, spread


def test_a_spread_is_mean_and_sample_standard_deviation():
    assert spread([1, 2, 6]) == f"3.0 ± {statistics.stdev([1, 2, 6]):.1f}"
    assert spread([1234]) == "1,234"
    with pytest.raises(UserError, match="two seeds"):
        deviation([1234])


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),  # from the tables in textbooks
    [(0.975, 9, 2.262), (0.975, 4, 2.776), (0.995, 9, 3.250), (0.95, 1, 6.314), (0.9, 120, 1.289)],
)
def test_quantiles_of_students_t(probability, freedom, quantile):
    assert summary.student_t(probability, freedom) == pytest.approx(quantile, abs=6e-4)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_hold_the_true_difference_as_often_as_they_say(level):
    experiments = np.random.default_rng(0).normal(5, 3, (4000, 10)).tolist()
    held = 0
    for differences in experiments:
        mean, half = summary.interval(differences, level)
        held += abs(mean - 5) < half
    assert held / len(experiments) == pytest.approx(level, abs=0.015)


def test_pooled_intervals_are_those_of_one_standard_deviation_for_all_groups():
    groups = [[1, 2, 6], [10, 12], [5, 5, 5, 7, 8]]
    means, halves = summary.pooled_intervals(groups)
    assert means.tolist() == [3, 11, 6]
    residuals = np.concatenate([np.array(group) - np.mean(group) for group in groups])
    deviation = np.sqrt((residuals**2).sum() / 7)  # 10 values less 3 means
    expected = [2.365 * deviation / np.sqrt(n) for n in (3, 2, 5)]  # t of 7 degrees: textbooks
    assert halves == pytest.approx(expected, rel=1e-3)
    with pytest.raises(UserError, match="two seeds"):
        summary.pooled_intervals([[1], [2]])


def test_errors_are_paired_by_seed():
    ours, others = {7: 33, 8: 44, 9: 99}, [{7: 30, 8: 40}, {8: 42, 7: 28, 5: 0}]
    assert summary.less(ours, others) == [33 - 29, 44 - 41]
    with pytest.raises(UserError, match="in common"):
        summary.less(ours, [{7: 30, 5: 0}])


def test_temperatures_are_compared_with_the_others_of_a_group_in_the_seeds_of_both(results):
    """T = 1 has two of the three seeds: the others are not cut down to these."""
    errors = {1: [50, 60], 2: [10, 20, 30], 4: [14, 20, 32], 8: [12, 26, 28]}
    lines = [
        f"MNIST,{t},5,{seed},{e}," for t, each in errors.items() for seed, e in enumerate(each)
    ]
    write_runs(results, *lines)
    assert against(runs_in("some"), group=(2.0, 4.0)) == {
        1.0: [38, 40],  # less the means of T = 2 and 4
        2.0: [-4, 0, -2],
        4.0: [4, 0, 2],
        8.0: [0, 6, -3],
    }
    with pytest.raises(UserError, match=r"some\.csv has no run at T = 40"):
        against(runs_in("some"), group=(2.0, 40.0))


@pytest.mark.parametrize(
    ("differences", "similar"),
    [
        ([1, -1, 2, -2, 0], True),
        ([8, 8.1, 7.9, 8], False),  # the same as another, but for seven errors
        ([0, 30, -30], False),  # nothing is shown
        ([6.5, 6.4, 6.6, 6.5], True),
    ],
)
def test_temperatures_are_similar_if_the_interval_lies_within_the_margin(differences, similar):
    """By two one-sided t-tests of SciPy."""
    below, above = (
        stats.ttest_1samp(differences, bound, alternative=side).pvalue < 0.05
        for bound, side in ((MARGIN, "less"), (-MARGIN, "greater"))
    )
    assert is_similar(differences) == (below and above) == similar
