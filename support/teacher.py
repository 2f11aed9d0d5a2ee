"""The teacher of a distillation: loaded, and that it is what a student can learn from."""

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dataset import Digits, Mnist, pixels
from layers import CLASSES, RectifierNet
from support.checkpoints import load_checkpoint, model_from
from support.errors import UserError
from support.files import sha256
from support.outputs import RunFiles
from support.sweep import Run


def load_teacher(
    args: argparse.Namespace, runs: Sequence[Run], mnist: Mnist
) -> tuple[RectifierNet, dict[str, Any]]:
    """The net in `args.teacher` and what checkpoints of its students record of it.

    Says so if it has learned from images on which the student's errors are counted, or from other
    data. Raises UserError if they are held out to choose by (such a choice would be worth nothing),
    and if one of the `runs` would replace it.
    """
    path, checkpoint = args.teacher, load_checkpoint(args.teacher)
    if any(RunFiles(run.output).include(path) for run in runs):
        raise UserError(f"--output {runs[0].output} would replace the teacher: choose another")
    learned_from = checkpoint.get("data_set", {}).get("name")
    if mnist.name.endswith(" validation") and learned_from != mnist.name:
        raise UserError(
            f"{path} may have learned from the held-out images: name one with --teacher that "
            "`train.py --validation` made from the same data"
        )
    if not args.quiet:
        if mnist.name == "sample" and learned_from in ("MNIST", "MNIST validation"):
            print("The teacher has seen the sample's test images, MNIST's training images.")
        print(*other_data(path.name, checkpoint, mnist), sep="", end="")
    return model_from(checkpoint), {"file": path.name, "sha256": sha256(path)}


def other_data(name: str, checkpoint: dict[str, Any], mnist: Mnist) -> list[str]:
    """A line if the net of `checkpoint` was trained on something else than digits of MNIST."""
    learned_from = str(checkpoint.get("data_set", {}).get("name", mnist.name))
    if learned_from.removesuffix(" validation") in ("MNIST", "sample"):
        return []
    return [f"{name} was trained on {learned_from[:40]!r}, not on {mnist.name}.\n"]


def report_teacher(args: argparse.Namespace, transfer_set: Digits) -> None:
    """How many of the images that the student will learn from its teacher gets wrong."""
    answers = transfer_set.teacher_logits.argmax(1)
    wrong = int((answers != transfer_set.labels).sum())
    if not args.quiet:
        print(f"The teacher is wrong on {wrong:,} of the {len(answers):,} training images.")


@torch.no_grad()
def check_net(net: nn.Module, role: str, digits: Digits) -> None:
    """Raise UserError unless `net` takes float32 pixels (N, 784) and returns logits (N, 10)."""
    images = pixels(digits.images[:2])
    wanted = (
        f"the {role} must take float32 pixels {tuple(images.shape)} and return logits "
        f"({len(images)}, {CLASSES})"
    )
    try:
        logits = net.eval()(images)
    except Exception as error:  # whatever a module raises for what it does not take
        reason = " ".join(str(error).split())
        raise UserError(
            f"{wanted}, but raised {type(error).__name__} ({reason}); if it takes images, wrap it: "
            "nn.Sequential(nn.Unflatten(1, (1, 28, 28)), net)"
        ) from None
    if not isinstance(logits, Tensor) or logits.shape[-2:] != (len(images), CLASSES):
        came = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(f"{wanted}, but returned {came}; wrap it in a module that does")


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Raise UserError for logits (N, 10) that are not finite, or probabilities.

    Warn if most of them are wrong.
    """
    if not torch.isfinite(logits).all():
        raise UserError("the logits of the teacher are not finite")
    if (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 1e-3:
        raise UserError(
            "the teacher returns probabilities, not logits: leave out its softmax, or return the "
            "logarithm of the probabilities"
        )
    wrong = int((logits.argmax(1) != labels).sum())
    if wrong > len(labels) / 2:
        warnings.warn(
            f"the teacher is wrong on {wrong:,} of {len(labels):,} images: does it take pixels of "
            "another range than [0, 1]?",
            stacklevel=3,
        )
