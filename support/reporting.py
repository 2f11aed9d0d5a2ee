"""What the scripts print: progress, and the first and last lines of a run."""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from layers import RectifierNet
from support.checkpoints import load_checkpoint
from support.errors import UserError
from support.files import as_plain, sha256
from support.paper import paper_errors
from support.runs import Run

MINUTE = 60  # seconds


class Progress:
    """One progress bar, or a plain line at each evaluation where the output is not a terminal.

    `held_out` says on which images errors are counted; those of a stack are shown as their mean.
    `events` is a SummaryWriter of TensorBoard, or None. One of several runs has a `name`, at the
    bar, which goes when the run ends, or at a line a minute.
    """

    def __init__(
        self,
        quiet: bool = False,
        held_out: bool = False,
        events: Any = None,
        name: str | None = None,
    ):
        self.quiet, self.events, self.name = quiet, events, name
        self.counted = "held-out errors" if held_out else "test errors"
        self.bar: tqdm | None = None

    @classmethod
    def of_run(cls, run: Run, held_out: bool, done: int) -> "Progress":
        """For a run after `done` epochs, whose errors are on `held_out` or on test images."""
        events = None if run.log is None else event_writer(run.log, run.output, done)
        return cls(run.quiet, held_out, events, run.output.stem if run.several else None)

    def start(self, epochs: int, batches: int, done: int) -> None:
        """A run of `epochs` epochs of so many minibatches begins after `done` of them."""
        self.epochs, self.done = epochs, done
        self.started = self.told = time.perf_counter()
        self.errors = ""
        if not self.quiet and getattr(sys.stderr, "isatty", bool)():  # a logger has none
            self.bar = tqdm(
                desc=self.name,
                leave=self.name is None,
                total=epochs * batches,
                initial=done * batches,
                bar_format="{l_bar}{bar}| {elapsed}, {remaining} left{postfix}",
            )

    def after_batch(self) -> None:
        if self.bar:
            self.bar.update()

    def after_epoch(self, entry: dict[str, Any]) -> None:
        """Show a new `entry` of the history."""
        if self.events:
            for name in entry.keys() - {"epoch"}:
                self.events.add_scalar(name, np.mean(entry[name]), entry["epoch"])
            self.events.flush()
        loss = round(float(np.mean(entry["loss"])), 4) + 0.0  # never -0.0
        text = f"epoch {entry['epoch']}/{self.epochs}  loss {loss:.4f}"
        if "errors" in entry:
            counted = "mean " * isinstance(entry["errors"], list) + self.counted
            self.errors = f"  {counted} {np.mean(entry['errors']):g}"
        if self.bar:
            self.bar.set_postfix_str(text + self.errors)
        elif not self.quiet:
            self._print_line(entry, text)

    def _print_line(self, entry: dict[str, Any], text: str) -> None:
        """Where there is no bar: after the first epoch, and at each evaluation.

        Of several runs, which may be short and many, a line a minute.
        """
        now, epochs = time.perf_counter(), entry["epoch"] - self.done
        if now - self.told < MINUTE if self.name else epochs > 1 and "errors" not in entry:
            return
        self.told = now
        seconds = (now - self.started) / epochs * (self.epochs - entry["epoch"])
        name = f"{self.name}: " if self.name else ""
        print(f"{name}{text}{self.errors}  {timedelta(seconds=round(seconds))} left", flush=True)

    def close(self) -> None:
        """End the bar and the events, however the run ended."""
        if self.bar:
            self.bar.close()
        if self.events:
            self.events.close()


def event_writer(folder: Path, output: Path, done: int) -> Any:
    """A writer of TensorBoard events to a folder of its own in `folder`, after `done` epochs.

    Raises UserError if tensorboard is not installed or the folder cannot be written to.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(f"--log needs TensorBoard: pip install tensorboard ({error})") from None
    events = os.path.join(folder, output.stem)
    if os.path.realpath(events) == os.path.realpath(output):
        raise UserError(f"--log {folder} would have the name of --output {output}: choose another")
    try:
        return SummaryWriter(events, purge_step=done + 1)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"cannot write to --log {folder}: {error}") from None


def data_in_words(name: str) -> str:
    """A data set in a sentence: "MNIST", "the sample"."""
    name = name.removesuffix(" validation")
    return f"the {name}" if name == "sample" else name


def announce(model: RectifierNet, record: dict[str, Any], done: int) -> None:
    """The first lines: what will be trained, on what, with which values."""
    data, weights = record["data_set"], sum(p.numel() for p in model.parameters())
    device, threads = next(model.parameters()).device.type, torch.get_num_threads()
    images = f"{data['training_cases']:,} images of {data_in_words(data['name'])}"
    print(
        f"Training {record['architecture']} 784-{model.hidden_units}-{model.hidden_units}-10 "
        f"({weights:,} weights) on {images}, "
        f"{device}, {threads} thread{'s' * (threads > 1)}, {record['precision']}, "
        f"seed {record['seed']}"
    )
    print("  " + " ".join(f"{name}={value}" for name, value in record["parameters"].items()))
    if record["teacher"]:
        print(f"  on the soft targets of {record['teacher']['file']}")
    if done:
        print(f"  continuing after epoch {done} of {record['parameters']['epochs']}")


def description(path: Path) -> dict[str, Any]:
    """What a checkpoint records, all but the weights, and its SHA-256."""
    record = load_checkpoint(path)
    del record["state_dict"], record["format_version"]
    about = {"file": str(path), "sha256": sha256(path)}
    return about | as_plain(record) | about


def describe(described: dict[str, Any]) -> str:
    """A `description` in lines: a name and what it stands for; of the history the last epoch."""
    lines = [described["file"]]
    for name, value in described.items():
        if name == "history" and isinstance(value, list) and value:
            name, value = "last epoch", value[-1]
        if name != "file":
            lines.append(f"  {name:13} {_in_words(value)}")
    return "\n".join(lines)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_in_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ",".join(map(_in_words, value))
    return str(value) if str(value).isprintable() else repr(value)


def report(output: Path) -> dict[str, Any]:
    """The last lines: what was learned, next to the paper's number, and where it was saved.

    Returns the checkpoint.
    """
    record = load_checkpoint(output)
    result, paper = record["result"], paper_errors(record)
    data = data_in_words(record["data_set"]["name"])
    beside = f" (the paper: {paper})" if paper else ""
    held_out = "held-out " * record["data_set"]["name"].endswith(" validation")
    tqdm.write(  # above the bar of a sweep, if there is one
        f"{result['errors']} errors on {result['cases']:,} {held_out}images of {data}{beside} "
        f"after epoch {record['parameters']['epochs']}. Saved in {output}"
    )
    if result["errors"] > 0.8 * result["cases"] and len(record["data_set"]["digits"]) == 10:
        again = "try more --epochs, another --seed or a lower --learning-rate"
        tqdm.write(f"This net is no better than chance: {again}.")
    return record
