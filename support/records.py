"""What is recorded of a training run: in its checkpoint, its history, its row of results."""

import argparse
import csv
import functools
import io
import os
import platform
import reprlib
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset import Mnist
from layers import RectifierNet
from support.checkpoints import load_checkpoint
from support.errors import UserError
from support.hyperparameters import HYPERPARAMETERS

RESULT_COLUMNS = ("errors", "cases", "errors_per_digit", "loss", "lowest_errors")
RESULT_COLUMNS += ("threads", "torch", "cpu_capability")  # of what the last bits depend on
RESULT_COLUMNS += ("commit", "date", "checkpoint", "sha256")


def setting(
    args: argparse.Namespace,
    net: type[RectifierNet],
    mnist: Mnist,
    teacher: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What the runs of a command share, as their checkpoints record it.

    `teacher` says which net the soft targets of the training images come from.
    """
    return {
        "architecture": net.__name__,
        "precision": args.precision,
        "data_set": {
            "name": mnist.name,
            "training_cases": len(mnist.training),
            "digits": mnist.training.labels.unique().tolist(),
            "test_cases": len(mnist.test),
        },
        "teacher": teacher,
    }


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """What tells a run from others, by name: a row of results and a resume point are of such a run.

    `record` is a checkpoint, or as much of it as is known before the training. A teacher is its
    SHA-256; the name of its file is information. Raises LookupError, TypeError or AttributeError
    if something is not recorded.
    """
    data, teacher = record["data_set"], record["teacher"] or {"sha256": ""}
    return {
        "data": data["name"],
        "training_cases": data["training_cases"],
        "test_cases": data["test_cases"],
        "digits": " ".join(map(str, data["digits"])),
        "precision": record["precision"],
        "model": record["architecture"].removesuffix("Net").lower(),
        "teacher": " ".join([*teacher["sha256"].split(", "), teacher.get("mean", "")]).strip(),
        **record["parameters"],
        "seed": record["seed"],
        **({"objective": record["objective"]} if "objective" in record else {}),
    }


def differences(path: Path, now: dict[str, Any], then: dict[str, Any]) -> str:
    """A message that names every setting in which a run is not that in `path`; "" if it is.

    A hyperparameter that the earlier identity lacks did not exist then: it is not compared.
    """
    added = {"objective", *HYPERPARAMETERS} - then.keys()
    found = [
        f"{name} is {reprlib.repr(now.get(name))}, was {reprlib.repr(then.get(name))}"
        for name in sorted((now.keys() | then.keys()) - added)
        if now.get(name) != then.get(name)
    ]
    again = "Rerun with its settings, choose another --output (for a single run), or delete it"
    return f"{path} belongs to another run: {'; '.join(found)}. {again}" if found else ""


def record_of(path: Path) -> dict[str, Any]:
    """A checkpoint that a script made. Raises UserError if it lacks what scripts record."""
    checkpoint = load_checkpoint(path)
    try:
        identity(checkpoint), columns_of(checkpoint)
        history, command = checkpoint["history"], checkpoint["command"]
        complete = history != [] and is_history(history) and isinstance(command, str)
    except (LookupError, TypeError, AttributeError, ValueError):
        complete = False
    if not complete:
        raise UserError(f"{path} does not record how it was trained: move it elsewhere")
    return checkpoint


def is_history(history: Any) -> bool:
    """Whether it has what `train` records of each epoch in turn."""
    try:
        return isinstance(history, list) and all(
            entry["epoch"] == place
            and isinstance(entry["loss"] + entry["rate"], float)
            and isinstance(entry.get("errors", 0), int)
            and len(entry) == 3 + ("errors" in entry)
            for place, entry in enumerate(history, start=1)
        )
    except (LookupError, TypeError, AttributeError):
        return False


def columns_of(record: dict[str, Any]) -> dict[str, Any]:
    """The `RESULT_COLUMNS` of a checkpoint, as its row in a CSV file has them, but for its file.

    The lowest errors are those of the best epoch: it is chosen on the same images, so they are not
    a result.
    """
    result, history, versions = record["result"], record["history"], record["versions"]
    return {
        "errors": int(result["errors"]),
        "cases": int(result["cases"]),
        "errors_per_digit": " ".join(str(int(errors)) for errors in result["errors_per_digit"]),
        "loss": history[-1]["loss"],
        "lowest_errors": min((e["errors"] for e in history if "errors" in e), default=""),
        **{name: versions.get(name, "") for name in ("threads", "torch", "cpu_capability")},
        **{name: record.get(name, "") for name in ("commit", "date")},
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """Command, date, and what else bit-identical weights of a net trained on `device` depend on.

    Of the process that ended: a run that was resumed elsewhere, or with another number of threads,
    had others before.
    """
    is_gpu = device.type == "cuda"
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if is_gpu else device.type,
    }
    return {
        "command": command_line(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": versions,
    }


@functools.cache
def commit() -> str:
    """The commit of the checkout with this code; "" without Git.

    "-dirty" if files were edited, or if the script that runs is not one of the commit. The files in
    results/ are not counted: a run adds its row to them.
    """

    def git(*words: str) -> str:
        options = {"capture_output": True, "timeout": 9, "cwd": Path(__file__).parent}
        return subprocess.run(["git", *words], **options).stdout.decode(errors="replace").strip()

    try:
        told = git("rev-parse", "--verify", "--short=12", "HEAD")
        own = told and not git("ls-files", "--", os.path.realpath(sys.argv[0]))
        rows = [f":(top,exclude)results/*.{kind}" for kind in ("csv", "json", "npz")]
        edited = git("diff", "--name-only", "HEAD", "--", ":(top)", *rows)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{told}-dirty" if told and (own or edited) else told


def command_line(keep_folder: bool = False) -> str:
    """The command that was given, less --resume and --quiet, which change nothing in the result."""
    script = Path(sys.argv[0])
    called = [str(script) if keep_folder else script.name]
    if script.resolve().parent == Path(__file__).parents[1] / "results":
        called = ["-m", f"results.{script.stem}"]
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--quiet")]
    return shlex.join(["python", *called, *words])


def history_lines(history: list[dict[str, Any]]) -> bytes:
    """The history as a CSV file: epoch, loss, rate, and errors where they were counted."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", "loss", "rate", "errors"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()
