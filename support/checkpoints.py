"""Checkpoints: a net scaled for test time and what is known of it, as a dict in a file."""

import io
import os
import reprlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layers import PIXELS, CumbersomeNet, RectifierNet, SmallNet, scale_weights
from support.errors import UserError
from support.files import as_plain, packed, read_dict, replace_file, unpacked
from support.hyperparameters import MAX_UNITS

MODELS = Path(__file__).parent.parent / "models"  # the published checkpoints
FORMAT_VERSION = 1
ARCHITECTURES = {cls.__name__: cls for cls in (CumbersomeNet, SmallNet)}
REQUIRED = ("architecture", "format_version", "hidden_units", "state_dict")


def save_model(path: str | Path, model: nn.Module, **record: Any) -> None:
    """Write `model`, with its weights scaled for test time, and `record`.

    The record may hold numbers (also of NumPy, or a tensor of one), words, None, and lists and
    dicts of these. A missing folder is made. Atomic: under `path` there is the old file or the
    whole new one. Raises UserError, also for what `load_model` would refuse, such as a weight that
    is not finite, and for `hidden_units` in the record that are not those of the net.
    """
    path, model = Path(os.path.expanduser(path)), unwrapped(model)
    try:
        plain = as_plain(record)
    except Exception as error:  # of whatever stands in the record
        raise UserError(
            f"{path} was not written: it would record more than numbers and words ({error})"
        ) from None
    try:
        scaled = scaled_net(model)
        _check_units(model.hidden_units, plain)
        checkpoint = plain | {
            "format_version": FORMAT_VERSION,
            "architecture": type(model).__name__,
            "hidden_units": int(model.hidden_units),
            "state_dict": dict(scaled.state_dict()),
        }
        content = packed(checkpoint)
        check(unpacked(io.BytesIO(content)))
    except (UserError, RecursionError) as error:  # the latter of a record that is nested too deep
        raise UserError(f"{path} was not written: {error}") from None
    with suppress(OSError):  # `replace_file` says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)  # rather than to lose a net that is trained
    replace_file(path, content)


def _check_units(units: int, record: dict[str, Any]) -> None:
    """Raise UserError if a record has another number of hidden units than its net."""
    parameters = record.get("parameters", {})
    for where in (record, parameters if isinstance(parameters, dict) else {}):
        if where.get("hidden_units", units) != units:
            raise UserError(
                f"it would record {reprlib.repr(where['hidden_units'])} hidden units, "
                f"but the net has {units}: record these"
            )


def scaled_net(model: nn.Module) -> RectifierNet:
    """The copy for test time, without dropout. Raises UserError if it computes something else."""
    if not isinstance(model, RectifierNet) or type(model).__name__ not in ARCHITECTURES:
        known = " or a ".join(ARCHITECTURES)
        raise UserError(f"a {type(model).__name__} is not a {known}: save it with torch.save")
    generator = torch.Generator("cpu").manual_seed(0)
    pixels = torch.rand(100, PIXELS, generator=generator, dtype=torch.float32, device="cpu")
    modes = [(module, module.training) for module in model.modules()]
    try:
        scaled = scale_weights(model)
        weight = next(model.parameters())
        with torch.no_grad():
            logits = model.eval()(pixels.to(weight)).float().cpu()
            difference = (logits - scaled(pixels)).abs().max()
    except Exception as error:  # a net that was changed can raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"it is not a {type(model).__name__} any more ({reason})") from None
    finally:
        for module, is_training in modes:
            module.training = is_training
    if difference > 0.01 * logits.abs().max():  # more than rounding; a NaN is refused later
        raise UserError(f"its layers are not those of a {type(model).__name__}")
    return scaled


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
    with torch.inference_mode(False):  # whatever the user has set
        with torch.device("meta"):  # no weights that would be thrown away
            model = cls(checkpoint["hidden_units"])
        state = {name: value.clone() for name, value in checkpoint["state_dict"].items()}
        model.load_state_dict(state, assign=True)
    return model.eval()


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint of this project: tensors and plain values, no code is run.

    Raises UserError that says what is wrong if it cannot be read or is not what it should be.
    """
    path = Path(os.path.expanduser(path))
    checkpoint = read_dict(path)
    try:
        check(checkpoint)
    except UserError as error:
        raise UserError(f"{path} is not a checkpoint of this project: {error}") from None
    return checkpoint


def check(checkpoint: dict[str, Any]) -> None:
    """Raise UserError that says what is wrong with a checkpoint."""
    missing = [name for name in REQUIRED if name not in checkpoint]
    if missing:
        raise UserError(f"it has no {', '.join(missing)}")
    version, units = checkpoint["format_version"], checkpoint["hidden_units"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(f"its format version is {reprlib.repr(version)}, not {FORMAT_VERSION}")
    if checkpoint["architecture"] not in list(ARCHITECTURES):
        raise UserError(f"its architecture is {reprlib.repr(checkpoint['architecture'])}")
    if type(units) is not int or not 1 <= units <= MAX_UNITS:
        raise UserError(f"its hidden_units are {reprlib.repr(units)}")
    record = {name: value for name, value in checkpoint.items() if name != "state_dict"}
    for name in ("parameters", "data_set", "result"):
        if not isinstance(record.get(name, {}), dict):
            raise UserError(f"its {name} are not a dict")
    if any(isinstance(value, dict | list) for value in record.get("parameters", {}).values()):
        raise UserError("its parameters are not numbers and words")
    try:
        as_plain(record)
    except Exception:
        raise UserError("apart from the state_dict it holds values that are not plain") from None
    try:
        state = model_from(checkpoint).state_dict()
    except Exception as error:  # load_state_dict says what does not fit
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"its state_dict is not that of its architecture: {reason}") from None
    for name, value in state.items():
        if value.dtype != torch.float32 or value.layout is not torch.strided or value.is_meta:
            raise UserError(f"{name} is not a dense float32 tensor")
        if not torch.isfinite(value).all():
            raise UserError(f"{name} holds a value that is not finite")
