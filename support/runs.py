"""The training runs that a command line asks for, and their files: none is lost by mistake."""

import glob
import itertools
import math
import os
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from layers import RectifierNet
from support.checkpoints import save_model
from support.errors import UserError
from support.files import check_regular, locked, read_file, replace_file
from support.hyperparameters import ROLES, Params, default_params
from support.records import differences, history_lines, identity, record_of

FOLDER = Path("runs")  # of outputs without a name; git ignores it


class Run(NamedTuple):
    """A training run as the command line asks for it."""

    params: Params
    seed: int
    output: Path
    loss: Callable  # of float32 logits and their minibatch: what is minimised
    existing: str = "refuse"  # what to do with a run that was stopped: "resume", "continue"
    several: bool = False  # one of several: its bar has a name, and it has no first lines
    quiet: bool = False
    log: Path | None = None  # folder of TensorBoard events
    record: dict[str, Any] | None = None  # of its checkpoint, once the data are known


def plan(args: Namespace, role: str, name: str, loss_of: Callable[[Params], Callable]) -> list[Run]:
    """A run for each combination of the values of the flags, those not given being of `role`.

    A single run goes to `--output`; several go to runs/, each to a file of its own: `name`, filled
    in with its hyperparameters, and what else differs. `loss_of` makes the loss of a run from them.
    Raises UserError if two have the same file.
    """
    default = vars(default_params(args.params, role))
    values = {name: getattr(args, name) or [value] for name, value in default.items()}
    several = math.prod(map(len, values.values())) * len(args.seed) > 1
    in_sweep = several or args.results is not None
    if several and args.output:
        raise UserError(f"--output is for a single run, not for several: they go to {FOLDER}/")
    marked = [k for k, given in values.items() if len({*given}) > 1 and f"{{{k}" not in name]
    existing = "continue" if in_sweep else "resume" if args.resume else "refuse"
    runs = []
    for *chosen, seed in itertools.product(*values.values(), args.seed):
        params = ROLES[role](**dict(zip(values, chosen, strict=True)))
        stem = [name.format(**vars(params))]
        if in_sweep:
            stem += [*(f"{k}_{vars(params)[k]}" for k in marked), f"seed_{seed}"]
        output = args.output or FOLDER / f"{'_'.join(stem)}.pt"
        options = (existing, several, args.quiet, args.log)
        runs.append(Run(params, seed, output, loss_of(params), *options))
    (output, times), *_ = Counter(run.output for run in runs).most_common(1)
    if times > 1:
        raise UserError(f"two runs would write {output}: give each value and seed only once")
    return runs


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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes them meanwhile.

        Raises UserError if somebody does, or for what could not be written at the end.
        """
        self.check()
        make_folder(self.checkpoint)
        with locked(self.checkpoint):
            for file in self.all():  # half of one, of a run that was killed
                for part in file.parent.glob(f".{glob.escape(file.name)}.*.part"):
                    part.unlink(missing_ok=True)
            yield

    def check(self) -> None:
        """Raise UserError for what could not be written at the end, or would be lost then."""
        for path in self.all():
            check_regular(path)
            if path.is_symlink() and not Path(os.path.realpath(path)).parent.is_dir():
                raise UserError(
                    f"cannot write {path}: it is a link into a folder that is not there"
                )
        start = history_lines([])
        if self.history.exists() and read_file(self.history, len(start)) != start:
            raise UserError(
                f"--output {self.checkpoint} would replace {self.history}, which is not the "
                "history of a run: choose another"
            )

    def unlike(self, record: dict[str, Any]) -> str:
        """Why the checkpoint is not of the run with this `record`; "" if it is."""
        try:
            earlier = identity(record_of(self.checkpoint))
        except UserError as error:
            return str(error)
        return differences(self.checkpoint, identity(record), earlier)

    def are_finished(self, run: Run) -> bool:
        """Whether the `run` is to be continued and its checkpoint is there already.

        Raises UserError for one of another run if the user asked to resume it.
        """
        if run.existing == "refuse" or self.resume_point.exists() or not self.checkpoint.exists():
            return False
        if reason := self.unlike(run.record):
            if run.existing == "resume":
                raise UserError(reason)
            return False
        return True

    def keep_other_run(self, record: dict[str, Any]) -> None:
        """Rename NAME.pt, and its history, to NAME.1.pt if it is of another run.

        Or to the first number that is free: hours of training are not lost for a name.
        """
        if not self.checkpoint.exists() or not self.unlike(record):
            return
        path = self.checkpoint
        names = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in itertools.count(1))
        free = next(f for f in map(RunFiles, names) if not any(map(os.path.lexists, f.all())))
        # The checkpoint last: if this is stopped between the two, it is renamed the next time,
        # to another number than its history, which it also holds.
        for old, new in ((self.history, free.history), (path, free.checkpoint)):
            if os.path.lexists(old):
                os.rename(old, new)
        tqdm.write(f"{path} belonged to a different run; renamed to {free.checkpoint}.")

    def save(self, model: RectifierNet, record: dict[str, Any]) -> None:
        """Write history and checkpoint, which holds `record`."""
        self.keep_other_run(record)
        replace_file(self.history, history_lines(record["history"]))
        save_model(self.checkpoint, model, **record)


def belongs_to(path: Path, runs: Iterable[Run]) -> bool:
    """Whether one of the `runs` writes that file, by whatever name."""
    written = (file for run in runs for file in RunFiles(run.output).all())
    return os.path.realpath(path) in map(os.path.realpath, written)


def make_folder(path: Path) -> None:
    """Make runs/, if `path` lies there: at the first write, so that bad input leaves nothing.

    Raises UserError if it cannot be made, or if there is no other folder of that name.
    """
    try:
        if path.parent == FOLDER:
            FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {FOLDER}: {error.strerror}") from None
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
