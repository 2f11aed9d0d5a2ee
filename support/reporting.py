"""What the scripts print: progress, first and last lines of a run, tables of errors."""

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from tqdm import tqdm

from layers import RectifierNet
from support.errors import UserError
from support.paper import paper_errors
from support.runs import Run

COLUMNS = "{:{}} {:30} {:>10} {:>5} {:>7} {:>6}  {}"  # of evaluate.py
MINUTE = 60  # seconds
TIMED = 50  # minibatches from which the time of a run is estimated: as many as are gathered at once


class Progress:
    """One progress bar, or a plain line at each evaluation where the output is not a terminal.

    `counted` says what the errors are; `events` is a SummaryWriter of TensorBoard, or None. One of
    several runs has a `name`, at the bar, which goes when the run ends, or at a line a minute.
    """

    def __init__(
        self,
        quiet: bool = False,
        counted: str = "test errors",
        events: Any = None,
        name: str | None = None,
    ):
        self.quiet, self.counted, self.events, self.name = quiet, counted, events, name
        self.bar: tqdm | None = None

    @classmethod
    def of_run(cls, run: Run, held_out: bool, done: int) -> "Progress":
        """For a run after `done` epochs, whose errors are on `held_out` or on test images."""
        counted = "held-out errors" if held_out else "test errors"
        events = None if run.log is None else event_writer(run.log, run.output, done)
        return cls(run.quiet, counted, events, run.output.stem if run.several else None)

    def start(self, epochs: int, batches: int, done: int) -> None:
        """A run of `epochs` epochs of so many minibatches begins after `done` of them."""
        self.epochs, self.done = epochs, done
        self.started = self.told = time.perf_counter()
        self.to_do, self.seen, self.errors = (epochs - done) * batches, 0, ""
        if not self.quiet and sys.stderr.isatty():
            self.bar = tqdm(
                desc=self.name,
                leave=self.name is None,
                total=epochs * batches,
                initial=done * batches,
                bar_format="{l_bar}{bar}| {elapsed}, {remaining} left{postfix}",
                colour="green" if coloured(sys.stderr) else None,
            )

    def after_batch(self) -> None:
        """Move the bar; once, tell the time that the run will take."""
        self.seen += 1
        if self.bar:
            self.bar.update()
        if self.seen == 1:  # which had much to set up
            self.first = _now()
        elif self.seen == min(1 + TIMED, self.to_do) and not (self.quiet or self.name):
            seconds = (_now() - self.first) / (self.seen - 1) * self.to_do
            tqdm.write(f"  estimated time: about {in_units(seconds)}")

    def after_epoch(self, entry: dict[str, Any]) -> None:
        """Show a new `entry` of the history."""
        if self.events:
            for name in entry.keys() - {"epoch"}:
                self.events.add_scalar(name, np.mean(entry[name]), entry["epoch"])
            self.events.flush()
        loss = round(float(np.mean(entry["loss"])), 4) + 0.0  # never -0.0
        text = f"epoch {entry['epoch']}/{self.epochs}  loss {loss:.4f}"
        if "errors" in entry:
            self.errors = f"  {self.counted} {np.mean(entry['errors']):g}"
        if self.bar:
            self.bar.set_postfix_str(text + self.errors)
        elif "errors" in entry and not self.quiet:
            self._print_line(entry["epoch"], text)

    def _print_line(self, epoch: int, text: str) -> None:
        """Where there is no bar; of several runs, which may be short and many, a line a minute."""
        now = time.perf_counter()
        if self.name and now - self.told < MINUTE:
            return
        self.told, seconds = now, (now - self.started) / (epoch - self.done)
        left = timedelta(seconds=round(seconds * (self.epochs - epoch)))
        name = f"{self.name}: " if self.name else ""
        print(f"{name}{text}{self.errors}  {left} left", flush=True)

    def close(self) -> None:
        """End the bar and the events, however the run ended."""
        if self.bar:
            self.bar.close()
        if self.events:
            self.events.close()


def _now() -> float:
    """The time once the GPU, if there is one, has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def coloured(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`: a terminal, and nobody asked for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def event_writer(folder: Path, output: Path, done: int) -> Any:
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


def in_units(seconds: float) -> str:
    """A time for people: "50 min"."""
    for unit, length in (("hours", 3600), ("min", 60)):
        if seconds > 1.5 * length:
            return f"{seconds / length:.{1 if unit == 'hours' else 0}f} {unit}"
    return f"{max(1, seconds):.0f} s"


def data_in_words(name: str) -> str:
    """A data set in a sentence: "MNIST", "the sample"."""
    return f"the {name}" if name.startswith("sample") else name


def announce(model: RectifierNet, settings: dict[str, Any], done: int) -> None:
    """The first lines: what will be trained, on what, with which values."""
    data, weights = settings["data_set"], sum(p.numel() for p in model.parameters())
    device, threads = next(model.parameters()).device.type, torch.get_num_threads()
    images = f"{data['training_cases']:,} images of {data_in_words(data['name'])}"
    print(
        f"Training {settings['architecture']} 784-{model.hidden_units}-{model.hidden_units}-10 "
        f"({weights:,} weights) on {images}, "
        f"{device}, {threads} thread{'s' * (threads > 1)}, {settings['precision']}, "
        f"seed {settings['seed']}"
    )
    print("  " + " ".join(f"{name}={value}" for name, value in settings["parameters"].items()))
    if settings["teacher"]:
        print(f"  on the soft targets of {settings['teacher']['file']}")
    if done:
        print(f"  continuing after epoch {done} of {settings['parameters']['epochs']}")


def report(record: dict[str, Any], output: Path) -> None:
    """The last lines: what was learned, next to the paper's number, and where it was saved."""
    result, paper = record["result"], paper_errors(record)
    data = data_in_words(record["data_set"]["name"])
    beside = f" (the paper: {paper})" if paper else ""
    errors = f"{result['errors']} errors on {result['cases']:,} images of {data}"
    if coloured(sys.stdout):
        errors = f"\033[1m{errors}\033[0m"
    done = f"{errors}{beside} after epoch {record['parameters']['epochs']}. Saved in {output}"
    tqdm.write(done)  # above the bar of a sweep, if there is one
    if result["errors"] > 0.8 * result["cases"] and len(record["data_set"]["digits"]) == 10:
        tqdm.write("This net never left chance: try more --epochs, another --seed or a lower rate.")


def print_table(rows: list[dict[str, Any]]) -> None:
    """The table of evaluate.py: a line for each net."""
    width = max(len(row["file"]) for row in rows)
    names = ("architecture", "weights", "T", "errors", "paper", "on 0 to 9")
    print(COLUMNS.format("file", width, *names))
    for row in rows:
        print(
            COLUMNS.format(
                row["file"],
                width,
                row["architecture"],
                f"{row['parameters']:,}",
                row["temperature"] or "",
                row["errors"],
                row["paper"] or "",
                " ".join(f"{n:3}" for n in row["errors_per_digit"]),
            )
        )


def print_translated(rows: list[dict[str, Any]], distances: Sequence[int]) -> None:
    """The table of evaluate.py for moved test images."""
    print("Errors on test images moved by so many pixels, the mean of eight directions")
    width = max(len(row["file"]) for row in rows)
    print(f"{'file':{width}}" + "".join(f" {n:>9}" for n in distances))
    for row in rows:
        errors = (row["translated"][str(n)] for n in distances)
        print(f"{row['file']:{width}}" + "".join(f" {e:9,.1f}" for e in errors))
