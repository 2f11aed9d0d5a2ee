"""Dicts of tensors and plain values in files of torch.save, read without running code."""

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.errors import UserError
from support.files import check_regular, replace_file

MAX_UNPACKED = 2**30  # bytes, of a checkpoint or resume point
PLAIN_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)"
)


def write_dict(path: str | Path, content: dict[str, Any]) -> None:
    """Save a dict of tensors and plain values with torch.save, as `replace_file` does."""
    whole = io.BytesIO()  # not straight to the file: torch.save hides the cause of a failed write
    torch.save(content, whole)
    replace_file(path, whole.getbuffer())


def read_dict(path: str | Path) -> dict[str, Any]:
    """The dict that `write_dict` wrote, on the CPU. Raises UserError for anything else."""
    check_regular(path)
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds more than tensors and plain values: not loaded") from None
    except Exception:  # a damaged file can raise anything in the unpickler
        raise UserError(f"{path} is damaged or was not written by torch.save") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def _check_archive(path: str | Path) -> None:
    """What torch.load does not look at: the older formats, sizes, checksums, endless tuples."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED:
            raise UserError(f"{path} is not a checkpoint of this project: it is too large")
        if archive.testzip():
            raise zipfile.BadZipFile
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                _check_pickle(archive.read(name))


def _check_pickle(pickled: bytes) -> None:
    """Raise UnpicklingError for what no checkpoint needs, but torch.load would execute.

    That is bytearrays of any size, and tuples that hold one and the same tuple twice, and so on:
    as the key of a dict they are hashed for ever.
    """
    tuples, before = set(), ""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and not PLAIN_GLOBALS.fullmatch(argument):
            raise pickle.UnpicklingError
        if before.startswith("TUPLE") and opcode.name.endswith("BINPUT"):
            tuples.add(argument)
        elif opcode.name.endswith("BINGET") and argument in tuples:
            raise pickle.UnpicklingError
        before = opcode.name


def is_plain(record: Any) -> bool:
    """Whether these are numbers, words and None, in dicts with words for keys, lists and tuples."""
    seen, rest = set(), [record]
    while rest:
        value = rest.pop()
        if isinstance(value, dict | list | tuple):
            if id(value) in seen:  # or a list of one list twice, and so on, would take for ever
                continue
            seen.add(id(value))
            if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
                return False
            rest += value.values() if isinstance(value, dict) else value
        elif not isinstance(value, str | int | float | None) or _is_huge(value):
            return False
    return True


def _is_huge(value: Any) -> bool:
    """Whether torch.load would refuse this number."""
    return isinstance(value, int) and abs(value) >= 2**64


def as_plain(value: Any) -> Any:
    """A plain value that comes in another class, as NumPy's numbers do, in its own; else itself."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, dict):
        return {as_plain(key): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(inner) for inner in value]
    if isinstance(value, str):
        return str.__str__(value)  # not its name, if it is of an Enum
    for plain in (bool, int, float):
        if isinstance(value, plain):
            return plain(value)
    return value
