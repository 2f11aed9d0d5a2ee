"""C4 and C5 of [KD] s.3: what temperatures do to students of 30, 300 and 800 units."""

import math
import statistics
from collections.abc import Iterable

import numpy as np

from results.runs import Runs, students
from results.summary import interval, paired, student_t, table
from support.errors import UserError
from support.means import spread

GOOD_FOR_30 = (2.5, 3.0, 4.0)  # [KD] s.3: "temperatures in the range 2.5 to 4"
BESIDE_GOOD = (1.0, 2.0, 6.0, 20.0)  # the next ones, and the lowest and highest


def by_temperature(runs: Runs) -> dict[float, dict[int, float]]:
    """Errors of the runs by temperature and seed. Raises UserError."""
    found: dict[float, dict[int, float]] = {}
    columns = (runs.numbers(column) for column in ("temperature", "seed", "errors"))
    for temperature, seed, errors in zip(*columns, strict=True):
        found.setdefault(temperature, {})[int(seed)] = errors
    return dict(sorted(found.items()))


def temperatures() -> str:
    """C4 and C5: mean errors by temperature for each width, and how many seeds they are of."""
    found = {units: by_temperature(students(f"distilled_{units}")) for units in (30, 300, 800)}
    rows = []
    for temperature in sorted({t for errors in found.values() for t in errors}):
        cells = [list(errors.get(temperature, {}).values()) for errors in found.values()]
        rows.append([f"{temperature:g}", *(f"{spread(e)} [{len(e)}]" if e else "" for e in cells)])
    return table(["T", *(f"{units} units" for units in found)], rows)


def similar() -> str:
    """C4: does the temperature matter, from 8 on, more than chance would have it?

    What chance alone would give is the root of the residual mean square over the number of seeds:
    of errors less the means of their temperature and of their seed (two ways, no interaction), as
    all temperatures have the same seeds. The last column is for two temperatures that were named
    beforehand, at 95 %.
    """
    rows = []
    for units in (300, 800):
        errors = {t: e for t, e in by_temperature(students(f"distilled_{units}")).items() if t >= 8}
        found = paired(errors)
        means, (temperatures, seeds) = found.mean(axis=1), found.shape
        freedom = (temperatures - 1) * (seeds - 1)
        if freedom < 1:
            raise UserError(f"results/distilled_{units}.csv has too few runs for the spread over T")
        residuals = found - found.mean(axis=0) - means[:, None] + found.mean()
        chance = math.sqrt((residuals**2).sum() / freedom / seeds)
        detectable = math.sqrt(2) * chance * student_t(0.975, freedom)
        cells = [units, ", ".join(f"{t:g}" for t in errors), seeds, range_of(means)]
        rows.append([*cells, f"{means.std(ddof=1):.1f}", f"{chance:.1f}", f"{detectable:.0f}"])
    header = ["units", "T", "seeds", "mean errors", "standard deviation over T"]
    return table([*header, "expected by chance", "smallest significant difference"], rows)


def range_of(means: Iterable[float]) -> str:
    low, *_, high = sorted(means)
    return f"{low:.1f} to {high:.1f}"


def thirty() -> str:
    """C5: errors at each other temperature less those at 2.5 to 4, paired over the seeds."""
    long, short = map(_worse_than_good, ("distilled_30", "distilled_30_20_epochs"))
    if long.keys() != short.keys():
        raise UserError("results/distilled_30*.csv have different temperatures")
    rows = [[f"{t:g}", long[t], short[t]] for t in long]
    return table(["T", "after 60 epochs (interval)", "after 20 epochs (interval)"], rows)


def _worse_than_good(name: str) -> dict[float, str]:
    """By temperature, the mean difference to those at 2.5 to 4, and its interval."""
    errors = by_temperature(students(name))
    if not errors.keys() >= {*GOOD_FOR_30}:
        raise UserError(f"results/{name}.csv lacks one of the temperatures 2.5, 3 and 4")
    found = dict(zip(errors, paired(errors), strict=True))
    good = np.mean([found.pop(t) for t in GOOD_FOR_30], axis=0)
    cells = {}
    for temperature, other in found.items():
        mean, half = interval(list(other - good), comparisons=len(found))
        cells[temperature] = f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
    return cells


def fewest_seeds(units: int) -> int:
    """The smallest number of seeds of any temperature."""
    return min(map(len, by_temperature(students(f"distilled_{units}")).values()))


def mean_errors(units: int) -> dict[float, float]:
    """By temperature, over all its seeds."""
    errors = by_temperature(students(f"distilled_{units}"))
    return {t: statistics.mean(found.values()) for t, found in errors.items()}


def range_above_8(units: int) -> str:
    """C4: the range of mean errors at temperatures above 8. Raises UserError for less than two."""
    means = [mean for t, mean in mean_errors(units).items() if t > 8]
    if len(means) < 2:
        raise UserError(f"results/distilled_{units}.csv has fewer than two temperatures above 8")
    return range_of(means)


def good_and_others() -> str:
    """C5: the range of mean errors of 30 units at 2.5 to 4, and the means at some others."""
    means = mean_errors(30)
    for t in (*GOOD_FOR_30, *BESIDE_GOOD):
        if t not in means:
            raise UserError(f"results/distilled_30.csv has no run at T = {t:g}")
    others = ", ".join(f"{means[t]:.1f} at T = {t:g}" for t in BESIDE_GOOD)
    return f"{range_of(means[t] for t in GOOD_FOR_30)}; {others}"
