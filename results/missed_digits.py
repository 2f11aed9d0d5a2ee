"""Students that missed digits: their errors, shifts, sizes and biases."""

import itertools
import statistics

import numpy as np

from results.kinds import NEVER_3, ONLY_7_8, OUTCOMES, SIZES, over_seeds, student
from results.runs import students
from results.summary import table
from support.means import deviation, spread

CROSSED = range(3)  # seeds


def shifts() -> str:
    """C6 to C8: errors as learned, and at three shifts of the biases."""
    rows = []
    for units in SIZES:
        for kind, note, counted in (
            (NEVER_3, " (errors on 3s)", ("errors", "on_group")),
            (ONLY_7_8, "", ("errors",)),
        ):
            runs = kind.of_teacher(units)
            cells = []
            for shift in ("learned", "paper", "best", "label_free"):
                by = statistics.mean(runs.numbers(f"{shift}_shift"))
                at = f" at {by:+.1f}" if by else ""
                cells.append(over_seeds(runs, [f"{shift}_{each}" for each in counted]) + at)
            rows.append([kind.in_words(units) + note, *cells, len(runs.lines)])
    kinds = ["as learned", "the paper's shift", "best on the test set", "by class frequencies"]
    return table(["student", *kinds, "seeds"], rows)


def crossed() -> str:
    """C3 and C6 to C8 with each size at each temperature: the same seeds of one teacher."""
    kinds = [*itertools.product(SIZES, SIZES.values())]
    rows = []
    for says, kind, column in OUTCOMES:
        found = [kind.of_teacher(units, temperature=t).of_seeds(CROSSED) for units, t in kinds]
        rows.append([says, *(spread(runs.numbers(column)) for runs in found)])
    return table(["students", *(f"{units} units, T = {t}" for units, t in kinds)], rows)


def biases() -> str:
    """C6: the learned bias of the class that was never seen beside those of the others."""
    rows = []
    for units in SIZES:
        learned = np.array(NEVER_3.of_teacher(units).numbers("biases", 10))
        others = np.delete(learned, 3, axis=1)
        each = others.mean(axis=0)
        rows.append(
            [
                student(units),
                f"{learned[:, 3].mean():+.2f} ± {deviation(learned[:, 3]):.2f}",
                f"{others.mean():+.2f}",
                f"{each.min():+.2f} to {each.max():+.2f}",
            ]
        )
    return table(["", "bias of the 3", "mean of the others", "each of the others"], rows)


def omitted_digits() -> str:
    """Each digit omitted in turn: errors as learned and shifted, and the bias of that class.

    Its bias in students that saw it is that in those which missed one of the other digits.
    """
    runs_without = {d: students("omitted_digits", omit=d) for d in "012456789"}
    runs_without["3"] = NEVER_3.of_teacher(300)
    learned = {d: np.mean(runs.numbers("biases", 10), axis=0) for d, runs in runs_without.items()}
    rows = []
    for digit, runs in sorted(runs_without.items()):
        seen = statistics.mean(b[int(digit)] for d, b in learned.items() if d != digit)
        cells = [f"{learned[digit][int(digit)]:+.2f}", f"{seen:+.2f}"]
        for shift in ("learned", "label_free"):
            cells.append(over_seeds(runs, [f"{shift}_errors", f"{shift}_on_group"]))
        mean_shift = statistics.mean(runs.numbers("label_free_shift"))
        rows.append([digit, *cells, f"{mean_shift:+.2f}", len(runs.lines)])
    header = ["omitted digit", "its bias", "its bias where it was seen"]
    errors = ["errors as learned (on that digit)", "errors at the shift by class frequencies"]
    return table([*header, *errors, "shift", "seeds"], rows)
