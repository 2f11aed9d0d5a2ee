"""The runs in results/, and the statistics that tables.py and figures.py draw from them."""

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from training_params import UserError

RESULTS = Path(__file__).parent / "results"
Line = dict[str, str]


def contents(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def read(name: str, **setting: str) -> list[Line]:
    """The runs in results/`name`.csv that came to an end and have these settings, by seed.

    Raises UserError if there is none.
    """
    lines = [
        line
        for line in csv.DictReader(contents(RESULTS / f"{name}.csv").splitlines())
        if setting.items() <= line.items() and not line["problem"]
    ]
    if not lines:
        raise UserError(f"results/{name}.csv has no finished run with {setting}")
    return sorted(lines, key=lambda line: int(line["seed"]))


def numbers(lines: Iterable[Line], column: str) -> list[float]:
    return [float(line[column]) for line in lines]


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:,.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:,.0f}"


@cache
def student_t(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution with `freedom` degrees, by integrating its density."""
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    x = np.linspace(0, 200, 2_000_001)
    density = factor / math.sqrt(freedom * math.pi) * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    below = 0.5 + np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))
    return float(np.interp(probability, below, x[1:]))


def interval(differences: Sequence[float], comparisons: int = 1) -> tuple[float, float]:
    """Mean of paired differences and half its 95 % confidence interval.

    With several comparisons each is wider, so that all hold at once (Bonferroni).
    """
    quantile = student_t(1 - 0.025 / comparisons, len(differences) - 1)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), quantile * error


def by_temperature(name: str) -> dict[float, list[float]]:
    """Errors of the runs in results/`name`.csv with each temperature, in the order of seeds."""
    found: dict[float, list[float]] = {}
    for line in read(name):
        found.setdefault(float(line["temperature"]), []).append(float(line["errors"]))
    return dict(sorted(found.items()))
