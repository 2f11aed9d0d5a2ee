"""CSV files of results: a line for each run."""

import csv
import io
from pathlib import Path
from typing import Any

from support.errors import UserError
from support.outputs import make_folder
from support.records import LATER_COLUMNS

Line = dict[str, Any]  # by column
Text = set[tuple[str, str]]  # the same as it is read again: columns with their words


def as_text(line: Line) -> Text:
    """A line as it is read again."""
    return {(column, str(value)) for column, value in line.items()}


def columns_for(path: Path, header: list[str]) -> list[str]:
    """The columns of lines to add to the file: `header`, less what is newer than the file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            names = next(csv.reader(file), [])
        newer = [column for column in LATER_COLUMNS if column not in names]
        return names if names == [c for c in header if c not in newer] else header
    except (OSError, UnicodeDecodeError, csv.Error):
        return header  # `read_lines` says what is wrong


def read_lines(path: Path, header: list[str]) -> list[dict[str, str]]:
    """The lines in the file. Raises UserError if it holds something else."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            text = file.read()
        reader = csv.DictReader(io.StringIO(text))
        lines = list(reader)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    if text and reader.fieldnames != header:
        raise UserError(f"{path} has other columns: choose another file for --results")
    cut = text and not text.endswith("\n")
    if cut or any(None in (*line, *line.values()) for line in lines):
        raise UserError(f"{path} has a damaged line, as a rule the last: delete it")
    return lines


def append_lines(path: Path, header: list[str], *lines: Line) -> None:
    """Add the columns in `header` of lines, in one write, below their names. Raises UserError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header, extrasaction="ignore", lineterminator="\n")
    make_folder(path)
    try:
        with open(path, "a", newline="", encoding="utf-8") as file:
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(lines)
            file.write(text.getvalue())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from None
