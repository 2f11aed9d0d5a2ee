"""What several test files need: small data, nets, trainings and made-up results."""

import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dataset import Digits, as_digits
from layers import CumbersomeNet, RectifierNet, SmallNet, init_weights
from support.hyperparameters import default_params
from train import train

ROOT = Path(__file__).resolve().parent.parent
MNIST_ROOT = Path(os.environ.get("MNIST_DIR") or ROOT / "data")
SMALL = "--model small --hidden-units 10 --epochs 1"
DROPOUT = {
    "optimizer": "sgd",
    "learning_rate": 1.0,
    "dropout_visible": 0.2,
    "dropout_hidden": 0.5,
    "max_squared_length": 15.0,
    "jitter": 2,
}
# Hyperparameters of each kind of training.
TRAININGS = {
    "sgd": {**DROPOUT, "rate_schedule": "linear"},
    "exponential": {**DROPOUT, "rate_schedule": "exponential", "rate_decay": 0.7},
    "adam": {"optimizer": "adam", "learning_rate": 0.001},
}


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


def first_net(params: Any, seed: int = 0) -> RectifierNet:
    """What a training with `params` starts from."""
    cls = CumbersomeNet if params.dropout_hidden else SmallNet
    net = cls(params.hidden_units, params.dropout_visible, params.dropout_hidden)
    init_weights(net, 0.05, seed)
    return net


def trained(
    params: Any, digits: Digits, seed: int = 0, **options: Any
) -> tuple[RectifierNet, list[dict[str, Any]]]:
    """A net trained on `digits`, and its history."""
    net = first_net(params, seed)
    history = train(net, digits, params, seed=seed, **options)
    return net, history


def first_student(params: Any, seed: int = 0) -> SmallNet:
    """What a distillation with `params` starts from."""
    student = SmallNet(params.hidden_units)
    init_weights(student, params.init_std, seed)
    return student


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(one: nn.Module | dict, other: nn.Module | dict) -> bool:
    """Whether all weights and biases are equal bit for bit."""
    one, other = (m.state_dict() if isinstance(m, nn.Module) else m for m in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def a_checkpoint(hidden_units: int = 6) -> dict[str, Any]:
    """What the file of a small random net holds."""
    return {
        "format_version": 1,
        "architecture": "SmallNet",
        "hidden_units": hidden_units,
        "state_dict": weights_of(random_net(hidden_units)),
    }


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """Every file below `folder` with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


class Reached(Exception):
    """A script understood its command line and was about to start."""


def reached(*_: Any) -> None:
    """In place of what loads the data."""
    raise Reached


def stop_when_understood(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the script raise Reached in place of its work."""
    names = ("set_up",)
    if script.__name__ == "evaluate":
        names = ("load_mnist", "description", "from_picture")
    if script.__name__ == "explore":
        names = ("load_mnist",)
    for name in names:
        monkeypatch.setattr(script, name, reached)


def comparable(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows of results, less the date, and the SHA-256 of a file that holds date and command."""
    left_out = ("date", "sha256")
    return [{name: cell for name, cell in row.items() if name not in left_out} for row in rows]


class FakeWriter:
    """Of TensorBoard events: keeps what it is given."""

    last: "FakeWriter"

    def __init__(self, folder: str, purge_step: int):
        self.folder, self.first = folder, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        FakeWriter.last = self

    def add_scalar(self, name: str, value: float, epoch: int) -> None:
        self.scalars.append((name, value, epoch))

    def flush(self) -> None:
        pass

    close = flush


FAKE_TENSORBOARD = SimpleNamespace(SummaryWriter=FakeWriter)
HEADER = "data,temperature,epochs,seed,errors,problem"  # of the runs that a test makes up


def write_runs(results: Path, *lines: str) -> None:
    """Runs for the tables to read, in some.csv."""
    (results / "some.csv").write_text("\n".join([HEADER, *lines]) + "\n")
