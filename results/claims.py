"""What came of the claims of [KD] s.3, and of some questions beyond them: tables for README.md."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from reporting import PAPER, PAPER_SHIFTS, in_brackets
from summary import (
    Line,
    by_temperature,
    interval,
    numbers,
    paired,
    read,
    spread,
    student_t,
    translated,
)
from training_params import UserError

STUDENTS = {800: "800 units, T = 20", 300: "300 units, T = 8"}
FLAGS = {800: "`--hidden-units 800 --temperature 20`", 300: "`--hidden-units 300 --temperature 8`"}
GOOD_FOR_30 = (2.5, 3.0, 4.0)  # [KD] s.3: "temperatures in the range 2.5 to 4"
SHORT_TEACHERS = ("20", "60", "150")  # epochs


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def overview() -> str:
    """The paper's claims: its number, ours with seed 0 and over all seeds, and the command."""
    rows = [
        claim("C1: cumbersome net, 1200 units", "C1", read("cumbersome"), "`train.py`"),
        claim("C2: small net, 800 units", "C2", read("small_800"), "`train.py --model small`"),
        claim(f"C3: distilled, {STUDENTS[800]}", "C3", at(800, "20.0"), "`distillation.py`"),
        *map(with_labels, ("0.1", "0.5")),
        claim(
            f"distilled, {STUDENTS[300]}", "", at(300, "8.0"), f"`distillation.py`, {FLAGS[300]}"
        ),
        ["C4: T above 8", "similar", "", "see below", fewest(800), "see below"],
        ["C5: 30 units, T of 2.5 to 4", "better", "", "see below", fewest(30), "see below"],
    ]
    for units, flags in FLAGS.items():
        lines, what = read(f"no_three_{units}", omit="3"), f"never saw a 3, {STUDENTS[units]}"
        command = f"`distillation_no_three.py`, {flags}"
        rows += shifted_claims(("C6", "C7"), what, "its bias", lines, command)
    for units, flags in FLAGS.items():
        lines = read(f"only_7_8_{units}", keep="7 8")
        what = f"saw 7s and 8s only, {STUDENTS[units]}"
        command = f"`distillation_no_three.py --keep 7 8 --epochs 100`, {flags}"
        rows += shifted_claims(("C8", "C8 shifted"), what, "their biases", lines, command)
    header = ["", "paper", "seed 0", "mean ± standard deviation", "seeds", "command"]
    return table(header, rows)


def fewest(units: int) -> str:
    """The smallest number of seeds of any temperature."""
    return str(min(map(len, by_temperature(f"distilled_{units}").values())))


def with_labels(weight: str) -> list[str]:
    """The row of C3 for students that learned from the labels as well, with that weight."""
    lines = read("distilled_800_labels", hard_weight=weight)
    return claim(
        f"the same with a weight of {weight} on the labels",
        "C3",
        lines,
        f"`distillation.py --hard-weight {weight}`",
    )


def at(units: int, temperature: str) -> list[Line]:
    """The students of that width that were distilled at that temperature."""
    return read(f"distilled_{units}", temperature=temperature)


def claim(
    what: str, paper: str, lines: list[Line], command: str, columns: Sequence[str] = ("errors",)
) -> list[str]:
    """A row: errors in the first of `columns` and, in brackets, in the second."""
    (first,) = (line for line in lines if line["seed"] == "0")
    ours = in_brackets([int(first[column]) for column in columns])
    over_seeds = in_brackets([spread(numbers(lines, column)) for column in columns])
    return [what, in_brackets(PAPER.get(paper, ())), ours, over_seeds, str(len(lines)), command]


def shifted_claims(
    papers: tuple[str, str], what: str, biases: str, lines: list[Line], command: str
) -> list[list[str]]:
    """Rows of a student that missed digits: as it learned, and with its biases shifted."""
    group = ("on_group",) if len(PAPER[papers[0]]) > 1 else ()
    names = {
        "learned": (f"{papers[0]}: {what}", papers[0], command),
        "paper": (f"{papers[1].split()[0]}: {biases} shifted by {{}}", papers[1], ""),
        "best": ("by what is best on the test set, {} on average", "", ""),
        "label_free": ("by class frequencies, without test labels, {}", "", ""),
    }
    rows = []
    for shift, (name, paper, typed) in names.items():
        by = statistics.mean(numbers(lines, f"{shift}_shift"))
        columns = [f"{shift}_{value}" for value in ("errors", *group)]
        rows.append(claim(name.format(f"{by:+.1f}"), paper, lines, typed, columns))
    return rows


def biases() -> str:
    """C6: the learned bias of the class that was never seen beside those of the others."""
    rows = []
    for units, student in STUDENTS.items():
        learned = biases_of(read(f"no_three_{units}", omit="3"))
        others = np.delete(learned, 3, axis=1)
        each = others.mean(axis=0)
        rows.append(
            [
                student,
                f"{learned[:, 3].mean():+.2f} ± {statistics.stdev(learned[:, 3]):.2f}",
                f"{others.mean():+.2f}",
                f"{each.min():+.2f} to {each.max():+.2f}",
            ]
        )
    header = ["", "bias of the 3", "mean of the others", "each of the others"]
    return table(header, rows)


def biases_of(lines: Iterable[Line]) -> np.ndarray:
    """The learned biases of the ten classes: float64 (runs, 10)."""
    return np.array([line["biases"].split() for line in lines], dtype=float)


def temperatures() -> str:
    """C4 and C5: mean errors by temperature for each width, and how many seeds they are of."""
    found = {units: by_temperature(f"distilled_{units}") for units in (30, 300, 800)}
    rows = []
    for temperature in sorted({t for errors in found.values() for t in errors}):
        cells = [list(errors.get(temperature, {}).values()) for errors in found.values()]
        rows.append([f"{temperature:g}", *(f"{spread(e)} [{len(e)}]" if e else "" for e in cells)])
    return table(["T", *(f"{units} units" for units in found)], rows)


def similar() -> str:
    """C4: does the temperature matter, from 8 on, more than chance would have it?

    That is the residual mean square of errors less the means of their temperature and of their
    seed (all temperatures have the same seeds: two ways, no interaction), divided by the seeds. The
    last column is for two temperatures that were named beforehand, at 95 %.
    """
    rows = []
    for units in (300, 800):
        errors = {t: e for t, e in by_temperature(f"distilled_{units}").items() if t >= 8}
        found = paired(errors)
        means, (temperatures, seeds) = found.mean(axis=1), found.shape
        freedom = (temperatures - 1) * (seeds - 1)
        if freedom < 1:
            raise UserError(f"results/distilled_{units}.csv has too few runs for the spread over T")
        rest = found - found.mean(axis=0) - means[:, None] + found.mean()
        chance = math.sqrt((rest**2).sum() / freedom / seeds)
        shows = math.sqrt(2) * chance * student_t(0.975, freedom)
        rows.append([units, ", ".join(f"{t:g}" for t in errors), seeds])
        rows[-1] += [f"{means.min():.1f} to {means.max():.1f}"]
        rows[-1] += [f"{means.std(ddof=1):.1f}", f"{chance:.1f}", f"{shows:.0f}"]
    header = ["units", "T", "seeds", "mean errors", "their deviation over T", "by chance alone"]
    return table([*header, "a difference of two that would show"], rows)


def thirty() -> str:
    """C5: errors at each other temperature less those at 2.5 to 4, paired over the seeds."""
    rows: dict[float, list[str]] = {}
    for name in ("distilled_30", "distilled_30_20_epochs"):
        errors = by_temperature(name)
        found = dict(zip(errors, paired(errors), strict=True))
        good = np.mean([found[t] for t in GOOD_FOR_30], axis=0)
        others = [t for t in found if t not in GOOD_FOR_30]
        for t in others:
            mean, half = interval(list(found[t] - good), len(others))
            cell = f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
            rows.setdefault(t, []).append(cell)
    header = ["T", "after 60 epochs (interval)", "after 20 epochs (interval)"]
    return table(header, [[f"{t:g}", *cells] for t, cells in rows.items()])


def omitted_digits() -> str:
    """Each digit omitted in turn: errors as learned and shifted, and the bias of that class.

    Its bias in students that saw it is that in those which missed one of the other digits.
    """
    runs = {d: read("omitted_digits", omit=d) for d in "012456789"} | {
        "3": read("no_three_300", omit="3")
    }
    learned = {digit: biases_of(lines).mean(axis=0) for digit, lines in runs.items()}
    rows = []
    for digit, lines in sorted(runs.items()):
        seen = statistics.mean(b[int(digit)] for d, b in learned.items() if d != digit)
        cells = [f"{learned[digit][int(digit)]:+.2f}", f"{seen:+.2f}"]
        for shift in ("learned", "label_free"):
            found = (numbers(lines, f"{shift}_{what}") for what in ("errors", "on_group"))
            cells.append(in_brackets([spread(errors) for errors in found]))
        by = statistics.mean(numbers(lines, "label_free_shift"))
        rows.append([digit, *cells, f"{by:+.2f}", len(lines)])
    header = ["omitted", "its bias", "where it was seen", "as learned (on it)"]
    return table([*header, "shifted without test labels", "by", "seeds"], rows)


def teachers() -> str:
    """The same students of cumbersome nets that were trained for fewer epochs, and of ours."""
    rows = []
    for epochs in (*SHORT_TEACHERS, "400"):
        ours = epochs == "400"
        of = "" if ours else f"_teacher_{epochs}"
        cumbersome = read("cumbersome", seed="0") if ours else read("teachers", epochs=epochs)
        distilled = read(f"distilled_800{of}", temperature="20.0")
        cells = [spread(numbers(lines, "errors")) for lines in (cumbersome, distilled)]
        without = [read(f"no_three_{units}{of}", omit="3") for units in STUDENTS]
        only = read(f"only_7_8_300{of}", keep="7 8")
        rows.append([epochs, *cells, *map(three_shifts, (*without, only))])
    (up, *_), (down, *_) = PAPER_SHIFTS.values()
    header = [
        "epochs of the cumbersome net",
        "its errors",
        f"distilled, {STUDENTS[800]}",
        *(f"never saw a 3, {student}: as learned / {up:+} / best" for student in STUDENTS.values()),
        f"saw 7s and 8s only, {STUDENTS[300]}: as learned / {down:+} / best",
    ]
    return table(header, rows)


def three_shifts(lines: list[Line]) -> str:
    """Mean errors as learned, at the paper's shift, and at the best one, with that shift."""
    means = (
        statistics.mean(numbers(lines, f"{shift}_errors")) for shift in ("learned", "paper", "best")
    )
    by = statistics.mean(numbers(lines, "best_shift"))
    return f"{' / '.join(f'{mean:,.0f}' for mean in means)} at {by:+.1f}"


def paper_params() -> str:
    """The cumbersome net by PaperParams, whose schedules are compressed: each seed as it came."""
    rows = [
        [line["seed"], f"{int(line['errors']):,}", f"{float(line['loss']):.3f}"]
        for line in read("cumbersome_paper")
    ]
    return table(["seed", "errors", "loss in the last epoch"], rows)


def translations() -> str:
    """C3': mean errors on the test images as they are and moved by 1, 2 and 3 pixels."""
    nets = {
        "cumbersome net, trained on jittered images": ("translated", "cumbersome_"),
        f"distilled, {STUDENTS[800]}": ("translated", "distilled_"),
        "small net, 800 units": ("translated", "small_"),
        "cumbersome net of 60 epochs, jittered images": ("translated_60", "cumbersome_"),
        "distilled from it": ("translated_60", "of_jittered_"),
        "cumbersome net of 60 epochs, unmoved images": ("translated_60", "unjittered_"),
        "distilled from this one": ("translated_60", "of_unjittered_"),
    }
    rows = []
    for name, files in nets.items():
        found = translated(*files)
        rows.append([name, *map(spread, zip(*found, strict=True)), len(found)])
    return table(["moved by", "0 pixels", "1", "2", "3", "seeds"], rows)
