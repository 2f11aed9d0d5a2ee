"""What several test files need: small data sets, small nets and small hyperparameters."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dataset import Digits, as_digits
from layers import RectifierNet, SmallNet
from support.hyperparameters import default_params

ROOT = Path(__file__).resolve().parent.parent
MNIST_ROOT = Path(os.environ.get("MNIST_DIR") or ROOT / "data")


def split_words(*words: object) -> list[str]:
    """Words of a command line; a string may be several, with a space between."""
    return [part for word in words if word != "" for part in str(word).split(" ")]


def some_params(kind: str = "Small", **changes: Any) -> SimpleNamespace:
    """The local hyperparameters of `kind`, quick by default, with `changes`."""
    quick = {"hidden_units": 12, "epochs": 2, "schedule_epochs": 2, "batch_size": 50}
    return SimpleNamespace(**vars(default_params("local", kind)) | quick | changes)


def random_digits(cases: int, seed: int = 0) -> Digits:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (cases, 28, 28), generator=generator, dtype=torch.uint8)
    return as_digits(images, torch.randint(10, (cases,), generator=generator))


def random_net(
    hidden_units: int = 12,
    dropout_visible: float = 0.0,
    dropout_hidden: float = 0.0,
    *,
    std: float = 0.1,
    seed: int = 0,
    cls: type[RectifierNet] = SmallNet,
) -> RectifierNet:
    """A net with random biases too, so that none can be forgotten unnoticed."""
    net = cls(hidden_units, dropout_visible, dropout_hidden)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=std, generator=generator)
    return net


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(one: nn.Module | dict, other: nn.Module | dict) -> bool:
    """Whether all weights and biases are equal bit for bit."""
    one, other = (m.state_dict() if isinstance(m, nn.Module) else m for m in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """Every file below `folder` with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


class Reached(Exception):
    """A script understood its command line and was about to load the data."""


def reached(*_: Any) -> None:
    """In place of what loads the data."""
    raise Reached
