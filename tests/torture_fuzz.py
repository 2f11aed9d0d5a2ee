"""Part `fuzz` of torture.py: damaged, foreign and malicious files, read in workers that may die.

Each attempt has a bound on its time and on its memory.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import pickletools
import random
import resource
import shlex
import shutil
import signal
import struct
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from torture_harness import MEGABYTE, OUTPUT, RESUME, Bench, saved, stop

# Above is what must come before torch.
# isort: split
import torch
from common import MNIST_ROOT
from torch import Tensor

import dataset
import train
from layers import SmallNet
from support.archives import read_dict
from support.checkpoints import (
    ARCHITECTURES,
    FORMAT_VERSION,
    load_checkpoint,
    load_model,
    save_model,
)
from support.errors import UserError
from support.hyperparameters import MAX_UNITS
from support.mnist_files import SHA256
from support.resume import ResumePoint

MEMORY = 1024  # MB that reading a file may take
ADDRESS_SPACE = 3 * 2**30  # and where it is stopped, for the sake of the machine
RAW = MNIST_ROOT / "MNIST" / "raw"

Edit = Callable[[random.Random, bytes], bytes]
Damage = Callable[[random.Random, Path], object]  # to a file


# damage


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


def in_block(change: Edit) -> Edit:
    """Puts what `change` makes of a block in its place."""

    def edit(rng: random.Random, data: bytes) -> bytes:
        start, end = block(rng, data)
        return data[:start] + change(rng, data[start:end]) + data[end:]

    return edit


def move_block(rng: random.Random, data: bytes) -> bytes:
    start, end = block(rng, data)
    rest, place = data[:start] + data[end:], rng.randrange(len(data) - (end - start) + 1)
    return rest[:place] + data[start:end] + rest[place:]


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


DAMAGES: list[tuple[str, Edit]] = [
    ("flip bits", flip_bits),
    ("zero a block", in_block(lambda rng, data: bytes(len(data)))),
    ("randomize a block", in_block(lambda rng, data: rng.randbytes(len(data)))),
    ("repeat a block", in_block(lambda rng, data: data * rng.choice((2, 2, 6)))),
    ("move a block", move_block),
    ("remove a block", in_block(lambda rng, data: b"")),
    ("truncate", lambda rng, data: data[: rng.randrange(len(data))]),
    ("edit the directory", edit_directory),
    ("replace all", replace_all),
]


# archives that are whole, with other content


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
            records[i] = (name, rng.choice(DAMAGES)[1](rng, content + bytes(60)))
        elif edit == 5:
            records.append((f"{name.split('/')[0]}/{rng.choice(EXTRA_RECORDS)}", others))
        else:
            records[i] = (name, rng.choice((b"", b"1", b"big", b"999999999999\n", content * 2)))
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return archive_of(records, method)


EXTRA_RECORDS = ("constants.pkl", "code/__torch__.py", ".data/serialization_id", "data/99", "x")
GLOBALS = [
    f"c{module}\n{name}\n".encode()
    for module, names in {
        "torch": "DoubleStorage HalfStorage LongStorage BoolStorage ComplexFloatStorage Tensor "
        "Size device",
        "torch.storage": "UntypedStorage",
        "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
        "_rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor "
        "_rebuild_qtensor _rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy",
        "collections": "OrderedDict Counter",
        "builtins": "set eval",
        "posix": "system",
    }.items()
    for name in names.split()
]
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
        piece = rng.choice(GLOBALS)
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


def pickled(value: int | str) -> bytes:
    """The opcodes that push `value`, as in protocol 2; without those that keep a string."""
    return pickle.dumps(value, 2)[2 : -3 if isinstance(value, str) else -1]


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


CHANGES: list[tuple[str, Edit]] = [
    *[("edit the pickle", edit_pickle)] * 2,
    ("edit the records", edit_records),
    ("edit the tree", edit_tree),
]


# many attempts, in workers that may die


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


# checkpoints and resume points


def fuzz(bench: Bench) -> None:
    attempt_all(bench, "checkpoints", list(checkpoint_attempts(bench)))
    attempt_all(bench, "resume points", list(resume_attempts(bench)))
    attempt_all(bench, "crafted files", list(crafted_attempts(bench)))
    attempt_all(bench, "malicious files", list(malicious_attempts(bench)))
    if any(RAW.glob("train-images*")):
        attempt_all(bench, "copies of MNIST", list(mnist_attempts(bench)))
    else:
        print(f"  fuzz: damaged copies of MNIST are skipped, as there is none in {MNIST_ROOT}")


def checkpoint_attempts(bench: Bench) -> Iterator[Attempt]:
    """Damage that a disk or a download does, and archives that were changed by hand."""
    path = bench.new_folder() / OUTPUT
    save_model(path, SmallNet(3), parameters={"seed": 1})
    wholes = [path.read_bytes(), *((job.folder / OUTPUT).read_bytes() for job in bench.jobs)]
    yield Attempt("whole", partial(read_checkpoint, path, wholes[0], wholes[0], damaged=True))
    for number in bench.often(200, 4000):
        yield edited(bench, number, bench.rng.choice(wholes), partial(read_checkpoint, path))


def edited(
    bench: Bench, number: int, whole: bytes, read: Callable[[bytes, bytes, bool], str | None]
) -> Attempt:
    """To `read` a file that was damaged, or every second time changed by hand."""
    name, edit = bench.rng.choice(DAMAGES if number % 2 else CHANGES)
    seed = bench.rng.randrange(2**32)

    def attempt() -> str | None:
        try:
            content = edit(random.Random(seed), whole)
        except Exception as error:  # torch.save does not take every odd value
            raise NotMade from error
        return read(whole, content, number % 2 == 1)

    return Attempt(f"{name} {seed}", attempt)


def read_checkpoint(path: Path, whole: bytes, content: bytes, damaged: bool) -> str | None:
    """If it is read, a damaged file must say what it said before; any other must hold a net."""
    path.write_bytes(content)
    model = load_model(path)
    if damaged:
        checkpoint = load_checkpoint(path)
        path.write_bytes(whole)
        same = equal(checkpoint, load_checkpoint(path))
        return None if same else "loaded with other values"
    logits = model(torch.ones(2, 784))
    sound = logits.shape == (2, 10) and logits.dtype == torch.float32 and not model.training
    return None if sound else f"loaded as a net with logits {logits.shape} {logits.dtype}"


def resume_attempts(bench: Bench) -> Iterator[Attempt]:
    """Also one of another run, with a seed that is short in memory and endless in print."""
    read = partial(read_resume_point, bench.new_folder() / OUTPUT)
    for job in bench.jobs:
        whole = (stop(bench, job) / RESUME).read_bytes()
        state = torch.load(io.BytesIO(whole), weights_only=True)
        state["settings"]["seed"] = laughs()
        yield Attempt("whole", partial(read, whole, whole, damaged=True))
        yield Attempt("endless", partial(read, whole, saved(state), damaged=False))
        for number in bench.often(40, 800):
            yield edited(bench, number, whole, read)


def read_resume_point(path: Path, whole: bytes, content: bytes, damaged: bool) -> str | None:
    expected = torch.load(io.BytesIO(whole), weights_only=True)
    settings = expected["settings"]
    path.with_name(RESUME).write_bytes(content)
    point = ResumePoint(path.with_name(RESUME), settings)
    point.load()
    state = point.state
    model = ARCHITECTURES[settings["architecture"]](20)
    params = argparse.Namespace(**settings["parameters"])
    point.begin(model, train.make_optimizer(model, params), [torch.Generator()], params.epochs)
    return "loaded with other values" if damaged and not equal(state, expected) else None


# files crafted to do harm


def crafted_attempts(bench: Bench) -> Iterator[Attempt]:
    """Small files that claim to be large, or take long: all must be refused."""
    path = bench.new_folder() / OUTPUT
    for name, make in CRAFTED.items():
        if not (bench.quick and name in SLOW):
            yield Attempt(name, partial(read_crafted, path, make))


def read_crafted(path: Path, make: Callable[[], bytes]) -> str:
    path.write_bytes(make())
    load_model(path)
    return "loaded"


def bare_checkpoint(hidden_units: int = 3, **changes: Any) -> dict[str, Any]:
    """A checkpoint whose weights are all one number in the file."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in SmallNet(hidden_units).state_dict().items()}
    number = torch.zeros(1)
    return {
        "format_version": FORMAT_VERSION,
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


def dict_of_call(function: str, argument: int | str) -> bytes:
    """A dict whose one value is what a function, named as in a pickle, gives for the argument."""
    call = f"c{function}\n".encode() + pickled(argument) + b"\x85R"
    return archive_of(file_with(b"}" + pickled("a") + call + b"s"))


def file_with(opcodes: bytes) -> list[tuple[str, bytes]]:
    data = b"\x80\x02" + opcodes + b"."
    return [("net/data.pkl", data), ("net/byteorder", b"little"), ("net/version", b"3\n")]


def with_records(size: int) -> bytes:
    """A checkpoint of a large net whose tensors have only `size` bytes each in the file."""
    records = records_of(saved(whole_checkpoint(2000)))
    return archive_of([(n, c[:size] if "/data/" in n else c) for n, c in records.items()])


def whole_checkpoint(hidden_units: int) -> dict[str, Any]:
    state = SmallNet(hidden_units).state_dict()
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
    "a large net of one number": lambda: saved(bare_checkpoint(MAX_UNITS)),
    "a net larger than its records": lambda: with_records(4),
    "a net without a byte of weights": lambda: with_records(0),
    "a list without end for a version": lambda: saved(bare_checkpoint(format_version=laughs())),
    "a list without end for a name": lambda: saved(bare_checkpoint(architecture=laughs())),
    "a list without end for a size": lambda: saved(bare_checkpoint() | {"hidden_units": laughs()}),
    "a huge number for a size": lambda: saved(bare_checkpoint() | {"hidden_units": 10**5000}),
    "a long name": lambda: saved(bare_checkpoint(architecture="x" * 10**7)),
    "a tuple without end for a key": tuple_as_key,
    "2 GB of bytearray": lambda: dict_of_call("builtins\nbytearray", 15 * 2**27),
    "1 TB of bytearray": lambda: dict_of_call("builtins\nbytearray", 2**40),
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
    for name, content in malicious_files(folder / "mark").items():
        for read in (load_checkpoint, load_model, read_dict):
            attempt = partial(read_malicious, folder, content, read)
            yield Attempt(f"{name} with {read.__name__}", attempt)


def read_malicious(folder: Path, content: bytes, read: Callable[[Path], Any]) -> str:
    (folder / OUTPUT).write_bytes(content)
    try:
        read(folder / OUTPUT)
    finally:
        if (folder / "mark").exists():
            (folder / "mark").unlink()
            raise AssertionError("ran code")
    return "loaded"


def malicious_files(mark: Path) -> dict[str, bytes]:
    malice, command = Malice(mark), f"touch {shlex.quote(str(mark))}"
    checkpoint = whole_checkpoint(3) | {"result": malice}
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
        "opcodes with posix.system": dict_of_call("posix\nsystem", command),
        "opcodes with eval": dict_of_call(
            "builtins\neval", f"__import__('os').system({command!r})"
        ),
        "a whole module": saved(SmallNet(3)),
        "a checkpoint of modules": saved(whole_checkpoint(3) | {"result": {"x": SmallNet(3)}}),
        "TorchScript": scripted.getvalue(),
        "a function": saved({"state_dict": os.getcwd}),
        "a tensor": saved(torch.zeros(3)),
    }


# copies of MNIST


def mnist_attempts(bench: Bench) -> Iterator[Attempt]:
    """Any of the files missing, raw, compressed or both; one of them damaged; no network."""
    paths = [RAW / (name + suffix) for name in SHA256 for suffix in ("", ".gz")]
    files = sorted(path for path in paths if path.is_file())
    real, folder = images_digest(MNIST_ROOT), bench.base / "mnist"
    for number in bench.often(4, 250):
        seed, (name, damage) = bench.rng.randrange(2**32), bench.rng.choice(MNIST_DAMAGES)
        forms = (("",), ("",), (".gz",), ("", ".gz"))[number % 4]
        chosen = [path for path in files if path.suffix in forms] or files
        read = partial(read_copy, folder, chosen, damage, seed, real)
        yield Attempt(f"{name} {number} {seed}", read)


def images_digest(root: Path) -> str:
    mnist = dataset.load_mnist(root, "mnist")
    found = hashlib.sha256(mnist.name.encode())
    for digits in (mnist.training, mnist.test):
        found.update(digits.images.numpy().tobytes() + digits.labels.numpy().tobytes())
    return found.hexdigest()


def read_copy(folder: Path, files: list[Path], damage: Damage, seed: int, real: str) -> str | None:
    """A copy of these files, one of them damaged, where every download is refused at once."""
    from torchvision.datasets import MNIST

    MNIST.mirrors = ["http://127.0.0.1:9/"]
    rng, raw = random.Random(seed), folder / "MNIST" / "raw"
    shutil.rmtree(folder, ignore_errors=True)
    raw.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, raw / path.name)
    small = [path for path in files if "labels" in path.name]
    damage(rng, raw / rng.choice(files if rng.random() < 0.4 else small).name)
    return None if images_digest(folder) == real else "loaded with other values"


def damage_bytes(rng: random.Random, victim: Path) -> None:
    victim.write_bytes(rng.choice(DAMAGES)[1](rng, victim.read_bytes()))


def swap_files(rng: random.Random, victim: Path) -> None:
    other = rng.choice(sorted(victim.parent.iterdir()))
    content = victim.read_bytes()
    victim.write_bytes(other.read_bytes())
    other.write_bytes(content)


def old_data(rng: random.Random, victim: Path) -> None:
    """What old versions of torchvision left beside the files; newer ones still read it."""
    processed = victim.parent.parent / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(5, 28, 28).byte(), torch.zeros(5).long()), processed / name)


MNIST_DAMAGES: list[tuple[str, Damage]] = [
    *[("damage bytes", damage_bytes)] * 4,
    ("swap files", swap_files),
    ("remove", lambda rng, victim: victim.unlink()),
    ("empty", lambda rng, victim: os.truncate(victim, 0)),
    ("huge", lambda rng, victim: os.truncate(victim, 2**31)),  # a hole: it takes no room
    ("a folder", lambda rng, victim: (victim.unlink(), victim.mkdir())),
    ("dangling link", lambda rng, victim: (victim.unlink(), victim.symlink_to("nowhere"))),
    ("old data", old_data),
]
