"""What a training tells: progress, first and last lines, its history, and its results by column."""

import csv
import io
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from tqdm import tqdm

from layers import RectifierNet, resume_path
from training_params import UserError


class Progress:
    """One progress bar, or a plain line at each evaluation where the output is no terminal.

    `counted` says what the errors are; `events` is a SummaryWriter of TensorBoard, or None.
    """

    def __init__(self, quiet: bool = False, counted: str = "test errors", events: Any = None):
        self.quiet, self.counted, self.events = quiet, counted, events
        self.bar: tqdm | None = None

    def start(self, epochs: int, batches: int, done: int) -> None:
        self.epochs, self.done, self.started = epochs, done, time.perf_counter()
        self.errors = ""
        if not self.quiet and sys.stderr.isatty():
            self.bar = tqdm(
                total=epochs * batches,
                initial=done * batches,
                bar_format="{l_bar}{bar}| {elapsed}, {remaining} left{postfix}",
                colour="green" if coloured(sys.stderr) else None,
            )

    def after_batch(self) -> None:
        if self.bar:
            self.bar.update()

    def after_epoch(self, entry: dict[str, Any]) -> None:
        if self.events:
            for name in entry.keys() - {"epoch"}:
                self.events.add_scalar(name, np.mean(entry[name]), entry["epoch"])
            self.events.flush()
        text = f"epoch {entry['epoch']}/{self.epochs}  loss {np.mean(entry['loss']):.4f}"
        if "errors" in entry:
            self.errors = f"  {self.counted} {np.mean(entry['errors']):g}"
        if self.bar:
            self.bar.set_postfix_str(text + self.errors)
        elif "errors" in entry and not self.quiet:
            seconds = (time.perf_counter() - self.started) / (entry["epoch"] - self.done)
            left = timedelta(seconds=round(seconds * (self.epochs - entry["epoch"])))
            print(f"{text}{self.errors}  {left} left", flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.close()
        if self.events:
            self.events.close()


def coloured(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`: a terminal, and nobody asked for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def event_writer(folder: str, output: Path, done: int) -> Any:
    """A writer of TensorBoard events to a folder of its own in `folder`, after `done` epochs.

    Raises UserError if tensorboard is not installed or the folder cannot be written to.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--log needs TensorBoard: pip install tensorboard") from None
    except Exception as error:  # as of packages that do not go together
        raise UserError(f"--log: TensorBoard cannot be imported: {error}") from None
    events = os.path.join(folder, output.stem)
    if os.path.realpath(events) == os.path.realpath(output):
        raise UserError(f"--log {folder} would have the name of --output {output}: choose another")
    try:
        return SummaryWriter(events, purge_step=done + 1)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"cannot write to --log {folder}: {error}") from None


def in_words(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("min", 60)):
        if seconds > 1.5 * length:
            return f"{seconds / length:.{1 if unit == 'hours' else 0}f} {unit}"
    return f"{max(1, seconds):.0f} s"


def announce(
    model: RectifierNet, params: Any, settings: dict[str, Any], done: int, seconds: float
) -> None:
    """The first lines: what will be trained, on what, for how long, with which values."""
    data, weights = settings["data_set"], sum(p.numel() for p in model.parameters())
    device, threads = next(model.parameters()).device.type, torch.get_num_threads()
    print(
        f"Training {settings['architecture']} 784-{model.hidden_units}-{model.hidden_units}-10 "
        f"({weights:,} weights) on {data['training_cases']:,} cases of {data['name']}, "
        f"{device}, {threads} thread{'s' * (threads > 1)}, {settings['precision']}, "
        f"seed {settings['seed']}: about {in_words(seconds)}"
    )
    print("  " + " ".join(f"{name}={value}" for name, value in vars(params).items()))
    if settings["teacher"]:
        print(f"  on the soft targets of {settings['teacher']['file']}")
    if done:
        print(f"  going on after epoch {done} of {params.epochs}")


def versions() -> dict[str, Any]:
    """What, beside command and seed, bit-identical weights depend on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


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


RESULT_COLUMNS = ("errors", "cases", "errors_per_digit", "loss", "threads", "torch")


def columns_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The `RESULT_COLUMNS` of a run, as its line in a CSV file has them."""
    result, versions = checkpoint["result"], checkpoint["versions"]
    return {
        "errors": result["errors"],
        "cases": result["cases"],
        "errors_per_digit": " ".join(map(str, result["errors_per_digit"])),
        "loss": checkpoint["history"][-1]["loss"],
        "threads": versions["threads"],
        "torch": versions["torch"],
    }


# [KD] s.3: errors of 10,000 and, where it gives them, those on the digit that was left out.
PAPER = {
    "C1": (67,),  # the cumbersome net
    "C2": (146,),  # the small net
    "C3": (74,),  # the distilled net
    "C6": (206, 133),  # a student that never saw a 3
    "C7": (109, 14),  # the same, its bias raised by 3.5
    "C8": (4730,),  # one that saw 7s and 8s only: "47.3%"
    "C8 shifted": (1320,),  # the same, their biases lowered by 7.6: "13.2%"
}
# [KD] s.3: the shift, chosen on the test set, and which errors are those as learned and with it, of
# a student whose width and temperature are not given.
PAPER_SHIFTS = {
    ("omit", (3,)): (+3.5, "C6", "C7"),
    ("keep", (7, 8)): (-7.6, "C8", "C8 shifted"),
}


def in_brackets(errors: Sequence[int | str]) -> str:
    """Errors and, if there are more, the others in brackets: "206 (133)"."""
    told = [f"{n:,}" if isinstance(n, int) else n for n in errors]
    return " ".join(told[:1] + [f"({n})" for n in told[1:]])


def paper_errors(record: dict[str, Any]) -> int | None:
    """The paper's errors of 10,000 for a net like that of `record`, if it has one."""
    params, data = record.get("parameters", {}), record.get("data_set", {})
    if data.get("name") != "MNIST" or data.get("digits") != list(range(10)):
        return None
    regularised = any(params.get(p) for p in ("dropout_visible", "dropout_hidden", "jitter"))
    claim = {(1200, None, True): "C1", (800, None, False): "C2", (800, 20.0, False): "C3"}.get(
        (record["hidden_units"], params.get("temperature"), regularised)
    )
    return PAPER[claim][0] if claim else None


def report(record: dict[str, Any], output: Path) -> None:
    """The last lines: what was learned, next to the paper's number, and where it was saved."""
    result, paper, data = record["result"], paper_errors(record), record["data_set"]["name"]
    beside = f" (the paper: {paper})" if paper else ""
    found = f"{result['errors']} errors on {result['cases']:,} cases of {data}"
    if coloured(sys.stdout):
        found = f"\033[1m{found}\033[0m"
    done = f"{found}{beside} after epoch {record['parameters']['epochs']}. Saved in {output}"
    tqdm.write(done)  # above the bar of a sweep, if there is one
    if result["errors"] > 0.8 * result["cases"] and len(record["data_set"]["digits"]) == 10:
        tqdm.write("This net never left chance: try more --epochs, another --seed or a lower rate.")


def say_how_to_go_on(output: str | Path) -> None:
    """What to type to go on with a run that was stopped."""
    again = f"Go on with: {command_line(sys.argv[0])} --resume"
    with suppress(OSError):  # of a reader that has gone
        print("Stopped.", again if resume_path(output).exists() else "Nothing was kept.")
