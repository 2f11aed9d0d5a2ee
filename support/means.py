"""Rows of results that differ in nothing but the seed: the mean and spread of their errors."""

import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from support.errors import UserError
from support.hyperparameters import HYPERPARAMETERS

SETTING = ("data", "precision", "model", "teacher", "omit", "keep", *HYPERPARAMETERS, "objective")
COUNTED = {  # the columns that are results, in words
    "errors": "errors",
    "paper_errors": "at the paper's shift",
    "best_errors": "at the best shift",
    "label_free_errors": "at the label-free shift",
}
Row = dict[str, Any]  # by column


def value_of(cell: object) -> float | str:
    """What a cell says, however it is spelt: a finite number, or its text."""
    with suppress(ValueError):
        if math.isfinite(number := float(str(cell))):  # unlike "696e47183568", a teacher's sum
            return number
    return str(cell)


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation. Raises UserError for a single value, which has none."""
    if len(values) < 2:
        raise UserError("a standard deviation needs runs of two seeds or more")
    return statistics.stdev(values)


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:,.1f} ± {deviation(values):.1f}" if len(values) > 1 else f"{mean:,.0f}"


def number_in(row: Row, column: str) -> float:
    """Raises UserError if something else stands there."""
    number = value_of(row[column])
    if isinstance(number, str):
        raise UserError(f"a row has {number!r} in column {column}, not a number: correct it")
    return number


def varied(rows: Sequence[Row]) -> list[str]:
    """The columns, of what was set for a run, in which the rows differ; less the seed."""
    names = [name for name in SETTING if name in rows[0]]
    return [name for name in names if len({value_of(row[name]) for row in rows}) > 1]


def grouped(rows: Sequence[Row], columns: Sequence[str]) -> dict[tuple, list[Row]]:
    """The rows that have the same values in `columns`, by these."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(value_of(row[name]) for name in columns), []).append(row)
    return groups


def means(rows: Sequence[Row]) -> str:
    """A table: what varies, mean ± standard deviation of errors over seeds, the lowest first.

    `rows` are one or more runs that did not fail. Raises UserError for a cell that is no number.
    """
    names = varied(rows)
    counted = [n for n in COUNTED if n == "errors" or all(row.get(n) for row in rows)]
    groups = []
    for alike in grouped(rows, names).values():
        if len({number_in(row, "seed") for row in alike}) < len(alike):
            setting = " ".join(f"{name} {alike[0][name]}" for name in names)
            raise UserError(f"a seed has two rows of the same setting {setting}: delete one")
        errors = [[number_in(row, name) for row in alike] for name in counted]
        setting = [str(alike[0][name]) for name in names]
        cells = [*setting, *map(spread, errors), str(len(alike))]
        groups.append((statistics.mean(errors[0]), cells))
    groups.sort(key=lambda group: group[0])
    header = [*names, *map(COUNTED.get, counted), "seeds"]
    return in_columns([header, *(cells for _, cells in groups)])


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, each column as wide as its widest cell."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
