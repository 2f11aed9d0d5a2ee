"""Distil the cumbersome net into a small one: `python distillation.py`.

The last line, after two minutes on one processor core (seed 0):

    84 errors on 10,000 images of MNIST (the paper: 74) after epoch 20. Saved in runs/...

[KD] s.2 and s.3: the student, 784-800-800-10, learns from the soft targets of the teacher,
784-1200-1200-10, at a temperature of 20, on training images that were not translated.
"""

import argparse
import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import Digits, Mnist, check_digits
from evaluate import Model, logits_of, mean_logits, nets_of
from layers import SmallNet, StackedNet, init_weights
from support.command_line import Parser, hyperparameter_flags, training_flags, user_path
from support.errors import UserError
from support.hyperparameters import SHARE, TEMPERATURE, Params, checked_params
from support.machine import set_up
from support.records import columns_of, setting
from support.reporting import Progress, report
from support.runs import Run, RunFiles, belongs_to, plan
from support.script import run_script
from support.seeds import as_seeds
from support.sweep import NOT_STACKED, Results
from support.teacher import (
    TEACHER,
    check_logits,
    errors_of_teacher,
    load_teacher,
    stored_logits,
    warn_of_teacher,
)
from train import Loss, hard_loss, run, save_trained, train

EXAMPLES = """\
python distillation.py --hidden-units 300 --temperature 8 --seed 1
python distillation.py --teacher runs/my_teacher.pt --hard-weight 0.1
python distillation.py --teacher runs/a.pt runs/b.pt runs/c.pt  # an ensemble
python distillation.py --temperature 2 4 8 20 --seed 0 1 2 --results runs/temperatures.csv
torchrun --nproc-per-node 2 distillation.py --temperature 2 4 8 20 --seed 0 1 2 --threads 1
"""


def soft_targets(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Probabilities (..., N, 10): the softmax of logits / T ([KD] s.2, eq. 1)."""
    return F.softmax(logits / temperature, dim=-1)


def distillation_loss(temperature: float, hard_weight: float) -> Loss:
    """The loss of [KD] s.2: (1 - hard_weight) * T^2 * soft + hard_weight * hard.

    soft is the cross entropy with the soft targets, both at T, less the entropy of the targets, a
    constant, so that it can fall to 0. hard is the cross entropy with the correct labels at
    T = 1. Both are averaged over the images of the minibatch, and over nothing else. The factor T^2
    makes up for soft-target gradients that scale as 1/T^2, so that the balance of the two is the
    same at every T. (Without labels, Adam's steps do not depend on it.) The loss takes logits
    (B, 10) to ().
    Raises UserError for an impossible temperature or weight; the loss raises it for images without
    logits of a teacher.
    """
    temperature = TEMPERATURE.check(temperature, "temperature: ")
    hard_weight = SHARE.check(hard_weight, "hard_weight: ")

    def loss(logits: Tensor, batch: Digits) -> Tensor:
        targets = F.log_softmax(logits_of_teacher(batch) / temperature, dim=-1)
        outputs = F.log_softmax(logits / temperature, dim=-1)
        divergence = F.kl_div(outputs, targets, reduction="none", log_target=True)
        soft = divergence.sum(-1).mean()
        hard = hard_loss(logits, batch) if hard_weight else 0.0
        return (1 - hard_weight) * soft * temperature**2 + hard_weight * hard

    return loss


def stacked_loss(temperatures: Tensor) -> Loss:
    """`distillation_loss` of each student of a stack, S temperatures (S,), without labels.

    The loss takes logits (S, B, 10) to (S,). Minibatches have a leading axis of G groups of
    students, which see the same images.
    """
    each = temperatures[:, None, None]

    def loss(logits: Tensor, batch: Digits) -> Tensor:
        teacher_logits = logits_of_teacher(batch)  # (G, B, 10)
        teacher_logits = teacher_logits.repeat_interleave(len(logits) // len(teacher_logits), 0)
        # As they lie in memory: with a last dimension of 10 softmax takes ten times as long.
        targets = F.log_softmax(teacher_logits.mT.contiguous() / each, dim=-2)
        outputs = F.log_softmax(logits.mT / each, dim=-2)
        divergence = F.kl_div(outputs, targets, reduction="none", log_target=True)
        return divergence.sum(-2).mean(-1) * temperatures.square()

    return loss


def logits_of_teacher(batch: Digits) -> Tensor:
    """float32 (..., B, 10). Raises UserError if the images have none."""
    if batch.teacher_logits is None:
        raise UserError("these images have no logits of a teacher: take them `with_logits`")
    return batch.teacher_logits


def distill(
    student: nn.Module,
    teacher: Model,
    transfer_set: Digits,
    params: Any,
    *,
    loss: Loss | None = None,
    arithmetic_mean: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train `student` in place on the soft targets of `teacher`; returns the history.

    A list of nets is an ensemble: their logits are averaged, or with `arithmetic_mean` their
    distributions at T. `params` has the fields of a `Distilled` class of training_params.py, or is
    one. `loss`, instead of `distillation_loss`, gets minibatches with the `teacher_logits`;
    `options` are the other keyword arguments of `train`. Raises UserError for a net that does not
    take or return what `with_logits` says, and for jitter, under which the logits would not be
    those of the images.
    """
    params = checked_params(params, "Distilled")
    arithmetic_at = params.temperature if arithmetic_mean else None
    transfer_set = with_logits(transfer_set, teacher, arithmetic_at)
    warn_of_teacher(transfer_set)
    loss = loss_of(params) if loss is None else loss
    return train(student, transfer_set, params, loss=loss, **options)


def with_logits(transfer_set: Digits, teacher: Model, arithmetic_at: float | None = None) -> Digits:
    """The transfer set with the logits of `teacher` for each image, computed once, in eval mode.

    On the images as they are: the transfer set of [KD] s.3 holds no translations, so the logits
    never change. The teacher takes pixels, float32 (N, 784) in [0, 1], and returns logits (N, 10).
    Raises UserError if it does not, or if they are not finite, or probabilities. Several nets are
    an ensemble: `mean_logits` says how theirs are combined.
    """
    check_digits(transfer_set)
    logits = [logits_of(net, transfer_set.images) for net in nets_of(teacher)]
    mean = mean_logits(logits, arithmetic_at)
    for each in (*logits, mean):
        check_logits(each)
    return replace(transfer_set, teacher_logits=mean)


def distill_together(
    temperatures: Sequence[float],
    seeds: Sequence[int],
    teacher: Model,
    transfer_set: Digits,
    params: Any,
    **options: Any,
) -> dict[tuple[float, int], tuple[SmallNet, list[dict[str, Any]]]]:
    """Distil a student for every temperature with every seed, all at once.

    Returns each and its history by (T, seed). It has the weights that `init_weights` and `distill`
    alone would give it, but for rounding, and is on the processor. Worth it for small students, of
    30 units say. `params` are those of `distill`, whose temperature is not used; `options` too,
    less seed, loss and arithmetic mean (the logits are the same at all temperatures). Raises
    UserError for regularisation and for a weight on the labels.
    """
    transfer_set = with_logits(transfer_set, teacher)
    warn_of_teacher(transfer_set)
    return train_together(temperatures, seeds, transfer_set, params, **options)


def train_together(
    temperatures: Sequence[float],
    seeds: Sequence[int],
    transfer_set: Digits,
    params: Any,
    **options: Any,
) -> dict[tuple[float, int], tuple[SmallNet, list[dict[str, Any]]]]:
    """As `distill_together`, on a transfer set `with_logits`. Raises UserError."""
    params = checked_params(params, "Distilled")
    if any(getattr(params, name) for name in NOT_STACKED):
        raise UserError(f"students distilled together take no {', '.join(NOT_STACKED)}")
    temperatures = [TEMPERATURE.check(t, "temperatures: ") for t in temperatures]
    seeds, _ = as_seeds(list(seeds))
    if any(not values or len({*values}) < len(values) for values in (seeds, temperatures)):
        raise UserError("students distilled together need temperatures and seeds, each only once")
    students = {}
    for seed, temperature in itertools.product(seeds, temperatures):
        with torch.device("meta"):  # draws no random numbers
            student = SmallNet(params.hidden_units)
        init_weights(student.float().to_empty(device="cpu"), params.init_std, seed)
        students[temperature, seed] = student
    device = transfer_set.device
    stack = StackedNet(list(students.values()), orders=len(seeds)).to(device)
    each = torch.tensor([t for t, _ in students], dtype=torch.float32, device=device)
    loss = stacked_loss(each)
    history = train(stack, transfer_set, params, loss=loss, seed=seeds, **options)
    stack.unstack(list(students.values()))
    return {
        key: (student, [_of_student(entry, place) for entry in history])
        for place, (key, student) in enumerate(students.items())
    }


def _of_student(entry: dict[str, Any], place: int) -> dict[str, Any]:
    """The entry of one student in that of a stack, which has lists of losses and errors."""
    return {k: v[place] if isinstance(v, list) else v for k, v in entry.items()}


def spare_teachers(paths: Sequence[Path], runs: Sequence[Run]) -> None:
    """Raise UserError if one of the `runs` would replace a teacher, whose files are `paths`."""
    for path in paths:
        if belongs_to(path, runs):
            raise UserError(
                f"the student would replace its teacher {path}: choose another --output, or copy it"
            )


def with_teacher(
    args: argparse.Namespace, runs: Sequence[Run], mnist: Mnist
) -> tuple[Mnist, dict[str, Any]]:
    """The data with the teacher's logits of the training images; what is recorded of the teacher.

    Raises UserError if one of the `runs` would replace it.
    """
    stored = args.teacher_logits
    paths = [stored] if stored else args.teacher or [TEACHER]
    spare_teachers(paths, runs)
    if stored and (args.teacher or args.arithmetic_mean):
        raise UserError(
            "--teacher-logits takes the place of nets: leave out --teacher and --arithmetic-mean"
        )
    if stored:
        logits, teacher = stored_logits(stored, mnist)
        training = replace(mnist.training, teacher_logits=logits.to(mnist.training.device))
        if mnist.held_out and not args.quiet:
            print(f"Make sure that the teacher of {stored} has not seen the held-out images.")
    else:
        training, teacher = with_nets(args, runs, mnist, paths)
    if not args.quiet:
        print(errors_of_teacher(training)[0])
    return mnist._replace(training=training), teacher


def with_nets(
    args: argparse.Namespace, runs: Sequence[Run], mnist: Mnist, paths: Sequence[Path]
) -> tuple[Digits, dict[str, Any]]:
    """The training images with the logits of the nets in the files, and what is recorded of these.

    Raises UserError for an arithmetic mean of a single net, and for one at several temperatures, as
    the logits are computed once for all runs.
    """
    temperatures = {run.params.temperature for run in runs}
    if args.arithmetic_mean and len(paths) < 2:
        raise UserError("--arithmetic-mean needs several nets: name them all after --teacher")
    if args.arithmetic_mean and len(temperatures) > 1:
        raise UserError("--arithmetic-mean needs a single --temperature, at which it is taken")
    nets, teacher = load_teacher(paths, mnist, args.quiet)
    if len(nets) > 1:
        teacher["mean"] = "arithmetic" if args.arithmetic_mean else "geometric"
    nets = [net.to(mnist.training.device) for net in nets]
    arithmetic_at = temperatures.pop() if args.arithmetic_mean else None
    return with_logits(mnist.training, nets, arithmetic_at), teacher


def run_together(stack: Sequence[Run], mnist: Mnist, precision: str) -> list[dict[str, Any]]:
    """As `run` for a stack of small students, which cannot be resumed; their checkpoints."""
    first = stack[0]
    temperatures = [*dict.fromkeys(one.params.temperature for one in stack)]
    seeds = [*dict.fromkeys(one.seed for one in stack)]
    progress = Progress(first.quiet, mnist.held_out, name=f"{len(stack)} students together")
    options = {"test_set": mnist.test, "precision": precision, "progress": progress}
    with ExitStack() as locks:
        for one in stack:
            locks.enter_context(RunFiles(one.output).locked())
        students = train_together(temperatures, seeds, mnist.training, first.params, **options)
        for one in stack:
            save_trained(one, *students[one.params.temperature, one.seed], mnist)
            RunFiles(one.output).resume_point.unlink(missing_ok=True)  # of a training alone
    return [report(one.output) for one in stack]


def student_for(params: Params) -> SmallNet:
    """The net with these hyperparameters; its weights are still PyTorch's own."""
    return SmallNet(params.hidden_units, params.dropout_visible, params.dropout_hidden)


def loss_of(params: Params) -> Loss:
    """What a student with these hyperparameters is trained on."""
    return distillation_loss(params.temperature, params.hard_weight)


def distillation_flags(parser: Parser, **defaults: Any) -> None:
    """Add the flags of a distillation; `defaults` are those in which a script differs."""
    teacher = f"checkpoint to distil; several are an ensemble [models/{TEACHER.name}]"
    add = parser.add_argument
    # No default: `extend` would add to it. `with_teacher` takes TEACHER for no path.
    options = {"type": user_path, "nargs": "+", "action": "extend", "default": []}
    add("--teacher", metavar="PATH", help=teacher, **options)
    logits = "instead, a .npy file of logits, float (60000, 10), of the training images in order"
    add("--teacher-logits", type=user_path, metavar="FILE", help=logits)
    mean = "average the distributions of an ensemble at T [its logits, for the geometric mean]"
    add("--arithmetic-mean", action="store_true", help=mean)
    training_flags(parser)
    note = f"except {', '.join(defaults)}, which have their own here" if defaults else ""
    hyperparameter_flags(parser, "Distilled", note, **defaults)


def main() -> None:
    parser = Parser(EXAMPLES, description=__doc__)
    distillation_flags(parser)
    args = parser.parse_args()
    name = "distilled_model_{hidden_units}_{temperature:g}"
    runs = plan(args, "Distilled", name, loss_of)
    mnist, device = set_up(args)
    mnist, teacher = with_teacher(args, runs, mnist)
    shared = ["data", "precision", "teacher"]
    with Results(args, runs, setting(args, SmallNet, mnist, teacher), shared) as results:
        for stack in results.stacks():  # of small students, which are trained together
            with results.rows(stack) as rows:
                checkpoints = run_together(stack, mnist, args.precision)
                for row, checkpoint in zip(rows, checkpoints, strict=True):
                    row |= columns_of(checkpoint)
        for planned in results.todo():
            with results.row(planned) as row:
                student = student_for(planned.params).to(device)
                row |= columns_of(run(planned, student, mnist))


if __name__ == "__main__":
    run_script(main)
