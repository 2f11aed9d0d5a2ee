"""Parts `disks` and `damage` of torture.py: files that cannot be written, and that are damaged."""

import contextlib
import ctypes
import io
import os
import pickle
import random
import resource
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torture_harness import (
    EVALUATE,
    OUTPUT,
    RESULTS,
    RESUME,
    Bench,
    Contents,
    Job,
    Run,
    contents,
)

# Above is what must come before torch.
# isort: split
import torch
from common import MNIST_ROOT, same_weights

from support.checkpoints import load_checkpoint

RAW = MNIST_ROOT / "MNIST" / "raw"

# disks


def disks(bench: Bench) -> None:
    for job in bench.some_jobs():
        removed_folder(bench, job)
        read_only_folder(bench, job)
        run = job.start(bench.new_folder(), before=limit_files)
        bench.check_refused(run, "a file that may not grow", RESUME, kept={})
    with small_disk(bench.new_folder(), 512) as mounted:
        pass
    if not mounted:
        print("  disks: a full disk is skipped, as no file system may be mounted here")
        return
    for job in bench.some_jobs():
        for number in bench.often(2, 6):
            full_disk(bench, job, from_the_start=number == 0)
        for _ in bench.often(1, 20):
            room_for_some(bench, job, kilobytes=bench.rng.randrange(4, 400, 4))


def removed_folder(bench: Bench, job: Job) -> None:
    """In the middle of the training, by rm -r or by another name."""
    for remove in (shutil.rmtree, lambda folder: folder.rename(f"{folder}x")):
        for _ in bench.often(1, 4):
            folder = bench.new_folder()
            output = str(folder / OUTPUT)  # as the working directory follows its new name
            run = job.start(folder, "--epochs", "1000", "--output", output)
            run.wait_for(lambda names: RESUME in names)
            time.sleep(bench.rng.uniform(0, 0.1))
            with contextlib.suppress(OSError):
                remove(folder)
            while folder.exists():  # a file was made in it meanwhile
                shutil.rmtree(folder, ignore_errors=True)
            bench.check_refused(run, "a removed folder", OUTPUT, kept={})


def read_only_folder(bench: Bench, job: Job) -> None:
    """From the start, and from an epoch on; then writable again, to go on."""
    for number in bench.often(2, 6):
        folder = bench.new_folder()
        if number == 0:
            folder.chmod(0o555)
        run = job.start(folder, before=obey_permissions)
        if number:
            run.wait_for(lambda names: RESUME in names)
            folder.chmod(0o555)
        ends_or_is_refused(bench, job, run, "a read-only folder")
        folder.chmod(0o755)
        bench.check_end(job, job.go_on(folder), "a folder that was read-only")


def ends_or_is_refused(bench: Bench, job: Job, run: Run, what: str) -> None:
    """It may have been through before the folder could not be written."""
    if run.wait() == 0:
        bench.counts["ended before"] += 1
    else:
        bench.check_refused(run, what, OUTPUT)


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


def full_disk(bench: Bench, job: Job, from_the_start: bool) -> None:
    """Or from an epoch on; then there is room again, to go on."""
    folder = bench.new_folder()
    with small_disk(folder, 2048):
        run = None if from_the_start else job.start(folder)
        if run:
            run.wait_for(lambda names: RESUME in names)
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        ends_or_is_refused(bench, job, run or job.start(folder), "a full disk")
        (folder / "filler").unlink()
        bench.check_end(job, job.go_on(folder), "a disk that was full")


def room_for_some(bench: Bench, job: Job, kilobytes: int) -> None:
    """Room for some of the files: the training ends as it should, or is refused in one line."""
    folder = bench.new_folder()
    with small_disk(folder, kilobytes):
        run, what = job.start(folder), f"a disk of {kilobytes} KB"
        if run.wait() == 0:
            bench.check_end(job, run, what)
        else:
            bench.check_refused(run, what, OUTPUT)


# damage

Damage = Callable[[random.Random, bytes, Path], bytes]  # code in it would make the file `mark`


class Code:
    """Runs a command of the shell when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def with_code(protocol: int, in_archive: bool) -> Damage:
    """Code in a pickle, or in an archive of torch, beside all that was there if it was one."""

    def make(rng: random.Random, data: bytes, mark: Path) -> bytes:
        code, whole = Code(f"touch {shlex.quote(str(mark))}"), io.BytesIO()
        if not in_archive:
            return pickle.dumps(code, protocol)
        content = torch.load(io.BytesIO(data), weights_only=True) if data.startswith(b"PK") else {}
        torch.save(content | {"result": code}, whole, pickle_protocol=protocol)
        return whole.getvalue()

    return make


def flip_bits(number: int) -> Damage:
    def flip(rng: random.Random, data: bytes, mark: Path) -> bytes:
        changed = bytearray(data)
        for _ in range(number):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return flip


CODE: dict[str, Damage] = {
    "code by GLOBAL": with_code(2, in_archive=False),
    "code by STACK_GLOBAL": with_code(4, in_archive=False),
    "code by GLOBAL in an archive": with_code(2, in_archive=True),
    "code by STACK_GLOBAL in an archive": with_code(4, in_archive=True),
}
DAMAGES: dict[str, Damage] = {
    "empty": lambda rng, data, mark: b"",
    "cut": lambda rng, data, mark: data[: rng.randrange(len(data))],
    "cut near the end": lambda rng, data, mark: data[: -rng.randrange(1, min(30, len(data)))],
    "a flipped bit": flip_bits(1),
    "flipped bits": flip_bits(20),
    **CODE,
}


class Victim(NamedTuple):
    """A file to damage, what lies beside it, and the command that reads it."""

    name: str
    files: Contents
    words: list[str]
    # Whether a run that ended well, with these files before, made nothing of the damage.
    is_harmless: Callable[[Run, Contents], bool]


def damage(bench: Bench) -> None:
    jobs = bench.some_jobs()
    victims = [checkpoint(bench, job) for job in jobs] + [resume_point(bench, job) for job in jobs]
    victims.append(results(bench))
    if not any(RAW.glob("train-images*")):
        print(f"  damage: copies of MNIST are skipped, as there is none in {MNIST_ROOT}")
    elif not bench.quick:  # they are large
        victims += copies_of_mnist(bench)
    for victim in victims:
        for name in DAMAGES:
            for _ in bench.often(1, 3 if name in CODE or name == "empty" else 10):
                read_damaged(bench, victim, name)


def read_damaged(bench: Bench, victim: Victim, name: str) -> None:
    mark = bench.base / "mark"
    damaged = DAMAGES[name](bench.rng, victim.files[victim.name], mark)
    folder = bench.new_folder(victim.files | {victim.name: damaged})
    before, run = contents(folder), Run(victim.words, folder)
    what = f"{victim.name}: {name},"
    if run.wait() == 0:
        good = name not in CODE and victim.is_harmless(run, before)
        bench.check(good, f"{what} in {folder}, is not refused: {run.out[-300:]}")
        bench.counts["harmless"] += 1
    else:
        bench.check_refused(run, what, Path(victim.name).name, kept=before)
    bench.check(not mark.exists(), f"{what} ran the code in the file")
    mark.unlink(missing_ok=True)
    shutil.rmtree(folder)


def checkpoint(bench: Bench, job: Job) -> Victim:
    return evaluated(bench, OUTPUT, {OUTPUT: job.files[OUTPUT]}, "--data sample")


def copies_of_mnist(bench: Bench) -> list[Victim]:
    """A victim for each of the files."""
    raw = {f"MNIST/raw/{path.name}": path.read_bytes() for path in RAW.glob("*-ubyte*")}
    files = raw | {OUTPUT: bench.jobs[0].files[OUTPUT]}
    return [evaluated(bench, name, files, "--data mnist --data-dir .") for name in sorted(raw)]


def evaluated(bench: Bench, name: str, files: Contents, data: str) -> Victim:
    """A checkpoint, or images that it is evaluated on: harmless if it is all the same."""
    words = [EVALUATE, OUTPUT, "--json", *data.split()]
    expected = Run(words, bench.new_folder(files))
    bench.check(expected.wait() == 0, f"{words} undisturbed: {expected.err}")
    whole = load_checkpoint(expected.folder / OUTPUT)
    weights = whole.pop("state_dict")

    def is_harmless(run: Run, before: Contents) -> bool:
        there = load_checkpoint(run.folder / OUTPUT)
        same = same_weights(there.pop("state_dict"), weights) and there == whole
        return same and run.out == expected.out and contents(run.folder) == before

    return Victim(name, files, words, is_harmless)


def resume_point(bench: Bench, job: Job) -> Victim:
    """Harmless if the run goes on to the files of the undisturbed one."""
    run = job.start(bench.new_folder())
    run.wait_for(lambda names: RESUME in names)
    run.send(signal.SIGTERM)
    bench.check(run.wait() == 143, f"no resume point: {run.status}: {run.err}")

    def is_harmless(run: Run, before: Contents) -> bool:
        return contents(run.folder) == job.files

    return Victim(RESUME, contents(run.folder), [*job.words, *job.more], is_harmless)


def results(bench: Bench) -> Victim:
    """Without check sums: harmless if what is there is kept, and lines that lack are added."""
    sweep = bench.sweep

    def is_harmless(run: Run, before: Contents) -> bool:
        there = contents(run.folder)
        old, new = (Counter(files[RESULTS].splitlines(True)) for files in (before, there))
        complete = new.total() >= Counter(sweep.files[RESULTS].splitlines(True)).total()
        return complete and old <= new and there | {RESULTS: b""} == before | {RESULTS: b""}

    return Victim(RESULTS, sweep.files, sweep.words, is_harmless)
