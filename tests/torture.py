"""What trainings and files survive: `python tests/torture.py [--quick] [--part NAME ...]`.

  kills    trainings killed at any moment, also in the middle of a write, and resumed: the final
           checkpoint is bit-identical to that of a run nobody disturbed
  signals  Ctrl-C and SIGTERM: soon gone, with the right status and the command to go on with
  disk     full, read-only, removed under a training: one line, and no file in pieces
  lock     of several runs with one output exactly one goes on
  resume   with other settings, with nothing, a finished or a damaged file
  fuzz     damaged, foreign and malicious checkpoints, resume points and copies of MNIST: each is
           refused with a UserError or is what it claims to be; no crash, hang or flood of memory
  nan      a training whose loss is not finite leaves no checkpoint

Each part prints a line with what it did, how often, and how many checks failed; above it a line
for each of those. The exit status is 1 if there is any. The full form takes about a quarter of an
hour at most, --quick twenty seconds; --seed chooses other moments and damages. It needs Linux.
"""

import argparse
import contextlib
import ctypes
import fcntl
import gc
import itertools
import json
import os
import pickle
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from torture_fuzz import fuzz
from torture_harness import (
    COMMON,
    DEADLINE,
    HISTORY,
    OUTPUT,
    RESUME,
    Bench,
    Job,
    Run,
    await_moment,
    choose_moment,
    contents,
    digest,
    has_resume_point,
    is_part,
    prepare,
    saved,
    shell_command,
    stop,
)

import train
from support.archives import read_dict
from support.errors import UserError
from support.files import Lock
from support.outputs import RunFiles

# kills


def kills(bench: Bench) -> None:
    for job in bench.jobs:
        for number in bench.often(3, 65):
            kill_and_go_on(bench, job, choose_moment(bench, number))


def kill_and_go_on(bench: Bench, job: Job, moment: str) -> None:
    """Killed once or several times in a row, then left alone."""
    folder = bench.new_folder()
    bench.counts["trainings"] += 1
    for _ in range(bench.rng.choice((1, 1, 1, 2, 3))):
        what = f"{job.script.__name__} killed {moment} in {folder}"
        run = job.go_on(folder)
        await_moment(bench, job, run, moment)
        run.send(signal.SIGKILL)
        count_kill(bench, folder, run.wait())
        bench.check_whole(folder, what)
    bench.check_end(job, job.go_on(folder), what)


def count_kill(bench: Bench, folder: Path, status: int) -> None:
    names = os.listdir(folder)
    if status != -signal.SIGKILL:
        bench.counts["ended before the kill"] += 1
        return
    bench.counts["kills"] += 1
    bench.counts["of them while writing"] += any(is_part(name) for name in names)
    bench.counts["before the first resume point"] += not {OUTPUT, RESUME} & set(names)


# signals


def signals(bench: Bench) -> None:
    for job in bench.jobs:
        for number in bench.often(2, 40):
            signum = (signal.SIGINT, signal.SIGTERM)[number % 2]
            stop_and_go_on(bench, job, signum, choose_moment(bench, number), number % 4 == 3)
    for number in bench.often(0, 10):
        stop_from_the_shell(bench, bench.jobs[number % 2], number)


def stop_and_go_on(bench: Bench, job: Job, signum: int, moment: str, twice: bool) -> None:
    folder = bench.new_folder()
    what = f"{job.script.__name__}, signal {signum} {moment}{' twice' * twice}, in {folder}"
    terminal = bench.rng.random() < 0.3
    run = job.start(folder, before=show_a_bar if terminal else lambda: None)
    run.await_main()
    await_moment(bench, job, run, moment)
    run.send(signum)
    if twice:
        time.sleep(bench.rng.uniform(0, 0.01))
        run.send(signum)
    started = time.monotonic()
    status = run.wait()
    if status == 0:
        bench.counts["ended before the signal"] += 1
        bench.check_end(job, run, what)
        return
    bench.counts["stopped"] += 1
    bench.check(time.monotonic() - started < 2, f"{what}: took over 2 s")
    good = status == 128 + signum and "Traceback" not in run.err and "Exception" not in run.err
    bench.check(good, f"{what}: status {status}: {run.err[-1000:]}")
    bench.check_whole(folder, what)
    left = set(os.listdir(folder)) - {OUTPUT, RESUME, HISTORY}
    bench.check(not left, f"{what}: left {left}")
    go_on_as_told(bench, job, run, what)


def show_a_bar() -> None:
    """As with a terminal; it also runs other code of ours and of tqdm when the signal comes."""
    sys.stderr.isatty = lambda: True  # type: ignore[method-assign]


def go_on_as_told(bench: Bench, job: Job, run: Run, what: str) -> None:
    """With the command that the stopped run printed; it must be there if it can go on."""
    told = [line.partition("Continue with: ")[2] for line in run.out.splitlines()]
    command = next((line for line in told if line), None)
    if command:
        bench.counts["told how to go on"] += 1
        run = Run(job.script, shlex.split(command)[2:], run.folder)
    else:
        silent = not (run.folder / RESUME).exists()
        bench.check(silent, f"{what}: does not say how to go on: {run.out[-300:]!r}")
        run = job.go_on(run.folder)
    bench.check_end(job, run, what)


def stop_from_the_shell(bench: Bench, job: Job, number: int) -> None:
    """A process of its own, stopped after its first lock; every second one twice."""
    folder, signum = bench.new_folder(), (signal.SIGINT, signal.SIGTERM)[number % 2]
    what = f"{job.script.__name__} from the shell, signal {signum}, in {folder}"
    process = subprocess.Popen(
        shell_command(job), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not os.listdir(folder):
        time.sleep(0.001)
    time.sleep(bench.rng.uniform(0, job.seconds))
    times = 1 + number // 2 % 2
    for _ in range(times):
        process.send_signal(signum)
        started = time.monotonic()
        time.sleep(bench.rng.uniform(0, 0.3))
    _, err = process.communicate(timeout=DEADLINE)
    bench.check(time.monotonic() - started < 2, f"{what}: took over 2 s")
    ended = process.returncode in (0, -signum) and digest(folder / OUTPUT) == job.digest
    # The second may find Python on its way out, past any handler: the shell sees the same status.
    good = ended or process.returncode in (128 + signum, -signum)[:times]
    bench.check(good and "Traceback" not in err, f"{what}: {process.returncode}: {err[-1000:]}")
    bench.counts["stopped from the shell"] += not ended
    bench.check_end(job, job.go_on(folder), what)


# disk


def disk(bench: Bench) -> None:
    for job in bench.some_jobs():
        unwritable_names(bench, job)
        removed_folder(bench, job)
        read_only_folder(bench, job)
        what = "a file that may not grow"
        bench.check_refusal(job.start(bench.new_folder(), before=limit_files), what, RESUME)
    folder = bench.new_folder()
    with small_disk(folder, 512) as mounted:
        pass
    if not mounted:
        print("  disk: a full disk is skipped, as no file system may be mounted here")
        return
    for job in bench.some_jobs():
        full_disk(bench, job)
        for _ in bench.often(1, 30):
            small_disks(bench, job, kilobytes=bench.rng.randrange(4, 400, 4))


def unwritable_names(bench: Bench, job: Job) -> None:
    """From the start, before any time is spent."""
    folder = bench.new_folder()
    (folder / "folder").mkdir()
    (folder / "file").touch()
    for output in ("missing/net.pt", "folder", "file/net.pt", "n" * 245, "n" * 252, "n" * 300):
        run = job.start(folder, "--output", output)
        bench.check_refusal(run, f"--output {output:.20}", output)
    bench.check(sorted(os.listdir(folder)) == ["file", "folder"], f"left {os.listdir(folder)}")


def removed_folder(bench: Bench, job: Job) -> None:
    """In the middle of the training, by rm -r or by another name."""
    for remove in (shutil.rmtree, lambda folder: folder.rename(f"{folder}x")):
        for _ in bench.often(1, 5):
            folder = bench.new_folder()
            output = str(folder / OUTPUT)  # as the working directory follows its new name
            run = job.start(folder, "--epochs", "1000", "--output", output)
            run.wait_for(has_resume_point)
            time.sleep(bench.rng.uniform(0, 0.1))
            with contextlib.suppress(OSError):
                remove(folder)
            while folder.exists():  # a file was made in it meanwhile
                shutil.rmtree(folder, ignore_errors=True)
            bench.check_refusal(run, "a removed folder", OUTPUT)


def read_only_folder(bench: Bench, job: Job) -> None:
    """Read-only from the start, and from an epoch on; then writable again, to go on."""
    folder = bench.new_folder()
    folder.chmod(0o555)
    run = job.start(folder, before=obey_permissions)
    bench.check_refusal(run, "a read-only folder", OUTPUT)
    for _ in bench.often(1, 5):
        folder = bench.new_folder()
        run = job.start(folder, before=obey_permissions)
        if not run.wait_for(has_resume_point):
            continue
        folder.chmod(0o555)
        if run.wait() == 0:
            bench.counts["ended before"] += 1
            continue
        bench.check_refusal(run, "a folder that became read-only", OUTPUT)
        check_resumable(bench, folder, "a folder that became read-only")
        folder.chmod(0o755)
        bench.check_end(job, job.go_on(folder), "a folder that was read-only")


def check_resumable(bench: Bench, folder: Path, what: str) -> None:
    bench.check((folder / RESUME).exists(), f"{what}: the last resume point is gone")
    bench.check_whole(folder, what)


def obey_permissions() -> None:
    """Root writes where it may not: give up this one capability (CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: low words, high words
        libc.capget(header, sets)
        sets[0] &= ~(1 << 1)
        libc.capset(header, sets)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """Mount an empty file system of that size; whether it was permitted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(filler: Path) -> None:
    """Leave no byte on the disk that this file is on."""
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def full_disk(bench: Bench, job: Job) -> None:
    """Full from the start, and from an epoch on; then there is room again, to go on."""
    for number in bench.often(2, 6):
        folder = bench.new_folder()
        filler = folder / "filler"
        what = f"a disk that {'became full' if number else 'was full from the start'}"
        with small_disk(folder, 2048):
            if not number:
                fill(filler)
            run = job.start(folder)
            if number:
                run.wait_for(has_resume_point)
                fill(filler)
            if run.wait() == 0:
                bench.counts["ended before"] += 1
                continue
            bench.check_refusal(run, what, OUTPUT)
            if number:
                check_resumable(bench, folder, what)
            filler.unlink()
            bench.check_end(job, job.go_on(folder), f"after {what}")


def small_disks(bench: Bench, job: Job, kilobytes: int) -> None:
    """Room for some of the files: the training ends as it should, or is refused in one line."""
    folder = bench.new_folder()
    with small_disk(folder, kilobytes):
        run = job.start(folder)
        if run.wait() == 0:
            bench.check_end(job, run, f"a disk of {kilobytes} KB")
        else:
            bench.check_refusal(run, f"a disk of {kilobytes} KB", OUTPUT)


# lock


def lock(bench: Bench) -> None:
    second_run(bench)
    stale_lock(bench)
    for _ in bench.often(1, 5):
        many_at_once(bench)
    overtaken(bench)
    stampede(bench, seconds=0.5 if bench.quick else 20)


def second_run(bench: Bench) -> None:
    for job, number in itertools.product(bench.some_jobs(), bench.often(1, 5)):
        folder = bench.new_folder()
        first = job.start(folder, "--epochs", "100000")
        first.wait_for(has_resume_point)
        more = ("--epochs", "100000", "--resume")[: bench.rng.choice((0, 2, 3))]
        what = f"a second run ({number}) of {job.script.__name__}"
        bench.check_refusal(job.start(folder, *more), what, OUTPUT, str(first.pid))
        bench.check(first.running(), f"{what}: the first does not go on: {first.err}")
        first.send(signal.SIGKILL)
        first.wait()


def stale_lock(bench: Bench) -> None:
    """Left by a killed run; and a file of something else with the name of a lock, which is kept."""
    folder, job = bench.new_folder(), bench.jobs[0]
    other = folder / f"{OUTPUT}.lock"
    other.write_bytes(b"\xff no number")
    bench.check_refusal(job.start(folder), "a file with the name of a lock", other.name)
    bench.check(other.read_bytes() == b"\xff no number", "a file with the name of a lock was lost")
    for content in (None, b"", b"1", b"99999999999")[: len(bench.often(1, 4))]:
        folder = bench.new_folder()
        lock_file = folder / f"{OUTPUT}.lock"
        if content is None:
            run = job.start(folder)
            run.wait_for(has_resume_point)
            run.send(signal.SIGKILL)
            run.wait()
            bench.check(lock_file.exists(), "a killed run leaves no lock file any more: see above")
        else:
            lock_file.write_bytes(content)
        bench.check_end(job, job.go_on(folder), f"a lock file with {content!r}")
        bench.counts["lock files left behind"] += 1


def many_at_once(bench: Bench) -> None:
    """Eight runs wait for one moment to begin; one goes on, seven are refused."""
    folder, job, go = bench.new_folder(), bench.rng.choice(bench.jobs), bench.new_folder() / "go"

    def wait_to_go() -> None:
        while not go.exists():
            time.sleep(0.0002)

    runs = [job.start(folder, "--epochs", "100000", before=wait_to_go) for _ in range(8)]
    go.touch()
    deadline = time.monotonic() + DEADLINE
    while sum(run.running() for run in runs) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    winners = [run for run in runs if run.running()]
    bench.check(len(winners) == 1, f"of 8 at once {len(winners)} go on")
    for run in winners:
        run.send(signal.SIGTERM)
        bench.check(run.wait() == 143, f"the winner of 8: {run.err}")
    for run in runs:
        if run not in winners:
            bench.check_refusal(run, "8 at once", OUTPUT, "another run")
    bench.counts["of 8 runs at once"] += 1


def new_lock(output: Path) -> Lock:
    return Lock(output, RunFiles(output).lock)


def overtaken(bench: Bench) -> None:
    """A run ends and a third begins just after the second opened the lock file."""
    first, second, third = (new_lock(bench.new_folder().parent / OUTPUT) for _ in range(3))
    flock = fcntl.flock

    def overtake(*arguments: Any) -> None:
        fcntl.flock = flock
        first.__exit__(None, None, None)
        third.__enter__()
        flock(*arguments)

    first.__enter__()
    with mock.patch.object(fcntl, "flock", overtake):
        try:
            second.__enter__()
        except UserError:
            bench.counts["overtaken"] += 1
        else:
            bench.check(False, "a lock was given to two: see `overtaken`")
            second.__exit__(None, None, None)
    third.__exit__(None, None, None)


def stampede(bench: Bench, seconds: float) -> None:
    """Four processes take and release a lock as fast as they can: never two at once."""
    output, end = bench.new_folder() / OUTPUT, time.monotonic() + seconds
    reader, writer = os.pipe()
    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                os.write(writer, f"{json.dumps(take_and_release(output, end))}\n".encode())
            finally:
                os._exit(0)
    os.close(writer)
    with open(reader) as file:
        results = [json.loads(line) for line in file]
    for pid in pids:
        os.waitpid(pid, 0)
    bench.check(len(results) == 4, "a process of the stampede died")
    bench.counts["locks in a stampede"] += sum(taken for taken, _ in results)
    both = sum(overlaps for _, overlaps in results)
    bench.check(both == 0, f"a lock was held by two at once, {both} times")


def take_and_release(output: Path, end: float) -> tuple[int, int]:
    """How often the lock was had, and how often somebody else had it too."""
    taken, overlaps, mark = 0, 0, output.with_name("mark")
    while time.monotonic() < end:
        with contextlib.suppress(UserError), new_lock(output):
            taken += 1
            try:
                mark.mkdir()
            except FileExistsError:
                overlaps += 1
            else:
                mark.rmdir()
    return taken, overlaps


# resume

# What is changed in the command, and what the refusal must name.
CHANGES = {
    "train": {
        "--learning-rate 0.5": ["learning_rate is 0.5, was 1.0"],
        "--seed 7": ["seed is 7, was 0"],
        "--epochs 9": ["epochs is 9, was"],
        "--hidden-units 21": ["hidden_units is 21, was 20"],
        "--model small": ["architecture is 'SmallNet', was 'CumbersomeNet'"],
        "--validation": ["'sample validation', was 'sample'", "training_cases", "test_cases"],
        "--precision bf16": ["precision is 'bf16', was 'fp32'"],
        "--jitter 1 --batch-size 50 --seed 1": ["jitter is 1", "batch_size is 50", "seed is 1"],
    },
    "distillation": {
        "--temperature 2.5": ["temperature is 2.5, was 20.0"],
        "--hard-weight 0.1": ["hard_weight is 0.1, was 0.0"],
        "--teacher ../other.pt": ["teacher.file", "teacher.sha256"],
        "--seed 7 --teacher ../other.pt": ["seed is 7, was 0", "teacher.sha256"],
        "--validation --teacher ../held_out.pt": ["'sample validation', was 'sample'"],
    },
}


def resume(bench: Bench) -> None:
    for words in ("--seed 3 --output other.pt", "--validation --output held_out.pt"):
        other = Run(train, f"{COMMON} --epochs 1 {words}".split(), bench.base)
        bench.check(other.wait() == 0, f"the other teachers: {other.err}")
    for job in bench.some_jobs():
        run = job.start(bench.new_folder(), "--resume")
        bench.check_refusal(run, "nothing to resume", "nothing to resume", OUTPUT)
        stopped = stop(bench, job)
        changes = CHANGES[job.script.__name__]
        for change in list(changes)[:: 4 if bench.quick else 1]:
            for folder in (stopped, job.folder):
                other_settings(bench, job, folder, change)
        finished(bench, job)
        damaged_files(bench, job, stopped)
        bench.check_end(job, job.go_on(stopped), "a resume point that was refused before")


def other_settings(bench: Bench, job: Job, folder: Path, change: str) -> None:
    before = contents(folder)
    if "--teacher" in change:  # in place of the job's own: beside it, it would make an ensemble
        place = job.words.index("--teacher")
        job = job._replace(words=job.words[:place] + job.words[place + 2 :])
    run = job.start(folder, *change.split(), "--resume")
    named = CHANGES[job.script.__name__][change]
    bench.check_refusal(run, f"--resume with {change}", OUTPUT, *named)
    bench.check(contents(folder) == before, f"--resume with {change} changed a file")


def finished(bench: Bench, job: Job) -> None:
    before = contents(job.folder)
    run = job.start(job.folder, "--resume")
    good = run.wait() == 0 and "finished" in run.out and contents(job.folder) == before
    bench.check(good, f"--resume of a finished run: {run.status}: {run.out} {run.err}")
    bench.counts["finished runs left alone"] += 1


def damaged_files(bench: Bench, job: Job, stopped: Path) -> None:
    """A resume point, or a finished checkpoint, that is none: refused and not touched."""
    whole, half = (stopped / RESUME).read_bytes(), (stopped / RESUME).stat().st_size // 2
    contents_by_name = {
        "an empty file": b"",
        "half a file": whole[:half],
        "a file without its last byte": whole[:-1],
        "a file with a changed bit": whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :],
        "text": b"net.pt\n",
        "a pickle": pickle.dumps({"settings": 1}),
        "an empty dict": saved({}),
        "other types": saved(dict.fromkeys(read_dict(stopped / RESUME))),
    }
    for what, content in list(contents_by_name.items())[:: 3 if bench.quick else 1]:
        foreign_file(bench, job, RESUME, what, content)
        foreign_file(bench, job, OUTPUT, what, content)
    checkpoint, other = job.folder / OUTPUT, stop(bench, bench.jobs[job is bench.jobs[0]]) / RESUME
    foreign_file(bench, job, RESUME, "a checkpoint", checkpoint.read_bytes())
    foreign_file(bench, job, RESUME, "that of another script", other.read_bytes())
    foreign_file(bench, job, OUTPUT, "a resume point", whole)


def foreign_file(bench: Bench, job: Job, name: str, what: str, content: bytes) -> None:
    folder = bench.new_folder()
    (folder / name).write_bytes(content)
    before = contents(folder)
    bench.check_refusal(job.start(folder, "--resume"), f"{name} is {what}", name)
    bench.check(contents(folder) == before, f"{name}, {what}, was changed")


# nan


def nan(bench: Bench) -> None:
    wild = {
        "train": "--learning-rate 1e6 --init-std 10 --max-squared-length 0",
        "distillation": "--optimizer sgd --learning-rate 1e6 --init-std 1 --batch-size 100",
    }
    for job in bench.some_jobs():
        for more in ([], ["--precision", "bf16"], ["--epochs", "1"])[: len(bench.often(1, 3))]:
            for old in (None, (job.folder / OUTPUT).read_bytes()):
                folder = bench.new_folder()
                if old:
                    (folder / OUTPUT).write_bytes(old)
                run = job.start(folder, *wild[job.script.__name__].split(), *more)
                named = ("epoch", "1e+06", "--learning-rate")
                bench.check_refusal(run, f"a wild rate {more}", *named, status=1)
                there = (folder / OUTPUT).read_bytes() if (folder / OUTPUT).exists() else None
                bench.check(there == old, f"a wild rate {more} wrote a checkpoint")


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part for part in (kills, signals, disk, lock, resume, fuzz, nan)
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
