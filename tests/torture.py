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

import os

os.environ["OMP_NUM_THREADS"] = "1"  # no pool of threads, so that this process can be forked

import argparse
import contextlib
import ctypes
import fcntl
import gc
import hashlib
import io
import itertools
import json
import pickle
import pickletools
import random
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from common import MNIST_ROOT, ROOT
from torch import Tensor

import dataset
import distillation
import layers
import train
from training_params import UserError, run_script

RESUME, OUTPUT = "net.pt.resume", "net.pt"
COMMON = f"--hidden-units 20 --data sample --threads 1 --output {OUTPUT}"
DEADLINE = 60  # seconds: what still runs then hangs
MEGABYTE = 2**20
MEMORY = 1024  # MB that reading a file may take
ADDRESS_SPACE = 3 * 2**30  # and where it is stopped, for the sake of the machine


class Run:
    """`python script.py words` in `folder`, in a forked child: torch is not imported again."""

    def __init__(
        self,
        script: ModuleType,
        words: Sequence[str],
        folder: Path,
        before: Callable[[], object] = lambda: None,
    ):
        self.folder = folder
        self.streams = [os.memfd_create("out"), os.memfd_create("err")]
        self.out = self.err = ""  # known when it has ended
        self.begun, self.begin = os.pipe()
        self.status: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_script(script, words, before)
        os.close(self.begin)

    def _be_the_script(
        self, script: ModuleType, words: Sequence[str], before: Callable[[], object]
    ) -> NoReturn:
        status: Any = 1
        try:
            os.chdir(self.folder)
            for number, stream in enumerate(self.streams, 1):
                os.dup2(stream, number)
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_IGN)  # once the script is through
            before()
            sys.argv = [f"{script.__name__}.py", *words]
            run_script(lambda: (os.write(self.begin, b"."), script.main()))  # type: ignore
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(status)

    def await_main(self) -> None:
        os.read(self.begun, 1)

    def running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.out, self.err = (
                    os.pread(stream, MEGABYTE, 0).decode(errors="replace")
                    for stream in self.streams
                )
                for descriptor in (self.begun, *self.streams):
                    os.close(descriptor)
        return self.status is None

    def wait(self, seconds: float = DEADLINE) -> int:
        """The exit status; minus the signal that ended it; SIGKILL also if it had to be ended."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(0.001)
        return self.status if self.status is not None else 0

    def send(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def wait_for(self, seen: Callable[[list[str]], bool]) -> bool:
        """Whether the names in the folder were `seen` before the run ended."""
        while self.running():
            if seen(os.listdir(self.folder)):
                return True
        return False


class Job(NamedTuple):
    """A command, and what it gives when nobody disturbs it."""

    script: ModuleType
    words: list[str]
    digest: str
    seconds: float
    folder: Path  # that of the undisturbed run

    def start(self, folder: Path, *more: str, **options: Any) -> Run:
        return Run(self.script, [*self.words, *more], folder, **options)

    def go_on(self, folder: Path) -> Run:
        """With --resume if there is anything to resume, else from the beginning."""
        there = {RESUME, OUTPUT} & set(os.listdir(folder))
        return self.start(folder, *(["--resume"] if there else []))


class Bench:
    """A folder to work in, random numbers, the jobs, and the counts of the part that runs."""

    def __init__(self, folder: Path, quick: bool, seed: int):
        self.base, self.quick, self.seed = folder, quick, seed
        self.numbers = itertools.count()
        self.begin("preparation")
        self.jobs = self._make_jobs(epochs=3 if quick else 6)

    def begin(self, part: str) -> None:
        self.part, self.rng = part, random.Random(f"{part} {self.seed}")
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.started = time.monotonic()

    def report(self) -> bool:
        """Print the counts of this part; whether no check failed."""
        for failure in self.failures[:100]:
            print(f"  FAILED {failure[:1000]}")
        counts = ", ".join(f"{number:,} {what}" for what, number in self.counts.items())
        seconds = time.monotonic() - self.started
        print(f"{self.part}: {counts}, {len(self.failures)} failed ({seconds:.0f} s)", flush=True)
        return not self.failures

    def check(self, holds: bool, what: str) -> bool:
        if not holds:
            self.failures.append(what)
        return holds

    def often(self, quick: int, full: int) -> range:
        return range(quick if self.quick else full)

    def some_jobs(self) -> list[Job]:
        """All, or one in the short form."""
        return [self.rng.choice(self.jobs)] if self.quick else self.jobs

    def new_folder(self) -> Path:
        folder = self.base / f"{next(self.numbers)}"
        folder.mkdir()
        return folder

    def _make_jobs(self, epochs: int) -> list[Job]:
        teacher = Run(train, f"{COMMON} --epochs 1 --output teacher.pt".split(), self.base)
        self.check(teacher.wait() == 0, f"the teacher: {teacher.err}")
        words = f"{COMMON} --epochs {epochs}"
        return [
            self._make_job(train, f"{words} --init-std 0.05".split()),
            self._make_job(distillation, f"{words} --teacher ../teacher.pt".split()),
        ]

    def _make_job(self, script: ModuleType, words: list[str]) -> Job:
        """Timed in a child like those that are disturbed; in full, compared with a plain run."""
        folder, started = self.new_folder(), time.monotonic()
        run = Run(script, words, folder)
        self.check(run.wait() == 0, f"{script.__name__} undisturbed: {run.err}")
        seconds = time.monotonic() - started
        job = Job(script, words, digest(folder / OUTPUT), seconds, folder)
        for _ in self.often(0, 1):
            plain = self.new_folder()
            subprocess.run(shell_command(job), cwd=plain, check=True, capture_output=True)
            same = digest(plain / OUTPUT) == job.digest
            self.check(same, f"{script.__name__}: a forked run differs from one from the shell")
        self.counts["undisturbed runs"] += 1
        return job

    def check_end(self, job: Job, run: Run, what: str) -> None:
        """The run ends well, with the very checkpoint of the undisturbed one and nothing else."""
        status, there = run.wait(), sorted(os.listdir(run.folder))
        good = self.check(status == 0, f"{what}: status {status}: {run.err[-500:]}")
        good = good and self.check(there == [OUTPUT], f"{what}: left {there}")
        if good and self.check(digest(run.folder / OUTPUT) == job.digest, f"{what}: other bytes"):
            self.counts["bit-identical"] += 1

    def check_whole(self, folder: Path, what: str) -> None:
        """What lies under the names of checkpoint and resume point can be read."""
        for name, read in ((OUTPUT, layers.load_checkpoint), (RESUME, layers.read_dict)):
            if (folder / name).exists():
                try:
                    read(folder / name)
                except Exception as error:
                    self.check(False, f"{what}: {name} cannot be read: {error}")

    def check_refusal(self, run: Run, what: str, *named: str, status: int = 2) -> None:
        """One line on stderr that names everything in `named`, and the exit status."""
        found, err = run.wait(), run.err
        line = err.count("\n") == 1 and err.startswith("error: ") and all(n in err for n in named)
        good = self.check(found == status, f"{what}: status {found}, not {status}: {err[-500:]}")
        if good and self.check(line, f"{what}: no single line with {named}: {err[-1500:]}"):
            self.counts["refused in one line"] += 1
        if run.folder.exists():
            hidden = [name for name in os.listdir(run.folder) if is_part(name)]
            self.check(not hidden, f"{what}: left {hidden}")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else f"no {path.name}"


def shell_command(job: Job) -> list[str]:
    return [sys.executable, str(ROOT / f"{job.script.__name__}.py"), *job.words]


def is_part(name: str) -> bool:
    """Whether this is the name of a file that is still being written."""
    return name.startswith(".")


def has_resume_point(names: list[str]) -> bool:
    return RESUME in names


# When to disturb a training: at any time, or as soon as the folder holds what this looks for.
MOMENTS: dict[str, Callable[[list[str]], bool] | None] = {
    "at any time": None,
    "writing the resume point": lambda names: any(is_part(n) and "resume" in n for n in names),
    "writing the checkpoint": lambda names: any(is_part(n) and "resume" not in n for n in names),
    "with checkpoint and resume point": lambda names: {OUTPUT, RESUME} <= set(names),
}


def await_moment(bench: Bench, job: Job, run: Run, moment: str) -> None:
    seen = MOMENTS[moment]
    if seen is None or moment == "writing the resume point":  # of a random epoch
        time.sleep(bench.rng.uniform(0, job.seconds * (1 if seen is None else 0.8)))
    if seen:
        run.wait_for(seen)


def choose_moment(bench: Bench, number: int) -> str:
    """Four of five at any time, the others while something is written."""
    return "at any time" if number % 5 else bench.rng.choice(list(MOMENTS)[1:])


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
    left = set(os.listdir(folder)) - {OUTPUT, RESUME}
    bench.check(not left, f"{what}: left {left}")
    go_on_as_told(bench, job, run, what)


def show_a_bar() -> None:
    """As with a terminal; it also runs other code of ours and of tqdm when the signal comes."""
    sys.stderr.isatty = lambda: True  # type: ignore[method-assign]


def go_on_as_told(bench: Bench, job: Job, run: Run, what: str) -> None:
    """With the command that the stopped run printed; it must be there if it can go on."""
    told = [line.partition("Go on with: ")[2] for line in run.out.splitlines()]
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
    for remove in (
        lambda folder: shutil.rmtree(folder),
        lambda folder: folder.rename(f"{folder}x"),
    ):
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


def fill(folder: Path) -> Path:
    """Leave no byte on the disk of `folder`."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def full_disk(bench: Bench, job: Job) -> None:
    """Full from the start, and from an epoch on; then there is room again, to go on."""
    for moment in (None, *(has_resume_point for _ in bench.often(1, 5))):
        folder = bench.new_folder()
        with small_disk(folder, 2048):
            what = "a disk that was full from the start"
            if not moment:
                filler = fill(folder)
            run = job.start(folder)
            if moment:
                what = "a disk that became full"
                run.wait_for(moment)
                filler = fill(folder)
            if run.wait() == 0:
                bench.counts["ended before"] += 1
                continue
            bench.check_refusal(run, what, OUTPUT)
            if moment:
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
    """Left by a killed run, or by whoever."""
    for content in (None, b"\xff no number", b"", b"1", b"99999999999")[: len(bench.often(2, 5))]:
        folder, job = bench.new_folder(), bench.jobs[0]
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


def overtaken(bench: Bench) -> None:
    """A run ends and a third begins just after the second opened the lock file."""
    first, second, third = (layers.Lock(bench.new_folder().parent / OUTPUT) for _ in range(3))
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
        with contextlib.suppress(UserError), layers.Lock(output):
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
        "--validation": ["'sample validation', was 'sample'"],
    },
}


def resume(bench: Bench) -> None:
    other = Run(train, f"{COMMON} --epochs 1 --seed 3 --output other.pt".split(), bench.base)
    bench.check(other.wait() == 0, f"the other teacher: {other.err}")
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


def stop(bench: Bench, job: Job) -> Path:
    """A folder with a resume point and no more."""
    folder = bench.new_folder()
    run = job.start(folder)
    run.wait_for(has_resume_point)
    run.send(signal.SIGTERM)
    bench.check(run.wait() == 143, f"no resume point: {run.err}")
    return folder


def other_settings(bench: Bench, job: Job, folder: Path, change: str) -> None:
    before = contents(folder)
    run = job.start(folder, *change.split(), "--resume")
    named = CHANGES[job.script.__name__][change]
    bench.check_refusal(run, f"--resume with {change}", OUTPUT, *named)
    bench.check(contents(folder) == before, f"--resume with {change} changed a file")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def finished(bench: Bench, job: Job) -> None:
    before = contents(job.folder)
    run = job.start(job.folder, "--resume")
    good = run.wait() == 0 and "finished" in run.out and contents(job.folder) == before
    bench.check(good, f"--resume of a finished run: {run.status}: {run.out} {run.err}")
    bench.counts["finished runs left alone"] += 1


def damaged_files(bench: Bench, job: Job, stopped: Path) -> None:
    """A resume point, or a finished checkpoint, that is none: refused and not touched."""
    whole, checkpoint = (stopped / RESUME).read_bytes(), (job.folder / OUTPUT).read_bytes()
    contents_by_name = {
        "an empty file": b"",
        "half a file": whole[: len(whole) // 2],
        "a file without its last byte": whole[:-1],
        "a file with a changed bit": flip_bit(whole, len(whole) // 2),
        "text": b"net.pt\n",
        "a pickle": pickle.dumps({"settings": 1}),
        "an empty dict": saved({}),
        "other types": saved(dict.fromkeys(layers.read_dict(stopped / RESUME))),
    }
    for what, content in list(contents_by_name.items())[:: 3 if bench.quick else 1]:
        foreign_file(bench, job, RESUME, what, content)
        foreign_file(bench, job, OUTPUT, what, content)
    foreign_file(bench, job, RESUME, "a checkpoint", checkpoint)
    foreign_file(bench, job, OUTPUT, "a resume point", whole)
    other = bench.jobs[job is bench.jobs[0]]
    foreign_file(
        bench, job, RESUME, "that of another script", contents(stop(bench, other))[RESUME][1]
    )


def foreign_file(bench: Bench, job: Job, name: str, what: str, content: bytes) -> None:
    folder = bench.new_folder()
    (folder / name).write_bytes(content)
    before = contents(folder)
    bench.check_refusal(job.start(folder, "--resume"), f"{name} is {what}", name)
    bench.check(contents(folder) == before, f"{name}, {what}, was changed")


def saved(content: Any, **options: Any) -> bytes:
    whole = io.BytesIO()
    torch.save(content, whole, **options)
    return whole.getvalue()


# fuzz: damage


def flip_bit(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 10, 100))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def block(rng: random.Random, data: bytes) -> tuple[int, int]:
    """Start and end of a block of any size, as often near the end as anywhere else."""
    size = min(len(data), 2 ** rng.randrange(1, 17))
    start = rng.randrange(len(data) - size + 1)
    return (start, start + size) if rng.random() < 0.7 else (len(data) - size, len(data))


def zero_block(rng: random.Random, data: bytes) -> bytes:
    start, end = block(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def random_block(rng: random.Random, data: bytes) -> bytes:
    start, end = block(rng, data)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def repeat_block(rng: random.Random, data: bytes) -> bytes:
    start, end = block(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 5)) + data[end:]


def move_block(rng: random.Random, data: bytes) -> bytes:
    start, end = block(rng, data)
    rest, place = data[:start] + data[end:], rng.randrange(len(data) - (end - start) + 1)
    return rest[:place] + data[start:end] + rest[place:]


def remove_block(rng: random.Random, data: bytes) -> bytes:
    start, end = block(rng, data)
    return data[:start] + data[end:]


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def edit_directory(rng: random.Random, data: bytes) -> bytes:
    """Another size, offset, checksum, method or name length in the directory of an archive."""
    changed = bytearray(data)
    entries = [i for i in range(len(data) - 46) if data[i : i + 4] == b"PK\x01\x02"]
    start = rng.choice(entries) if entries else 0
    value = rng.choice((0, 1, 2**16, 2**31, 2**32 - 1, rng.randrange(2**32)))
    struct.pack_into("<I", changed, start + rng.choice((8, 10, 16, 20, 24, 28, 42)), value)
    return bytes(changed)


def replace_all(rng: random.Random, data: bytes) -> bytes:
    start = rng.choice((b"", b"PK\x03\x04", b"\x80\x02", data[: rng.randrange(len(data))]))
    return start + rng.randbytes(rng.choice((0, 1, 100, 10_000)))


DAMAGES = [
    flip_bits,
    zero_block,
    random_block,
    repeat_block,
    move_block,
    remove_block,
    truncate,
    edit_directory,
    replace_all,
]


# fuzz: archives that are whole, with other content


def records_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def archive_of(records: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    whole = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(whole, "w", method) as archive:
        warnings.simplefilter("ignore")  # two records of one name are what is wanted
        for name, content in records:
            archive.writestr(name, content)
    return whole.getvalue()


def edit_records(rng: random.Random, data: bytes) -> bytes:
    """Swap, drop, double, rename or change records; all checksums are right."""
    records = list(records_of(data).items())
    for _ in range(rng.choice((1, 1, 3))):
        i, j = rng.randrange(len(records)), rng.randrange(len(records))
        (name, content), (other, others) = records[i], records[j]
        edit = rng.randrange(7)
        if edit == 0:
            records[i], records[j] = (name, others), (other, content)
        elif edit == 1 and len(records) > 1:
            del records[i]
        elif edit == 2:
            records.append((name, others))
        elif edit == 3:
            records[i] = (rng.choice((other, name.upper(), "x", f"/{name}", "../x")), content)
        elif edit == 4 and content:
            records[i] = (name, rng.choice(DAMAGES)(rng, content + bytes(60)))
        elif edit == 5:
            records.append((f"{name.split('/')[0]}/{rng.choice(EXTRA_RECORDS)}", others))
        else:
            records[i] = (name, rng.choice((b"", b"1", b"big", b"999999999999\n", content * 2)))
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return archive_of(records, method)


EXTRA_RECORDS = ("constants.pkl", "code/__torch__.py", ".data/serialization_id", "data/99", "x")
GLOBALS = (
    "torch DoubleStorage",
    "torch HalfStorage",
    "torch LongStorage",
    "torch BoolStorage",
    "torch ComplexFloatStorage",
    "torch.storage UntypedStorage",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_nested_tensor",
    "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_wrapper_subclass",
    "torch._utils _rebuild_device_tensor_from_numpy",
    "torch Tensor",
    "torch Size",
    "torch device",
    "collections OrderedDict",
    "collections Counter",
    "builtins set",
    "builtins eval",
    "posix system",
)
NUMBERS = (0, 1, 2, 10, 20, 784, -1, 255, 65_536, 2**31 - 1, 2**31, 2**40, 2**62, 2**63, -(2**63))


def edit_pickle(rng: random.Random, data: bytes) -> bytes:
    """Other sizes, strides, keys, types and functions, or other opcodes, in data.pkl."""
    records = records_of(data)
    name = next(name for name in records if name.endswith("data.pkl"))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        records[name] = edit_opcode(rng, records[name])
    return archive_of(list(records.items()))


def edit_opcode(rng: random.Random, data: bytes) -> bytes:
    try:
        opcodes = list(pickletools.genops(data))
    except Exception:  # after an edit that broke it
        return flip_bits(rng, data)
    place = rng.randrange(len(opcodes))
    opcode, argument, start = opcodes[place]
    ends = [op[2] for op in opcodes[1:]] + [len(data)]
    piece = data[start : ends[place]]
    other = rng.randrange(len(opcodes))
    if opcode.name == "GLOBAL" and rng.random() < 0.8:
        piece = f"c{rng.choice(GLOBALS)}\n".replace(" ", "\n").encode()
    elif isinstance(argument, int) and "PUT" not in opcode.name and rng.random() < 0.8:
        near = (argument + 1, argument - 1, argument * 2, argument * 1000, -argument)
        piece = pickled(rng.choice(NUMBERS + near))
    elif isinstance(argument, str) and rng.random() < 0.8:
        strings = [arg for _, arg, _ in opcodes if isinstance(arg, str)]
        piece = pickled(rng.choice((*strings, "", "x", "cuda", "meta", "\n", "\udc80x", "0")))
    else:
        another = data[opcodes[other][2] : ends[other]]
        piece = rng.choice((b"", piece * 2, another, piece + another, b"N", b"]", b"}", b")", b"0"))
    return data[:start] + piece + data[ends[place] :]


def pickled(value: Any) -> bytes:
    """The opcodes that push `value`, as in protocol 2."""
    return pickle.dumps(value, 2)[2:-1] if not isinstance(value, str) else unicode_opcode(value)


def unicode_opcode(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def edit_tree(rng: random.Random, data: bytes) -> bytes:
    """A dict written by torch.save in which some values, keys or tensors are others."""
    tree = torch.load(io.BytesIO(data), weights_only=True)
    for _ in range(rng.choice((1, 1, 2))):
        edit_node(rng, tree)
    return saved(tree)


def edit_node(rng: random.Random, tree: Any) -> None:
    """Change something at a random place of nested dicts and lists."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        child = node[key]
        if not (isinstance(child, dict | list) and child) or rng.random() < 0.25:
            break
        node = child
    edit = rng.random()
    if edit < 0.15:
        del node[key]
    elif edit < 0.25 and isinstance(node, dict):
        node[rng.choice(("x", 5, None, "a b", (1, 2), -1.5))] = node.pop(key)
    else:
        node[key] = odd_value(rng, child)


def odd_value(rng: random.Random, value: Any) -> Any:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    if isinstance(value, Tensor) and rng.random() < 0.7:
        return rng.choice(ODD_TENSORS)(value)
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice((value + 1, -value, value * 1000, float(value), str(value), value > 0))
    odd = (None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x", b"x", deep)
    tensors = (torch.zeros(3), torch.ones(2, 2).long(), torch.tensor(1), torch.zeros(0))
    empty: Sequence[Any] = ([], {}, (), [[]], {"x": {}}, [None] * 10)
    return rng.choice((*odd, *tensors, *empty))


ODD_TENSORS: Sequence[Callable[[Tensor], Any]] = (
    lambda tensor: tensor.double(),
    lambda tensor: tensor.half(),
    lambda tensor: tensor.long(),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.flatten(),
    lambda tensor: tensor[None],
    lambda tensor: tensor[:0],
    lambda tensor: tensor[:1],
    lambda tensor: tensor.mT if tensor.dim() > 1 else tensor.flip(0),
    lambda tensor: tensor * float("nan") if tensor.is_floating_point() else tensor,
    lambda tensor: tensor.flatten()[:1].expand(tensor.shape) if tensor.numel() else tensor,
    lambda tensor: tensor.to_sparse(),
    lambda tensor: tensor.to("meta"),
    lambda tensor: torch.nn.Parameter(tensor.float()),
    lambda tensor: tensor.tolist(),
    lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
)


# fuzz: many attempts, in workers that may die


class NotMade(Exception):
    """What should have been read could not be written."""


class Attempt(NamedTuple):
    """Something to read; `read` returns what is wrong with what it got, if anything."""

    name: str
    read: Callable[[], str | None]


def attempt_all(bench: Bench, kind: str, attempts: Sequence[Attempt]) -> None:
    """Count what each comes to; a worker that dies has failed in the attempt it was at."""
    done, peak = 0, 0
    while done < len(attempts):
        reader, writer = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            work(attempts[done:], writer)
        os.close(writer)
        with open(reader) as file:
            outcomes = [json.loads(line) for line in file]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if len(outcomes) < len(attempts) - done:
            died = "hung" if status == -signal.SIGALRM else f"died with status {status}"
            outcomes.append((f"failed: {died}", 0))
        for attempt, (outcome, memory) in zip(attempts[done:], outcomes, strict=False):
            if memory > MEMORY:
                outcome = f"failed: took {memory} MB ({outcome})"
            verdict, _, problem = outcome.partition(": ")
            bench.counts[f"{kind} {verdict}"] += 1
            bench.check(verdict != "failed", f"{kind}, {attempt.name}: {problem}")
            peak = max(peak, memory)
        done += len(outcomes)
    bench.counts["MB at most"] = max(peak, bench.counts["MB at most"])


def work(attempts: Sequence[Attempt], writer: int) -> NoReturn:
    """In a child: make each attempt and write down what it came to."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, -1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for attempt in attempts:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            before = peak_memory()
            signal.alarm(10)
            outcome = outcome_of(attempt.read)
            signal.alarm(0)
            os.write(writer, f"{json.dumps((outcome, peak_memory() - before))}\n".encode())
        os._exit(0)
    finally:
        os._exit(1)


def peak_memory() -> int:
    """In MB, since it was reset."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


def outcome_of(read: Callable[[], str | None]) -> str:
    try:
        problem = read()
    except UserError as error:
        text = str(error)
        return "refused" if "\n" not in text and len(text) < 3000 else f"failed: long: {text[:300]}"
    except NotMade:
        return "not made"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return f"failed: {type(error).__name__} in {where}: {str(error)[:200]}"
    return f"failed: {problem}" if problem else "loaded"


def equal(one: Any, other: Any) -> bool:
    """Whether nested values are the same, tensors bit for bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


# fuzz: checkpoints and resume points


def fuzz(bench: Bench) -> None:
    attempt_all(bench, "checkpoints", list(checkpoint_attempts(bench)))
    attempt_all(bench, "resume points", list(resume_attempts(bench)))
    attempt_all(bench, "crafted files", list(crafted_attempts(bench)))
    attempt_all(bench, "malicious files", list(malicious_attempts(bench)))
    files = [MNIST_ROOT / "MNIST" / "raw" / name for name in dataset.SHA256]
    if all(file.is_file() for file in files):
        attempt_all(bench, "copies of MNIST", list(mnist_attempts(bench)))
    else:
        print(f"  fuzz: damaged copies of MNIST are skipped, as there is none in {MNIST_ROOT}")


def checkpoint_attempts(bench: Bench) -> Iterator[Attempt]:
    """Damage that a disk or a download does, and archives that were changed by hand."""
    path = bench.new_folder() / OUTPUT
    layers.save_model(path, layers.SmallNet(3), parameters={"seed": 1})
    wholes = [path.read_bytes(), *((job.folder / OUTPUT).read_bytes() for job in bench.jobs)]
    yield Attempt("whole", lambda: read_damaged(path, wholes[0], wholes[0]))
    for number in bench.often(200, 4000):
        whole, edit = bench.rng.choice(wholes), choose_edit(bench, number)
        seed = bench.rng.randrange(2**32)
        name = f"{edit.__name__} {seed}"
        if edit in DAMAGES:
            yield Attempt(
                name, lambda w=whole, e=edit, s=seed: read_damaged(path, w, mutate(e, s, w))
            )
        else:
            yield Attempt(name, lambda w=whole, e=edit, s=seed: read_changed(path, mutate(e, s, w)))


def choose_edit(bench: Bench, number: int) -> Callable[[random.Random, bytes], bytes]:
    if number % 2:
        return bench.rng.choice(DAMAGES)
    return bench.rng.choice((edit_pickle, edit_pickle, edit_records, edit_tree))


def mutate(edit: Callable[[random.Random, bytes], bytes], seed: int, whole: bytes) -> bytes:
    try:
        return edit(random.Random(seed), whole)
    except Exception as error:  # torch.save does not take every odd value
        raise NotMade from error


def read_damaged(path: Path, whole: bytes, damaged: bytes) -> str | None:
    """A damaged file that is read must say what it said before the damage."""
    path.write_bytes(damaged)
    checkpoint = layers.load_checkpoint(path)
    layers.model_from(checkpoint)
    path.write_bytes(whole)
    return None if equal(checkpoint, layers.load_checkpoint(path)) else "loaded with other values"


def read_changed(path: Path, content: bytes) -> str | None:
    """A file that was changed by hand must hold a net, if it is read."""
    path.write_bytes(content)
    model = layers.load_model(path)
    logits = model(torch.ones(2, 784))
    sound = logits.shape == (2, 10) and logits.dtype == torch.float32 and not model.training
    return None if sound else f"loaded as a net with logits {logits.shape} {logits.dtype}"


def resume_attempts(bench: Bench) -> Iterator[Attempt]:
    path = bench.new_folder() / OUTPUT
    for job in bench.jobs:
        whole = (stop(bench, job) / RESUME).read_bytes()
        yield Attempt("whole", lambda w=whole: read_resume_point(path, w, w, damaged=True))
        yield Attempt("endless", lambda w=whole: read_resume_point(path, w, endless(w), False))
        for number in bench.often(40, 800):
            edit, seed = choose_edit(bench, number), bench.rng.randrange(2**32)

            def read(w: bytes = whole, e: Any = edit, s: int = seed) -> str | None:
                return read_resume_point(path, w, mutate(e, s, w), e in DAMAGES)

            yield Attempt(f"{edit.__name__} {seed}", read)


def endless(whole: bytes) -> bytes:
    """A resume point of another run whose seed is short in memory and endless in print."""
    state = torch.load(io.BytesIO(whole), weights_only=True)
    state["settings"]["seed"] = laughs()
    return saved(state)


def read_resume_point(path: Path, whole: bytes, content: bytes, damaged: bool) -> str | None:
    settings = torch.load(io.BytesIO(whole), weights_only=True)["settings"]
    path.with_name(RESUME).write_bytes(content)
    point = layers.ResumePoint(path, settings)
    point.load()
    state = point.state
    model = layers.ARCHITECTURES[settings["architecture"]](20)
    params = argparse.Namespace(**settings["parameters"])
    point.restore(model, train.make_optimizer(model, params), [torch.Generator()])
    expected = torch.load(io.BytesIO(whole), weights_only=True)
    return "loaded with other values" if damaged and not equal(state, expected) else None


# fuzz: files crafted to do harm


def crafted_attempts(bench: Bench) -> Iterator[Attempt]:
    """Small files that claim to be large, or take long: all must be refused."""
    path = bench.new_folder() / OUTPUT
    for name, make in CRAFTED.items():
        if not (bench.quick and name in SLOW):

            def read(make: Callable[[], bytes] = make) -> str:
                path.write_bytes(make())
                layers.load_model(path)
                return "loaded"

            yield Attempt(name, read)


def bare_checkpoint(hidden_units: int = 3, **changes: Any) -> dict[str, Any]:
    """A checkpoint whose weights are all one number in the file."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in layers.SmallNet(hidden_units).state_dict().items()}
    number = torch.zeros(1)
    return {
        "format_version": layers.FORMAT_VERSION,
        "architecture": "SmallNet",
        "hidden_units": hidden_units,
        "state_dict": {name: number.expand(shape) for name, shape in shapes.items()},
    } | changes


def laughs() -> list[Any]:
    """A list that is short in memory and endless in print."""
    value: list[Any] = [1]
    for _ in range(40):
        value = [value, value]
    return value


def tuple_as_key() -> bytes:
    """A dict with a key whose hash takes forever: pairs of pairs of one and the same pair."""
    pairs = b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(1, 50))
    return archive_of(file_with(b"}q\x00K\x01\x85q\x01" + pairs + b"Ns"))


def file_with(opcodes: bytes, *records: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    fixed = [("net/data.pkl", b"\x80\x02" + opcodes + b"."), ("net/byteorder", b"little")]
    return [*fixed, *records, ("net/version", b"3\n")]


def with_records(size: int, hidden_units: int = 2000) -> bytes:
    """A checkpoint of a large net whose tensors have only `size` bytes each in the file."""
    records = records_of(saved(whole_checkpoint(hidden_units)))
    return archive_of([(n, c[:size] if "/data/" in n else c) for n, c in records.items()])


def whole_checkpoint(hidden_units: int) -> dict[str, Any]:
    state = layers.SmallNet(hidden_units).state_dict()
    return bare_checkpoint(hidden_units, state_dict=dict(state))


def compressed_bomb(size: int) -> bytes:
    """Zeros that take a thousandth of their size in the file."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in file_with(b"}"):
            archive.writestr(name, content)
        with archive.open("net/data/0", "w", force_zip64=True) as record:
            for _ in range(size // MEGABYTE):
                record.write(bytes(MEGABYTE))
    return whole.getvalue()


CRAFTED: dict[str, Callable[[], bytes]] = {
    "a large net of one number": lambda: saved(bare_checkpoint(16_384)),
    "a net larger than its records": lambda: with_records(4),
    "a net without a byte of weights": lambda: with_records(0),
    "a list without end for a version": lambda: saved(bare_checkpoint(format_version=laughs())),
    "a list without end for a name": lambda: saved(bare_checkpoint(architecture=laughs())),
    "a list without end for a size": lambda: saved(bare_checkpoint() | {"hidden_units": laughs()}),
    "a huge number for a size": lambda: saved(bare_checkpoint() | {"hidden_units": 10**5000}),
    "a long name": lambda: saved(bare_checkpoint(architecture="x" * 10**7)),
    "a tuple without end for a key": tuple_as_key,
    "2 GB of bytearray": lambda: archive_of(
        file_with(b"}X\x01\x00\x00\x00acbuiltins\nbytearray\nJ\x00\x00\x00\x78\x85Rs")
    ),
    "1 TB of bytearray": lambda: archive_of(
        file_with(b"}X\x01\x00\x00\x00acbuiltins\nbytearray\n" + pickled(2**40) + b"\x85Rs")
    ),
    "a deep list": lambda: archive_of(file_with(b"]" * 10**5 + b"a" * (10**5 - 1))),
    "a zip bomb of 1.1 GB": lambda: compressed_bomb(1100 * MEGABYTE),
}
SLOW = ("a large net of one number", "a zip bomb of 1.1 GB")


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {shlex.quote(str(self.mark))}",)


def malicious_attempts(bench: Bench) -> Iterator[Attempt]:
    """Code that a file brings along is never run, in whatever format."""
    folder = bench.new_folder()
    mark = folder / "mark"
    for name, content in malicious_files(mark).items():
        for read in (layers.load_checkpoint, layers.load_model, layers.read_dict):

            def attempt(content: bytes = content, read: Any = read) -> str:
                (folder / OUTPUT).write_bytes(content)
                try:
                    read(folder / OUTPUT)
                except UserError:
                    if mark.exists():
                        mark.unlink()
                        return "ran code"
                    raise
                return "ran code" if mark.exists() else "loaded"

            yield Attempt(f"{name} with {read.__name__}", attempt)


def malicious_files(mark: Path) -> dict[str, bytes]:
    malice, command = Malice(mark), f"touch {shlex.quote(str(mark))}"
    checkpoint = whole_checkpoint(3) | {"result": malice}
    system = b"cposix\nsystem\n" + pickled(command) + b"\x85R"
    evaluate = b"cbuiltins\neval\n" + pickled(f"__import__('os').system({command!r})") + b"\x85R"
    scripted = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still read by torch
        with contextlib.suppress(Exception):
            torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), scripted)
    return {
        "a checkpoint with os.system": saved(checkpoint),
        "the same in the format before 1.6": saved(
            checkpoint, _use_new_zipfile_serialization=False
        ),
        "a pickle": pickle.dumps(malice),
        "a pickle in a dict": pickle.dumps({"state_dict": malice}, 0),
        "two pickles": pickle.dumps(1) + pickle.dumps(malice),
        "opcodes with posix.system": archive_of(file_with(b"}X\x01\x00\x00\x00a" + system + b"s")),
        "opcodes with eval": archive_of(file_with(b"}X\x01\x00\x00\x00a" + evaluate + b"s")),
        "a whole module": saved(layers.SmallNet(3)),
        "a checkpoint of modules": saved(
            whole_checkpoint(3) | {"result": {"x": layers.SmallNet(3)}}
        ),
        "TorchScript": scripted.getvalue(),
        "a function": saved({"state_dict": os.getcwd}),
        "a tensor": saved(torch.zeros(3)),
    }


# fuzz: copies of MNIST


def mnist_attempts(bench: Bench) -> Iterator[Attempt]:
    """Any of the files missing, raw, compressed or both; one of them damaged; no network."""
    real = images_digest(dataset.load_mnist(MNIST_ROOT, "mnist"))
    source = bench.new_folder()
    for name, suffix in itertools.product(dataset.SHA256, ("", ".gz")):
        if (MNIST_ROOT / "MNIST" / "raw" / f"{name}{suffix}").is_file():
            shutil.copyfile(
                MNIST_ROOT / "MNIST" / "raw" / f"{name}{suffix}", source / (name + suffix)
            )
    for number in bench.often(4, 250):
        seed, damage = bench.rng.randrange(2**32), bench.rng.choice(MNIST_DAMAGES)

        def read(number: int = number, seed: int = seed, damage: Any = damage) -> str | None:
            folder = bench.base / "mnist"
            make_copy(random.Random(seed), number, source, folder, damage)
            no_network()
            try:
                found = images_digest(dataset.load_mnist(folder, "mnist"))
            finally:
                shutil.rmtree(folder)
            return None if found == real else "loaded with other values"

        yield Attempt(f"{damage.__name__} {number} {seed}", read)


def no_network() -> None:
    """Every download is refused at once."""
    from torchvision.datasets import MNIST

    MNIST.mirrors = ["http://127.0.0.1:9/"]


def images_digest(mnist: dataset.Mnist) -> str:
    found = hashlib.sha256(mnist.name.encode())
    for digits in (mnist.training, mnist.test):
        found.update(digits.images.numpy().tobytes() + digits.labels.numpy().tobytes())
    return found.hexdigest()


def make_copy(
    rng: random.Random,
    number: int,
    source: Path,
    folder: Path,
    damage: Callable[[random.Random, Path], None],
) -> None:
    """The files of MNIST in the form of that number, one of them damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    forms = (("",), ("",), (".gz",), ("", ".gz"))[number % 4]
    files = [path for path in sorted(source.iterdir()) if (".gz" if path.suffix else "") in forms]
    for path in files:
        shutil.copyfile(path, raw / path.name)
    small = [path for path in files if "labels" in path.name] or files
    victim = raw / rng.choice(files if rng.random() < 0.4 else small).name
    damage(rng, victim)


def damage_bytes(rng: random.Random, victim: Path) -> None:
    victim.write_bytes(rng.choice(DAMAGES)(rng, victim.read_bytes()))


def swap_files(rng: random.Random, victim: Path) -> None:
    other = rng.choice(sorted(victim.parent.iterdir()))
    content = victim.read_bytes()
    victim.write_bytes(other.read_bytes())
    other.write_bytes(content)


def remove_file(rng: random.Random, victim: Path) -> None:
    victim.unlink()


def empty_file(rng: random.Random, victim: Path) -> None:
    victim.write_bytes(b"")


def huge_file(rng: random.Random, victim: Path) -> None:
    os.truncate(victim, 2**31)  # with a hole: it takes no room on the disk


def folder_for_file(rng: random.Random, victim: Path) -> None:
    victim.unlink()
    victim.mkdir()


def dangling_link(rng: random.Random, victim: Path) -> None:
    victim.unlink()
    victim.symlink_to("nowhere")


def old_data(rng: random.Random, victim: Path) -> None:
    """What old versions of torchvision left beside the files; newer ones still read it."""
    processed = victim.parent.parent / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(5, 28, 28).byte(), torch.zeros(5).long()), processed / name)


MNIST_DAMAGES = (
    *[damage_bytes] * 4,
    swap_files,
    remove_file,
    empty_file,
    huge_file,
    folder_for_file,
    dangling_link,
    old_data,
)


# nan


def nan(bench: Bench) -> None:
    wild = {
        "train": "--learning-rate 1e6 --init-std 10 --max-squared-length 0",
        "distillation": "--optimizer sgd --learning-rate 1e6 --init-std 1",
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


def prepare() -> None:
    """Import here what every child would: torch imports half of itself with the first optimizer."""
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with contextlib.suppress(ImportError):
        import torchvision.datasets  # noqa: F401
    gc.collect()
    gc.freeze()  # what is never looked through again is never copied in a child


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
