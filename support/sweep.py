"""Many runs in one call of a script, each with a row in a CSV file.

`python distillation.py --temperature 1 4 20 --seed 0 1 2` is nine runs. What has a row already is
not run again, so that rerunning the command continues a sweep that was stopped.
`torchrun --nproc-per-node 2 distillation.py ...` shares them among processes.
"""

import csv
import io
import itertools
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from support.errors import Stopped, TrainingFailed, UserError
from support.files import check_regular, locked, sha256
from support.machine import processes
from support.means import Row, means, value_of
from support.objective import objective_of
from support.records import RESULT_COLUMNS, command_line, identity
from support.runs import FOLDER, Run, RunFiles, belongs_to, make_folder

STACKED_UNITS = 100  # up to here a stack of students takes less time than one after the other
NOT_STACKED = ("hard_weight", "max_squared_length", "dropout_visible", "dropout_hidden")
PATIENCE = 60  # seconds, for another process to write its row


class Results:
    """The runs of a command and their CSV file; `with` it, all that could fail early fails first.

    `setting` is what the runs share (`support.records.setting`). A row has the columns `shared` of
    it, hyperparameters, seed, `columns` and the problem of a run that failed. A single run has no
    row unless `--results` names a file. Leaving it raises TrainingFailed if a run has failed.
    """

    def __init__(
        self,
        args: Namespace,
        runs: Sequence[Run],
        setting: dict[str, Any],
        shared: Sequence[str],
        columns: Sequence[str] = RESULT_COLUMNS,
    ):
        self.runs = [run._replace(record=setting | own_record(run)) for run in runs]
        self.in_words = f"{len(runs)} run{'s' * (len(runs) > 1)}"
        self.path = _results_path(args, runs) if runs[0].existing == "continue" else None
        self.shared, self.own = shared, [*vars(runs[0].params), "seed", "objective"]
        self.header = [*self.shared, *self.own, *columns, "problem"]
        # Of the plan, never of what is left: processes read the file at different moments.
        self.process, self.world = processes()
        self.mine = self.runs[self.process :: self.world]
        self.quiet = args.quiet

    def __enter__(self) -> "Results":
        left = self._without_row(self.runs)
        if self.path:
            for run in left:  # that one cannot be written shows before the first is trained
                RunFiles(run.output).check()
            self._append([], [])  # nothing but the names of the columns, for the same reason
            if self.process == 0:
                done = len(self.runs) - len(left)
                print(f"{self.in_words}, {done} of them in {self.path} already", flush=True)
        self.reports = bool(left) or self.process == 0  # if all is done already, one is enough
        silent = self.quiet or not left or len(self.runs) == 1 or sys.stderr is None or None
        self.bar = tqdm(total=len(left), unit="run", disable=silent)
        return self

    def stacks(self) -> Iterator[list[Run]]:
        """This process's groups of small students, each temperature with each seed.

        They are to be trained together, all of a group if one is missing: in another stack they
        would be rounded differently. They are in `todo` as well, if that fails.
        """
        groups: dict[tuple, list[Run]] = {}
        for run in filter(is_stackable, self.runs):
            alike = tuple(v for k, v in vars(run.params).items() if k != "temperature")
            groups.setdefault(alike, []).append(run)
        stacks = list(groups.values())[self.process :: self.world]
        alone = [run for run in self.mine if not is_stackable(run)]
        self.mine = [*itertools.chain(*stacks), *alone]
        for stack in map(self._without_row, stacks):
            if all(RunFiles(run.output).are_finished(run) for run in stack):
                continue
            temperatures = {run.params.temperature for run in stack}
            if 1 < len(stack) == len(temperatures) * len({run.seed for run in stack}):
                yield stack

    def todo(self) -> Iterator[Run]:
        """This process's runs, less those that have a row when it comes to them."""
        return (run for run in self.mine if self._without_row([run]))

    @contextmanager
    def row(self, run: Run) -> Iterator[Row]:
        """A dict to fill: the row of the run, which is written at the end, also if it fails."""
        with self.rows([run]) as (row,):
            yield row

    @contextmanager
    def rows(self, runs: Sequence[Run]) -> Iterator[list[Row]]:
        """As `row`, for runs that are trained together; if that fails, none is written."""
        rows: list[Row] = [{} for _ in runs]
        try:
            yield rows
        except TrainingFailed as error:
            if not self.path:
                raise
            if len(runs) > 1:
                return
            tqdm.write(f"{runs[0].output.stem}: {error}")
            rows = [{"problem": str(error)}]
        if self.path:
            for run, row in zip(runs, rows, strict=True):
                if "problem" not in row:
                    row |= {"checkpoint": run.output, "sha256": sha256(run.output)[:12]}
            self._append(runs, rows)
            self.bar.update(len(runs))

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        self.bar.close()
        if isinstance(error, Stopped) and self.process == 0:
            again = "There is nothing to continue."
            if self.path:
                again = f"What is done is in {self.path}: rerun the command to continue."
            elif RunFiles(self.runs[0].output).resume_point.exists():
                again = f"Continue with: {command_line(keep_folder=True)} --resume"
            with suppress(OSError):  # of a reader that has gone
                print("Stopped.", again)
        if error is None and self.path and self.reports and not self._without_row(self.runs):
            self._report()  # of several processes, the one that ends last

    def _report(self) -> None:
        """The last lines. Raises TrainingFailed if one of the runs failed."""
        found = {self._key(row): row for row in read_rows(self.path, self.header)}
        rows = [found[self._key(_cells(run))] for run in self.runs]
        done = [row for row in rows if not row["problem"]]
        if len(done) > 1:
            print(means(done))
        print(f"{self.in_words} in {self.path}")
        if failed := len(rows) - len(done):
            raise TrainingFailed(
                f"{failed} of {self.in_words} failed: see {self.path}; "
                "to retry, delete the rows with a problem and rerun"
            )

    def _without_row(self, runs: Sequence[Run]) -> list[Run]:
        rows = read_rows(self.path, self.header) if self.path else []
        done = {self._key(row) for row in rows}
        return [run for run in runs if self._key(_cells(run)) not in done]

    def _key(self, row: Row) -> tuple:
        """What tells its run from others: hyperparameters by value, 20 and "20.0" alike."""
        return *(row[name] for name in self.shared), *(value_of(row[name]) for name in self.own)

    def _append(self, runs: Sequence[Run], rows: Sequence[Row]) -> None:
        """Add rows to the file, below the names of the columns. Raises UserError."""
        make_folder(self.path)
        text = io.StringIO()
        writer = csv.DictWriter(text, self.header, extrasaction="ignore", lineterminator="\n")
        try:
            with (
                open(self.path, "a", newline="", encoding="utf-8") as file,
                locked(self.path, PATIENCE),
            ):
                if file.seek(0, os.SEEK_END) == 0:
                    writer.writeheader()
                left = self._without_row(runs)  # less what another process has done meanwhile
                for run, row in zip(runs, rows, strict=True):
                    if run in left:
                        writer.writerow(_cells(run) | row)
                file.write(text.getvalue())
                file.flush()  # while it is locked
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write {self.path}: {error}") from None


def is_stackable(run: Run) -> bool:
    """Whether its student is better trained together with others like it (`train_together`)."""
    regularised = any(getattr(run.params, name) for name in NOT_STACKED)
    small = run.params.hidden_units <= STACKED_UNITS
    usual = run.record["objective"] == "distillation_loss"
    return small and usual and not regularised and run.log is None  # a stack has no events


def own_record(run: Run) -> dict[str, Any]:
    """What is recorded of a run besides the setting that it shares with others: what tells it."""
    objective = objective_of(run.loss, run.params)
    return {"parameters": dict(vars(run.params)), "seed": run.seed, "objective": objective}


def _cells(run: Run) -> Row:
    """The columns of a run that are known before it. A teacher is the start of its SHA-256."""
    known = identity(run.record)
    digits = known["digits"].split()
    return known | {
        "keep": known["digits"],
        "omit": " ".join(digit for digit in "0123456789" if digit not in digits),
        "teacher": " ".join(word[:12] for word in known["teacher"].split()),
    }


def read_rows(path: Path, header: Sequence[str] | None = None) -> list[dict[str, str]]:
    """The rows of the file, if it is there, which has these columns, if they are given.

    Raises UserError if it holds something else.
    """
    check_regular(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # a spreadsheet may add a byte order mark
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = list(reader)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    if text and header and reader.fieldnames != list(header):
        raise UserError(f"{path} has other columns: choose another file for --results")
    cut = text and not text.endswith("\n")
    if cut or any(None in (*row, *row.values()) for row in rows):
        raise UserError(f"{path} has an incomplete row, usually the last. Delete it and rerun")
    return rows


def _results_path(args: Namespace, runs: Sequence[Run]) -> Path:
    """The CSV file for the rows. Raises UserError if it cannot be what is asked."""
    path = args.results or FOLDER / f"{Path(sys.argv[0]).stem}.csv"
    of_runs = path.suffix in (".pt", ".lock", ".resume", ".part") or path.name.endswith(".pt.csv")
    if of_runs or belongs_to(path, runs):
        raise UserError(f"--results {path} looks like a file of a run: choose another name")
    return path
