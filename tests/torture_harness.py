"""What the parts of torture.py share: trainings in children, and the bench that counts.

It must be imported before torch, which it keeps to one thread.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # no pool of threads, so that this process can be forked

import contextlib
import gc
import hashlib
import io
import itertools
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from common import ROOT

import distillation
import train
from support.archives import read_dict
from support.checkpoints import load_checkpoint
from support.script import run_script

RESUME, OUTPUT, HISTORY = "net.pt.resume", "net.pt", "net.pt.csv"
COMMON = f"--hidden-units 20 --data sample --threads 1 --output {OUTPUT}"
DEADLINE = 60  # seconds: what still runs then hangs
MEGABYTE = 2**20


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
        """The run ends well, with the very checkpoint of the undisturbed one and its history."""
        status, there = run.wait(), sorted(os.listdir(run.folder))
        good = self.check(status == 0, f"{what}: status {status}: {run.err[-500:]}")
        good = good and self.check(there == [OUTPUT, HISTORY], f"{what}: left {there}")
        if good and self.check(digest(run.folder / OUTPUT) == job.digest, f"{what}: other bytes"):
            self.counts["bit-identical"] += 1

    def check_whole(self, folder: Path, what: str) -> None:
        """What lies under the names of checkpoint and resume point can be read."""
        for name, read in ((OUTPUT, load_checkpoint), (RESUME, read_dict)):
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
            hidden = parts_left_in(run.folder)
            self.check(not hidden, f"{what}: left {hidden}")


def parts_left_in(folder: Path) -> list[str]:
    """Those that stay: what another run there is just writing is soon gone."""
    end = time.monotonic() + 2
    while (parts := [*filter(is_part, os.listdir(folder))]) and time.monotonic() < end:
        time.sleep(0.01)
    return parts


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


def stop(bench: Bench, job: Job) -> Path:
    """A folder with a resume point and no more."""
    folder = bench.new_folder()
    run = job.start(folder)
    run.wait_for(has_resume_point)
    run.send(signal.SIGTERM)
    bench.check(run.wait() == 143, f"no resume point: {run.err}")
    return folder


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def saved(content: Any, **options: Any) -> bytes:
    whole = io.BytesIO()
    torch.save(content, whole, **options)
    return whole.getvalue()


def prepare() -> None:
    """Import here what every child would: torch imports half of itself with the first optimizer."""
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with contextlib.suppress(ImportError):
        import torchvision.datasets  # noqa: F401
    gc.collect()
    gc.freeze()  # what is never looked through again is never copied in a child
