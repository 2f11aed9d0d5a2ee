"""The four files of MNIST: found where people keep them, checked, downloaded if missing."""

import gzip
import hashlib
import io
import itertools
import os
import socket
import zlib
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from support.errors import UserError
from support.files import read_file

SHA256 = {  # of the files when unpacked
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MAX_SIZE = 2**26  # bytes, more than any of them has
DOWNLOAD_SECONDS = 20  # without a word from the network for this long, there is none


class FilesMissing(UserError):
    """Some of the files are not there and could not be downloaded."""


def read_mnist(root: Path) -> dict[str, bytes]:
    """The content of each file, by name, unpacked; downloaded to root/MNIST/raw if it is missing.

    They are looked for in `root`, root/raw and root/MNIST/raw, gzipped or not, also under names
    with a dot (train-images.idx3-ubyte). Nothing is written where they are found.
    Raises UserError for a corrupt file, FilesMissing if one cannot be had.
    """
    found = {name: _content(root, name) for name in SHA256}
    if None in found.values():
        problem = _download(root / "MNIST" / "raw")
        found = {name: _content(root, name) for name in SHA256}
        missing = [name for name, content in found.items() if content is None]
        if missing:
            raise FilesMissing(
                f"MNIST is not in {root}: there is no {', '.join(missing)} (or .gz), neither there "
                f"nor in raw/ or MNIST/raw/, and it could not be downloaded: {problem}"
            )
    return {name: content for name, content in found.items() if content is not None}


def _content(root: Path, name: str) -> bytes | None:
    """Of the first copy of a file that is there; None if there is none."""
    folders = (root / "MNIST" / "raw", root / "raw", root)
    names = [f"{n}{gz}" for n in (name, name.replace("-idx", ".idx")) for gz in ("", ".gz")]
    for path in itertools.starmap(Path, itertools.product(folders, names)):
        if os.path.isfile(path):
            content = _unpacked(path)
            if hashlib.sha256(content).hexdigest() != SHA256[name]:
                raise UserError(
                    f"{path} is corrupt, or not an MNIST file (SHA-256 mismatch): move or delete "
                    "it and run again, to download it"
                )
            return content
    return None


def _unpacked(path: Path) -> bytes:
    """As much of the content as a file of MNIST may have, gzipped or not, whatever its name."""
    content = read_file(path, MAX_SIZE)
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as file:
            return file.read(MAX_SIZE)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return b""  # which is not MNIST


def _download(raw: Path) -> str:
    """Let torchvision download MNIST into the folder; the reason, in a line, if it could not."""
    try:
        from torchvision.datasets import MNIST
    except Exception as error:  # a broken one, or one for another torch, can raise anything
        return f"torchvision cannot be imported ({' '.join(str(error).split())})"
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    try:
        there = next(folder for folder in raw.absolute().parents if folder.is_dir())
        # Elsewhere first: no other process sees a half-written file, no failure leaves a folder.
        with TemporaryDirectory(dir=there, prefix=".mnist") as folder:
            MNIST(folder, download=True)
            raw.mkdir(parents=True, exist_ok=True)
            for path in (Path(folder) / "MNIST" / "raw").iterdir():
                os.replace(path, raw / path.name)
    except (OSError, EOFError, RuntimeError, ValueError, HTTPException) as error:
        return " ".join(str(error).split())
    finally:
        socket.setdefaulttimeout(timeout)
    return "files are missing in what torchvision downloaded"
