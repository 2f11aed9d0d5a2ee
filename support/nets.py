"""What a net must take and return, whoever made it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dataset import Digits
from layers import CLASSES, StackedNet
from support.checkpoints import unwrapped
from support.errors import UserError
from support.script import is_of_memory
from support.seeds import as_seeds

Ensemble = list | tuple | nn.ModuleList  # of nets
WANTED = "take float32 pixels (N, 784) in [0, 1] and return logits (N, 10)"
REMEDY = (
    "wrap it in a module that does; for a net of images "
    "nn.Sequential(nn.Unflatten(1, (1, 28, 28)), net)"
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


def check_digits(digits: Any) -> None:
    """Raise UserError for a data set of another class."""
    if not isinstance(digits, Digits):
        raise UserError(
            f"a {type(digits).__name__} is not a set of Digits: make one with `as_digits`, or take "
            "`load_mnist().training`"
        )


def checked_device(
    model: nn.Module, training_set: Digits, test_set: Digits | None, seed: Any
) -> torch.device:
    """Where the weights of `model` are.

    Raises UserError if it has none that can be trained, for other sets than Digits, and for several
    seeds unless it is a stack.
    """
    check_digits(training_set)
    if test_set is not None:
        check_digits(test_set)
    if isinstance(model, Ensemble):
        raise UserError("an ensemble is not trained as one net: train its nets one by one")
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    if not any(parameter.requires_grad for parameter in parameters):
        name = type(model).__name__
        raise UserError(f"a net must {WANTED}; this {name} has no weights to train: {REMEDY}")
    _, several = as_seeds(seed)
    if several != isinstance(unwrapped(model), StackedNet):
        raise UserError("a net takes one seed, and a stack of nets several")
    return parameters[0].device
