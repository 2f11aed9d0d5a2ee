"""Many runs in one call of a script: every combination of the values given for its flags.

`python distillation.py --temperature 1 4 20 --seed 0 1 2` is nine runs. Each has a line of its own
in a CSV file; what has a line there already is not run again, so that rerunning the command
continues a sweep that was stopped. `torchrun --nproc-per-node 2 distillation.py ...` shares them.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from support.errors import Stopped, TrainingFailed, UserError
from support.files import check_regular
from support.outputs import RunFiles, belongs_to, check_outputs
from support.records import command_line
from support.result_lines import Line, Text, append_lines, as_text, columns_for, read_lines
from support.runs import FOLDER, Run

RENDEZVOUS = timedelta(minutes=5)  # in which all processes of torchrun must have arrived
Job = list[Run]  # trained together; as a rule one
Work = Callable[[Job], list[Line]]  # trains them; the results of each


def sweep(
    args: Namespace,
    runs: Sequence[Run],
    setting: Line,
    columns: Sequence[str],
    work: Work,
    group: Callable[[Sequence[Run]], list[Job]] = lambda runs: [[run] for run in runs],
) -> None:
    """Let `work` do the `runs`, those of a `group` together. Raises TrainingFailed if one failed.

    A line has `setting`, its run's hyperparameters and seed, and what `work` returns (`columns`).
    """
    rank, world = _processes()
    if not runs[0].in_sweep:
        if rank == 0:
            _alone(runs[0], work)
        _gathered([], world)  # wait for the first process, which does it
        return
    path = _results_path(args, runs)
    header = columns_for(path, [*setting, *vars(runs[0].params), "seed", *columns, "problem"])
    # Of the first process: others may run on machines that have not this file.
    finished = [as_text(line) for line in _gathered([read_lines(path, header)], world)[0]]
    starts = [as_text(setting | run.line()) for run in runs]  # of their lines
    todo = [run for run, s in zip(runs, starts, strict=True) if not _is_among(s, finished)]
    check_outputs(todo)  # that one cannot be written shows before the first is trained
    if rank == 0:
        append_lines(path, header)  # nothing but the names, for the same reason
        done = len(runs) - len(todo)
        print(f"{in_words(len(runs))}, {done} of them in {path} already", flush=True)

    def lines_of(job: Job) -> list[Line]:
        return [setting | line for line in _lines(job, work)]

    lines = _shared_out(group(todo), lines_of, rank, world)
    if rank == 0:
        disable = args.quiet or not todo or len(runs) == 1 or None
        _append_each(path, header, tqdm(lines, total=len(todo), unit="run", disable=disable))
        _report(path, header, starts)
    else:
        list(lines)  # which does the runs


def in_words(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _is_among(start: Text, lines: Sequence[Text]) -> bool:
    """Whether one of the lines starts so: it is that of the run."""
    return any(start <= line for line in lines)


def _alone(run: Run, work: Work) -> None:
    """A single run; if it is stopped, a word on how to continue."""
    try:
        work([run])
    except Stopped:
        again = f"Continue with: {command_line(sys.argv[0])} --resume"
        with suppress(OSError):  # of a reader that has gone
            kept = RunFiles(run.output).resume_point.exists()
            print("Stopped.", again if kept else "There is nothing to continue.")
        raise


def _append_each(path: Path, header: list[str], lines: Iterable[Line]) -> None:
    """Add each line when it comes; if that is stopped, a word on how to continue."""
    try:
        for line in lines:
            append_lines(path, header, line)
    except Stopped:
        with suppress(OSError):  # of a reader that has gone
            print(f"Stopped. What is done is in {path}: rerun the command to continue.")
        raise


def _report(path: Path, header: list[str], runs: list[Text]) -> None:
    """The last line of a sweep. Raises TrainingFailed if one of its runs failed."""
    print(f"{in_words(len(runs))} in {path}")
    failed = [as_text(line) for line in read_lines(path, header) if line["problem"]]
    count = sum(_is_among(run, failed) for run in runs)
    if count:
        raise TrainingFailed(
            f"{count} of {in_words(len(runs))} failed: see {path}; to try again, delete their lines"
        )


def _shared_out(
    jobs: list[Job], lines_of: Callable[[Job], list[Line]], rank: int, world: int
) -> Iterator[Line]:
    """The lines of all jobs, as they are done, each by one of the processes."""
    for first in range(0, len(jobs), world):
        own = jobs[first + rank : first + rank + 1]  # none where they do not come out even
        yield from _gathered([line for job in own for line in lines_of(job)], world)


def _results_path(args: Namespace, runs: Sequence[Run]) -> Path:
    """The CSV file for the lines. Raises UserError if it cannot be what is asked."""
    path = args.results or FOLDER / f"{Path(sys.argv[0]).stem}.csv"
    if path.parent != FOLDER and not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    if path.suffix in (".pt", ".lock", ".resume", ".part") or path.name.endswith(".pt.csv"):
        raise UserError(
            f"--results {path} looks like a file that a run writes: choose another name"
        )
    if belongs_to(path, runs):
        raise UserError(f"--results {path} is a file of the run itself: choose another")
    check_regular(path)
    return path


def _lines(job: Job, work: Work) -> list[Line]:
    """Hyperparameters, seed and results of each run; one that fails does not stop the others."""
    try:
        return [run.line() | result for run, result in zip(job, work(job), strict=True)]
    except TrainingFailed as error:
        if len(job) > 1:  # together, where one that fails stops all
            return [line for run in job for line in _lines([run], work)]
        tqdm.write(f"{job[0].output.stem}: {error}")
        return [job[0].line() | {"problem": str(error)}]


def _processes() -> tuple[int, int]:
    """This process's number and how many there are; one, unless torchrun started them."""
    if "RANK" not in os.environ:
        return 0, 1
    # Python's handlers of signals would wait as long as this.
    handlers = {s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        if not 0 <= int(os.environ["RANK"]) < int(os.environ.get("WORLD_SIZE", 0)):
            raise ValueError("RANK is not between 0 and WORLD_SIZE")
        store, rank, world = next(dist.rendezvous("env://", timeout=RENDEZVOUS))
        store.set(f"arrived {rank}", "")
        store.wait([f"arrived {number}" for number in range(world)], RENDEZVOUS)
        # gloo on GPUs too: only lines of text travel, and some wait for long runs of others.
        options = {"store": store, "rank": rank, "world_size": world}
        dist.init_process_group("gloo", timeout=timedelta(days=30), **options)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the processes of torchrun do not find each other: {reason}") from None
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    return rank, world


def _gathered(lines: list[Any], world: int) -> list[Any]:
    """The lines of all processes, in their order, once each of them has done its job."""
    if world == 1:
        return lines
    everything: list[Any] = [None] * world
    try:
        dist.all_gather_object(everything, lines)
    except RuntimeError:
        raise UserError("another process of torchrun has ended: its own line says why") from None
    return [line for part in everything for line in part]
