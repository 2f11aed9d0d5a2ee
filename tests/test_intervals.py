"""The interval for one new run, and the two spreads that it is made of."""

import numpy as np
import pytest

from results.intervals import difference, new_run
from support.errors import UserError


@pytest.mark.parametrize(("teachers", "students"), [(0.0, 5.0), (4.0, 5.0), (100.0, 40.0)])
def test_the_interval_holds_a_new_student_of_a_new_teacher_as_often_as_it_says(teachers, students):
    """In experiments like ours: three teachers with five students each, and a fourth teacher."""
    generator = np.random.default_rng(0)
    inside, found = [], []
    for _ in range(3000):
        levels = 500 + teachers * generator.normal(size=4)
        errors = levels[:, None] + students * generator.normal(size=(4, 5))
        each = new_run(errors[:3].tolist())
        inside.append(each.holds(errors[3, 0]))
        found.append((each.teachers**2, each.runs**2, each.mean))
    assert 0.92 < np.mean(inside) < 0.98  # 0.924 where both spreads matter: an approximation
    over_teachers, over_students, mean = np.mean(found, axis=0)
    assert mean == pytest.approx(500, abs=5)
    assert over_students == pytest.approx(students**2, rel=0.05)
    assert over_teachers == pytest.approx(teachers**2, rel=0.1, abs=students**2 / 5)


@pytest.mark.parametrize("runs", [2, 5, 10])
def test_the_interval_of_runs_without_a_teacher_holds_another_one(runs):
    generator = np.random.default_rng(runs)
    held = 0
    for *errors, another in generator.normal(100, 8, size=(4000, runs + 1)).tolist():
        held += new_run([errors]).holds(another)
    assert 0.94 < held / 4000 < 0.96


def test_the_interval_of_a_difference_holds_that_of_two_new_runs():
    """As C2 less C3: five small nets, and five students of each of three teachers."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(3000):
        small = generator.normal(130, 8, size=6)
        students = generator.normal(80, 5, size=(4, 5)) + generator.normal(0, 3, size=(4, 1))
        found = difference(new_run([small[:5].tolist()]), new_run(students[:3].tolist()))
        held += found.holds(small[5] - students[3, 0])
    assert 0.93 < held / 3000 < 0.98


def test_the_chance_of_few_errors_is_that_of_a_new_run():
    each = new_run([[80, 84, 88, 82, 86]])
    assert each.chance_of_at_most(each.low) == pytest.approx(0.025)
    assert each.chance_of_at_most(84) == pytest.approx(0.5)


def test_the_spreads_of_some_runs():
    """By hand: means of 10 and 20, so 5 * 50 between; variances of 2.5 within."""
    each = new_run([[8, 9, 10, 11, 12], [18, 19, 20, 21, 22]])
    assert (each.mean, each.runs**2) == (15, pytest.approx(2.5))
    assert each.teachers**2 == pytest.approx(50 - 2.5 / 5)
    assert each.holds(each.low) and each.holds(each.high) and not each.holds(each.high + 1)
    assert new_run([[8, 12]]).teachers is None


def test_one_run_has_no_interval():
    with pytest.raises(UserError, match="two seeds"):
        new_run([[5]])
    with pytest.raises(ValueError, match="as many"):
        new_run([[5, 6], [7]])
