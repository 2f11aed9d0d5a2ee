"""What the parts of torture.py share: scripts run in children, and the bench that counts.

It must be imported before torch, which it keeps to one thread.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # no pool of threads, so that this process can be forked
os.environ["PYTHONUNBUFFERED"] = "1"  # what a child has printed can be seen at once

import contextlib
import ctypes
import gc
import itertools
import random
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from common import ROOT, everything_in

import distillation  # noqa: F401  # here, so that no child needs to

OUTPUT, HISTORY, RESUME, RESULTS = "net.pt", "net.pt.csv", "net.pt.resume", "lines.csv"
TRAIN, DISTILLATION, EVALUATE = (
    str(ROOT / f"{name}.py") for name in ("train", "distillation", "evaluate")
)
COMMON = "--hidden-units 20 --data sample --threads 1"
TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2"
DEADLINE = 120  # seconds: what still runs then hangs
SOON = 30  # seconds in which a run that is told to stop must have ended
PR_SET_PDEATHSIG = 1  # of prctl: the signal that a process gets when its parent dies

Contents = dict[str, Any]  # of a folder: every file with its bytes, by name


class Run:
    """`python words` in `folder`, as from a shell or, `forked`, without importing torch again."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        forked: bool = True,
        before: Callable[[], object] = lambda: None,
    ):
        self.words, self.folder, self.forked = list(words), folder, forked
        self.streams = [os.memfd_create("out"), os.memfd_create("err")]
        self.out = self.err = ""  # known when it has ended
        self.status: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                status = self._be_the_script(before)
            finally:
                os._exit(status)

    def _be_the_script(self, before: Callable[[], object]) -> int:
        """In the child; the exit status."""
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.chdir(self.folder)
            for number, stream in enumerate(self.streams, 1):
                os.dup2(stream, number)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
            before()
            if not self.forked:
                os.execv(sys.executable, [sys.executable, *self.words])
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            sys.argv = self.words
            runpy.run_path(self.words[0], run_name="__main__")
            return 0
        except SystemExit as end:
            return int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            return 1

    def running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.out, self.err = (
                    os.pread(stream, 2**20, 0).decode(errors="replace") for stream in self.streams
                )
                for stream in self.streams:
                    os.close(stream)
        return self.status is None

    def wait(self) -> int:
        """The exit status, or minus the signal that ended it; one that hangs is killed."""
        deadline = time.monotonic() + DEADLINE
        while self.running():
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.001)
        assert self.status is not None
        return self.status

    def wait_for(self, seen: Callable[[list[str]], bool]) -> bool:
        """Whether the names in the folder were `seen` before the run ended, or hung."""
        deadline = time.monotonic() + DEADLINE
        while self.running() and time.monotonic() < deadline:
            if seen(names_in(self.folder)):
                return True
        return False

    def has_begun(self, names: list[str]) -> bool:
        """Whether it has printed or written something: from then on it is ready for signals."""
        return bool(names) or os.fstat(self.streams[0]).st_size > 0

    def send(self, signum: int) -> None:
        if self.running():
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """With all processes that it started, as torchrun does."""
        for pid in [] if self.forked else descendants(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.send(signal.SIGKILL)


class Job(NamedTuple):
    """A command, and what it leaves when nobody disturbs it."""

    words: list[str]
    files: Contents
    seconds: float
    more: list[str]  # with which it goes on with what it finds; a sweep does so anyway
    forked: bool = True

    @property
    def name(self) -> str:
        """For messages."""
        kind = "sweep of " if RESULTS in self.files else ""
        return kind + ("train.py" if TRAIN in self.words else "distillation.py")

    def start(self, folder: Path, *more: str, **options: Any) -> Run:
        return Run([*self.words, *more], folder, **{"forked": self.forked} | options)

    def go_on(self, folder: Path) -> Run:
        """From what is there, if there is anything to go on from."""
        there = {RESUME, OUTPUT} & set(os.listdir(folder))
        return self.start(folder, *(self.more if there else []))

    def half_written(self, folder: Path) -> list[str]:
        """The files that are none of those that a run leaves, when it ends or is stopped."""
        return [
            name
            for name in names_in(folder)
            if name not in self.files and not name.endswith((".lock", ".resume", "runs"))
        ]


class Bench:
    """A folder to work in, random numbers, the jobs, and the counts of the part that runs."""

    def __init__(self, base: Path, quick: bool, seed: int):
        self.base, self.quick, self.seed = base, quick, seed
        self.numbers = itertools.count()
        self.begin("preparation")
        epochs = 3 if quick else 6
        teacher = self.base / "teacher.pt"
        words = [*COMMON.split(), "--epochs", str(epochs)]
        one, many = ["--output", OUTPUT], ["--seed", "0", "1", "2", "--results", RESULTS]
        dropout, taught = ["--init-std", "0.05"], ["--teacher", str(teacher)]
        train = Run([TRAIN, *words, *dropout, "--output", str(teacher)], self.base)
        self.check(train.wait() == 0, f"the teacher: {train.err}")
        self.jobs = [
            self._make_job([TRAIN, *words, *dropout, *one], ["--resume"]),
            self._make_job([DISTILLATION, *words, *taught, *one], ["--resume"]),
        ]
        self.sweep = self._make_job([TRAIN, *words, *dropout, *many], [])
        shared = [*TORCHRUN.split(), *self.sweep.words]
        self.shared_sweep = self.sweep._replace(words=shared, forked=False)

    def _make_job(self, words: list[str], more: list[str]) -> Job:
        folder, started = self.new_folder(), time.monotonic()
        run = Run(words, folder)
        self.check(run.wait() == 0, f"{' '.join(words)} undisturbed: {run.err}")
        self.counts["undisturbed runs"] += 1
        return Job(words, contents(folder), time.monotonic() - started, more)

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
        """Both single runs, or one of them in the short form."""
        return [self.rng.choice(self.jobs)] if self.quick else self.jobs

    def new_folder(self, files: Contents | None = None) -> Path:
        folder = self.base / f"{next(self.numbers)}"
        folder.mkdir()
        for name, content in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def check_end(self, job: Job, run: Run, what: str) -> None:
        """The run ends well and leaves, to the bit, the files of the undisturbed one."""
        what, status = f"{what} in {run.folder}", run.wait()
        good = self.check(status == 0, f"{what}: status {status}: {run.err[-500:]}")
        there = contents(run.folder)
        differ = [n for n in there.keys() | job.files if there.get(n) != job.files.get(n)]
        if good and self.check(not differ, f"{what}: other than undisturbed: {differ}"):
            self.counts["bit-identical at the end"] += 1
            shutil.rmtree(run.folder, ignore_errors=True)

    def check_refused(
        self, run: Run, what: str, *named: str, kept: Contents | None = None, status: int = 2
    ) -> None:
        """Refused in one line that names everything in `named`; no file is lost or half written.

        What lies in the folder is `kept`, unless that is None: then the run wrote to it before.
        """
        what, found, err = f"{what} in {run.folder}", run.wait(), run.err
        good = self.check(found == status, f"{what}: status {found}, not {status}: {err[-500:]}")
        line = err.count("\n") == 1 and err.startswith("error: ") and all(n in err for n in named)
        if good and self.check(line, f"{what}: no single line with {named}: {err[-600:]}"):
            self.counts["refused in one line"] += 1
        half = hidden_in(run.folder)
        self.check(not half, f"{what}: left {half}")
        same = kept is None or kept == contents(run.folder)
        self.check(same, f"{what}: changed the files there")


def names_in(folder: Path) -> list[str]:
    """Of files and folders in it, also in runs/."""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):  # before there is such a folder, or any more
        names += os.listdir(folder)
        names += [f"runs/{name}" for name in os.listdir(folder / "runs")]
    return names


def hidden_in(folder: Path) -> list[str]:
    """Half written files that stay: what another run there is just writing is soon gone."""
    end = time.monotonic() + 2
    while hidden := [name for name in names_in(folder) if Path(name).name.startswith(".")]:
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return hidden


def contents(folder: Path) -> Contents:
    """Every file but locks, which may stay; the lines of results are in no order."""
    files = {n: c for n, c in everything_in(folder).items() if c is not None and ".lock" not in n}
    if RESULTS in files:
        lines = files[RESULTS].splitlines(keepends=True)
        files[RESULTS] = b"".join(lines[:1] + sorted(lines[1:]))
    return files


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


# When to disturb a run: at any time, or as soon as there is what this looks for.
MOMENTS: dict[str, Callable[[Job, Run], object]] = {
    "at any time": lambda job, run: None,
    "while it writes": lambda job, run: run.wait_for(lambda _: bool(job.half_written(run.folder))),
    "at its end": lambda job, run: run.wait_for(lambda names: {OUTPUT, RESUME} <= {*names}),
}


def await_moment(bench: Bench, job: Job, run: Run) -> str:
    """Most often at any time, also while torch is imported; the name of the moment."""
    moment = bench.rng.choice(["at any time"] * 7 + list(MOMENTS)[1:])
    if moment == "at its end" and OUTPUT not in job.files:  # of a single run
        moment = "while it writes"
    if moment != "at its end":
        time.sleep(bench.rng.uniform(0, job.seconds * (0.9 if moment == "at any time" else 0.7)))
    MOMENTS[moment](job, run)
    return moment


def prepare() -> None:
    """Import here what every child would: torch imports half of itself with the first optimizer."""
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    gc.collect()
    gc.freeze()  # what is never looked through again is never copied in a child
