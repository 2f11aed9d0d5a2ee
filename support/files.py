"""Files written whole or not at all, locked while they are written, read without running code."""

import errno
import hashlib
import io
import json
import os
import pickle
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout

from support.errors import UserError

# What file systems answer that have no locks or no fsync: Lustre, some NFS, FUSE.
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
WARNINGS = threading.Lock()  # for their filters, which all threads share
MAX_UNPACKED = 2**30  # bytes, of a checkpoint or resume point


def replace_file(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file; under `path` there is the old one or the whole new one, never a part of it.

    Raises UserError naming the file if the disk is full, the folder missing or read-only.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if not path.name or (path.exists() and not path.is_file()):
        raise UserError(f"cannot write {path}: it is not a regular file")
    # Of its own: several processes or threads may write the same file.
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.unlink(missing_ok=True)
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            _sync(file)
        _rename(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sync(file: BinaryIO) -> None:
    """See to it that the content outlives a power cut, where the file system can."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        warning = f"warning: {file.name} may be lost in a power cut: no fsync here"
        print(warning, file=sys.stderr)


def _rename(part: Path, path: Path) -> None:
    """Put the part in its place; on Windows a virus scanner may hold the file for a moment."""
    for _ in range(10):
        with suppress(PermissionError):
            os.replace(part, path)
            return
        time.sleep(0.1)
    os.replace(part, path)


def check_regular(path: str | Path) -> None:
    """Raise UserError for a folder or a special file: a pipe, say, would never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"cannot use {path}: it is not a regular file")


def read_file(path: str | Path, size: int = -1) -> bytes:
    """Its content, or the first `size` bytes. Raises UserError if it cannot be read."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def sha256(path: str | Path) -> str:
    """In hexadecimal digits. Raises UserError if the file cannot be read."""
    return hashlib.sha256(read_file(path)).hexdigest()


@contextmanager
def locked(path: Path, seconds: float = 0) -> Iterator[None]:
    """Nobody else writes `path` meanwhile; the lock ends with the process, however that ends.

    Raises UserError if another process still holds it after so many seconds, or if it cannot be
    made. On a file system without locks it goes on with a warning.
    """
    file = Path(f"{path}.lock")
    content = read_file(file, 100).split(b"\n") if file.exists() else [b""]
    if content[0] and not content[0].isdigit():  # what a lock holds, if anything: a process
        raise UserError(f"{file} is not a lock, but has the name of one: move it elsewhere")
    lock = FileLock(file, timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{path} is being written by another run: wait for it or choose another file"
        ) from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in UNSUPPORTED:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        warning = f"warning: no file locking here; make sure no other run writes {path}"
        print(warning, file=sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError):  # in a folder that became read-only it stays, and locks nothing
            file.unlink(missing_ok=True)
        lock.release()


def packed(content: dict[str, Any]) -> memoryview:
    """A dict of tensors and plain values as torch.save writes it."""
    whole = io.BytesIO()  # not straight to the file: torch.save hides the cause of a failed write
    torch.save(content, whole)
    return whole.getbuffer()


def read_dict(path: str | Path) -> dict[str, Any]:
    """The dict that was `packed` into a file, on the CPU. Raises UserError for anything else."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return unpacked(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UserError as error:
        raise UserError(f"{path} {error}") from None


def unpacked(file: BinaryIO) -> dict[str, Any]:
    """As `read_dict`, from an open file. The UserError says what the file is, not where."""
    try:
        # torch.load looks at neither sizes nor checksums, and still takes older formats.
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED:
                raise UserError("is not a checkpoint of this project: it is too large")
            if archive.testzip():
                raise zipfile.BadZipFile
        file.seek(0)
        with WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols of pickle, of sparse tensors
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, UserError):
        raise
    except pickle.UnpicklingError:
        raise UserError("holds more than tensors and plain values: not loaded") from None
    except Exception:  # a damaged file can raise anything in the unpickler
        raise UserError("is damaged or was not written by torch.save") from None
    if not isinstance(content, dict):
        raise UserError(f"holds a {type(content).__name__}, not a checkpoint")
    return content


def as_plain(record: Any) -> Any:
    """Numbers (also of NumPy, or a tensor of one), words and None, in dicts and lists, as JSON has.

    Raises TypeError, ValueError or another Exception for everything else.
    """
    return json.loads(json.dumps(record, default=lambda value: value.item()))
