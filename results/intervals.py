"""What one new run would make: its 95 % interval, from the spread over seeds and over teachers."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from results.summary import distribution_t, student_t
from support.means import deviation


class NewRun(NamedTuple):
    """The errors that are expected of one more run, with another seed and another teacher."""

    mean: float
    runs: float | None  # standard deviation over seeds, for one teacher
    teachers: float | None  # over teachers, beyond that of their students' means
    variance: float  # of the new run less the mean
    freedom: float  # degrees of freedom of this variance

    @property
    def half(self) -> float:
        """Of the 95 % prediction interval."""
        return student_t(0.975, self.freedom) * math.sqrt(self.variance)

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def chance_of_at_most(self, errors: float) -> float:
        """That the new run makes so few errors."""
        away = (errors - self.mean) / math.sqrt(self.variance)
        return float(distribution_t().cdf(away, self.freedom))

    def holds(self, errors: float) -> bool:
        return self.low <= errors <= self.high


def new_run(groups: Sequence[Sequence[float]]) -> NewRun:
    """From the errors of the students of each teacher, or from one group of runs without any.

    Teachers and students are drawn at random (one-way random effects). The variance of a new
    student of a new teacher, and of the mean that it is compared with, is a sum of the two mean
    squares. With a single group there is no spread over teachers, and the interval is for another
    run like these. Raises UserError if a group has fewer than two runs, ValueError if groups differ
    in size.
    """
    count, size = len(groups), len(groups[0])
    if any(len(group) != size for group in groups):
        raise ValueError("each teacher needs as many students")
    within = statistics.mean(deviation(group) ** 2 for group in groups)
    means = [statistics.mean(group) for group in groups]
    mean = statistics.mean(means)
    if count == 1:
        return NewRun(mean, math.sqrt(within), None, within * (1 + 1 / size), size - 1)
    between = size * statistics.variance(means)
    teachers = math.sqrt(max(0.0, between - within) / size)
    of_means = (1 + 1 / count) / size * between
    of_students = (1 - 1 / size) * within
    parts = [(of_means, count - 1), (of_students, count * (size - 1))]
    return NewRun(mean, math.sqrt(within), teachers, *summed(parts))


def difference(one: NewRun, other: NewRun) -> NewRun:
    """Of a new run of one kind less a new run of the other, which is independent of it."""
    parts = [(run.variance, run.freedom) for run in (one, other)]
    return NewRun(one.mean - other.mean, None, None, *summed(parts))


def summed(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A sum of variances and its degrees of freedom (Satterthwaite), from those of its parts."""
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0, 1.0
    return variance, variance**2 / sum(part**2 / freedom for part, freedom in parts)
