"""Distil the cumbersome net into a small one: `python distillation.py`.

[KD] s.2 and s.3: the student learns from the teacher's soft targets at a high temperature, on
training images that were not translated.
"""

import argparse
import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dataset import Digits, Mnist
from layers import (
    MODELS,
    SmallNet,
    StackedNet,
    init_weights,
    load_checkpoint,
    load_model,
    sha256,
)
from reporting import RESULT_COLUMNS, columns_of, versions
from sweep import Job, Run, beside, sweep
from train import Loss, hard_loss, logits_of, measure, prepare, run, train
from training_params import Parser, UserError, add_flags, chosen_params, common_flags, run_script

STACKED_UNITS = 100  # up to here a stack of students takes less time than one after the other
TEACHER = MODELS / "cumbersome_model_1200.pt"


EXAMPLES = """\
python distillation.py --hidden-units 300 --temperature 8 --seed 1
python distillation.py --teacher runs/my_teacher.pt --hard-weight 0.1
python distillation.py --temperature 2 4 8 20 --seed 0 1 2 --results runs/temperatures.csv
torchrun --nproc-per-node 2 distillation.py --temperature 2 4 8 20 --seed 0 1 2 --threads 1
"""


def soft_targets(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Probabilities (..., N, 10): the softmax of logits / T ([KD] s.2, eq. 1)."""
    return F.softmax(logits / temperature, dim=-1)


def distillation_loss(temperature: float | Tensor, hard_weight: float) -> Loss:
    """The loss of [KD] s.2: (1 - hard_weight) * T^2 * soft + hard_weight * hard.

    soft is the cross entropy with the soft targets, both at T, less the entropy of the targets: a
    constant without which it falls to 0. hard is the cross entropy with the correct labels at
    T = 1. Both are averaged over the cases of the minibatch, and over nothing else. Soft-target
    gradients scale as 1/T^2, so the factor T^2 keeps the two in proportion, and the meaning of the
    learning rate, whatever T is. The loss takes logits (B, 10) to (); those of a stack of S
    students, (S, B, 10), with T of shape (S, 1, 1), to (S,), from soft targets alone.
    Raises UserError for a temperature that is not above 0 and a weight outside 0 to 1.
    """
    if not 0 <= hard_weight <= 1 or not (torch.as_tensor(temperature) > 0).all():
        raise UserError(f"no loss for temperature {temperature}, hard_weight {hard_weight}")
    scale = torch.as_tensor(temperature).square().flatten().squeeze()

    def loss(logits: Tensor, batch: Digits) -> Tensor:
        teacher_logits, classes = batch.teacher_logits, -1
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
    student: nn.Module, teacher: nn.Module, transfer_set: Digits, params: Any, **options: Any
) -> list[dict[str, Any]]:
    """Train `student` in place on the soft targets of `teacher`; returns the history.

    The teacher runs once, in eval mode, on the images as they are: the transfer set of [KD] s.3
    holds no translations, so its logits never change. `params` has the fields of a `Distilled`
    class of training_params.py, or is one; `options` are the keyword arguments of `train`.
    Raises UserError for jitter, under which the logits would not be those of the images.
    """
    if params.jitter:
        raise UserError("distillation takes no --jitter: the soft targets are of unmoved images")
    teacher_logits = logits_of(teacher, transfer_set.images)
    if not torch.isfinite(teacher_logits).all():
        raise UserError("the logits of the teacher are not finite")
    transfer_set = replace(transfer_set, teacher_logits=teacher_logits)
    loss = distillation_loss(params.temperature, params.hard_weight)
    return train(student, transfer_set, params, loss=loss, **options)


def distill_together(
    temperatures: Sequence[float],
    seeds: Sequence[int],
    teacher: nn.Module,
    transfer_set: Digits,
    params: Any,
    **options: Any,
) -> dict[tuple[float, int], SmallNet]:
    """Distil a student for every temperature with every seed, all at once; by (T, seed).

    Each gets the weights that `init_weights` and `distill` alone would give it, but for rounding.
    Worth it for small students, of 30 units say; `params` and `options` are those of `distill`,
    less temperature and seed. Raises UserError for regularisation and for a weight on the labels.
    """
    if params.hard_weight or params.max_squared_length:
        raise UserError("students distilled together take no hard_weight or max_squared_length")
    if any(not values or len({*values}) < len(values) for values in (seeds, temperatures)):
        raise UserError("students distilled together need temperatures and seeds, each only once")
    students = {}
    for seed, temperature in itertools.product(seeds, temperatures):
        student = SmallNet(params.hidden_units, params.dropout_visible, params.dropout_hidden)
        init_weights(student, params.init_std, seed)
        students[temperature, seed] = student
    device = transfer_set.labels.device
    stack = StackedNet(list(students.values()), orders=len(seeds)).to(device)
    each = torch.tensor([t for t, _ in students], device=device)[:, None, None]
    fields = {name: getattr(params, name) for name in dir(params) if not name.startswith("_")}
    together = SimpleNamespace(**fields | {"temperature": each})
    distill(stack, teacher, transfer_set, together, seed=list(seeds), **options)
    stack.unstack(list(students.values()))
    return students


def run_distillation(
    args: argparse.Namespace,
    params: SimpleNamespace,
    mnist: Mnist,
    device: torch.device,
    transfer_set: Digits,
) -> dict[str, Any]:
    """Distil the net in `args.teacher`, save the student under `args.output`; its checkpoint."""
    if os.path.realpath(args.teacher) in beside(args.output):
        raise UserError(f"--output {args.output} would replace the teacher: choose another")
    teacher = load_model(args.teacher).to(device)
    origin = {"file": args.teacher.name, "sha256": sha256(args.teacher)}
    student = SmallNet(params.hidden_units, params.dropout_visible, params.dropout_hidden)
    fit = partial(distill, student.to(device), teacher, transfer_set, params)
    return run(args, student, params, mnist, transfer_set, fit, origin)


def group_small(runs: list[Run]) -> list[Job]:
    """Runs of small students that differ in temperature and seed alone together, others alone.

    For `distill_together`: in a job there is each of its temperatures with each of its seeds.
    """
    alone = ("hard_weight", "max_squared_length", "dropout_visible", "dropout_hidden")
    seeds: dict[tuple, list[int]] = {}  # that each setting is to be run with
    for params, seed in runs:
        seeds.setdefault(tuple(vars(params).items()), []).append(seed)
    jobs: dict[tuple, Job] = {}
    for place, (params, seed) in enumerate(runs):
        values = vars(params)
        alike = *(v for k, v in values.items() if k != "temperature"), *seeds[(*values.items(),)]
        small = params.hidden_units <= STACKED_UNITS
        stacked = small and not any(values[name] for name in alone)
        jobs.setdefault(alike if stacked else (place,), []).append(Run(params, seed))
    return list(jobs.values())


def run_together(
    args: argparse.Namespace, job: Job, mnist: Mnist, device: torch.device
) -> list[dict[str, Any]]:
    """Distil the students of a job of `group_small`; their results, by column. None is saved."""
    teacher = load_model(args.teacher).to(device)
    temperatures = list(dict.fromkeys(params.temperature for params, _ in job))
    seeds = list(dict.fromkeys(seed for _, seed in job))
    students = distill_together(
        temperatures, seeds, teacher, mnist.training, job[0].params, precision=args.precision
    )
    results = []
    for params, seed in job:
        result = measure(students[params.temperature, seed], mnist.test.to("cpu"))
        record = {"result": result, "history": [{"loss": ""}], "versions": versions()}
        of = f"{params.hidden_units} units, T = {params.temperature:g}, seed {seed}"
        tqdm.write(f"{of}: {result['errors']} errors on {result['cases']:,} cases, not saved")
        results.append(columns_of(record))
    return results


def check_teacher(teacher: Path, mnist: Mnist) -> None:
    """Say so if the teacher has learned from images on which the student's errors are counted.

    Raises UserError if they are held out to choose by: such a choice would be worth nothing.
    """
    learned_from = load_checkpoint(teacher).get("data_set", {}).get("name")
    if mnist.name.endswith(" validation") and learned_from != mnist.name:
        raise UserError(
            f"{teacher} may have learned from the held-out images: name one with --teacher that "
            "`train.py --validation` made from the same data"
        )
    if mnist.name == "sample" and learned_from in ("MNIST", "MNIST validation"):
        print("The teacher has seen the sample's test images, which are MNIST's training images.")


def distillation_setting(args: argparse.Namespace, mnist: Mnist) -> dict[str, str]:
    """What, beside hyperparameters and seed, tells one distillation from another."""
    teacher = sha256(args.teacher)[:12]
    return {"data": mnist.name, "precision": args.precision, "teacher": teacher}


def distillation_flags(parser: Parser, **defaults: Any) -> None:
    """Add the flags of a distillation; `defaults` are those in which a script differs."""
    parser.add_argument(
        "--teacher",
        type=Path,
        default=TEACHER,
        help=f"checkpoint to distil [models/{TEACHER.name}]",
    )
    common_flags(parser)
    note = "but for the defaults of this script: " + ", ".join(defaults) if defaults else ""
    add_flags(parser, "Distilled", note, **defaults)


def main() -> None:
    parser = Parser(EXAMPLES, description=__doc__)
    distillation_flags(parser)
    args = parser.parse_args()
    choices = chosen_params(args, "Distilled")
    mnist, device = prepare(args)
    check_teacher(args.teacher, mnist)

    def work(args: argparse.Namespace, job: Job) -> list[dict[str, Any]]:
        if len(job) > 1:
            return run_together(args, job, mnist, device)
        return [columns_of(run_distillation(args, job[0].params, mnist, device, mnist.training))]

    def name(params: Any) -> str:
        return f"distilled_model_{params.hidden_units}_{params.temperature:g}.pt"

    setting = distillation_setting(args, mnist)
    grouped = {} if args.log is not None else {"group": group_small}  # a stack has no events
    sweep(args, choices, setting, name, RESULT_COLUMNS, work, **grouped)


if __name__ == "__main__":
    run_script(main)
