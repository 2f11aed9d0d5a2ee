"""Errors of checkpoints on the test set: `python evaluate.py [CHECKPOINT ...]`.

Prints a line for each, by default for those in models/, in ten seconds:

    file                             architecture                     weights  T  errors  paper ...
    models/cumbersome_model_1200.pt  CumbersomeNet 784-1200-1200-10  2,395,210         60     67 ...

`--translate 1 2 3` counts the errors on test images moved by so many pixels, too, and `--ensemble`
those of all the nets together. `--image FILE` asks the nets what digit a picture shows, and
`--describe` prints what the files record of their training. The functions `logits_of`,
`count_errors` and `measure` do the same for any net, or list of nets, in Python.
"""

import argparse
import itertools
import json
import os
import re
import reprlib
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import (
    Digits,
    Mnist,
    from_picture,
    labels_of,
    load_mnist,
    pixels,
    translate,
    warn_if_inverted,
)
from support.checkpoints import MODELS, load_checkpoint, model_from
from support.command_line import Parser, data_flags, user_path
from support.errors import UserError
from support.files import read_file, sha256
from support.hyperparameters import PIXELS
from support.means import in_columns
from support.paper import paper_errors
from support.reporting import data_in_words, describe, description
from support.script import run_script
from support.teacher import Ensemble, check_distinct, checked_logits, note_on_data, taking_pixels

Model = nn.Module | Ensemble
COLUMNS = "{:{}} {:30} {:>10} {:>5} {:>7} {:>6}  {}"
LEVELS = " .:*#"  # of grey


EXAMPLES = """\
python evaluate.py runs/my_teacher.pt
python evaluate.py runs/my_teacher.pt --translate 1 2 3
python evaluate.py --ensemble runs/my_teacher.pt models/cumbersome_model_1200.pt
python evaluate.py --verify  # compare with what is recorded
python evaluate.py --describe runs/my_teacher.pt  # command, seed, hyperparameters, result
python evaluate.py --image seven.png  # a digit of your own
"""


@torch.no_grad()
def logits_of(model: Model, images: Tensor, chunk: int = 2000) -> Tensor:
    """float32 logits (N, 10) in eval mode for uint8 images (N, 28, 28); no random number is drawn.

    Those of a stack are (S, N, 10), those of an ensemble the `mean_logits` of its nets. In chunks,
    for memory, on the device of the model, which is in eval mode afterwards. Raises UserError for a
    net that does not take or return these.
    """
    if isinstance(model, Ensemble):
        return mean_logits([logits_of(net, images, chunk) for net in nets_of(model)])
    if not isinstance(images, Tensor):
        raise UserError(f"images must be a tensor (N, 28, 28), not a {type(images).__name__}")
    with taking_pixels(model):
        model.eval()
        device = next((parameter.device for parameter in model.parameters()), images.device)
        parts = (pixels(part.to(device)) for part in images.split(chunk))
        logits = [checked_logits(model, model(part), len(part)) for part in parts]
        if images.shape[1:] == (28, 28):
            warn_if_inverted(images)
        return torch.cat(logits, dim=-2).to(images.device)


def nets_of(model: Model) -> list[nn.Module]:
    """The nets of an ensemble, or the one net. Raises UserError for a list in a list, or no net."""
    nets = list(model) if isinstance(model, Ensemble) else [model]
    if not nets or any(isinstance(net, Ensemble) for net in nets):
        raise UserError("an ensemble is a list of nets, at least one")
    return nets


def mean_logits(logits: Sequence[Tensor], arithmetic_at: float | None = None) -> Tensor:
    """float32 logits (N, 10) of an ensemble from those of its nets, (N, 10) each.

    Their softmax is a mean of the nets' distributions, which [KD] s.1 has as "an arithmetic or
    geometric mean": the geometric one (normalised) at every T, or the arithmetic one at the T in
    `arithmetic_at` alone. Raises UserError for logits of other shapes and for a T not above 0.
    """
    if any(each.dim() != 2 or each.shape != logits[0].shape for each in logits):
        raise UserError(
            "each net of an ensemble must return logits (N, 10); a stack is not one net"
        )
    each = torch.stack(list(logits))
    if arithmetic_at is None:
        return each.mean(0)
    if not 0 < arithmetic_at < float("inf"):
        raise UserError(f"no mean at temperature {arithmetic_at}: it must be finite and above 0")
    # As logarithms no probability is rounded to 0. At a high T they differ little, hence float64,
    # on the processor, as some devices have none. Less the highest, float32 keeps the differences.
    log_sum = F.log_softmax(each.to("cpu", torch.float64) / arithmetic_at, dim=-1).logsumexp(0)
    relative = arithmetic_at * (log_sum - log_sum.amax(-1, keepdim=True))
    return relative.float().to(each.device)


def count_errors(model: Model, digits: Digits) -> Tensor:
    """The number of `digits` that are not classified correctly: int64 (), of a stack (S,)."""
    labels = labels_of(digits)
    return (logits_of(model, digits.images).argmax(-1) != labels).sum(-1)


def measure(model: Model, digits: Digits) -> dict[str, Any]:
    """Errors of a net as checkpoints record them: integers, in total and for each digit.

    Warns if the net returns logits that are not finite.
    """
    labels, logits = labels_of(digits), logits_of(model, digits.images)
    if not torch.isfinite(logits).all():
        warnings.warn(
            "this net returns logits that are not finite: its errors mean little", stacklevel=2
        )
    wrong = labels[logits.argmax(-1) != labels]
    return {
        "errors": len(wrong),
        "cases": len(digits),
        "errors_per_digit": wrong.bincount(minlength=10).tolist(),
        "cases_per_digit": labels.bincount(minlength=10).tolist(),
    }


def translated_errors(model: Model, digits: Digits, distance: int) -> float:
    """Mean number of errors on `digits` moved by `distance` pixels in each of eight directions.

    They are up, down, left, right and the diagonals, on which both coordinates change by as much.
    """
    moves = [move for move in itertools.product((-distance, 0, distance), repeat=2) if any(move)]
    moved = [replace(digits, images=translate(digits.images, *move)) for move in moves or [(0, 0)]]
    return sum(int(count_errors(model, part)) for part in moved) / len(moved)


def evaluate(path: Path, mnist: Mnist, distances: Sequence[int] = ()) -> dict[str, Any]:
    """A row of the table: what the checkpoint at `path` is and its errors, counted now."""
    checkpoint = load_checkpoint(path)
    if note := note_on_data(path, checkpoint):
        print(note, file=sys.stderr)
    units, parameters = checkpoint["hidden_units"], checkpoint.get("parameters", {})
    return {
        "file": str(path),
        "architecture": f"{checkpoint['architecture']} 784-{units}-{units}-10",
        "temperature": parameters.get("temperature"),
        "paper": paper_errors(checkpoint) if mnist.name == "MNIST" else None,
        **errors_of(model_from(checkpoint), mnist, distances),
    }


def evaluate_ensemble(
    nets: Sequence[nn.Module], mnist: Mnist, distances: Sequence[int] = ()
) -> dict[str, Any]:
    """A row of the table for several nets together."""
    return {
        "file": "the ensemble",
        "architecture": f"{len(nets)} nets, mean of their logits",
        "temperature": None,
        "paper": None,
        **errors_of(nets, mnist, distances),
    }


def errors_of(model: Model, mnist: Mnist, distances: Sequence[int]) -> dict[str, Any]:
    """The columns of a row that are counted: weights and errors."""
    return {
        "parameters": sum(p.numel() for net in nets_of(model) for p in net.parameters()),
        "data_set": mnist.name,
        **measure(model, mnist.test),
        "translated": {str(n): translated_errors(model, mnist.test, n) for n in distances},
    }


def verify(row: dict[str, Any]) -> list[str]:
    """What of a row is not as recorded: in the checkpoint, and in the SHA256SUMS beside it."""
    path = Path(row["file"])
    checkpoint = load_checkpoint(path)
    recorded, name = checkpoint.get("result", {}), checkpoint.get("data_set", {}).get("name")
    if name not in (None, row["data_set"]):
        return [f"its recorded errors are on {reprlib.repr(name)}, not on {row['data_set']!r}"]
    found = [
        f"{name} {row[name]}, recorded {reprlib.repr(recorded.get(name))}"
        for name in ("errors", "errors_per_digit", "cases")
        if row[name] != recorded.get(name)
    ]
    sums = path.with_name("SHA256SUMS")
    if not sums.exists():
        return found
    listed = read_file(sums).decode(errors="replace").splitlines()
    if f"{sha256(path)}  {path.name}" not in listed:
        found.append(f"{sums} does not list it with its SHA-256")
    return found


def print_verdicts(rows: list[dict[str, Any]]) -> bool:
    """A line for each row; whether all are as recorded."""
    found = {row["file"]: verify(row) for row in rows}
    for file, problems in found.items():
        print(f"{file}: {'; '.join(problems) or 'as recorded'}")
    return not any(found.values())


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each net."""
    width = max(len(row["file"]) for row in rows)
    names = ("architecture", "weights", "T", "errors", "paper", "on 0 to 9")
    print(COLUMNS.format("file", width, *names))
    for row in rows:
        print(
            COLUMNS.format(
                row["file"],
                width,
                row["architecture"],
                f"{row['parameters']:,}",
                row["temperature"] or "",
                row["errors"],
                row["paper"] or "",
                " ".join(f"{n:3}" for n in row["errors_per_digit"]),
            )
        )


def print_translated(rows: list[dict[str, Any]], distances: Sequence[int]) -> None:
    """A line for each net, of its errors on moved test images."""
    print("Errors on test images moved by so many pixels, the mean of eight directions")
    width = max(len(row["file"]) for row in rows)
    print(f"{'file':{width}}" + "".join(f" {n:>9}" for n in distances))
    for row in rows:
        errors = (row["translated"][str(n)] for n in distances)
        print(f"{row['file']:{width}}" + "".join(f" {e:9,.1f}" for e in errors))


def answer_of(path: Path, picture: Tensor) -> dict[str, Any]:
    """What the net in a file takes a picture, uint8 (28, 28), for: digit and probabilities."""
    (logits,) = logits_of(model_from(load_checkpoint(path)), picture[None])
    if not torch.isfinite(logits).all():
        raise UserError(f"the logits of {path} for this picture are not finite: it has no answer")
    probabilities = F.softmax(logits, dim=-1).tolist()
    return {"file": str(path), "answer": int(logits.argmax()), "probabilities": probabilities}


def print_answers(answers: list[dict[str, Any]], picture: Tensor) -> None:
    """The picture as the nets see it, in characters twice as high as wide; a line for each net."""
    levels = picture.view(14, 2, 28).float().mean(1) / 256 * len(LEVELS)
    for row in levels.int().tolist():
        print("".join(LEVELS[level] for level in row).rstrip())
    rows = [["file", "answer", *map("{:>5}".format, range(10))]]
    for answer in answers:
        probabilities = map("{:5.3f}".format, answer["probabilities"])
        rows.append([answer["file"], str(answer["answer"]), *probabilities])
    print(in_columns(rows))


def parse_arguments() -> argparse.Namespace:
    parser = Parser(EXAMPLES, description=__doc__)
    parser.usage = "%(prog)s [option ...] [CHECKPOINT ...]"
    parser.add_argument("checkpoints", nargs="*", type=user_path, metavar="CHECKPOINT")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    form = parser.add_mutually_exclusive_group()
    compare = "compare with the recorded errors and SHA256SUMS"
    form.add_argument("--verify", action="store_true", help=compare)
    record = "print what the checkpoints record of their training; count nothing"
    form.add_argument("--describe", action="store_true", help=record)
    image = "print what the nets take a picture of a digit for, with their probabilities"
    form.add_argument("--image", type=user_path, metavar="FILE", help=image)
    together = "also count the errors of the mean of all logits; name two or more checkpoints"
    parser.add_argument("--ensemble", action="store_true", help=together)
    moved = "also count errors on images moved by so many pixels"
    parser.add_argument("--translate", nargs="+", default=[], metavar="PIXELS", help=moved)
    data_flags(parser)
    args = parser.parse_args()
    if (args.verify or args.describe or args.image) and (args.translate or args.ensemble):
        raise UserError("--translate and --ensemble count errors: leave out the other flags")
    if args.verify and args.json:
        raise UserError("--verify prints no rows: leave out --json")
    # A checkpoint may stand behind the numbers: argparse takes it for one of them.
    words, args.translate = args.translate, []
    for word in words:
        if re.fullmatch(r"[\d.+-]*", word):
            args.translate.append(PIXELS.check(word, "argument --translate: "))
        else:
            args.checkpoints.append(user_path(word))
    if args.ensemble and len(args.checkpoints) < 2:
        raise UserError("argument --ensemble: name two or more checkpoints")
    if words and not args.translate:
        raise UserError(f"argument --translate: {words[0]!r} is not {PIXELS.describe()}")
    return args


def published() -> list[Path]:
    """The checkpoints in models/. Raises UserError if there are none."""
    paths = sorted(MODELS.glob("[!.]*.pt"))  # macOS puts a ._NAME.pt beside some files
    if not paths:
        raise UserError("there are no checkpoints in models/: name one, or train one with train.py")
    with suppress(ValueError):  # on another drive of Windows there is no relative path
        paths = [Path(os.path.relpath(path)) for path in paths]
    return paths


def main() -> None:
    args = parse_arguments()
    paths = args.checkpoints or published()
    if args.describe:
        each = [description(path) for path in paths]
        print(json.dumps(each, indent=1) if args.json else "\n".join(map(describe, each)))
        return
    if args.image:
        picture = from_picture(args.image)
        answers = [answer_of(path, picture) for path in paths]
        print(json.dumps(answers, indent=1)) if args.json else print_answers(answers, picture)
        return
    mnist = load_mnist(args.data_dir, args.data)
    distances = list(dict.fromkeys(args.translate))
    if args.ensemble:
        nets = [model_from(load_checkpoint(path)) for path in paths]
        check_distinct(nets, paths)
    rows = [evaluate(path, mnist, distances) for path in paths]
    if args.ensemble:
        rows.append(evaluate_ensemble(nets, mnist, distances))
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    if args.verify:
        sys.exit(0 if print_verdicts(rows) else 1)
    data = data_in_words(mnist.name)
    print(f"Errors on {len(mnist.test):,} test images of {data}, beside those of [KD] s.3")
    if mnist.source == "sample":
        print("They are of MNIST's training images: a net trained on MNIST has seen them.")
    print_table(rows)
    if distances:
        print_translated(rows, distances)


if __name__ == "__main__":
    run_script(main)
