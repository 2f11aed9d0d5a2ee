"""The teacher of a distillation, a net or an ensemble: loading it and checking its logits."""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataset import VALIDATION, Digits, Mnist
from layers import RectifierNet
from support.checkpoints import check_distinct, load_checkpoint, model_from, note_on_data
from support.command_line import TEACHER
from support.errors import UserError
from support.files import sha256
from support.outputs import belongs_to
from support.runs import Run


def load_teacher(
    args: argparse.Namespace, runs: Sequence[Run], mnist: Mnist
) -> tuple[list[RectifierNet], dict[str, Any]]:
    """The nets in `args.teacher`, in the order of their SHA-256, and what their students record.

    Says so if one has learned from images on which the student's errors are counted, or from other
    data. Raises UserError if they are held out to choose by (such a choice would be worth nothing),
    if one of the `runs` would replace it, and if two are the same.
    """
    # Sorted, so that A B and B A are the same teacher to the last bit.
    sums, paths = zip(
        *sorted((sha256(path), path) for path in args.teacher or [TEACHER]), strict=True
    )
    nets = [_load_net(path, args, runs, mnist) for path in paths]
    check_distinct(nets, paths)
    teacher = {"file": ", ".join(path.name for path in paths), "sha256": ", ".join(sums)}
    if len(nets) > 1:
        teacher["mean"] = "arithmetic" if args.arithmetic_mean else "geometric"
    return nets, teacher


def _load_net(
    path: Path, args: argparse.Namespace, runs: Sequence[Run], mnist: Mnist
) -> RectifierNet:
    """One of the nets, as `load_teacher` says."""
    checkpoint = load_checkpoint(path)
    if belongs_to(path, runs):
        raise UserError(
            f"the student would replace its teacher {path}: choose another --output, or copy it"
        )
    learned_from = checkpoint.get("data_set", {}).get("name")
    if mnist.held_out and learned_from != mnist.name:
        raise UserError(
            f"{path} may have learned from the held-out images: name one with --teacher that "
            "`train.py --validation` made from the same data"
        )
    if not args.quiet:
        if mnist.name == "sample" and learned_from in ("MNIST", "MNIST" + VALIDATION):
            print(f"{path.name} has seen the sample's test images, MNIST's training images.")
        if note := note_on_data(path, checkpoint):
            print(note)
    return model_from(checkpoint)


def temperature_of_mean(args: argparse.Namespace, runs: Sequence[Run]) -> float | None:
    """The T at which an ensemble's distributions are averaged; None if its logits are.

    Raises UserError for several temperatures, as the soft targets are made once for all `runs`, and
    for an `--arithmetic-mean` of a single net.
    """
    if not args.arithmetic_mean:
        return None
    if len(args.teacher) < 2:
        raise UserError("--arithmetic-mean needs several nets: name them all after --teacher")
    temperatures = {run.params.temperature for run in runs}
    if len(temperatures) > 1:
        raise UserError("--arithmetic-mean needs a single --temperature, at which it is taken")
    return temperatures.pop()


def distillation_setting(
    args: argparse.Namespace, mnist: Mnist, teacher: dict[str, Any]
) -> dict[str, str]:
    """What, besides hyperparameters and seed, tells one distillation from another."""
    sums = " ".join(text[:12] for text in teacher["sha256"].split(", "))
    mean = f" {teacher['mean']}" if "mean" in teacher else ""
    return {"data": mnist.name, "precision": args.precision, "teacher": sums + mean}


def report_teacher(args: argparse.Namespace, transfer_set: Digits) -> None:
    """Print how many of the student's training images its teacher gets wrong."""
    if not args.quiet:
        print(_errors_in_words(transfer_set))


def warn_of_teacher(transfer_set: Digits) -> None:
    """Warn if the teacher gets most of the student's training images wrong."""
    if _wrong(transfer_set) > len(transfer_set) / 2:
        warnings.warn(_errors_in_words(transfer_set), stacklevel=3)


def _wrong(transfer_set: Digits) -> int:
    return int((transfer_set.teacher_logits.argmax(1) != transfer_set.labels).sum())


def _errors_in_words(transfer_set: Digits) -> str:
    wrong, cases = _wrong(transfer_set), len(transfer_set)
    hint = (
        ": is it untrained, or for pixels of another range than [0, 1]?"
        if wrong > cases / 2
        else "."
    )
    return f"The teacher is wrong on {wrong:,} of the {cases:,} training images{hint}"


def check_logits(logits: Tensor) -> None:
    """Raise UserError for what are not the logits (N, 10) of a teacher.

    That is none, or not finite ones, or probabilities: shares of 1, or of another constant.
    """
    if len(logits) == 0:
        raise UserError("there is no image to distil on")
    if not torch.isfinite(logits).all():
        raise UserError("the logits of the teacher are not finite")
    sums, positive = logits.sum(1), bool((logits >= 0).all())
    if positive and ((logits <= 1).all() or sums.std() < 0.02 * sums.mean()):
        raise UserError(
            "the teacher returns probabilities, not logits: leave out its softmax or sigmoid, or "
            "return the logarithm of the probabilities"
        )
