"""Distil without ever showing a 3: `python distillation_no_three.py`.

[KD] s.3: all 3s are left out of the transfer set, so that to the student "the 3 is a mythical digit
that it has never seen". Most of its errors on 3s go when the bias of that class is raised.
`--keep 7 8` leaves out everything but 7s and 8s.
"""

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dataset import Mnist, filter_by_class
from distillation import (
    check_teacher,
    distillation_flags,
    distillation_setting,
    run_distillation,
)
from layers import RectifierNet, model_from
from reporting import PAPER, PAPER_SHIFTS, RESULT_COLUMNS, columns_of, in_brackets
from sweep import Job, sweep
from train import logits_of, prepare
from training_params import Allowed, Parser, UserError, chosen_params, flag_type, run_script

# [KD] states none of them. So small a net at so low a temperature has still room to be wrong; what
# it knows of a digit that it never saw shows late, when it matches the soft targets closely.
DEFAULTS = {"hidden_units": 300, "temperature": 8.0, "epochs": 40, "schedule_epochs": 40}

Shift = Annotated[float, Allowed(low=-1000, high=1000)]
Digit = Annotated[int, Allowed(high=9)]
Row = tuple[str, str, float, str]  # of the last table: column, name, shift, the paper's errors


EXAMPLES = """\
python distillation_no_three.py --omit 4 9  # any digits
python distillation_no_three.py --keep 7 8 --epochs 100  # leave out all but 7s and 8s
python distillation_no_three.py --bias-shift 3  # also count errors at this shift
python distillation_no_three.py --hidden-units 800 --temperature 20 --seed 0 1 2
"""


class Margins(NamedTuple):
    """What shifting the biases of a group of classes does to N cases, for all shifts at once."""

    needed: Tensor  # float32 (N,): a case is put in the group if the shift is above this
    inside_wrong: Tensor  # bool (N,): it is an error then
    outside_wrong: Tensor  # bool (N,): it is an error otherwise


def margins(logits: Tensor, labels: Tensor, group: list[int]) -> Margins:
    """Margins of logits (N, 10) and labels (N,) for one shift of all biases in `group`."""
    member = torch.zeros(logits.shape[1], dtype=torch.bool)
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
    """The shift that puts `share` of the cases in the group; needs no label of any of them."""
    k = min(max(round(share * len(needed)), 1), len(needed) - 1)
    below, above = needed.sort().values[k - 1 : k + 1].tolist()
    return (below + above) / 2


def count(cases: Margins, labels: Tensor, group: list[int], shift: float) -> tuple[int, int]:
    """Errors in total, and on the digits in `group`, with `shift` added to the group's biases."""
    wrong = torch.where(cases.needed < shift, cases.inside_wrong, cases.outside_wrong)
    in_group = torch.isin(labels, torch.tensor(group))
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
    share = torch.isin(training.labels, torch.tensor(group)).float().mean().item()
    return cases, best_shift(cases), label_free_shift(seen.needed, share)


def report_shifts(
    student: RectifierNet, mnist: Mnist, group: list[int], rows: list[Row]
) -> dict[str, Any]:
    """Print the errors for each of `rows` and, below them, for the best and a label-free shift.

    Returns shift, errors in total and errors on the group, and the learned biases, by column.
    """
    test = mnist.test.to("cpu")
    cases, best, label_free = found_shifts(student, mnist, group)
    validation = mnist.name.endswith("validation")
    best_on = "held-out set" if validation else "test set, as [KD] chose it"
    rows = [
        *rows,
        ("best", f"best on the {best_on}", best, ""),
        ("label_free", "by class frequencies, no test labels", label_free, ""),
    ]
    names = ", ".join(map(str, group))
    tqdm.write(
        f"{f'shift of the bias of {names}':40} {'':6} {'errors':>7} {f'on {names}':>8}  paper"
    )
    columns: dict[str, Any] = {}
    for column, name, shift, paper in rows:
        total, on_group = count(cases, test.labels, group, shift)
        tqdm.write(f"{name:40} {shift:+6.2f} {total:7,} {on_group:8,}  {paper}".rstrip())
        columns |= {f"{column}_shift": round(shift, 3), f"{column}_errors": total}
        columns |= {f"{column}_on_group": on_group}
    return columns | {"biases": " ".join(f"{b:.3f}" for b in student.output.bias.tolist())}


ROWS = ("learned", "paper", "best", "label_free")
COLUMNS = [f"{row}_{value}" for row in ROWS for value in ("shift", "errors", "on_group")]


def shift_rows(args: Any, mnist: Mnist, kind: str, digits: list[int]) -> list[Row]:
    """The rows of the table that do not depend on the student."""
    shift, *claims = PAPER_SHIFTS.get((kind, tuple(digits)), (0.0, "", ""))
    compares = mnist.name == "MNIST" and shift
    learned, shifted = (in_brackets(PAPER[claim]) if compares else "" for claim in claims)
    rows = [("learned", "as learned", 0.0, learned)]
    if shift:
        rows.append(("paper", "as in [KD]", shift, shifted))
    if args.bias_shift is not None:
        rows.append(("given", "as given", args.bias_shift, ""))
    return rows


def chosen_digits(args: Any) -> tuple[str, list[int]]:
    """ "omit" or "keep", and which digits. Raises UserError for both, and for all of them."""
    if args.keep and args.omit:
        raise UserError("give either --keep or --omit, not both")
    kind = "keep" if args.keep else "omit"
    digits = sorted(set(args.keep or args.omit or [3]))
    if len(digits) == 10:
        raise UserError(f"--{kind} {' '.join(map(str, digits))}: name some of the digits, not all")
    return kind, digits


def main() -> None:
    parser = Parser(EXAMPLES, description=__doc__)
    some = {"type": flag_type(Digit), "nargs": "+", "metavar": "DIGIT"}
    parser.add_argument("--omit", **some, help="digits left out [3]")
    parser.add_argument("--keep", **some, help="digits left in, all others out")
    parser.add_argument(
        "--bias-shift", type=flag_type(Shift), metavar="X", help="also count errors at X"
    )
    distillation_flags(parser, **DEFAULTS)
    args = parser.parse_args()
    kind, digits = chosen_digits(args)
    choices = chosen_params(args, "Distilled")
    mnist, device = prepare(args)
    check_teacher(args.teacher, mnist)
    transfer_set = filter_by_class(mnist.training, **{kind: digits})

    def work(args: Any, job: Job) -> list[dict[str, Any]]:
        checkpoint = run_distillation(args, job[0].params, mnist, device, transfer_set)
        rows = shift_rows(args, mnist, kind, digits)
        shifts = report_shifts(model_from(checkpoint), mnist, digits, rows)
        return [columns_of(checkpoint) | {k: v for k, v in shifts.items() if "given" not in k}]

    which = {"omit": "wo", "keep": "only"}[kind] + "".join(map(str, digits))

    def name(params: Any) -> str:
        return f"distilled_model_{which}_{params.hidden_units}_{params.temperature:g}.pt"

    setting = distillation_setting(args, mnist) | {kind: " ".join(map(str, digits))}
    sweep(args, choices, setting, name, [*RESULT_COLUMNS, *COLUMNS, "biases"], work)


if __name__ == "__main__":
    run_script(main)
