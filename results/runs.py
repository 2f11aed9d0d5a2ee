"""The training runs in results/, checked as they are read."""

import csv
import json
import math
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from dataset import VALIDATION
from support.errors import UserError
from support.files import read_file

RESULTS = Path(__file__).parent
ROOT = RESULTS.parent  # of the checkout
Line = dict[str, str]  # of a CSV file: a run, by column
NEEDED = ("data", "seed", "errors", "problem")  # columns of every file of runs
VARIED = ("temperature", "omit", "keep", "seed", "precision")  # between the runs of one file
DISTANCES = ("0", "1", "2", "3")  # pixels by which test images were moved


@dataclass(frozen=True)
class Runs:
    """Runs of one file, by seed."""

    file: str
    lines: list[Line]

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, column: str) -> list[float]:
        """One for each run. Raises UserError if the column is missing or holds something else."""
        return [number for (number,) in self._parsed(column, 1)]

    def biases(self) -> np.ndarray:
        """The learned biases of the ten classes: float64 (runs, 10). Raises UserError."""
        return np.array(self._parsed("biases", 10))

    def _parsed(self, column: str, count: int) -> list[list[float]]:
        """The `count` numbers that each run has in `column`."""
        rows = []
        for line in self.lines:
            text = line.get(column, "")
            try:
                row = [float(word) for word in text.split()]
            except ValueError:
                row = []
            if len(row) != count or not all(map(math.isfinite, row)):
                wanted = "a number" if count == 1 else f"{count} numbers"
                seed = line["seed"]
                raise UserError(f"{self.file}, seed {seed}: {column} is {text!r}, not {wanted}")
            rows.append(row)
        return rows


def text_of(path: Path) -> str:
    """The text in the file. Raises UserError if it cannot be read."""
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: {error}") from None


def runs_in(name: str, **setting: str) -> Runs:
    """The runs in results/`name`.csv that have this setting, by seed.

    Raises UserError if there is none, or one that failed, and if they do not belong together: if
    they are not of MNIST, if two are the same, or if (but for files of validation) other settings
    than `VARIED` differ.
    """
    file, validation = f"results/{name}.csv", name.startswith("validation")
    lines = _lines_in(file, "MNIST" + VALIDATION if validation else "MNIST")
    lines = [line for line in lines if setting.items() <= line.items()]
    if not lines:
        raise UserError(f"{file} has no run {setting or ''}".strip())
    settings = [dict(takewhile(lambda item: item[0] != "errors", line.items())) for line in lines]
    for column in settings[0].keys() - {*VARIED} if not validation else ():
        if len({line[column] for line in settings}) > 1:
            raise UserError(f"{file} has runs with different values of {column}")
    if len({tuple(line.items()) for line in settings}) < len(lines):
        raise UserError(f"{file} has a run twice")
    seeds = Runs(file, lines).numbers("seed")
    return Runs(file, [lines[i] for i in sorted(range(len(lines)), key=seeds.__getitem__)])


def _lines_in(file: str, data: str) -> list[Line]:
    """All lines of a CSV file. Raises UserError if one is damaged, failed or not of `data`."""
    reader = csv.DictReader(text_of(RESULTS / Path(file).name).splitlines())
    try:
        lines = list(reader)
    except csv.Error as error:
        raise UserError(f"{file} is damaged: {error}") from None
    for column in NEEDED:
        if column not in (reader.fieldnames or ()):
            raise UserError(f"{file} is damaged: it has no column {column}")
    for line in lines:
        if None in line or None in line.values() or line.get("teacher") == "":
            raise UserError(f"{file} has a damaged line: {line}")
        if line["data"] != data:
            raise UserError(f"{file} has a run on {line['data']}: delete its line")
        if line["problem"]:  # to leave it out would flatter the mean
            raise UserError(f"{file} has a run that failed: {line['problem']}")
        for column in ("seed", "errors"):
            if not line[column].isdecimal():
                where = f"{file}, seed {line['seed']}"
                raise UserError(f"{where}: {column} is {line[column]!r}, not a whole number")
    return lines


def by_temperature(name: str) -> dict[float, dict[int, float]]:
    """Errors of the runs in results/`name`.csv, by temperature and seed. Raises UserError."""
    runs, found = runs_in(name), {}
    columns = (runs.numbers(column) for column in ("temperature", "seed", "errors"))
    for temperature, seed, errors in zip(*columns, strict=True):
        found.setdefault(temperature, {})[int(seed)] = errors
    return dict(sorted(found.items()))


def translated(name: str, start: str) -> list[list[float]]:
    """Errors at each of 0 to 3 pixels of the nets whose file starts so, in results/`name`.json.

    Raises UserError if there is no such net, or one twice, or if they are not of MNIST.
    """
    file = f"results/{name}.json"
    nets = [net for net in _nets_in(file) if Path(net[0]).name.startswith(start)]
    if any(data_set != "MNIST" for _, data_set, _ in nets):
        raise UserError(f"{file} has errors on other images than MNIST's")
    if len({Path(net).name for net, _, _ in nets}) < len(nets):
        raise UserError(f"{file} has a net twice")
    if not nets:
        raise UserError(f"{file} has no net {start}...")
    return [errors for _, _, errors in nets]


def _nets_in(file: str) -> list[tuple[str, str, list[float]]]:
    """Checkpoint, data set and errors, by distance, of every net in a file of evaluate.py."""
    text = text_of(RESULTS / Path(file).name)
    try:
        nets = [
            (str(net["file"]), net["data_set"], [float(net["translated"][d]) for d in DISTANCES])
            for net in json.loads(text)
        ]
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error})") from None
    if not all(math.isfinite(number) for _, _, errors in nets for number in errors):
        raise UserError(f"{file} is damaged: it has errors that are not numbers")
    return nets
