"""Distil the cumbersome net into a small one: `python distillation.py`.

The last line, after two minutes on two processor cores:

    89 errors on 10,000 images of MNIST (the paper: 74) after epoch 20. Saved in runs/...

[KD] s.2 and s.3: the student, 784-800-800-10, learns from the soft targets of the teacher,
784-1200-1200-10, at a temperature of 20, on training images that were not translated.
"""

import support.interrupts  # noqa: F401

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dataset import Digits, Mnist
from evaluate import Model, logits_of, mean_logits, measure, nets_of
from layers import SmallNet, StackedNet, init_weights
from support.command_line import Parser, chosen_params, distillation_flags
from support.errors import UserError
from support.hyperparameters import checked_params
from support.nets import check_digits
from support.records import RESULT_COLUMNS, columns_of, result_columns, versions
from support.runs import Run, plan
from support.script import run_script
from support.seeds import as_seeds
from support.setup import set_up
from support.stacks import NOT_STACKED, group_small
from support.sweep import Job, sweep
from support.teacher import (
    check_logits,
    distillation_setting,
    load_teacher,
    report_teacher,
    temperature_of_mean,
    warn_of_teacher,
)
from train import Loss, hard_loss, run, train

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


def distillation_loss(temperature: float | Tensor, hard_weight: float) -> Loss:
    """The loss of [KD] s.2: (1 - hard_weight) * T^2 * soft + hard_weight * hard.

    soft is the cross entropy with the soft targets, both at T, less the entropy of the targets, a
    constant, so that it can fall to 0. hard is the cross entropy with the correct labels at
    T = 1. Both are averaged over the images of the minibatch, and over nothing else. The factor T^2
    makes up for soft-target gradients that scale as 1/T^2: the balance of the two and the learning
    rate keep their meaning at every T. The loss takes logits (B, 10) to (); those of a stack of S
    students, (S, B, 10), with T of shape (S, 1, 1), to (S,), from soft targets alone.
    Raises UserError for a temperature that is not above 0 and an impossible weight; the loss raises
    it for images without logits of a teacher.
    """
    is_stack = isinstance(temperature, Tensor) and temperature.dim() == 3
    each = temperature if is_stack else torch.tensor(float(temperature), device="cpu")
    if not 0 <= hard_weight <= (0 if is_stack else 1) or not (each > 0).all():
        raise UserError(f"no loss for temperature {temperature}, hard_weight {hard_weight}")
    scale = each.square().flatten().squeeze()

    def loss(logits: Tensor, batch: Digits) -> Tensor:
        teacher_logits, classes = batch.teacher_logits, -1
        if teacher_logits is None:
            raise UserError("these images have no logits of a teacher: take them `with_logits`")
        if logits.dim() == 3:  # (G, B, 10): the same for all students of a group
            teacher_logits = teacher_logits.repeat_interleave(len(logits) // len(teacher_logits), 0)
            # As they lie in memory: with a last dimension of 10 softmax takes ten times as long.
            teacher_logits, logits, classes = teacher_logits.mT.contiguous(), logits.mT, -2
        targets = F.log_softmax(teacher_logits / temperature, dim=classes)
        outputs = F.log_softmax(logits / temperature, dim=classes)
        divergence = F.kl_div(outputs, targets, reduction="none", log_target=True)
        soft = divergence.sum(classes).mean(-1)
        if hard_weight == 0:
            return soft * scale
        return (1 - hard_weight) * soft * scale + hard_weight * hard_loss(logits, batch)

    return loss


def distill(
    student: nn.Module,
    teacher: Model,
    transfer_set: Digits,
    params: Any,
    *,
    arithmetic_mean: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train `student` in place on the soft targets of `teacher`; returns the history.

    A list of nets is an ensemble: their logits are averaged, or with `arithmetic_mean` their
    distributions at T. `params` has the fields of a `Distilled` class of training_params.py, or is
    one; `options` are the keyword arguments of `train`. Raises UserError for a net that does not
    take or return what `with_logits` says, and for jitter, under which the logits would not be
    those of the images.
    """
    params = checked_params(params, "Distilled")
    arithmetic_at = params.temperature if arithmetic_mean else None
    transfer_set = with_logits(transfer_set, teacher, arithmetic_at)
    warn_of_teacher(transfer_set)
    loss = distillation_loss(params.temperature, params.hard_weight)
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


def load_transfer_set(
    args: argparse.Namespace, runs: Sequence[Run], mnist: Mnist, digits: Digits
) -> tuple[Digits, dict[str, Any]]:
    """The digits that the student sees, with logits; and what is recorded of their teacher."""
    arithmetic_at = temperature_of_mean(args, runs)
    nets, teacher = load_teacher(args, runs, mnist)
    nets = [net.to(digits.labels.device) for net in nets]
    transfer_set = with_logits(digits, nets, arithmetic_at)
    report_teacher(args, transfer_set)
    return transfer_set, teacher


def distill_together(
    temperatures: Sequence[float],
    seeds: Sequence[int],
    teacher: Model,
    transfer_set: Digits,
    params: Any,
    **options: Any,
) -> dict[tuple[float, int], SmallNet]:
    """Distil a student for every temperature with every seed, all at once; by (T, seed).

    Each gets the weights that `init_weights` and `distill` alone would give it, but for rounding,
    and is on the processor. Worth it for small students, of 30 units say. `params` are those of
    `distill`, whose temperature is not used; `options` too, less seed and arithmetic mean (the
    logits are the same at all temperatures). Raises UserError for regularisation and for a weight
    on the labels.
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
) -> dict[tuple[float, int], SmallNet]:
    """As `distill_together`, on a transfer set `with_logits`. Raises UserError."""
    params = checked_params(params, "Distilled")
    if any(getattr(params, name) for name in NOT_STACKED):
        raise UserError(f"students distilled together take no {', '.join(NOT_STACKED)}")
    temperatures, (seeds, _) = [float(t) for t in temperatures], as_seeds(list(seeds))
    if any(not values or len({*values}) < len(values) for values in (seeds, temperatures)):
        raise UserError("students distilled together need temperatures and seeds, each only once")
    students = {}
    for seed, temperature in itertools.product(seeds, temperatures):
        with torch.device("cpu"):
            student = SmallNet(params.hidden_units)
        init_weights(student, params.init_std, seed)
        students[temperature, seed] = student
    device = transfer_set.labels.device
    stack = StackedNet(list(students.values()), orders=len(seeds)).to(device)
    each = torch.tensor([t for t, _ in students], device=device)[:, None, None]
    train(stack, transfer_set, params, loss=distillation_loss(each, 0), seed=seeds, **options)
    stack.unstack(list(students.values()))
    return students


def run_distillation(
    planned: Run, mnist: Mnist, transfer_set: Digits, teacher: dict[str, Any]
) -> dict[str, Any]:
    """Distil on a transfer set `with_logits`, save the student; returns its checkpoint."""
    params = planned.params
    student = SmallNet(params.hidden_units, params.dropout_visible, params.dropout_hidden)
    loss = distillation_loss(params.temperature, params.hard_weight)
    student = student.to(transfer_set.labels.device)
    return run(planned, student, mnist, transfer_set, loss, teacher)


def run_together(job: Job, mnist: Mnist, transfer_set: Digits) -> list[dict[str, Any]]:
    """Distil the students of a job of `group_small`; their results, by column. None is saved."""
    temperatures = list(dict.fromkeys(one.params.temperature for one in job))
    seeds = list(dict.fromkeys(one.seed for one in job))
    params, precision = job[0].params, job[0].precision
    students = train_together(temperatures, seeds, transfer_set, params, precision=precision)
    results = []
    for params, seed, *_ in job:
        result = measure(students[params.temperature, seed], mnist.test.to("cpu"))
        of = f"{params.hidden_units} units, T = {params.temperature:g}, seed {seed}"
        tqdm.write(f"{of}: {result['errors']} errors on {result['cases']:,} images, not saved")
        results.append(result_columns(result, [], versions(transfer_set.labels.device)))
    return results


def main() -> None:
    parser = Parser(EXAMPLES, description=__doc__)
    distillation_flags(parser)
    args = parser.parse_args()
    name = "distilled_model_{hidden_units}_{temperature:g}"
    runs = plan(args, chosen_params(args, "Distilled"), name)
    mnist, _ = set_up(args)
    transfer_set, teacher = load_transfer_set(args, runs, mnist, mnist.training)

    def work(job: Job) -> list[dict[str, Any]]:
        if len(job) > 1:
            return run_together(job, mnist, transfer_set)
        return [columns_of(run_distillation(job[0], mnist, transfer_set, teacher))]

    setting = distillation_setting(args, mnist, teacher)
    grouped = {} if args.log is not None else {"group": group_small}  # a stack has no events
    sweep(args, runs, setting, RESULT_COLUMNS, work, **grouped)


if __name__ == "__main__":
    run_script(main)
