"""Files written whole or not at all, their sums, and a lock for what one process writes."""

import errno
import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from support.errors import UserError

try:
    import fcntl
except ImportError:  # on Windows, where runs are not kept from writing to one output
    fcntl = None
# What a file system without locks answers: Lustre, some NFS.
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def replace_file(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file; under `path` there is the old one or the whole new one, never a part of it.

    Raises UserError naming the file if the disk is full, the folder missing or read-only.
    """
    path = Path(path)
    if not path.name or (path.exists() and not path.is_file()):
        raise UserError(f"cannot write {path}: it is not a regular file")
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a run that was killed; and a link must not be followed
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


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


class Lock:
    """Held while a training run writes to `output`; it ends with the process, however that ends."""

    def __init__(self, output: Path, path: Path):
        self.output, self.path = output, path

    def __enter__(self) -> None:
        try:
            self.file = self._open()
            while not self._take():  # the run that made this file ended meanwhile, and removed it
                self.file.close()
                self.file = self._open()
            self._check_ours()
            self.file.truncate(0)
            self.file.write(str(os.getpid()))
            self.file.flush()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {self.output}: {reason}") from None

    def _open(self) -> TextIO:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

        return open(self.path, "a+", errors="replace", opener=opener)

    def _check_ours(self) -> None:
        """Raise UserError for a file of something else than a process: it would be removed."""
        self.file.seek(0)
        content = self.file.read(100)
        if content and not content.isdigit():
            self.file.close()
            raise UserError(
                f"{self.path} is not a lock, but has the name of one: move it elsewhere"
            )

    def _take(self) -> bool:
        """Lock the open file; whether it is still the one that others find under its name."""
        if not fcntl:
            return True
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False
        except BlockingIOError:
            self.file.seek(0)
            raise UserError(
                f"{self.output} is being written by another run, process {self.file.read()}: "
                "wait for it or choose another --output"
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            print(f"no file locks here: let no other run write {self.output}", file=sys.stderr)
            return True

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # in a folder that became read-only it stays, and locks nothing
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # on a full disk
            self.file.close()
