"""The training runs in results/, checked as they are read."""

import csv
import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from support.errors import UserError
from support.files import read_file
from support.means import value_of

RESULTS = Path(__file__).parent
ROOT = RESULTS.parent  # of the checkout
# Cumbersome nets by the schedule of LocalParams: the file of those of so many epochs.
LENGTHS = {
    20: "teachers",
    60: "teachers",
    150: "teachers",
    400: "cumbersome",
    1000: "cumbersome_1000",
    3000: "cumbersome_3000",
}
TEACHER_LENGTH = 3000  # epochs of the default teacher, whose seed is 0
COMPARED_LENGTHS = (3000, 1000)  # of which three nets each have students
STUDENTS_EACH = 5  # of a teacher, where several teachers are compared
PAPER_NET = "cumbersome_paper_3000"  # the one by PaperParams
VARIED = ("temperature", "omit", "keep", "seed", "precision")  # between the runs of one file


@dataclass(frozen=True)
class Runs:
    """Runs of one file: of each, the cells by column."""

    file: str
    lines: list[dict[str, Any]]

    def numbers(self, column: str, count: int = 1) -> list[Any]:
        """One of each run, or a list of so many. Raises UserError if there is something else."""
        rows = [[*map(value_of, str(line.get(column, "")).split())] for line in self.lines]
        for row in rows:
            if [*map(type, row)] != [float] * count:
                found = " ".join(map(str, row)) or "nothing"
                raise UserError(f"{self.file}: column {column} has {found}, not {count} number(s)")
        return rows if count > 1 else [number for (number,) in rows]

    def by_seed(self) -> dict[int, float]:
        """Their errors. Raises UserError."""
        seeds = map(int, self.numbers("seed"))
        return dict(zip(seeds, self.numbers("errors"), strict=True))

    def each(self) -> list["Runs"]:
        """One by one."""
        return [Runs(self.file, [line]) for line in self.lines]

    def of_seeds(self, seeds: range) -> "Runs":
        """Those of these seeds. Raises UserError if one has none."""
        found = self.numbers("seed")
        lines = [line for line, seed in zip(self.lines, found, strict=True) if seed in seeds]
        if missing := {*seeds} - {*found}:
            lacking = ", ".join(map(str, sorted(missing)))
            raise UserError(f"{self.file} has no run of seed {lacking}")
        return Runs(self.file, lines)


def lines_in(name: str) -> list[dict[str, str]]:
    """The rows of results/`name`.csv. Raises UserError for one that failed, or is not of MNIST."""
    file, validation = f"results/{name}.csv", name.startswith("validation")
    try:
        lines = [*csv.DictReader(read_file(RESULTS / f"{name}.csv").decode().splitlines())]
        for line in lines:
            if None in (*line, *line.values()) or line.get("teacher") == "":
                raise ValueError(f"a row is {line}")
            if line["data"] != ("MNIST validation" if validation else "MNIST"):
                raise UserError(f"{file} has a run on {line['data']}: delete its row")
            if line["problem"]:  # to leave it out would flatter the mean
                raise UserError(f"{file} has a run that failed: {line['problem']}")
    except (csv.Error, ValueError, KeyError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error})") from None
    return lines


def runs_in(name: str, **setting: object) -> Runs:
    """The runs in results/`name`.csv that have this setting, by seed.

    Raises UserError if there is none, or one twice, for what `lines_in` refuses, and (but for files
    of validation) if other settings than `VARIED` differ between them.
    """
    file, lines = f"results/{name}.csv", lines_in(name)
    for column, value in setting.items():
        lines = [line for line in lines if value_of(line.get(column)) == value_of(value)]
    if not lines:
        raise UserError(f"{file} has no run {setting or ''}".strip())
    columns = [*takewhile("errors".__ne__, lines[0])]
    for column in () if name.startswith("validation") else columns:
        if column not in VARIED and len({value_of(line[column]) for line in lines}) > 1:
            raise UserError(f"{file} has runs with different values of {column}")
    if len({tuple(value_of(line[column]) for column in columns) for line in lines}) < len(lines):
        raise UserError(f"{file} has a run twice")
    seeds = Runs(file, lines).numbers("seed")
    return Runs(file, [lines[i] for i in sorted(range(len(lines)), key=seeds.__getitem__)])


def cumbersome(epochs: int, **setting: object) -> Runs:
    """The cumbersome nets of so many epochs. Raises UserError."""
    return runs_in(LENGTHS[epochs], epochs=epochs, **setting)


def students(name: str, teacher: Runs | None = None, **setting: object) -> Runs:
    """The runs in results/`name`.csv of this teacher, by default the default one.

    Several nets are an ensemble whose logits are averaged. Raises UserError.
    """
    nets = teacher or cumbersome(TEACHER_LENGTH, seed=0)
    return runs_in(name, teacher=sum_of(nets), **setting)


def sum_of(nets: Runs) -> str:
    """How students name these as their teacher. Raises UserError if a SHA-256 is missing."""
    sums = sorted(str(line.get("sha256", "")) for line in nets.lines)
    if not all(sums):
        raise UserError(f"{nets.file} has a teacher whose sha256 is missing")
    return " ".join([*sums, *["geometric"] * (len(sums) > 1)])


def translated(name: str, start: str) -> list[list[float]]:
    """Errors at 0 to 3 pixels of the nets in results/`name`.json that start so, or UserError."""
    file = f"results/{name}.json"
    try:
        everything = json.loads(read_file(RESULTS / f"{name}.json"))
        nets = [net for net in everything if Path(net["file"]).name.startswith(start)]
        names = {Path(net["file"]).name for net in nets if net["data_set"] == "MNIST"}
        runs = Runs(file, [dict(net["translated"]) for net in nets])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error})") from None
    if not names or len(names) < len(nets):
        raise UserError(f"{file} has no net {start}..., one twice, or one that is not of MNIST")
    return [runs.numbers(pixels) for pixels in "0123"]
