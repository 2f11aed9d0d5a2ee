"""Distil without ever showing a 3: `python distillation_no_three.py`.

The last lines, after three minutes on one processor core (seed 0):

    shift of the bias of 3                           errors     on 3  paper
    as learned                                +0.00     219      144  206 (133)
    as in [KD]                                +3.50     119       30  109 (14)
    best on the test set, as [KD] chose it    +3.67     117       27
    by class frequencies, no test labels      +4.95     129       12

[KD] s.3: all 3s are left out of the transfer set, so that to the student "3 is a mythical digit
that it has never seen". Most of its errors on 3s disappear when the bias of that class is raised.
`--keep 7 8` leaves out everything but 7s and 8s.
"""

import argparse
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dataset import Mnist, filter_by_class
from distillation import distillation_flags, loss_of, student_for, with_teacher
from evaluate import logits_of
from layers import RectifierNet, SmallNet
from support.checkpoints import model_from
from support.command_line import Parser
from support.errors import UserError
from support.hyperparameters import Allowed
from support.machine import set_up
from support.paper import PAPER, PAPER_SHIFTS, in_brackets
from support.records import RESULT_COLUMNS, columns_of, setting
from support.runs import plan
from support.script import run_script
from support.sweep import Results
from train import run

# [KD] states neither these nor the student's size and temperature. What it knows of a digit that it
# never saw shows late, when it matches the soft targets closely.
DEFAULTS = {"epochs": 40, "schedule_epochs": 40}

SHIFT = Allowed(float, low=-1000, high=1000)
DIGIT = Allowed(int, high=9)
ROWS = ("learned", "paper", "best", "label_free")  # of the last table, that are recorded
COLUMNS = [f"{row}_{value}" for row in ROWS for value in ("shift", "errors", "on_group")]


EXAMPLES = """\
python distillation_no_three.py --omit 4 9  # any digits
python distillation_no_three.py --keep 7 8 --epochs 100  # leave out all but 7s and 8s
python distillation_no_three.py --bias-shift 3  # also count errors at this shift
python distillation_no_three.py --hidden-units 300 --temperature 8 --seed 0 1 2
"""


class Row(NamedTuple):
    """Of the last table."""

    column: str  # of a CSV file of results
    name: str
    shift: float
    paper: str = ""  # its errors


class Margins(NamedTuple):
    """What shifting the biases of a group of classes does to N cases, for all shifts at once."""

    needed: Tensor  # float32 (N,): a case is put in the group if the shift is above this
    inside_wrong: Tensor  # bool (N,): it is an error then
    outside_wrong: Tensor  # bool (N,): it is an error otherwise


def margins(logits: Tensor, labels: Tensor, group: list[int]) -> Margins:
    """Margins of logits (N, 10) and labels (N,) for one shift of all biases in `group`."""
    member = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    member[group] = True
    inside = logits.masked_fill(~member, -torch.inf).max(dim=1)
    outside = logits.masked_fill(member, -torch.inf).max(dim=1)
    return Margins(
        outside.values - inside.values, inside.indices != labels, outside.indices != labels
    )


def best_shift(cases: Margins) -> float:
    """The shift with the fewest errors on `cases`: the middle of the widest best interval."""
    needed, order = cases.needed.sort()
    # Between needed[k - 1] and needed[k] the first k cases are put in the group; here are also the
    # shifts below all of them and above. Cases that need the same shift are put there together.
    room = (1e-6 * needed.abs().max()).clamp(min=1)  # more than rounding takes away
    limits = torch.cat((needed[:1] - room, needed, needed[-1:] + room))
    gained = cases.inside_wrong[order].long() - cases.outside_wrong[order].long()
    errors = torch.cat((gained.new_zeros(1), gained.cumsum(0)))
    width = limits.diff()
    k = int(width.masked_fill(errors > errors[width > 0].min(), -1).argmax())
    return float(limits[k] + limits[k + 1]) / 2


def label_free_shift(needed: Tensor, share: float) -> float:
    """The shift that puts `share` of two or more cases in the group; needs no label of them."""
    k = min(max(round(share * len(needed)), 1), len(needed) - 1)
    below, above = needed.sort().values[k - 1 : k + 1].tolist()
    return (below + above) / 2


def wrong_at(cases: Margins, shift: float) -> Tensor:
    """Which cases are errors with `shift` added to the biases of the group: bool (N,)."""
    return torch.where(cases.needed < shift, cases.inside_wrong, cases.outside_wrong)


def errors_at(cases: Margins, labels: Tensor, group: list[int], shift: float) -> tuple[int, int]:
    """Errors in total, and on the digits in `group`, with `shift` added to the group's biases."""
    wrong = wrong_at(cases, shift)
    in_group = torch.isin(labels, torch.tensor(group, device=labels.device))
    return int(wrong.sum()), int((wrong & in_group).sum())


def found_shifts(
    student: RectifierNet, mnist: Mnist, group: list[int]
) -> tuple[Margins, float, float]:
    """Margins on the test set, the shift that is best on it, and one that needs no labels of it.

    That one puts as many of the training images in `group` as belong there. They include those of
    digits that the student never saw, but of the labels only the share of the group is used.
    """
    training, test = mnist.training.to("cpu"), mnist.test.to("cpu")
    cases = margins(logits_of(student, test.images), test.labels, group)
    seen = margins(logits_of(student, training.images), training.labels, group)
    in_group = torch.isin(training.labels, torch.tensor(group, device="cpu"))
    share = in_group.float().mean().item()
    return cases, best_shift(cases), label_free_shift(seen.needed, share)


def report_shifts(
    student: RectifierNet, mnist: Mnist, group: list[int], rows: list[Row]
) -> dict[str, Any]:
    """Print the errors for each of `rows` and, below them, for the best and a label-free shift.

    Returns shift, errors in total and errors on the group, and the learned biases, by column.
    """
    test = mnist.test.to("cpu")
    cases, best, label_free = found_shifts(student, mnist, group)
    best_on = "held-out set" if mnist.held_out else "test set, as [KD] chose it"
    rows = [
        *rows,
        Row("best", f"best on the {best_on}", best),
        Row("label_free", "by class frequencies, no test labels", label_free),
    ]
    names = ", ".join(map(str, group))
    first, last = f"shift of the bias of {names}", f"on {names}"
    wide, narrow = max(40, len(first)), max(8, len(last))
    tqdm.write(f"{first:{wide}} {'':6} {'errors':>7} {last:>{narrow}}  paper")
    columns: dict[str, Any] = {}
    for column, name, shift, paper in rows:
        total, on_group = errors_at(cases, test.labels, group, shift)
        line = f"{name:{wide}} {shift:+6.2f} {total:7,} {on_group:{narrow},}  {paper}"
        tqdm.write(line.rstrip())
        if column in ROWS:
            columns |= {f"{column}_shift": round(shift, 3), f"{column}_errors": total}
            columns |= {f"{column}_on_group": on_group}
    return columns | {"biases": " ".join(f"{b:.3f}" for b in student.output.bias.tolist())}


def shift_rows(given: float | None, mnist: Mnist, which: str, digits: list[int]) -> list[Row]:
    """The rows of the table that do not depend on the student; `given` is the user's shift."""
    shift, *claims = PAPER_SHIFTS.get((which, tuple(digits)), (0.0, "", ""))
    compares = mnist.name == "MNIST" and shift
    learned, shifted = (in_brackets(PAPER[claim]) if compares else "" for claim in claims)
    rows = [Row("learned", "as learned", 0.0, learned)]
    if shift:
        rows.append(Row("paper", "as in [KD]", shift, shifted))
    if given is not None:
        rows.append(Row("given", "as given", given))
    return rows


def chosen_digits(args: argparse.Namespace) -> tuple[str, list[int]]:
    """Whether to "omit" or "keep", and which digits. Raises UserError for both, and for all."""
    if args.keep and args.omit:
        raise UserError("give either --keep or --omit, not both")
    which = "keep" if args.keep else "omit"
    digits = sorted(set(args.keep or args.omit or [3]))
    if len(digits) == 10:
        raise UserError(f"--{which} {' '.join(map(str, digits))}: name some of the digits, not all")
    return which, digits


def parse_arguments() -> argparse.Namespace:
    parser = Parser(EXAMPLES, description=__doc__)
    some = {"type": DIGIT.check, "nargs": "+", "metavar": "DIGIT"}
    parser.add_argument("--omit", **some, help="digits left out [3]")
    parser.add_argument("--keep", **some, help="digits left in, all others out")
    parser.add_argument(
        "--bias-shift",
        type=SHIFT.check,
        metavar="X",
        help="also count errors with the bias shifted by X",
    )
    distillation_flags(parser, **DEFAULTS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    which, digits = chosen_digits(args)
    mark = {"omit": "wo", "keep": "only"}[which] + "".join(map(str, digits))
    name = f"distilled_model_{mark}_{{hidden_units}}_{{temperature:g}}"
    runs = plan(args, "Distilled", name, loss_of)
    mnist, device = set_up(args)
    seen = mnist._replace(training=filter_by_class(mnist.training, **{which: digits}))
    seen, teacher = with_teacher(args, runs, seen)
    table = shift_rows(args.bias_shift, mnist, which, digits)
    shared = ["data", "precision", "teacher", which]
    columns = [*RESULT_COLUMNS, *COLUMNS, "biases"]
    with Results(args, runs, setting(args, SmallNet, seen, teacher), shared, columns) as results:
        for planned in results.todo():
            with results.row(planned) as row:
                student = student_for(planned.params).to(device)
                checkpoint = run(planned, student, seen)
                row |= columns_of(checkpoint)
                row |= report_shifts(model_from(checkpoint), mnist, digits, table)


if __name__ == "__main__":
    run_script(main)
