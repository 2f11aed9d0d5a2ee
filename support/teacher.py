"""What a teacher, or any net, must take and return; loading the teacher of a distillation."""

import hashlib
import io
import reprlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset import TRAINING_CASES, Digits, Mnist, check_digits, labels_of, pixels
from layers import CLASSES, RectifierNet, StackedNet
from support.checkpoints import MODELS, load_checkpoint, model_from, unwrapped
from support.errors import UserError
from support.files import read_file, sha256
from support.hyperparameters import Params
from support.script import is_of_memory
from support.seeds import as_seeds

TEACHER = MODELS / "cumbersome_model_1200.pt"  # unless another is named
Ensemble = list | tuple | nn.ModuleList  # of nets
WANTED = "take float32 pixels (N, 784) in [0, 1] and return logits (N, 10)"
BATCH_NORMALISATION = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
REMEDY = (
    "wrap it in a module that does; for a net of images "
    "nn.Sequential(nn.Unflatten(1, (1, 28, 28)), net)"
)


def load_teacher(
    paths: Sequence[Path], mnist: Mnist, quiet: bool = False
) -> tuple[list[RectifierNet], dict[str, Any]]:
    """The nets in the files, in the order of their SHA-256, and what their students record.

    Says so if one has learned from images on which the student's errors are counted, or from other
    data. Raises UserError if they are held out to choose by (such a choice would be worth nothing),
    and if two are the same.
    """
    # Sorted, so that A B and B A are the same teacher to the last bit.
    sums, paths = zip(*sorted((sha256(path), path) for path in paths), strict=True)
    nets = []
    for path in paths:
        checkpoint = load_checkpoint(path)
        learned_from = checkpoint.get("data_set", {}).get("name")
        if mnist.held_out and learned_from != mnist.name:
            raise UserError(
                f"{path} may have learned from the held-out images: name one with --teacher that "
                "`train.py --validation` made from the same data"
            )
        if mnist.source == "sample" and str(learned_from).startswith("MNIST") and not quiet:
            print(f"{path.name} has seen the sample's test images, MNIST's training images.")
        if (note := note_on_data(path, checkpoint)) and not quiet:
            print(note)
        nets.append(model_from(checkpoint))
    check_distinct(nets, paths)
    return nets, {"file": ", ".join(path.name for path in paths), "sha256": ", ".join(sums)}


def stored_logits(path: Path, mnist: Mnist) -> tuple[Tensor, dict[str, Any]]:
    """Logits of the training images from a .npy file; what students record of them as a teacher.

    The file has those of all training images, float (60000, 10), of the sample (4000, 10), in the
    order of MNIST's file. Returned are float32 (N, 10), of the N images in `mnist.training`. Raises
    UserError for another file, and for what are not the logits of a teacher.
    """
    content, cases = read_file(path), TRAINING_CASES[mnist.source]
    wanted = f"float ({cases}, 10), the logits of all training images in their order"
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
        found = f"{array.dtype} {array.shape}"
    except Exception:  # a damaged header can raise anything
        raise UserError(f"{path} is not a .npy file: numpy.save must have written it") from None
    if array.dtype.kind != "f" or array.shape != (cases, CLASSES):
        raise UserError(f"{path} holds {found}: it must be {wanted}")
    with np.errstate(over="ignore"):  # an infinity is refused
        logits = torch.from_numpy(array.astype(np.float32))
    try:
        check_logits(logits)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    teacher = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    return logits[mnist.training.indices.cpu()], teacher


def note_on_data(path: Path, checkpoint: dict[str, Any]) -> str | None:
    """A sentence if its net is recorded to have learned from something else than MNIST."""
    name = checkpoint.get("data_set", {}).get("name", "MNIST")
    if str(name).removesuffix(" validation") in ("MNIST", "sample"):
        return None
    return f"{path} was trained on {reprlib.repr(name)}, not on MNIST."


def check_distinct(nets: Sequence[RectifierNet], paths: Sequence[Path]) -> None:
    """Raise UserError if two nets of an ensemble have the same weights.

    As they have if both were trained with the same seed and settings, in files that differ.
    """
    first: dict[bytes, Path] = {}
    for net, path in zip(nets, paths, strict=True):
        weights = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
        if (same := first.setdefault(weights, path)) is not path:
            raise UserError(f"{path} is the same net as {same}: name each net of an ensemble once")


def warn_of_teacher(transfer_set: Digits) -> None:
    """Warn if the teacher gets most of the student's training images wrong, if that is known."""
    if transfer_set.labels is None:
        return
    sentence, is_poor = errors_of_teacher(transfer_set)
    if is_poor:
        warnings.warn(sentence, stacklevel=3)


def errors_of_teacher(transfer_set: Digits) -> tuple[str, bool]:
    """How many of the training images it gets wrong, in a sentence; whether these are most."""
    wrong = int((transfer_set.teacher_logits.argmax(1) != transfer_set.labels).sum())
    cases = len(transfer_set)
    is_poor = wrong > cases / 2
    doubts = "untrained, for pixels of another range, or are its logits in another order?"
    hint = f": is it {doubts}" if is_poor else "."
    return f"The teacher is wrong on {wrong:,} of the {cases:,} training images{hint}", is_poor


def check_logits(logits: Tensor) -> None:
    """Raise UserError for what are not the logits (N, 10) of a teacher.

    That is none, or not finite ones, or probabilities: shares of 1, or of another constant.
    """
    if len(logits) == 0:
        raise UserError("there is no image to distil on")
    if not torch.isfinite(logits).all():
        raise UserError("the logits of the teacher are not finite")
    sums, positive = logits.sum(1), bool((logits >= 0).all())
    if positive and ((logits <= 1).all() or sums.std() < 1e-3 * sums.mean()):
        raise UserError(
            "the teacher returns probabilities, not logits: leave out its softmax or sigmoid, or "
            "return the logarithm of the probabilities"
        )


@contextmanager
def taking_pixels(net: Any) -> Iterator[None]:
    """Turn whatever `net` raises for pixels into a UserError that says what it must take."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # modules raise all kinds for what they do not take
        if is_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"a net must {WANTED}, but this {type(net).__name__} raised {type(error).__name__} "
            f"({reason}): {REMEDY}"
        ) from None


def checked_logits(net: Any, logits: Any, cases: int) -> Tensor:
    """float32 logits (N, 10), of a stack (S, N, 10). Raises UserError for anything else."""
    dense = isinstance(logits, Tensor) and logits.layout is torch.strided
    if dense and logits.is_floating_point():
        stacked = isinstance(unwrapped(net), StackedNet)
        if logits.shape[stacked:] == (cases, CLASSES):
            return logits.float()
    came = f"a {type(logits).__name__}"
    if isinstance(logits, Tensor):
        came = f"{str(logits.dtype)[6:]} {tuple(logits.shape)} for {cases} images"
    raise UserError(f"a net must {WANTED}, but this {type(net).__name__} returned {came}: {REMEDY}")


def check_outputs(net: nn.Module, logits: Tensor) -> None:
    """Raise UserError if a net that is to be trained ends in a softmax."""
    if logits.min() >= 0 and ((logits.sum(-1) - 1).abs() < 1e-3).all():
        raise UserError(
            f"this {type(net).__name__} returns probabilities, not logits: leave out its softmax, "
            "which the loss applies"
        )


def checked_device(
    model: nn.Module, training_set: Digits, test_set: Digits | None, seed: Any, params: Params
) -> torch.device:
    """Where the weights of `model` are.

    Raises UserError if it has none that can be trained, for other sets than Digits, for several
    seeds unless it is a stack, and for what cannot be trained with these hyperparameters: with
    batch normalisation minibatches of one image, with stored logits images that move.
    """
    check_digits(training_set)
    if test_set is not None:  # before the first epoch, not after it
        labels_of(test_set), pixels(test_set.images[:100])
    if isinstance(model, Ensemble):
        raise UserError("an ensemble is not trained as one net: train its nets one by one")
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    if not any(parameter.requires_grad for parameter in parameters):
        name = type(model).__name__
        raise UserError(f"a net must {WANTED}; this {name} has no weights to train: {REMEDY}")
    _, several = as_seeds(seed)
    if several != isinstance(unwrapped(model), StackedNet):
        raise UserError("a net takes one seed, and a stack of nets several")
    normalised = any(isinstance(module, BATCH_NORMALISATION) for module in model.modules())
    if normalised and len(training_set) % params.batch_size == 1:
        raise UserError(
            f"the last minibatch of {len(training_set)} images would hold a single one, which "
            "batch normalisation does not take: choose another batch_size"
        )
    if training_set.teacher_logits is not None and params.jitter:
        raise UserError("jitter must be 0: the teacher's logits are of unmoved images")
    return parameters[0].device
