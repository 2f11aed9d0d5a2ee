"""A page to draw digits on, for published nets or your own: `python explore.py [CHECKPOINT ...]`.

Writes one HTML file in ten seconds. Any browser opens it from the disk, also on a phone:

    The page is in runs/explore.html (14.7 MB). Open it in a browser.

Draw a digit and see what each net thinks of it, at any temperature. Raise the bias of a 3 in a net
that never saw one. See all errors on the test set. By default the nets are the teacher, a student
distilled from it, a small net that learned from labels, and the students that never saw a 3 and saw
only 7s and 8s. evaluate.py counts errors; this script shows them.
"""

import argparse
import math
import os
import sys
import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataset import Digits, Mnist, load_mnist
from distillation_no_three import Margins, Row, best_shift, margins, shift_rows, wrong_at
from evaluate import logits_of
from support.checkpoints import MODELS, load_checkpoint, model_from
from support.command_line import Parser, data_flags, user_path
from support.errors import UserError
from support.files import check_regular, replace_file
from support.page import STEPS, packed, packed_net, page, rounded
from support.runs import FOLDER, make_folder
from support.script import run_script
from support.teacher import note_on_data

PUBLISHED = [
    MODELS / f"{name}.pt"
    for name in (
        "cumbersome_model_1200",
        "distilled_model_800_20",
        "small_model_800",
        "distilled_model_wo3_800_20",
        "distilled_model_only78_800_20",
    )
]
PLAIN, DISPUTED = 2, 30  # test digits to pick: of each class, and on which two nets disagree
CHANGED = 5 / 10_000  # answers that may differ, as the page carries rounded weights
TURNED = 24  # test digits beside a shift that it turns right

EXAMPLES = """\
python explore.py --open  # shows the page in the browser
python explore.py models/cumbersome_model_1200.pt runs/my_student.pt
python explore.py --output page.html
"""


def unseen_digits(checkpoint: dict[str, Any]) -> tuple[str, list[int]] | None:
    """What a net did not see, as distillation_no_three.py has it: ("omit", [3]), ("keep", [7, 8]).

    The shorter of both lists. None if it saw all digits, or if its record does not say.
    """
    seen = checkpoint.get("data_set", {}).get("digits")
    if not isinstance(seen, list) or not all(type(d) is int and 0 <= d <= 9 for d in seen):
        return None
    omitted = sorted({*range(10)} - {*seen})
    if len(omitted) in (0, 10):
        return None
    return ("omit", omitted) if len(omitted) <= 5 else ("keep", sorted({*seen}))


def in_words(digits: Sequence[int]) -> str:
    """As in "7s and 8s"."""
    *others, last = (f"{digit}s" for digit in digits)
    return f"{', '.join(others)} and {last}" if others else last


def name_of(checkpoint: dict[str, Any]) -> str:
    """The part that a net plays, in plain words."""
    which, digits = unseen_digits(checkpoint) or ("", [])
    if which == "omit":
        return f"Never saw a {' or a '.join(map(str, digits))}"
    if which == "keep":
        return f"Saw only {in_words(digits)}"
    if checkpoint.get("teacher"):
        return "Distilled student"
    return "Teacher" if checkpoint["architecture"] == "CumbersomeNet" else "Small net"


def detail_of(checkpoint: dict[str, Any]) -> str:
    """How large a net is and what it learned from, as far as its record says."""
    units = f"{checkpoint['hidden_units']:,} units per layer"
    temperature = checkpoint.get("parameters", {}).get("temperature")
    if checkpoint.get("teacher"):
        known = type(temperature) in (int, float) and 0 < temperature < 1e6
        at = f" at T = {temperature:g}" if known else ""
        return f"{units}, learned from soft targets{at}"
    return f"{units}, learned from labels" if "teacher" in checkpoint else units


def labelled(checkpoints: Sequence[dict[str, Any]], paths: Sequence[Path]) -> list[dict[str, str]]:
    """Name and detail of each net; where another net has the same name, its file is in it."""
    names = [name_of(checkpoint) for checkpoint in checkpoints]
    times = Counter(names)
    return [
        {"name": f"{name} ({path})" if times[name] > 1 else name, "detail": detail_of(checkpoint)}
        for name, checkpoint, path in zip(names, checkpoints, paths, strict=True)
    ]


def shift_data(
    logits: Tensor, mnist: Mnist, unseen: tuple[str, list[int]] | None
) -> dict[str, Any] | None:
    """The `Margins` of the test set and the rows of distillation_no_three.py's table.

    None for a net that saw all digits.
    """
    if unseen is None:
        return None
    which, group = unseen
    cases = margins(logits, mnist.test.labels, group)
    best = best_shift(cases)
    rows = [*shift_rows(None, mnist, which, group), Row("best", "best here", best)]
    shifts = [row.shift for row in rows]
    room = max(map(abs, shifts)) or 1
    return {
        "group": group,
        "names": in_words(group),
        "rows": [row._asdict() | {"name": row.name.replace("[KD]", "the paper")} for row in rows],
        "low": math.floor(min(shifts) - room),
        "high": math.ceil(max(shifts) + room),
        "turned": turned(cases, best),
        **{name: packed(field) for name, field in cases._asdict().items()},
    }


def turned(cases: Margins, shift: float) -> list[int]:
    """Some test digits that are wrong as learned and right at `shift`, in the order they turn."""
    found = (wrong_at(cases, 0) & ~wrong_at(cases, shift)).nonzero()[:, 0]
    found = found[cases.needed[found].abs().argsort()]
    return found[:: max(1, len(found) // TURNED)][:TURNED].tolist()


def net_data(path: Path, checkpoint: dict[str, Any], mnist: Mnist) -> tuple[dict[str, Any], Tensor]:
    """What the page carries of a net, and its answers on the test set: int64 (N,).

    Answers and margins are PyTorch's, of weights that are not rounded. Raises UserError if the
    logits are not finite, or too large to be compared, or if rounding would change many answers.
    """
    net = model_from(checkpoint)
    logits = logits_of(net, mnist.test.images)
    if not (logits.abs() < 1e30).all():
        raise UserError(f"{path} returns logits that are not finite, or too large: leave it out")
    answers = logits.argmax(1)
    for fineness in STEPS:  # the coarsest that will do makes the smallest page
        carried = logits_of(rounded(net, fineness), mnist.test.images).argmax(1)
        changed = int((carried != answers).sum())
        if changed <= max(1, CHANGED * len(answers)):
            break
    else:
        raise UserError(
            f"{path} cannot be shown: rounded for the page, {changed} of its {len(answers):,} "
            "answers change. Name other checkpoints, without it"
        )
    shift = shift_data(logits, mnist, unseen_digits(checkpoint))
    return packed_net(net, fineness) | {"answers": packed(answers.byte()), "shift": shift}, answers


def picks(test: Digits, answers: Sequence[Tensor]) -> dict[str, list[int]]:
    """Test digits to put on the board: some of each class, and some on which two nets disagree.

    `answers` are of those two, int64 (N,), or of a single net.
    """
    plain = [(test.labels == digit).nonzero()[:PLAIN, 0] for digit in range(10)]
    disputed = (answers[0] != answers[-1]).nonzero()[:DISPUTED, 0]
    return {"plain": torch.cat(plain).tolist(), "disputed": disputed.tolist()}


def explored(paths: Sequence[Path], mnist: Mnist) -> dict[str, Any]:
    """All that the page carries. Raises UserError for a checkpoint that cannot be shown."""
    checkpoints = [load_checkpoint(path) for path in paths]
    labels = labelled(checkpoints, paths)
    nets, answers = [], []
    for path, checkpoint, label in zip(paths, checkpoints, labels, strict=True):
        if note := note_on_data(path, checkpoint):
            print(note, file=sys.stderr)
        net, its_answers = net_data(path, checkpoint, mnist)
        nets.append(label | net)
        answers.append(its_answers)
    # Whoever saw all digits is more interesting in what they disagree on.
    full = [place for place, net in enumerate(nets) if net["shift"] is None]
    pair = (full if len(full) > 1 else [*range(len(nets))])[:2]
    return {
        "nets": nets,
        "test": {
            "name": test_in_words(mnist),
            "images": packed(mnist.test.images),
            "labels": packed(mnist.test.labels.byte()),
        },
        "picks": picks(mnist.test, [answers[place] for place in pair]),
        "pair": [nets[place]["name"] for place in pair],
    }


def test_in_words(mnist: Mnist) -> str:
    """What errors are counted on."""
    cases = f"{len(mnist.test):,}"
    if mnist.source == "sample":
        return f"{cases} digits of the sample, which published nets have seen"
    return f"{cases} test images of MNIST"


def html_path(text: str) -> Path:
    """Where to write the page. Raises UserError for a name that browsers do not show as a page."""
    path = user_path(text)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"argument --output: {path} must end in .html, or browsers show its source")
    check_regular(path)
    return path


def parse_arguments() -> argparse.Namespace:
    parser = Parser(EXAMPLES, description=__doc__)
    parser.usage = "%(prog)s [option ...] [CHECKPOINT ...]"
    parser.add_argument("checkpoints", nargs="*", type=user_path, metavar="CHECKPOINT")
    output = FOLDER / "explore.html"
    where = f"the page to write [{output}]"
    parser.add_argument("--output", type=html_path, metavar="PATH", default=output, help=where)
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    data_flags(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    paths = list(dict.fromkeys(args.checkpoints)) or PUBLISHED
    if os.path.realpath(args.output) in map(os.path.realpath, paths):
        raise UserError(f"--output {args.output} would replace a checkpoint: choose another name")
    data = explored(paths, load_mnist(args.data_dir, args.data))
    content = page("explore", data)
    make_folder(args.output)
    replace_file(args.output, content)
    if args.open:
        webbrowser.open(args.output.resolve().as_uri())
    size = f"{len(content) / 1e6:.1f} MB"
    print(f"The page is in {args.output} ({size}). Open it in a browser.")


if __name__ == "__main__":
    run_script(main)
