"""What is recorded of a training run: in its checkpoint, its history, its line of results."""

import csv
import io
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.checkpoints import load_checkpoint
from support.errors import UserError


def versions(device: torch.device) -> dict[str, Any]:
    """What, besides command and seed, bit-identical weights depend on; of the process that ended.

    A run that was resumed elsewhere, or with another number of threads, had others before.
    """
    is_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if is_gpu else device.type,
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """How a checkpoint came about, of a net that was trained on `device`."""
    return {"command": command_line(Path(sys.argv[0]).name), "versions": versions(device)}


def command_line(script: str) -> str:
    """The command that was given, less --resume and --quiet, which change nothing in the result."""
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--quiet")]
    return shlex.join(["python", script, *words])


def history_lines(history: list[dict[str, Any]]) -> bytes:
    """The history as a CSV file: epoch, loss, rate, and errors where they were counted."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", "loss", "rate", "errors"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def is_epoch(entry: Any) -> bool:
    """Whether it is what a history has of an epoch; errors only where they were counted."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("epoch"), int)
        and isinstance(entry.get("loss"), float)
        and isinstance(entry.get("errors", 0), int)
    )


RECORD = {  # of a training run: each part and its kind
    "command": str,
    "data_set": {"name": str, "training_cases": int, "digits": [int]},
    "history": [is_epoch],
    "parameters": {"epochs": int},
    "result": {"errors": int, "cases": int, "errors_per_digit": [int]},
    "seed": int,
    "teacher": ({"file": str}, type(None)),
    "versions": {"threads": int, "torch": str},
}


def record_of(path: Path) -> dict[str, Any]:
    """A checkpoint that a script made. Raises UserError if it lacks what scripts record."""
    checkpoint = load_checkpoint(path)
    lacking = [name for name, kind in RECORD.items() if not _is_of(checkpoint.get(name), kind)]
    if lacking:
        raise UserError(f"{path} does not record its {', '.join(lacking)}: move it elsewhere")
    return checkpoint


def _is_of(value: Any, kind: Any) -> bool:
    """Whether it is of a kind: a class or check, dict of kinds, one of several, list of some."""
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_is_of(value.get(n), k) for n, k in kind.items())
    if isinstance(kind, tuple):
        return any(_is_of(value, each) for each in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and value != [] and all(_is_of(v, *kind) for v in value)
    return isinstance(value, kind) if isinstance(kind, type) else kind(value)


RESULT_COLUMNS = (
    "errors",
    "cases",
    "errors_per_digit",
    "loss",
    "lowest_errors",
    "threads",
    "torch",
)
LATER_COLUMNS = ("lowest_errors",)  # that older files of results lack


def columns_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The `RESULT_COLUMNS` of a checkpoint."""
    return result_columns(checkpoint["result"], checkpoint["history"], checkpoint["versions"])


def result_columns(
    result: dict[str, Any], history: list[dict[str, Any]], versions: dict[str, Any]
) -> dict[str, Any]:
    """The `RESULT_COLUMNS` of a run, as its line in a CSV file has them.

    Without a history, as of nets that are trained together, loss and lowest errors stay empty. The
    lowest are those of the best epoch: it is chosen on the same images, so they are not a result.
    """
    return {
        "errors": result["errors"],
        "cases": result["cases"],
        "errors_per_digit": " ".join(map(str, result["errors_per_digit"])),
        "loss": history[-1]["loss"] if history else "",
        "lowest_errors": min((e["errors"] for e in history if "errors" in e), default=""),
        "threads": versions["threads"],
        "torch": versions["torch"],
    }
