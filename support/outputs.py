"""The files of a run, and the checks that none is overwritten by mistake."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tqdm import tqdm

from layers import RectifierNet
from support.checkpoints import save_model
from support.errors import UserError
from support.files import Lock, check_regular, read_file, replace_file
from support.records import history_lines, record_of
from support.resume import check_same
from support.runs import FOLDER, Run


class RunFiles:
    """A checkpoint and what lies beside it: history, resume point and lock."""

    def __init__(self, output: Path):
        self.checkpoint = output
        self.history, self.resume_point, self.lock = (
            Path(f"{output}{suffix}") for suffix in (".csv", ".resume", ".lock")
        )

    def all(self) -> list[Path]:
        """Whether they exist or not."""
        return [self.checkpoint, self.history, self.resume_point, self.lock]

    def include(self, path: Path) -> bool:
        """Whether `path` is one of them, by whatever name."""
        return os.path.realpath(path) in map(os.path.realpath, self.all())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes them meanwhile.

        Raises UserError if somebody does, or for what could not be written at the end.
        """
        self.check()
        make_folder(self.checkpoint)
        with Lock(self.checkpoint, self.lock):
            yield

    def check(self) -> None:
        """Raise UserError for what could not be written at the end, or would be lost then."""
        if self.checkpoint.is_dir():
            raise UserError(f"--output {self.checkpoint} is a folder: name a file")
        for path in self.all():
            check_regular(path)
        start = history_lines([])
        if self.history.exists() and read_file(self.history, len(start)) != start:
            raise UserError(
                f"--output {self.checkpoint} would replace {self.history}, which is not the "
                "history of a run: choose another"
            )

    def check_same_run(self, settings: dict[str, Any]) -> None:
        """Raise UserError if the checkpoint has other settings, or is not that of a run."""
        checkpoint = record_of(self.checkpoint)
        earlier = {name: checkpoint.get(name) for name in settings}
        check_same(settings, earlier, self.checkpoint)

    def are_finished(self, run: Run, settings: dict[str, Any]) -> bool:
        """Whether the `run` is to be continued and its checkpoint is there already.

        Raises UserError for one with other settings if the user asked to resume it.
        """
        may_continue = run.resume or run.in_sweep
        if self.resume_point.exists() or not (self.checkpoint.exists() and may_continue):
            return False
        try:
            self.check_same_run(settings)
        except UserError:
            if run.resume:
                raise
            return False
        tqdm.write(f"{self.checkpoint} is finished already: nothing was changed.")
        return True

    def keep_other_run(self, settings: dict[str, Any]) -> None:
        """Rename NAME.pt, and its history, to NAME.1.pt if it has other settings.

        Or to the first number that is free: hours of training are not lost for a name.
        """
        if not self.checkpoint.exists():
            return
        try:
            self.check_same_run(settings)
        except UserError:
            path = self.checkpoint
            names = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in count(1))
            free = next(f for f in map(RunFiles, names) if not any(map(os.path.lexists, f.all())))
            # The checkpoint last: if this is stopped between the two, it is renamed the next time,
            # to another number than its history, which it also holds.
            for old, new in ((self.history, free.history), (path, free.checkpoint)):
                if os.path.lexists(old):
                    os.rename(old, new)
            tqdm.write(
                f"{path} holds something else than this run, and was renamed to {free.checkpoint}."
            )

    def save(self, model: RectifierNet, settings: dict[str, Any], record: dict[str, Any]) -> None:
        """Write history and checkpoint, which has `record` beside the `settings` of the run."""
        self.keep_other_run(settings)
        replace_file(self.history, history_lines(record["history"]))
        save_model(self.checkpoint, model, **settings, **record)


def belongs_to(path: Path, runs: Iterable[Run]) -> bool:
    """Whether one of the `runs` writes that file."""
    return any(RunFiles(run.output).include(path) for run in runs)


def check_outputs(runs: Iterable[Run]) -> None:
    """Raise UserError if the files of one of the `runs` could not be written, or would be lost."""
    for run in runs:
        RunFiles(run.output).check()


def make_folder(path: Path) -> None:
    """Make runs/, if `path` lies there: at the first write, so that bad input leaves nothing.

    Raises UserError if it cannot be made.
    """
    try:
        if path.parent == FOLDER:
            FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {FOLDER}: {error.strerror}") from None
