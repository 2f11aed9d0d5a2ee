"""Many runs in one call of a script: every combination of the values given for its flags.

`python distillation.py --temperature 1 4 20 --seed 0 1 2` is nine runs. Each has a line of its own
in a CSV file; what has a line there already is not run again, so that a sweep that was stopped goes
on where it was. `torchrun --nproc-per-node 2 distillation.py ...` shares the runs out.
"""

import csv
import io
import os
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from tqdm import tqdm

from layers import check_regular, resume_path
from reporting import say_how_to_go_on
from training_params import Stopped, TrainingFailed, UserError

FOLDER = Path("runs")  # of outputs; git ignores it


class Run(NamedTuple):
    params: Any  # the fields of a class in training_params.py
    seed: int


Job = list[Run]  # that are trained together, as a rule one
Work = Callable[[Namespace, Job], list[dict[str, Any]]]  # trains them; their results, by column


def sweep(
    args: Namespace,
    choices: Sequence[Any],
    setting: dict[str, Any],
    name: Callable[[Any], str],
    columns: Sequence[str],
    work: Work,
    group: Callable[[list[Run]], list[Job]] = lambda runs: [[run] for run in runs],
) -> None:
    """Let `work` do a run for each of the `choices` of hyperparameters with each seed.

    A single run goes to `--output`; several go to runs/, each under a name of its own that starts
    with `name(params)`, less its ".pt". The line of a run has `setting`, by column, which is the
    same for all, its hyperparameters and seed, and below `columns` what `work` returned.
    """
    runs = _combinations(choices, args.seed, name)
    if len(runs) == 1 and not args.results:
        _alone(args, runs[0], name, work)
        return
    path = _results_path(args, len(runs))
    header = [*setting, *vars(choices[0]), "seed", *columns, "problem"]
    rank, world = _processes()
    # Of the first process: others may run on machines that have not this file.
    finished = [_text(line) for line in _gathered([_finished(path, header)], world)[0]]

    def line(run: Run) -> dict[str, Any]:
        return setting | vars(run.params) | {"seed": run.seed}

    todo = [run for run in runs if not any(_text(line(run)) <= done for done in finished)]
    if rank == 0:
        _append(path, header)  # nothing but the names: that it cannot be written shows at once
        print(f"{len(runs)} runs, {len(runs) - len(todo)} of them in {path} already", flush=True)

    def lines_of(job: Job) -> list[dict[str, Any]]:
        results = _results(args, choices, name, work, job)
        return [line(run) | result for run, result in zip(job, results, strict=True)]

    lines = _shared_out(group(todo), lines_of, rank, world)
    disable = args.quiet or rank > 0 or not todo or None
    lines = tqdm(lines, total=len(todo), unit="run", disable=disable)
    if rank == 0:
        _append_each(path, header, lines)
        print(f"{len(runs)} runs in {path}")
    else:
        deque(lines, maxlen=0)  # which does the runs
    if world > 1:
        dist.destroy_process_group()


def _alone(args: Namespace, run: Run, name: Callable[[Any], str], work: Work) -> None:
    """A single run; if it is stopped, a word on how to go on."""
    output = args.output or f"{FOLDER}/{name(run.params)}"
    try:
        work(_with(args, seed=run.seed, output=output), [run])
    except Stopped:
        say_how_to_go_on(output)
        raise


def _append_each(path: Path, header: list[str], lines: Iterable[dict[str, Any]]) -> None:
    """Add each line when it comes; if that is stopped, a word on how to go on."""
    try:
        for line in lines:
            _append(path, header, line)
    except Stopped:
        with suppress(OSError):  # of a reader that has gone
            print(f"Stopped. What is done is in {path}: the same command goes on.")
        raise


def _combinations(
    choices: Sequence[Any], seeds: Sequence[int], name: Callable[[Any], str]
) -> list[Run]:
    """Every choice with every seed. Raises UserError for two that would have the same file."""
    runs = [Run(params, seed) for params in choices for seed in seeds]
    if len({_stem(run, choices, name) for run in runs}) < len(runs):
        raise UserError("two runs of the same name: give each value and each seed once")
    return runs


def _stem(run: Run, choices: Sequence[Any], name: Callable[[Any], str]) -> str:
    """The name of a run, with what differs between the choices beside what `name` tells."""
    values = vars(run.params)
    varied = [k for k in values if len({str(vars(other)[k]) for other in choices}) > 1]
    marks = [f"{k}_{values[k]}" for k in varied if k not in ("hidden_units", "temperature")]
    return "_".join([name(run.params).removesuffix(".pt"), *marks, f"seed_{run.seed}"])


def _shared_out(
    jobs: list[Job], lines_of: Callable[[Job], list[dict[str, Any]]], rank: int, world: int
) -> Iterator[dict[str, Any]]:
    """The lines of all jobs, as they are done, each by one of the processes."""
    for first in range(0, len(jobs), world):
        own = jobs[first + rank : first + rank + 1]  # none where they do not come out even
        yield from _gathered([line for job in own for line in lines_of(job)], world)


def _results_path(args: Namespace, runs: int) -> Path:
    """The CSV file for the lines. Raises UserError if it or the output cannot be what is asked."""
    path = Path(args.results or FOLDER / f"{Path(sys.argv[0]).stem}.csv")
    if args.output and runs > 1:
        raise UserError(f"--output is for a single run, not for {runs}: they go to {FOLDER}/")
    if path.parent != FOLDER and not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    if path.suffix in (".pt", ".lock", ".resume") or path.name.endswith(".pt.csv"):
        raise UserError(f"--results {path} has the name of what a run writes: choose another")
    if args.output and os.path.realpath(path) in beside(args.output):
        raise UserError(f"--results {path} belongs to --output {args.output}: choose another")
    check_regular(path)
    return path


def _results(
    args: Namespace,
    choices: Sequence[Any],
    name: Callable[[Any], str],
    work: Work,
    job: Job,
) -> list[dict[str, Any]]:
    """Those of `work`; a training that fails, as some seeds do, does not stop the others."""
    stem, seed = _stem(job[0], choices, name), job[0].seed
    output = args.output or FOLDER / f"{stem}.pt"
    resume = resume_path(output).exists()
    try:
        return work(_with(args, seed=seed, output=output, resume=resume, quiet=True), job)
    except TrainingFailed as error:
        if len(job) > 1:  # together, where one that fails stops all
            return [result for run in job for result in _results(args, choices, name, work, [run])]
        tqdm.write(f"{stem}: {error}")
        return [{"problem": str(error)}]


def beside(output: str | Path) -> list[str]:
    """The real paths of a checkpoint and of all that a run writes beside it."""
    return [os.path.realpath(f"{output}{suffix}") for suffix in ("", ".csv", ".lock", ".resume")]


def make_folder(path: Path) -> None:
    """Make runs/, if `path` lies there: at the first write, so that bad input leaves nothing."""
    try:
        if path.parent == FOLDER:
            FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {FOLDER}: {error.strerror}") from None


def _with(args: Namespace, **changes: Any) -> Namespace:
    return Namespace(**vars(args) | changes)


def _text(line: dict[str, Any]) -> set[tuple[str, str]]:
    """A line as it is read again."""
    return {(column, str(value)) for column, value in line.items()}


def _finished(path: Path, header: list[str]) -> list[dict[str, str]]:
    """The lines in the file. Raises UserError if it holds something else."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            text = file.read()
        reader = csv.DictReader(io.StringIO(text))
        lines = list(reader)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if text and reader.fieldnames != header:
        raise UserError(f"{path} holds other columns: choose another --results")
    cut = text and not text.endswith("\n")
    if cut or any(None in (*line, *line.values()) for line in lines):
        raise UserError(f"{path} has a damaged line, as a rule the last: delete it")
    return lines


def _append(path: Path, header: list[str], *lines: dict[str, Any]) -> None:
    """Add lines, in one write, below the names of the columns. Raises UserError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    make_folder(path)
    try:
        with open(path, "a", newline="", encoding="utf-8") as file:
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(lines)
            file.write(text.getvalue())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from None


def _processes() -> tuple[int, int]:
    """This process's number and how many there are; one, unless torchrun started them."""
    if "RANK" not in os.environ:
        return 0, 1
    try:  # gloo on GPUs too: only lines of text travel, and some wait for long trainings of others
        dist.init_process_group("gloo", timeout=timedelta(days=30))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the processes of torchrun do not find each other: {error}") from None
    return dist.get_rank(), dist.get_world_size()


def _gathered(lines: list[Any], world: int) -> list[Any]:
    """The lines of all processes, in their order, once each of them has done its job."""
    if world == 1:
        return lines
    everything: list[Any] = [None] * world
    dist.all_gather_object(everything, lines)
    return [line for part in everything for line in part]
