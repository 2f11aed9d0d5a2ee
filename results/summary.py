"""Statistics of runs over their seeds, and the tables that show them."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from support.errors import UserError


@contextmanager
def making(what: str) -> Iterator[None]:
    """Have a UserError say what could not be made."""
    try:
        yield
    except UserError as error:
        raise UserError(f"cannot make {what}: {error}") from None


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation. Raises UserError for a single value, which has none."""
    if len(values) < 2:
        raise UserError("a standard deviation needs runs of two seeds or more")
    return statistics.stdev(values)


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:,.1f} ± {deviation(values):.1f}" if len(values) > 1 else f"{mean:,.0f}"


def student_t(probability: float, freedom: int) -> float:
    """Quantile of Student's t with `freedom` degrees. Raises UserError if SciPy is missing."""
    try:
        from scipy.stats import t
    except ImportError:
        raise UserError("tables and figures need SciPy: pip install scipy") from None
    return float(t.ppf(probability, freedom))


def interval(differences: Sequence[float], comparisons: int = 1) -> tuple[float, float]:
    """Mean of two or more paired differences and half its 95 % confidence interval.

    With several comparisons each is wider, so that all hold at once (Bonferroni).
    """
    quantile = student_t(1 - 0.025 / comparisons, len(differences) - 1)
    error = deviation(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), quantile * error


def pooled_intervals(groups: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each group and half its 95 % confidence interval, if all have the same variance.

    Raises UserError if no group has two values.
    """
    sizes = np.array([len(group) for group in groups])
    freedom = int((sizes - 1).sum())
    if freedom < 1:
        raise UserError("a confidence interval needs runs of two seeds or more")
    squares = sum(((group - np.mean(group)) ** 2).sum() for group in map(np.array, groups))
    halves = student_t(0.975, freedom) * np.sqrt(squares / freedom / sizes)
    return np.array([*map(statistics.mean, groups)]), halves


def paired(errors: dict[float, dict[int, float]]) -> np.ndarray:
    """Errors (temperatures, seeds) with the seeds that all the temperatures have.

    Raises UserError if these are fewer than two.
    """
    seeds = [set(found) for found in errors.values()]
    common = sorted(set.intersection(*seeds)) if seeds else []
    if len(common) < 2:
        raise UserError("the temperatures have fewer than two seeds in common")
    return np.array([[found[seed] for seed in common] for found in errors.values()])
