"""The runs in results/, and the statistics that tables.py and figures.py draw from them."""

import csv
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path

import numpy as np

from training_params import UserError

RESULTS = Path(__file__).parent / "results"
VARIED = ("temperature", "omit", "keep", "seed")  # between the runs of one file
Line = dict[str, str]


@contextmanager
def made_of_results(what: str) -> Iterator[None]:
    """Turn what damaged results/ or models/ do to the code inside into a UserError."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"results/ or models/ lack something for {what} ({reason})") from None


def contents(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def read(name: str, **setting: str) -> list[Line]:
    """The runs in results/`name`.csv that came to an end and have these settings, by seed.

    Raises UserError if there is none, and if they do not belong together: if they are not of MNIST,
    if two are the same, or if (but for files of validation) other settings than `VARIED` differ.
    """
    lines = list(csv.DictReader(contents(RESULTS / f"{name}.csv").splitlines()))
    validation = name.startswith("validation")
    for line in lines:
        if None in line or None in line.values():
            raise UserError(f"results/{name}.csv has a damaged line: {line}")
        if line["data"] != ("MNIST validation" if validation else "MNIST"):
            raise UserError(f"results/{name}.csv has a run on {line['data']}: delete its line")
    settings = [dict(takewhile(lambda item: item[0] != "errors", line.items())) for line in lines]
    for column in settings[0].keys() - {*VARIED} if lines and not validation else ():
        if len({line[column] for line in settings}) > 1:
            raise UserError(f"results/{name}.csv has runs with different values of {column}")
    if len({tuple(line.items()) for line in settings}) < len(lines):
        raise UserError(f"results/{name}.csv has a run twice")
    found = [line for line in lines if setting.items() <= line.items() and not line["problem"]]
    if not found:
        raise UserError(f"results/{name}.csv has no finished run {setting or ''}".strip())
    return sorted(found, key=lambda line: int(line["seed"]))


def translated(start: str) -> list[list[float]]:
    """Errors at each of 0 to 3 pixels of the nets whose file starts so, in translated.json."""
    rows = json.loads(contents(RESULTS / "translated.json"))
    nets = [row for row in rows if Path(row["file"]).name.startswith(start)]
    if len(nets) < 2:
        raise UserError(f"results/translated.json has no two nets {start}...")
    return [[net["translated"][str(distance)] for distance in range(4)] for net in nets]


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


def by_temperature(name: str) -> dict[float, dict[int, float]]:
    """Errors of the runs in results/`name`.csv, by temperature and seed."""
    found: dict[float, dict[int, float]] = {}
    for line in read(name):
        errors = found.setdefault(float(line["temperature"]), {})
        errors[int(line["seed"])] = float(line["errors"])
    return dict(sorted(found.items()))


def paired(errors: dict[float, dict[int, float]]) -> np.ndarray:
    """Errors (temperatures, seeds) with the seeds that all the temperatures have."""
    common = set.intersection(*(set(found) for found in errors.values()))
    return np.array([[found[seed] for seed in sorted(common)] for found in errors.values()])
