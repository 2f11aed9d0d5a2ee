"""Statistics of runs over their seeds: `python -m results.summary runs/distillation.csv`.

Prints mean ± standard deviation of the errors for each setting in a CSV file of runs, the lowest
first. `--compare temperature` compares its values seed by seed:

    more than 3.0 by  errors  95 % interval   seeds  seeds to detect 5 errors
    2.5               +6.3    -6.2 to +18.8   10     99
    2.0               +21.0   +10.2 to +31.8  10     74

An interval holds for a single comparison that was named beforehand. So many seeds detect a
difference of five errors with a probability of 80 %, by a paired t-test at 5 %.
"""

import argparse
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from support.command_line import Parser, user_path
from support.errors import UserError
from support.means import Row, deviation, grouped, in_columns, means, number_in, varied
from support.script import run_script
from support.sweep import read_rows

EXAMPLES = """\
python -m results.summary results/distilled_800.csv
python -m results.summary results/distilled_300.csv --compare temperature
"""
DETECTED = 5  # errors
CAVEAT = """\
An interval holds for a single comparison that was named beforehand, and for nets of these teachers.
The last column is rough: the spread of a few differences may be off by half."""


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


def student_t(probability: float, freedom: float) -> float:
    """Quantile of Student's t with `freedom` degrees. Raises UserError if SciPy is missing."""
    return float(distribution_t().ppf(probability, freedom))


def distribution_t() -> Any:
    """SciPy's, or UserError if it is missing."""
    try:
        from scipy.stats import t
    except ImportError:
        raise UserError("tables and figures need SciPy: pip install scipy") from None
    return t


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean of two or more paired differences and half its confidence interval at this level."""
    quantile = student_t((1 + level) / 2, len(differences) - 1)
    error = deviation(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), quantile * error


def in_words(mean: float, half: float) -> str:
    """A difference with its interval."""
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


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


def less(errors: dict[int, float], others: Sequence[dict[int, float]]) -> list[float]:
    """`errors` less the mean of the `others`, each by seed, for the seeds that all have.

    Raises UserError if these are fewer than two.
    """
    seeds = sorted(errors.keys() & set.intersection(*map(set, others)))
    if len(seeds) < 2:
        raise UserError("they have fewer than two seeds in common: run the same seeds for each")
    return [errors[seed] - statistics.mean(each[seed] for each in others) for seed in seeds]


def seeds_to_detect(difference: float, spread: float) -> int | None:
    """Of how many seeds a paired t-test at 5 % finds a true `difference` with 80 % probability.

    `spread` is the standard deviation of the paired differences. None is for more than 10,000.
    Raises UserError without SciPy.
    """
    if spread > 35 * difference:
        return None
    fewest = (2.8 * spread / difference) ** 2  # if the standard deviation were known
    for seeds in count(max(2, int(fewest))):
        bound = student_t(0.975, seeds - 1)
        from scipy.stats import nct  # student_t has said so if it is missing

        shift = difference / max(spread, 1e-9) * math.sqrt(seeds)
        if not nct.cdf(bound, seeds - 1, shift) > 0.2:  # a huge shift gives NaN
            return seeds


def comparison(rows: Sequence[Row], column: str) -> str:
    """A table: each value of `column` less the one with the lowest mean, in the seeds of both.

    `rows` differ in nothing but this column and the seed. Raises UserError for a cell that is no
    number.
    """
    errors = {
        alike[0][column]: {number_in(row, "seed"): number_in(row, "errors") for row in alike}
        for alike in grouped(rows, [column]).values()
    }
    lowest, *others = sorted(errors, key=lambda value: statistics.mean(errors[value].values()))
    header = [f"more than {lowest} by", "errors", "95 % interval", "seeds"]
    table = [[*header, f"seeds to detect {DETECTED} errors"]]
    for value in others:
        seeds = errors[value].keys() & errors[lowest].keys()
        differences = [errors[value][seed] - errors[lowest][seed] for seed in sorted(seeds)]
        table.append([value, *_compared(differences)])
    return in_columns(table)


def _compared(differences: Sequence[float]) -> list[str]:
    """The cells of a row of `comparison` behind the value; one seed has no interval."""
    if len(differences) < 2:
        return ["", "two seeds needed", str(len(differences)), ""]
    mean, half = interval(differences)
    needed = seeds_to_detect(DETECTED, deviation(differences))
    between = f"{mean - half:+.1f} to {mean + half:+.1f}"
    needed = f"{needed:,}" if needed else "over 10,000"
    return [f"{mean:+.1f}", between, str(len(differences)), needed]


def runs_of(path: Path) -> list[Row]:
    """The runs in a CSV file that did not fail. Raises UserError for another file, or if none."""
    rows = read_rows(path)
    if not rows or not {"seed", "errors", "problem"} <= rows[0].keys():
        raise UserError(f"{path} has no runs: name a file that --results has written")
    failed = [row for row in rows if row["problem"]]
    if failed:
        print(f"{len(failed)} of {len(rows)} runs failed and are left out")
    if len(failed) == len(rows):
        raise UserError(f"all runs in {path} failed")
    return [row for row in rows if not row["problem"]]


def parse_arguments() -> argparse.Namespace:
    command = "python -m results.summary"
    parser = Parser(EXAMPLES, prog=command, description=__doc__)
    parser.usage = "%(prog)s FILE [--compare COLUMN]"
    parser.add_argument("file", type=user_path, metavar="FILE", help="CSV file of runs")
    column = "compare the values of this column, seed by seed"
    parser.add_argument("--compare", metavar="COLUMN", help=column)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rows = runs_of(args.file)
    names = varied(rows)
    if args.compare and args.compare not in names:
        raise UserError(
            f"{args.file} has no different values of {args.compare!r} to compare: "
            f"name one of {', '.join(names) or 'none'}"
        )
    with making(f"a summary of {args.file}"):
        print(means(rows))
        others = [name for name in names if name != args.compare]
        groups = grouped(rows, others).values() if args.compare else ()
        for alike in filter(varied, groups):
            setting = ", ".join(f"{name} {alike[0][name]}" for name in others)
            print(f"\n{setting}" if setting else "")
            print(comparison(alike, args.compare))
        if args.compare:
            print("\n" + CAVEAT)


if __name__ == "__main__":
    run_script(main)
