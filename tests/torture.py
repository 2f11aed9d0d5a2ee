"""What trainings and files survive: `python tests/torture.py [--quick] [--part NAME ...]`.

  kills    trainings killed at any moment, also in the middle of a write, and resumed: the final
           files are bit-identical to those of a run nobody disturbed
  signals  Ctrl-C and SIGTERM: soon gone, with the right status and the command to go on with
  sweeps   the same for many runs in one call, alone or shared by two processes of torchrun
  locks    of several runs with one output exactly one goes on; two sweeps share a file of results
  disks    full, read-only, removed under a training: one line, and no file in pieces
  damage   checkpoints, resume points, results and copies of MNIST that were cut, have flipped bits
           or bring along code: each is refused in one line, or harmless, and no code is run

Each part prints a line with what it did, how often, and how many checks failed; above it a line
for each of those. The exit status is 1 if there is any. The full form takes a quarter of an hour
at most on two free processor cores, --quick half a minute, without copies of MNIST and without what
needs another process to import torch. --seed chooses other moments and damages. It needs Linux; to
fill a disk it must be allowed to mount one, as root is.
"""

import argparse
import csv
import gc
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from torture_files import damage, disks
from torture_harness import (
    DEADLINE,
    OUTPUT,
    RESULTS,
    RESUME,
    SOON,
    Bench,
    Job,
    Run,
    await_moment,
    contents,
    prepare,
)

# kills


def kills(bench: Bench) -> None:
    for job in bench.jobs:
        for _ in bench.often(2, 40):
            kill_and_go_on(bench, job)


def kill_and_go_on(bench: Bench, job: Job) -> None:
    """Killed once or several times in a row, then left alone."""
    folder = bench.new_folder()
    for _ in range(bench.rng.choice((1, 1, 1, 2, 3))):
        run = job.go_on(folder)
        if not job.forked:
            run.wait_for(run.has_begun)  # as it takes seconds to import torch
        moment = await_moment(bench, job, run)
        run.kill()
        status = run.wait()
        what = f"{job.name}, killed {moment},"
        bench.counts["ended before the kill" if status == 0 else "kills"] += 1
        bench.counts["of them while writing"] += bool(job.half_written(folder))
        bench.check(status in (0, -signal.SIGKILL), f"{what} in {folder}: {status}: {run.err}")
    bench.check_end(job, job.go_on(folder), what)


# signals


def signals(bench: Bench) -> None:
    for job in bench.jobs:
        for number in bench.often(2, 30):
            stop_and_go_on(bench, job, (signal.SIGINT, signal.SIGTERM)[number % 2])
    for number in bench.often(0, 8):
        signum = (signal.SIGINT, signal.SIGTERM)[number % 2]
        from_a_shell = bench.jobs[number // 2 % 2]._replace(forked=False)
        stop_and_go_on(bench, from_a_shell, signum, times=1 + number // 4)


def stop_and_go_on(bench: Bench, job: Job, signum: int, times: int = 1) -> None:
    """Stopped, by the impatient several `times`, and continued with the command it prints."""
    folder = bench.new_folder()
    terminal = job.forked and bench.rng.random() < 0.3
    run = job.start(folder, before=show_a_bar if terminal else lambda: None)
    run.wait_for(run.has_begun)
    moment = await_moment(bench, job, run)
    sent = time.monotonic()
    for _ in range(times):
        run.send(signum)
        time.sleep(0 if times == 1 else bench.rng.uniform(0, 0.3))
    status, seconds = run.wait(), time.monotonic() - sent
    what = f"{job.name}, signal {signum} {moment},"
    if contents(folder) == job.files:
        bench.counts["ended before the signal"] += 1
        return
    bench.counts["stopped"] += 1
    bench.check(seconds < SOON, f"{what} in {folder}: took {seconds:.0f} s")
    # A second signal may find Python on its way out, past any handler: a shell sees no difference.
    good = status in (128 + signum, -signum)[:times]
    good &= "Traceback" not in run.err and "Exception" not in run.err
    bench.check(good, f"{what} in {folder}: status {status}: {run.err[-600:]}")
    half = job.half_written(folder)
    bench.check(not half, f"{what} in {folder}: left {half}")
    bench.check_end(job, go_on_as_told(bench, job, run, what), what)


def show_a_bar() -> None:
    """As with a terminal; it also runs other code of ours and of tqdm when the signal comes."""
    sys.stderr.isatty = lambda: True  # type: ignore[method-assign]


def go_on_as_told(bench: Bench, job: Job, run: Run, what: str) -> Run:
    """With the command that the stopped run printed; a single one must, if it can go on."""
    told = re.search(r"python (\S+\.py .*--resume)", run.out)
    if told:
        bench.counts["told how to go on"] += 1
        return Run(shlex.split(told[1]), run.folder, forked=job.forked)
    silent = not (run.folder / RESUME).exists()
    bench.check(silent, f"{what} in {run.folder}: does not say how to go on: {run.out[-300:]!r}")
    return job.go_on(run.folder)


# sweeps


def sweeps(bench: Bench) -> None:
    for number in bench.often(1, 12):
        kill_and_go_on(bench, bench.sweep)
        stop_and_go_on(bench, bench.sweep, (signal.SIGINT, signal.SIGTERM)[number % 2])
    for _ in bench.often(0, 4):
        kill_and_go_on(bench, bench.shared_sweep)
        bench.counts["sweeps shared by two processes"] += 1


# locks


def locks(bench: Bench) -> None:
    for job in bench.some_jobs():
        for _ in bench.often(1, 5):
            second_run(bench, job)
    for _ in bench.often(1, 5):
        many_at_once(bench)
        results_of_two(bench)


ENDLESS = ["--epochs", "100000"]


def begin_endless(bench: Bench, job: Job) -> Run:
    run = job.start(bench.new_folder(), *ENDLESS)
    run.wait_for(lambda names: RESUME in names)
    return run


def stop_endless(bench: Bench, run: Run) -> None:
    signum = bench.rng.choice((signal.SIGINT, signal.SIGTERM))
    run.send(signum)
    good = run.wait() == 128 + signum
    bench.check(good, f"signal {signum} to {run.words}: {run.status}: {run.err[-600:]}")


def second_run(bench: Bench, job: Job) -> None:
    """Refused, whether it would begin or resume; the first goes on."""
    first = begin_endless(bench, job)
    for more in ([], ENDLESS, [*ENDLESS, "--resume"]):
        second = job.start(first.folder, *more)
        bench.check_refused(second, f"a second {job.name} {more}", OUTPUT)
    stop_endless(bench, first)


def many_at_once(bench: Bench) -> None:
    """Eight wait for one moment to resume a stopped run; one goes on, seven are refused."""
    job, go = bench.rng.choice(bench.jobs), bench.new_folder() / "go"
    first = begin_endless(bench, job)
    stop_endless(bench, first)

    def wait_to_go() -> None:
        while not go.exists():
            time.sleep(0.0002)

    more = [*ENDLESS, "--resume"]
    runs = [job.start(first.folder, *more, before=wait_to_go) for _ in range(8)]
    go.touch()
    deadline = time.monotonic() + DEADLINE
    while sum(run.running() for run in runs) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    winners = [run for run in runs if run.running()]
    bench.check(len(winners) == 1, f"of 8 at once {len(winners)} go on, in {first.folder}")
    for run in winners:
        stop_endless(bench, run)
    for run in runs:
        if run not in winners:
            bench.check_refused(run, "8 at once", OUTPUT)


def rows_in(content: bytes) -> list[dict[str, str]]:
    """Less what differs between two days and two commands: date and SHA-256 of a checkpoint."""
    rows = [*csv.DictReader(content.decode().splitlines())]
    return [{k: v for k, v in row.items() if k not in ("date", "sha256")} for row in rows]


def results_of_two(bench: Bench) -> None:
    """Two sweeps at once with one file of results, which has every line once."""
    folder, sweep = bench.new_folder(), bench.sweep
    for run in [sweep.start(folder, "--seed", *seeds) for seeds in (["0", "1"], ["2"])]:
        bench.check(run.wait() == 0, f"two sweeps in {folder}: {run.status}: {run.err}")
    there, whole = (rows_in(files[RESULTS]) for files in (contents(folder), sweep.files))
    bench.check(there == whole, f"two sweeps in {folder}: other results than one: {there!r}")
    bench.counts["files of results of two sweeps"] += 1


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part for part in (kills, signals, sweeps, locks, disks, damage)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the short form")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of moments and damages [0]")
    args = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory(prefix="torture.") as folder:
        bench = Bench(Path(folder), args.quick, args.seed)
        good = bench.report()
        for name in args.part or PARTS:
            bench.begin(name)
            PARTS[name](bench)
            good &= bench.report()
    gc.unfreeze()  # torch.compile complains of what is left at the end
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
