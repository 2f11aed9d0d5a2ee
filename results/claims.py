"""The claims C1 to C8 of [KD] s.3: the paper's numbers beside ours, in two tables."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from results.runs import Runs, cumbersome, runs_in, students
from results.summary import table
from results.temperatures import fewest_seeds, good_and_others, range_above_8
from support.errors import UserError
from support.means import spread
from support.paper import PAPER, PAPER_SHIFTS, in_brackets

STUDENTS = {800: 20, 300: 8}  # units and temperature of those that missed digits: two guesses
SHIFT_OF_3, *_ = PAPER_SHIFTS["omit", (3,)]  # [KD]'s
SHIFT_OF_7_AND_8, *_ = PAPER_SHIFTS["keep", (7, 8)]
TRAIN = "python train.py --precision bf16"
TRAIN_LONGER = "python train.py --epochs 1000"
TRAIN_SMALL = "python train.py --model small"
DISTIL = "python distillation.py"
DISTIL_300 = f"{DISTIL} --hidden-units 300 --temperature 8"
OMIT_3 = {
    units: f"python distillation_no_three.py --hidden-units {units} --temperature {temperature}"
    for units, temperature in STUDENTS.items()
}
KEEP_7_AND_8 = {units: f"{command} --keep 7 8 --epochs 100" for units, command in OMIT_3.items()}


def student(units: int) -> str:
    return f"{units} units, T = {STUDENTS[units]}"


def distilled(units: int, teacher: Runs | None = None) -> Runs:
    """Students that saw all digits, of the default teacher unless another is given."""
    return students(f"distilled_{units}", teacher, temperature=STUDENTS[units])


def never_saw_3(units: int, teacher: Runs | None = None) -> Runs:
    return students(f"no_three_{units}", teacher, omit=3, temperature=STUDENTS[units])


def saw_7_and_8(units: int, teacher: Runs | None = None) -> Runs:
    return students(f"only_7_8_{units}", teacher, keep="7 8", temperature=STUDENTS[units])


def over_seeds(runs: Runs, columns: Sequence[str]) -> str:
    """Mean ± standard deviation of the first of `columns` and, in brackets, of the second."""
    return in_brackets([spread(runs.numbers(column)) for column in columns])


def code(command: str) -> str:
    """As Markdown shows it."""
    return f"`{command}`" if command else ""


class Claim(NamedTuple):
    """A claim that is a number of errors, with our runs of it."""

    key: str  # in PAPER
    name: str
    runs: Runs
    columns: tuple[str, ...] = ("errors",)  # and, if there is a second, errors on the omitted digit
    command: str = ""  # none if it is the one of the claim before
    time: str = ""  # that it takes

    @property
    def number(self) -> str:
        return self.key.split()[0]


def measured_claims() -> list[Claim]:
    """Those of README.md: students of 800 units, T = 20."""
    longer, without, only = cumbersome(1000), never_saw_3(800), saw_7_and_8(800)
    learned, paper, best = ((f"{s}_errors", f"{s}_on_group") for s in ("learned", "paper", "best"))
    bias, biases = f"its bias {SHIFT_OF_3:+}", f"their biases {SHIFT_OF_7_AND_8:+}"
    return [
        Claim("C1", "cumbersome net", cumbersome(400), command=TRAIN, time="40 min"),
        Claim("C1", "the same, 1,000 epochs", longer, command=TRAIN_LONGER, time="140 min"),
        Claim("C2", "small net, labels", runs_in("small_800"), command=TRAIN_SMALL, time="2 min"),
        Claim("C3", "distilled", distilled(800), command=DISTIL, time="2 min"),
        Claim("C6", "never saw a 3", without, learned, OMIT_3[800], "4 min"),
        Claim("C7", f"the same, {bias}", without, paper),
        Claim("C7", "the same, best shift", without, best),
        Claim("C8", "saw 7s and 8s only", only, learned[:1], KEEP_7_AND_8[800], "2 min"),
        Claim("C8 shifted", f"the same, {biases}", only, paper[:1]),
    ]


def headline() -> str:
    """The table of README.md: each claim, with its command and the time that it takes."""
    rows = [
        [
            f"{claim.number}: {claim.name}",
            code(claim.command),
            in_brackets(PAPER[claim.key]),
            over_seeds(claim.runs, claim.columns),
            len(claim.runs.lines),
            claim.time,
        ]
        for claim in measured_claims()
    ]
    rows = sorted([*rows, *_temperature_rows()], key=lambda row: row[0][:2])
    header = ["", "command", "paper", "ours (mean ± standard deviation)", "seeds", "time"]
    return table(header, rows)


def _temperature_rows() -> list[list[Any]]:
    """Those of C4 and C5, which are of many runs; time is for all of them."""
    above_8 = (f"{range_above_8(units)} ({units} units)" for units in (300, 800))
    similar = "--hidden-units 300 800 --temperature 12 20 40 --seed 0 1 2"
    thirty = (
        "--hidden-units 30 --temperature 1 1.5 2 2.5 3 4 6 8 12 20 --epochs 60 "
        "--seed 0 1 2 3 4 5 6 7 8 9"
    )
    return [
        [
            "C4: 300 units or more, T above 8",
            code(f"{DISTIL} {similar}"),
            "fairly similar",
            ", ".join(above_8),
            fewest_seeds(800),
            "22 min",
        ],
        [
            "C5: 30 units, T of 2.5 to 4",
            code(f"{DISTIL} {thirty}"),
            "better than others",
            good_and_others(),
            fewest_seeds(30),
            "17 min",
        ],
    ]


def overview() -> str:
    """Both students of each claim: the paper's errors, ours with seed 0 and over all seeds."""
    rows = [
        _compared("C1: cumbersome net, 1200 units", "C1", cumbersome(400), TRAIN),
        _compared("the same, 1,000 epochs", "C1", cumbersome(1000), TRAIN_LONGER),
        _compared("C2: small net, 800 units", "C2", runs_in("small_800"), TRAIN_SMALL),
        _compared(f"C3: distilled, {student(800)}", "C3", distilled(800), DISTIL),
        *map(_with_labels, ("0.1", "0.5")),
        _compared(f"distilled, {student(300)}", "", distilled(300), DISTIL_300),
        ["C4: T above 8", "similar", "", "see below", fewest_seeds(800), "see below"],
        ["C5: 30 units, T of 2.5 to 4", "better", "", "see below", fewest_seeds(30), "see below"],
    ]
    for units, command in OMIT_3.items():
        name = f"never saw a 3, {student(units)}"
        rows += _shifted(("C6", "C7"), name, "its bias", never_saw_3(units), command)
    for units, command in KEEP_7_AND_8.items():
        name = f"saw 7s and 8s only, {student(units)}"
        rows += _shifted(("C8", "C8 shifted"), name, "their biases", saw_7_and_8(units), command)
    header = ["", "paper", "seed 0", "mean ± standard deviation", "seeds", "command"]
    return table(header, rows)


def _with_labels(weight: str) -> list[str]:
    """The row of C3 for students that learned from the labels as well, with that weight."""
    name = f"the same with a weight of {weight} on the labels"
    runs = students("distilled_800_labels", hard_weight=weight)
    return _compared(name, "C3", runs, f"{DISTIL} --hard-weight {weight}")


def _shifted(
    keys: tuple[str, str], name: str, biases: str, runs: Runs, command: str
) -> list[list[str]]:
    """Rows of a student that missed digits: as it learned, and with its biases shifted."""
    learned, shifted = keys
    values = ("errors", "on_group")[: len(PAPER[learned])]
    average = "shifted by {} on average"
    names = {
        "learned": (f"{learned}: {name}", learned, command),
        "paper": (f"{shifted.split()[0]}: {biases} shifted by {{}}", shifted, ""),
        "best": (f"{average}: best on the test set", "", ""),
        "label_free": (f"{average}: by class frequencies, without test labels", "", ""),
    }
    rows = []
    for shift, (label, key, typed) in names.items():
        by = statistics.mean(runs.numbers(f"{shift}_shift"))
        columns = [f"{shift}_{value}" for value in values]
        rows.append(_compared(label.format(f"{by:+.1f}"), key, runs, typed, columns))
    return rows


def _compared(
    label: str, key: str, runs: Runs, command: str, columns: Sequence[str] = ("errors",)
) -> list[str]:
    """A row: errors in the first of `columns` and, in brackets, in the second."""
    if runs.numbers("seed")[0] != 0:
        raise UserError(f"{runs.file} has no run with seed 0")
    seed_0 = in_brackets([int(runs.numbers(column)[0]) for column in columns])
    paper = in_brackets(PAPER.get(key, ()))
    return [label, paper, seed_0, over_seeds(runs, columns), str(len(runs.lines)), code(command)]
