"""Predicted classes of the test images, of the nets behind the tables: results/predictions.npz.

    python -m results.predictions runs/*.pt

adds these nets. Every count of errors in results/*.csv whose `sha256` is there follows from it:

    stored = numpy.load("results/predictions.npz")
    net = (stored["sha256"] == "40da6e75d1fb") & (stored["shift"] == 0)
    errors = (stored["classes"][net] != load_mnist().test.labels.numpy()).sum()

`classes` is uint8 (R, 10000). `sha256` is the start of the file's sum, as in the rows. `shift` was
added to the biases of the digits that the net had not seen, or alone had seen: 0 or [KD]'s.
"""

import io
from pathlib import Path

import numpy as np

from dataset import Mnist, load_mnist
from evaluate import logits_of
from explore import unseen_digits
from results.runs import RESULTS
from support.checkpoints import load_checkpoint, model_from
from support.command_line import Parser, data_flags, user_path
from support.errors import UserError
from support.files import read_file, replace_file, sha256
from support.paper import PAPER_SHIFTS
from support.script import run_script

EXAMPLES = "python -m results.predictions runs/*.pt\n"
FILE = RESULTS / "predictions.npz"


def predictions_of(path: Path, mnist: Mnist) -> dict[tuple[str, float], np.ndarray]:
    """By the start of the file's SHA-256 and the shift, the predicted classes: uint8 (10000,)."""
    checkpoint = load_checkpoint(path)
    logits = logits_of(model_from(checkpoint), mnist.test.images)
    learned = sha256(path)[:12]
    found = {(learned, 0.0): logits}
    which, digits = unseen_digits(checkpoint) or ("", [])
    shift, *_ = PAPER_SHIFTS.get((which, tuple(digits)), (0.0,))
    if shift:
        found[learned, shift] = logits.clone()
        found[learned, shift][:, digits] += shift
    return {key: each.argmax(1).numpy().astype(np.uint8) for key, each in found.items()}


def stored(path: Path = FILE) -> dict[tuple[str, float], np.ndarray]:
    """What the file has, as `predictions_of` returns it. Raises UserError if it is damaged."""
    if not path.exists():
        return {}
    try:
        arrays = np.load(io.BytesIO(read_file(path)), allow_pickle=False)
        keys = zip(arrays["sha256"].tolist(), arrays["shift"].tolist(), strict=True)
        return dict(zip(keys, arrays["classes"], strict=True))
    except Exception as error:  # a damaged archive can raise anything
        raise UserError(f"{path} is damaged ({type(error).__name__}): take it from Git") from None


def main() -> None:
    parser = Parser(EXAMPLES, prog="python -m results.predictions", description=__doc__)
    parser.add_argument("files", type=user_path, nargs="+", metavar="CHECKPOINT", help="to add")
    data_flags(parser)
    args = parser.parse_args()
    mnist = load_mnist(args.data_dir, args.data)
    if mnist.name != "MNIST":
        raise UserError("predictions are of MNIST's test images, not of the bundled sample")
    found = stored()
    before = len(found)
    for path in args.files:
        found |= predictions_of(path, mnist)
    keys = sorted(found)
    sums, shifts = zip(*keys, strict=True)
    content = io.BytesIO()
    arrays = {"sha256": np.array(sums), "shift": np.array(shifts)}
    # Runs of the same kind answer alike, so that a run takes about a kilobyte.
    np.savez_compressed(content, **arrays, classes=np.stack([found[key] for key in keys]))
    replace_file(FILE, content.getvalue())
    print(f"{len(found) - before} more, {len(found)} in all, in {FILE}")


if __name__ == "__main__":
    run_script(main)
