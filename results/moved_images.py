"""A control for C3: a student that sees moved images, and what its teacher says of each of them.

    python -m results.moved_images --seed 0 1 2 3 4 --threads 1 --results results/moved_images.csv

It is *not* the student of [KD] s.3, whose transfer set "does not contain any translations". It
shows what a student of 800 units makes whose images are moved by mistake, and that its size is not
what keeps the others from the paper's 74 errors.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dataset import Digits
from distillation import distillation_loss, spare_teachers
from layers import SmallNet
from support.command_line import Parser, hyperparameter_flags, training_flags
from support.machine import set_up
from support.records import columns_of, setting
from support.runs import plan
from support.script import run_script
from support.sweep import Results
from support.teacher import TEACHER, load_teacher
from train import Loss, run

TEMPERATURE = 20.0  # [KD] s.3
DEFAULTS = {"jitter": 2, "epochs": 60, "schedule_epochs": 60}
EXAMPLES = "python -m results.moved_images --seed 0 1 2\n"


def moved_loss(teacher: nn.Module, temperature: float) -> Loss:
    """`distillation_loss` with the soft targets of each minibatch as the student sees it."""
    distil = distillation_loss(temperature, hard_weight=0.0)

    def loss(logits: Tensor, batch: Digits) -> Tensor:
        with torch.no_grad():
            seen = replace(batch, teacher_logits=teacher(batch.images))
        return distil(logits, seen)

    return loss


def main() -> None:
    parser = Parser(EXAMPLES, prog="python -m results.moved_images", description=__doc__)
    training_flags(parser)
    hyperparameter_flags(parser, "Small", f"but for {', '.join(DEFAULTS)}", **DEFAULTS)
    args = parser.parse_args()
    mnist, device = set_up(args)
    (teacher,), about = load_teacher([TEACHER], mnist, args.quiet)
    loss = moved_loss(teacher.to(device), TEMPERATURE)
    runs = plan(args, "Small", "moved_model_{hidden_units}", lambda params: loss)
    spare_teachers([TEACHER], runs)
    shared = ["data", "precision", "teacher"]
    with Results(args, runs, setting(args, SmallNet, mnist, about), shared) as results:
        for planned in results.todo():
            with results.row(planned) as row:
                model = SmallNet(planned.params.hidden_units).to(device)
                row |= columns_of(run(planned, model, mnist))


if __name__ == "__main__":
    run_script(main)
