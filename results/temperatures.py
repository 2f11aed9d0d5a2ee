"""C4 and C5 of [KD] s.3: what temperatures do to students of 30, 300 and 800 units."""

import statistics
from collections.abc import Iterable, Sequence

from results.runs import Runs, students
from results.summary import in_words, interval, less, table
from support.errors import UserError
from support.means import spread

ABOVE_8 = (12.0, 20.0, 40.0)  # [KD] s.3: "all temperatures above 8"
LAID_DOWN = {30: range(10, 20), 300: range(10), 800: range(10)}  # seeds by units, for C4 and C5
MARGIN = 7  # errors: a tenth of what distillation gains in [KD], from 146 to 74
GOOD_FOR_30 = (2.5, 3.0, 4.0)  # [KD] s.3: "temperatures in the range 2.5 to 4"


def by_temperature(runs: Runs) -> dict[float, dict[int, float]]:
    """Errors of the runs by temperature and seed. Raises UserError."""
    found: dict[float, dict[int, float]] = {}
    columns = (runs.numbers(column) for column in ("temperature", "seed", "errors"))
    for temperature, seed, errors in zip(*columns, strict=True):
        found.setdefault(temperature, {})[int(seed)] = errors
    return dict(sorted(found.items()))


def laid_down(units: int) -> Runs:
    """The default teacher's students of so many units, with the seeds that were laid down."""
    return students(f"distilled_{units}").of_seeds(LAID_DOWN[units])


def errors_of(units: int) -> dict[float, dict[int, float]]:
    """Those of the students that were laid down, by temperature and seed."""
    return by_temperature(laid_down(units))


def temperatures() -> str:
    """C4 and C5: mean errors by temperature for each width, and how many seeds they are of."""
    found = {units: errors_of(units) for units in (30, 300, 800)}
    rows = []
    for temperature in sorted({t for errors in found.values() for t in errors}):
        cells = [list(errors.get(temperature, {}).values()) for errors in found.values()]
        rows.append([f"{temperature:g}", *(f"{spread(e)} [{len(e)}]" if e else "" for e in cells)])
    return table(["T", *(f"{units} units" for units in found)], rows)


def against(runs: Runs, group: Sequence[float]) -> dict[float, list[float]]:
    """By temperature, its errors less the mean of those at the `group`'s others, paired by seed.

    A temperature of the group is compared with the rest of it. The seeds are those that they have
    in common. Raises UserError if one of the group is missing, or for fewer than two seeds.
    """
    errors = by_temperature(runs)
    if missing := [f"{t:g}" for t in group if t not in errors]:
        raise UserError(f"{runs.file} has no run at T = {', '.join(missing)}")
    found = {}
    for temperature in errors:
        others = [errors[t] for t in group if t != temperature]
        found[temperature] = less(errors[temperature], others)
    return found


def similar() -> str:
    """C4: each temperature less those above 8, and whether the two are shown to be similar.

    They are if the 90 % interval of the difference lies within the margin: two one-sided t-tests at
    5 %. That all above 8 are similar is a conjunction, which needs no correction.
    """
    found = {units: against(laid_down(units), ABOVE_8) for units in (300, 800)}
    rows = []
    for temperature in sorted({t for differences in found.values() for t in differences}):
        row = [f"{temperature:g}"]
        for differences in found.values():
            row += _equivalence(differences.get(temperature, ()))
        rows.append(row)
    header = [part for u in found for part in (f"{u} units (90 % interval)", "similar?")]
    return table(["T", *header], rows)


def _equivalence(differences: Sequence[float]) -> list[str]:
    """The cells of a temperature: mean difference with its interval, and the verdict."""
    if not differences:
        return ["", ""]
    mean, half = interval(differences, level=0.9)
    different = abs(mean) - half > MARGIN
    shown = "yes" if is_similar(differences) else "no" if different else "not shown"
    return [in_words(mean, half), shown]


def is_similar(differences: Sequence[float]) -> bool:
    """Whether they are shown to lie within the margin: two one-sided t-tests at 5 %."""
    mean, half = interval(differences, level=0.9)
    return abs(mean) + half < MARGIN


def shown_similar() -> bool:
    """C4: whether all temperatures above 8 are shown to be similar, for both widths."""
    found = [against(laid_down(units), ABOVE_8) for units in (300, 800)]
    return all(is_similar(each[t]) for each in found for t in ABOVE_8)


def shown_best() -> bool:
    """C5: whether each other temperature is shown to be worse than those from 2.5 to 4."""
    return all(mean - half > 0 for mean, half in worse_than_good(laid_down(30)).values())


def range_of(means: Iterable[float]) -> str:
    low, *_, high = sorted(means)
    return f"{low:.1f} to {high:.1f}"


def thirty() -> str:
    """C5: errors at each other temperature less those at 2.5 to 4, paired over the seeds."""
    columns = {
        "60 epochs, seeds 10 to 19": laid_down(30),
        "60 epochs, seeds 0 to 9": students("distilled_30").of_seeds(range(10)),
        "20 epochs, seeds 0 to 9": students("distilled_30_20_epochs"),
    }
    found = [worse_than_good(runs) for runs in columns.values()]
    if any(each.keys() != found[0].keys() for each in found):
        raise UserError("results/distilled_30*.csv have different temperatures")
    rows = [[f"{t:g}", *(in_words(*each[t]) for each in found)] for t in found[0]]
    return table(["T", *columns], rows)


def worse_than_good(runs: Runs) -> dict[float, tuple[float, float]]:
    """By temperature, the mean difference to those at 2.5 to 4, and half its interval."""
    found = against(runs, GOOD_FOR_30)
    return {t: interval(each) for t, each in found.items() if t not in GOOD_FOR_30}


def mean_errors(units: int) -> dict[float, float]:
    """By temperature, over all its seeds."""
    return {t: statistics.mean(found.values()) for t, found in errors_of(units).items()}


def range_above_8(units: int) -> str:
    """C4: the range of mean errors at temperatures above 8. Raises UserError for less than two."""
    means = [mean for t, mean in mean_errors(units).items() if t > 8]
    if len(means) < 2:
        raise UserError(f"results/distilled_{units}.csv has fewer than two temperatures above 8")
    return range_of(means)


def good_and_others() -> str:
    """C5: the range of mean errors of 30 units at 2.5 to 4, and at all other temperatures."""
    means = mean_errors(30)
    if not means.keys() > {*GOOD_FOR_30}:
        raise UserError("results/distilled_30.csv lacks one of T = 2.5, 3 and 4, or all others")
    good, others = ([m for t, m in means.items() if (t in GOOD_FOR_30) == g] for g in (True, False))
    return f"{range_of(good)} at T = 2.5 to 4; {range_of(others)} elsewhere"
