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
# What damaged files do to the code that takes them for whole ones.
PROBLEMS = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    csv.Error,
)


@contextmanager
def made_of_results(what: str) -> Iterator[None]:
    """Turn what damaged results/ or models/ do to the code inside into a UserError."""
    try:
        yield
    except PROBLEMS as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"results/ or models/ lack something for {what} ({reason})") from None


def contents(path: Path) -> str:
    """The text in the file. Raises UserError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def read(name: str, **setting: str) -> list[Line]:
    """The runs in results/`name`.csv that have these settings, by seed.

    Raises UserError if there is none, or one that failed, and if they do not belong together: if
    they are not of MNIST, if two are the same, or if (but for files of validation) other settings
    than `VARIED` differ.
    """
    lines = list(csv.DictReader(contents(RESULTS / f"{name}.csv").splitlines()))
    validation = name.startswith("validation")
    for line in lines:
        if None in line or None in line.values():
            raise UserError(f"results/{name}.csv has a damaged line: {line}")
        if line["data"] != ("MNIST validation" if validation else "MNIST"):
            raise UserError(f"results/{name}.csv has a run on {line['data']}: delete its line")
        if line["problem"]:  # to leave it out would flatter the mean
            raise UserError(f"results/{name}.csv has a run that failed: {line['problem']}")
    lines = [line for line in lines if setting.items() <= line.items()]
    settings = [dict(takewhile(lambda item: item[0] != "errors", line.items())) for line in lines]
    for column in settings[0].keys() - {*VARIED} if lines and not validation else ():
        if len({line[column] for line in settings}) > 1:
            raise UserError(f"results/{name}.csv has runs with different values of {column}")
    if len({tuple(line.items()) for line in settings}) < len(lines):
        raise UserError(f"results/{name}.csv has a run twice")
    if not lines:
        raise UserError(f"results/{name}.csv has no run {setting or ''}".strip())
    return sorted(lines, key=lambda line: int(line["seed"]))


def translated(name: str, start: str) -> list[list[float]]:
    """Errors at each of 0 to 3 pixels of the nets whose file starts so, in results/`name`.json.

    Raises UserError if there is no such net, or one twice, or if they are not of MNIST.
    """
    rows = json.loads(contents(RESULTS / f"{name}.json"))
    nets = [row for row in rows if Path(row["file"]).name.startswith(start)]
    if any(net["data_set"] != "MNIST" for net in nets):
        raise UserError(f"results/{name}.json has errors on other images than MNIST's")
    if len({net["file"] for net in nets}) < len(nets):
        raise UserError(f"results/{name}.json has a net twice")
    if not nets:
        raise UserError(f"results/{name}.json has no net {start}...")
    return [[net["translated"][str(distance)] for distance in range(4)] for net in nets]


def numbers(lines: Iterable[Line], column: str) -> list[float]:
    return [float(line[column]) for line in lines]


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:,.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:,.0f}"


@cache
def student_t(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution with `freedom` degrees, by integrating its density.

    For a probability of at least 0.5 and a quantile of at most 200.
    """
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    x = np.linspace(0, 200, 2_000_001)
    density = factor / math.sqrt(freedom * math.pi) * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    below = 0.5 + np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))
    return float(np.interp(probability, below, x[1:]))


def interval(differences: Sequence[float], comparisons: int = 1) -> tuple[float, float]:
    """Mean of two or more paired differences and half its 95 % confidence interval.

    With several comparisons each is wider, so that all hold at once (Bonferroni).
    """
    quantile = student_t(1 - 0.025 / comparisons, len(differences) - 1)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), quantile * error


def pooled_intervals(groups: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each group and half its 95 % confidence interval, if all have the same variance."""
    sizes = np.array([len(group) for group in groups])
    freedom = int((sizes - 1).sum())
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups)
    error = np.sqrt(squares / freedom / sizes)
    return np.array([*map(statistics.mean, groups)]), student_t(0.975, freedom) * error


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
