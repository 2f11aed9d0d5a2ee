"""Checkpoints: a net scaled for test time and what is known of it, as a dict in a file."""

import hashlib
import os
import reprlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataset import VALIDATION
from layers import LAYERS, CumbersomeNet, RectifierNet, SmallNet, scale_weights
from support.archives import as_plain, is_plain, read_dict, write_dict
from support.errors import UserError
from support.hyperparameters import MAX_UNITS

MODELS = Path(__file__).parent.parent / "models"  # the published checkpoints
FORMAT_VERSION = 1
ARCHITECTURES = {cls.__name__: cls for cls in (CumbersomeNet, SmallNet)}
REQUIRED = ("architecture", "format_version", "hidden_units", "state_dict")


def save_model(path: str | Path, model: nn.Module, **record: Any) -> None:
    """Write `model`, with its weights scaled for test time, and `record`.

    The record may hold numbers (also of NumPy, or a tensor of one), words, None, and lists and
    dicts of these. Atomic: under `path` there is the old file or the whole new one. Raises
    UserError, also for what `load_model` would refuse, such as a weight that is not finite.
    """
    path, model = Path(os.path.expanduser(path)), unwrapped(model)
    if problem := _problem_of_net(model):
        raise UserError(f"{path} was not written: {problem}")
    try:
        plain = {name: as_plain(value) for name, value in record.items()}
    except RecursionError:
        raise UserError(f"{path} was not written: what it records is nested too deep") from None
    checkpoint = plain | {
        "format_version": FORMAT_VERSION,
        "architecture": type(model).__name__,
        "hidden_units": int(model.hidden_units),
        "state_dict": dict(scale_weights(model).state_dict()),
    }
    if problem := _problem(checkpoint):
        raise UserError(f"{path} was not written: {problem}")
    write_dict(path, checkpoint)


def unwrapped(model: nn.Module) -> nn.Module:
    """The net inside of nn.DataParallel, DistributedDataParallel or torch.compile."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if type(model).__name__ == "OptimizedModule":  # of torch.compile
        return unwrapped(model._orig_mod)
    return model


def load_model(path: str | Path) -> RectifierNet:
    """The net of a checkpoint, on the CPU, in eval mode. Raises UserError if there is none."""
    return model_from(load_checkpoint(path))


def model_from(checkpoint: dict[str, Any]) -> RectifierNet:
    """The net of a dict that `load_checkpoint` returned, on the CPU, in eval mode."""
    cls = ARCHITECTURES[checkpoint["architecture"]]
    with torch.device("cpu"), torch.inference_mode(False):  # whatever the user has set
        model = cls(checkpoint["hidden_units"], dropout_visible=0.0, dropout_hidden=0.0).float()
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def check_distinct(nets: Sequence[RectifierNet], paths: Sequence[Path]) -> None:
    """Raise UserError if two nets of an ensemble have the same weights.

    As they have if both were trained with the same seed and settings, in files that differ.
    """
    first: dict[bytes, Path] = {}
    for net, path in zip(nets, paths, strict=True):
        weights = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
        same = first.setdefault(hashlib.sha256(weights).digest(), path)
        if same is not path:
            raise UserError(f"{path} is the same net as {same}: name each net of an ensemble once")


def published() -> list[Path]:
    """The checkpoints in models/. Raises UserError if there are none."""
    paths = sorted(MODELS.glob("*.pt"))
    if not paths:
        raise UserError("there are no checkpoints in models/: name one, or train one with train.py")
    with suppress(ValueError):  # on another drive of Windows there is no relative path
        paths = [Path(os.path.relpath(path)) for path in paths]
    return paths


def note_on_data(path: Path, checkpoint: dict[str, Any]) -> str | None:
    """A sentence if its net is recorded to have learned from something else than MNIST."""
    name = checkpoint.get("data_set", {}).get("name", "MNIST")
    if name in [f"{data}{part}" for data in ("MNIST", "sample") for part in ("", VALIDATION)]:
        return None
    return f"{path} was trained on {reprlib.repr(name)}, not on MNIST."


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint of this project: tensors and plain values, no code is run.

    Raises UserError that says what is wrong if it cannot be read or is not what it should be.
    """
    path = Path(os.path.expanduser(path))
    checkpoint = read_dict(path)
    problem = _problem(checkpoint)
    if problem:
        raise UserError(f"{path} is not a checkpoint of this project: {problem}")
    return checkpoint


def _problem(checkpoint: dict[str, Any]) -> str | None:
    """What is wrong with a checkpoint, or None."""
    missing = [name for name in REQUIRED if name not in checkpoint]
    if missing:
        return f"it has no {', '.join(missing)}"
    version, units = checkpoint["format_version"], checkpoint["hidden_units"]
    if type(version) is not int or version != FORMAT_VERSION:
        return f"its format version is {reprlib.repr(version)}, not {FORMAT_VERSION}"
    if checkpoint["architecture"] not in list(ARCHITECTURES):
        return f"its architecture is {reprlib.repr(checkpoint['architecture'])}"
    if type(units) is not int or not 1 <= units <= MAX_UNITS:
        return f"its hidden_units are {reprlib.repr(units)}"
    record = {name: value for name, value in checkpoint.items() if name != "state_dict"}
    return _problem_of_record(record) or _problem_of_state(checkpoint["state_dict"], units)


def _problem_of_record(record: dict[str, Any]) -> str | None:
    for name in ("parameters", "data_set", "result"):
        if not isinstance(record.get(name, {}), dict):
            return f"its {name} are not a dict"
    parameters = record.get("parameters", {}).values()
    if any(isinstance(value, dict | list | tuple) for value in parameters):
        return "its parameters are not numbers and words"
    if not is_plain(record):
        return "apart from the state_dict it holds values that are not plain"
    return None


def _problem_of_net(model: Any) -> str | None:
    """Why the weights alone would not say what a net computes, or None."""
    if not isinstance(model, RectifierNet) or type(model).__name__ not in ARCHITECTURES:
        return f"a {type(model).__name__} is not a {' or a '.join(ARCHITECTURES)}"
    if problem := _problem_of_keys(model.state_dict()):
        return problem
    with torch.device("meta"):
        fresh = type(model)(model.hidden_units, model.dropout_visible, model.dropout_hidden)
    if _parts(model) != _parts(fresh):
        return f"its layers are not those of a {type(model).__name__}"
    if not all(p.is_floating_point() and _is_dense(p) for p in model.parameters()):
        return "its weights are not real numbers"
    return None


def _parts(model: RectifierNet) -> list[Any]:
    modules = [(n, type(m), getattr(m, "dropout", None)) for n, m in model.named_modules()]
    return [*modules, *sorted((name, p.shape) for name, p in model.named_parameters())]


def _problem_of_keys(state: dict[str, Any]) -> str | None:
    if state.keys() == {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}:
        return None
    odd = reprlib.repr(sorted(map(str, state))[:6])
    for prefix, wrapper in (("module.", "nn.DataParallel"), ("_orig_mod.", "torch.compile")):
        if any(str(key).startswith(prefix) for key in state):
            return f"its state_dict is that of a net wrapped by {wrapper}: save the net inside"
    return f"its state_dict does not hold weight and bias of {', '.join(LAYERS)} alone, but {odd}"


def _problem_of_state(state: Any, units: int) -> str | None:
    if not isinstance(state, dict):
        return "its state_dict is not a dict"
    if problem := _problem_of_keys(state):
        return problem
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in SmallNet(units).state_dict().items()}
    for name, shape in shapes.items():
        value = state[name]
        if not _is_ordinary(value) or value.shape != shape or value.dtype != torch.float32:
            return f"{name} is not a float32 tensor of shape {tuple(shape)}"
        if not torch.isfinite(value).all():
            return f"{name} holds a value that is not finite"
    return None


def _is_ordinary(value: Any) -> bool:
    if not isinstance(value, Tensor) or not _is_dense(value):
        return False
    return value.is_contiguous()  # else a small file could expand into a huge tensor


def _is_dense(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_meta
