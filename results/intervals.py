"""What one new run would make: its 95 % interval, from the spread over seeds and over teachers."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from results.summary import student_t
from support.means import deviation


class NewRun(NamedTuple):
    """The errors that are expected of one more run, with another seed and another teacher."""

    mean: float
    teachers: float | None  # standard deviation over teachers, beyond that of their students
    runs: float  # standard deviation over seeds, for one teacher
    half: float  # of the 95 % prediction interval

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def holds(self, errors: float) -> bool:
        return self.low <= errors <= self.high


def new_run(groups: Sequence[Sequence[float]]) -> NewRun:
    """From the errors of the students of each teacher, or from one group of runs without any.

    Teachers and students are drawn at random (one-way random effects). The variance of a new
    student of a new teacher, and of the mean that it is compared with, is a sum of the two mean
    squares; its degrees of freedom are Satterthwaite's. With a single group there is no spread over
    teachers, and the interval is for another run like these. Raises UserError if a group has fewer
    than two runs, ValueError if groups differ in size.
    """
    count, size = len(groups), len(groups[0])
    if any(len(group) != size for group in groups):
        raise ValueError("each teacher needs as many students")
    within = statistics.mean(deviation(group) ** 2 for group in groups)
    means = [statistics.mean(group) for group in groups]
    mean = statistics.mean(means)
    if count == 1:
        half = student_t(0.975, size - 1) * math.sqrt(within * (1 + 1 / size))
        return NewRun(mean, None, math.sqrt(within), half)
    between = size * statistics.variance(means)
    parts = [
        ((1 + 1 / count) / size * between, count - 1),
        ((1 - 1 / size) * within, count * (size - 1)),
    ]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts) if variance else 1
    teachers = math.sqrt(max(0.0, between - within) / size)
    half = student_t(0.975, freedom) * math.sqrt(variance)
    return NewRun(mean, teachers, math.sqrt(within), half)
