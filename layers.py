"""The nets, their initialisation, dropout and weight constraint, and their checkpoints."""

import hashlib
import io
import os
import pickle
import pickletools
import re
import reprlib
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training_params import MAX_UNITS, UserError

try:
    import fcntl
except ImportError:  # on Windows, where runs are not kept from writing to one output
    fcntl = None

PIXELS, CLASSES = 784, 10
LAYERS = ("hidden1", "hidden2", "output")
MODELS = Path(__file__).parent / "models"  # the published checkpoints
FORMAT_VERSION = 1  # of the checkpoints
MAX_BYTES = 2**30  # what a checkpoint or resume point may unpack to
PLAIN_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)"
)


def drop(units: Tensor, probability: float) -> Tensor:
    """Zero each element with `probability`, the others unchanged: dropout in its original form.

    Unlike nn.Dropout the rest is *not* divided by the keep probability ([DO]); at test time the
    outgoing weights are multiplied by it instead. Bits come from PyTorch's global generator, 16
    for each element (8 for a probability of one half): the probability is exact to 2^-16, at a
    tenth of the time of `bernoulli_`, which costs as much as the layer's matrix product.
    """
    if probability == 0:
        return units
    kind = torch.int8 if probability == 0.5 else torch.int16
    size = torch.iinfo(kind).bits // 8
    words = torch.empty(-(-units.numel() * size // 8), dtype=torch.int64, device=units.device)
    words.random_(-(2**63), None)  # all 64 bits of each; by default the sign would stay 0
    drawn = words.view(kind)[: units.numel()].view(units.shape)
    lowest, values = torch.iinfo(kind).min, 2 ** torch.iinfo(kind).bits
    threshold = min(lowest + round(probability * values), lowest + values - 1)
    # Straight into ones and zeros of the units' kind: a fifth of the time of bools, converted.
    kept = torch.ge(drawn, threshold, out=torch.empty_like(units, requires_grad=False))
    return units * kept


class RectifierNet(nn.Module):
    """784 pixels, two hidden layers of rectified linear units, 10 logits ([KD] s.3)."""

    def __init__(self, hidden_units: int, dropout_visible: float, dropout_hidden: float):
        super().__init__()
        self.hidden_units = hidden_units
        self.dropout_visible, self.dropout_hidden = dropout_visible, dropout_hidden
        self.hidden1 = nn.Linear(PIXELS, hidden_units)
        self.hidden2 = nn.Linear(hidden_units, hidden_units)
        self.output = nn.Linear(hidden_units, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, 10) of pixels in [0, 1] of shape (N, 784), (N, 28, 28) or (N, 1, 28, 28).

        In training units are dropped; else outgoing weights are scaled by the keep probability.
        """
        units = F.relu(self._layer(self.hidden1, pixels.flatten(1), self.dropout_visible))
        units = F.relu(self._layer(self.hidden2, units, self.dropout_hidden))
        return self._layer(self.output, units, self.dropout_hidden)

    def _layer(self, layer: nn.Linear, units: Tensor, dropout: float) -> Tensor:
        if self.training:
            return layer(drop(units, dropout))
        weight = layer.weight if dropout == 0 else layer.weight * (1 - dropout)
        return F.linear(units, weight, layer.bias)

    @torch.no_grad()
    def constrain(self, max_squared_length: float) -> None:
        """Scale down the incoming weights of each hidden unit whose squared length exceeds it.

        [DO] app. A. All units of a layer at once; shorter weight vectors are not touched.
        """
        for layer in (self.hidden1, self.hidden2):
            length = torch.linalg.vector_norm(layer.weight, dim=-1, keepdim=True)
            layer.weight.mul_((max_squared_length**0.5 / length).clamp_(max=1))


class CumbersomeNet(RectifierNet):
    """The cumbersome net of [KD] s.3: 1200 units per layer, dropout as in [DO]."""

    def __init__(
        self, hidden_units: int = 1200, dropout_visible: float = 0.2, dropout_hidden: float = 0.5
    ):
        super().__init__(hidden_units, dropout_visible, dropout_hidden)


class SmallNet(RectifierNet):
    """The small net of [KD] s.3, as a rule without dropout."""

    def __init__(
        self, hidden_units: int, dropout_visible: float = 0.0, dropout_hidden: float = 0.0
    ):
        super().__init__(hidden_units, dropout_visible, dropout_hidden)


ARCHITECTURES = {cls.__name__: cls for cls in (CumbersomeNet, SmallNet)}


@torch.no_grad()
def init_weights(model: RectifierNet, std: float, seed: int = 0) -> None:
    """Draw all weights from N(0, std^2) and set the biases to 0 ([DO] app. A).

    The numbers depend on `seed` alone: they are drawn on the CPU whatever the model's device.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in (model.hidden1, model.hidden2, model.output):
        layer.weight.copy_(torch.empty(layer.weight.shape).normal_(std=std, generator=generator))
        layer.bias.zero_()


@torch.no_grad()
def scale_weights(model: RectifierNet) -> RectifierNet:
    """A copy for test time: outgoing weights times the keep probability, and no dropout ([DO]).

    A plain net of three linear layers that gives the same logits as `model` in eval mode.
    """
    scaled = type(model)(model.hidden_units, dropout_visible=0.0, dropout_hidden=0.0)
    state = {name: value.detach().float().cpu() for name, value in model.state_dict().items()}
    for layer, dropout in zip(
        LAYERS,
        (model.dropout_visible, model.dropout_hidden, model.dropout_hidden),
        strict=True,
    ):
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * (1 - dropout)
    scaled.load_state_dict(state)
    return scaled.eval()


class StackedNet(nn.Module):
    """S nets without dropout and of one shape, trained together: batched products, one update each.

    Alone a net of 30 units is all overhead. `nets` come in G = `orders` groups of equal size; the
    nets of a group see the same minibatches, so that their first layers are one product.
    """

    def __init__(self, nets: Sequence[RectifierNet], orders: int):
        super().__init__()
        if any(net.dropout_visible or net.dropout_hidden for net in nets):
            raise UserError("nets trained together take no dropout")
        self.orders, self.hidden_units = orders, nets[0].hidden_units
        self.weights = nn.ParameterList()  # of each layer (S, out, in)
        self.biases = nn.ParameterList()  # of each layer (S, out, 1)
        for layer in LAYERS:
            alike = [net.get_submodule(layer) for net in nets]
            self.weights.append(torch.stack([one.weight.detach() for one in alike]))
            self.biases.append(torch.stack([one.bias.detach() for one in alike])[..., None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (S, N, 10) of pixels (N, 784), or of (G, N, 784): for each group its own.

        Inside, units come before cases: so no product, nor its gradient, has to be transposed.
        """
        first = self.weights[0].view(self.orders, -1, PIXELS)  # a group's first layers in one
        sums = (first @ pixels.mT).view(len(self.weights[0]), self.hidden_units, -1)
        hidden1 = F.relu(sums + self.biases[0])
        hidden2 = F.relu(torch.baddbmm(self.biases[1], self.weights[1], hidden1))
        return torch.baddbmm(self.biases[2], self.weights[2], hidden2).mT

    @torch.no_grad()
    def unstack(self, nets: Sequence[RectifierNet]) -> None:
        """Copy the weights back into the `nets` that were stacked."""
        for layer, weights, biases in zip(LAYERS, self.weights, self.biases, strict=True):
            for net, weight, bias in zip(nets, weights, biases, strict=True):
                net.get_submodule(layer).weight.copy_(weight)
                net.get_submodule(layer).bias.copy_(bias[:, 0])


def save_model(path: str | Path, model: RectifierNet, **record: Any) -> None:
    """Write `model`, with its weights scaled for test time, and `record` (plain values).

    Atomic: under `path` there is the old file or the whole new one. Raises UserError, also for what
    `load_model` would refuse, such as a weight that is not finite.
    """
    scaled = scale_weights(model)
    checkpoint = record | {
        "format_version": FORMAT_VERSION,
        "architecture": type(model).__name__,
        "hidden_units": model.hidden_units,
        "state_dict": dict(scaled.state_dict()),
    }
    problem = _problem(checkpoint)
    if problem:
        raise UserError(f"{path} was not written: {problem}")
    write_atomically(path, checkpoint)


def load_model(path: str | Path) -> RectifierNet:
    """The net of a checkpoint, on the CPU, in eval mode. Raises UserError if it is none."""
    return model_from(load_checkpoint(path))


def model_from(checkpoint: dict[str, Any]) -> RectifierNet:
    """The net of a dict that `load_checkpoint` returned, on the CPU, in eval mode."""
    cls = ARCHITECTURES[checkpoint["architecture"]]
    model = cls(checkpoint["hidden_units"], dropout_visible=0.0, dropout_hidden=0.0)
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint of this project: tensors and plain values, no code is run.

    Raises UserError that says what is wrong if it cannot be read or is not what it should be.
    """
    checkpoint = read_dict(path)
    problem = _problem(checkpoint)
    if problem:
        raise UserError(f"{path} is no checkpoint of this project: {problem}")
    return checkpoint


def _problem(checkpoint: dict[str, Any]) -> str | None:
    missing = {"format_version", "architecture", "hidden_units", "state_dict"} - checkpoint.keys()
    if missing:
        return f"it has no {', '.join(sorted(missing))}"
    version = checkpoint["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        return f"its format version is {reprlib.repr(version)}, not {FORMAT_VERSION}"
    if checkpoint["architecture"] not in list(ARCHITECTURES):
        return f"its architecture is {reprlib.repr(checkpoint['architecture'])}"
    for name in ("parameters", "data_set", "result"):
        if not isinstance(checkpoint.get(name, {}), dict):
            return f"its {name} are no dict"
    if any(
        isinstance(value, dict | list | tuple)
        for value in checkpoint.get("parameters", {}).values()
    ):
        return "its parameters are no numbers and words"
    if not _is_record({name: v for name, v in checkpoint.items() if name != "state_dict"}):
        return "what it holds beside the state_dict are no plain values"
    units, state = checkpoint["hidden_units"], checkpoint["state_dict"]
    if type(units) is not int or not 1 <= units <= MAX_UNITS:
        return f"its hidden_units are {reprlib.repr(units)}"
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in SmallNet(units).state_dict().items()}
    if not isinstance(state, dict) or state.keys() != shapes.keys():
        return f"its state_dict does not hold {', '.join(shapes)}"
    for name, shape in shapes.items():
        value = state[name]
        if not _is_plain(value) or value.shape != shape or value.dtype != torch.float32:
            return f"{name} is not a float32 tensor of shape {tuple(shape)}"
        if not torch.isfinite(value).all():
            return f"{name} holds a value that is not finite"
    return None


def _is_record(record: Any) -> bool:
    """Whether these are numbers, words and None, in dicts with words for keys, lists and tuples."""
    seen, rest = set(), [record]
    while rest:
        value = rest.pop()
        if isinstance(value, dict | list | tuple):
            if id(value) in seen:  # or a list of one list twice, and so on, would take for ever
                continue
            seen.add(id(value))
            if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
                return False
            rest += value.values() if isinstance(value, dict) else value
        elif not isinstance(value, str | int | float | None):
            return False
    return True


def _is_plain(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
        return False
    return value.is_contiguous()  # else a small file may hold a large net, of one number


def write_atomically(path: str | Path, content: dict[str, Any]) -> None:
    """Save a dict of tensors and plain values with torch.save, as `replace_file` does."""
    whole = io.BytesIO()  # not straight to the file: torch.save hides the cause of a failed write
    torch.save(content, whole)
    replace_file(path, whole.getbuffer())


def replace_file(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file; under `path` there is the old one or the whole new one, never a part of it.

    Raises UserError naming the file if the disk is full, the folder missing or read-only.
    """
    path = Path(path)
    if not path.name or (path.exists() and not path.is_file()):
        raise UserError(f"cannot write {path}: it is no regular file")
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_dict(path: str | Path) -> dict[str, Any]:
    """The dict that `write_atomically` wrote, read without running code. Raises UserError."""
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:  # checked first: torch would read older formats too
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise UserError(f"{path} is no checkpoint of this project: it is too large")
            if archive.testzip():  # torch does not compare the checksums
                raise zipfile.BadZipFile
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    _check_pickle(archive.read(name))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds more than tensors and plain values: not loaded") from None
    except Exception:  # a damaged file can raise anything in the unpickler
        raise UserError(f"{path} is damaged or was not written by torch.save") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def check_regular(path: str | Path) -> None:
    """Raise UserError for a folder or a special file: a pipe, say, would never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"cannot use {path}: it is no regular file")


def sha256(path: Path) -> str:
    """In hexadecimal digits. Raises UserError if the file cannot be read."""
    check_regular(path)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _check_pickle(pickled: bytes) -> None:
    """Raise UnpicklingError for what no checkpoint needs, though torch.load would carry it out.

    That is bytearrays of any size, and tuples that hold one and the same tuple twice, and so on:
    as the key of a dict they are hashed for ever.
    """
    tuples, before = set(), ""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and not PLAIN_GLOBALS.fullmatch(argument):
            raise pickle.UnpicklingError
        if before.startswith("TUPLE") and opcode.name.endswith("BINPUT"):
            tuples.add(argument)
        elif opcode.name.endswith("BINGET") and argument in tuples:
            raise pickle.UnpicklingError
        before = opcode.name


def resume_path(output: str | Path) -> Path:
    """Where the state of a run is until it is done: beside its output."""
    return Path(f"{output}.resume")


class ResumePoint:
    """The state of a training after its last epoch, in a file beside its output.

    `settings` are plain values, by name, that a resumed training must share with the first one.
    """

    def __init__(self, output: str | Path, settings: dict[str, Any]):
        self.path = resume_path(output)
        self.settings = settings
        self.state: dict[str, Any] | None = None  # to go on from

    def load(self) -> int:
        """Take up the state in the file; returns its epoch.

        Raises UserError if there is none, or naming each setting that differs.
        """
        if not self.path.exists():
            raise UserError(f"nothing to resume: there is no {self.path}")
        state = read_dict(self.path)
        history = state.pop("history", None)
        if (
            state.keys() != {"settings", "model", "optimizer", "random"}
            or not _is_history(history)
            or not all(isinstance(value, dict) for value in state.values())
            or not _is_record([state["settings"], history])
        ):
            raise UserError(f"{self.path} is no resume point: delete it and start anew")
        check_same(self.settings, state["settings"], self.path)
        self.state = state | {"history": history}
        return len(history)

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, order: list[torch.Generator]
    ) -> list[dict[str, Any]]:
        """Put the loaded state, if any, into its owners; returns the history so far."""
        if self.state is None:
            return []
        random = self.state["random"]
        try:
            model.load_state_dict(self.state["model"])
            _check_optimizer(optimizer, self.state["optimizer"])
            optimizer.load_state_dict(self.state["optimizer"])
            for generator, state in zip(order, random["order"], strict=True):
                generator.set_state(state)
            torch.set_rng_state(random["cpu"])
            torch.cuda.set_rng_state_all(random["cuda"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            raise UserError(f"{self.path} is damaged: delete it and start anew") from None
        # Interned, as the names in the code are: else a checkpoint has the same content in other
        # bytes, since pickle writes a string only once as long as it is the same object.
        return [{sys.intern(k): v for k, v in entry.items()} for entry in self.state["history"]]

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        order: list[torch.Generator],
        history: list[dict[str, Any]],
    ) -> None:
        """Write the state after the last epoch in `history`, all random states included."""
        random = {"order": [g.get_state() for g in order], "cpu": torch.get_rng_state()}
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        state = {
            "settings": self.settings,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": random | {"cuda": cuda},
            "history": history,
        }
        write_atomically(self.path, state)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _is_history(history: Any) -> bool:
    """Whether it is a list with a dict for each epoch in turn, as `train` makes them."""
    return isinstance(history, list) and all(
        isinstance(entry, dict)
        and {"epoch", "loss", "rate"} <= entry.keys() <= {"epoch", "loss", "rate", "errors"}
        and isinstance(entry["epoch"], int)
        and entry["epoch"] == place
        for place, entry in enumerate(history, start=1)
    )


def _check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Raise ValueError for a state of another form: fused updates would write past its tensors."""
    fresh = optimizer.state_dict()["param_groups"]
    for group, new in zip(state["param_groups"], fresh, strict=True):
        if {k: type(v) for k, v in group.items()} != {k: type(v) for k, v in new.items()}:
            raise ValueError
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state["state"].items():
        for value in values.values():
            if value.dtype != torch.float32 or value.shape not in ((), parameters[number].shape):
                raise ValueError
    if len({tuple(values) for values in state["state"].values()}) > 1:
        raise ValueError


def check_same(settings: dict[str, Any], earlier: dict[str, Any], path: Path) -> None:
    """Raise UserError naming every setting in which a run differs from the one in `path`."""
    now, then = _flat(settings), _flat(earlier)
    differences = [
        f"{name} is {now.get(name)!r}, was {reprlib.repr(then.get(name))}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
    if differences:
        raise UserError(
            f"{path} is of another run: {'; '.join(differences)}. Give its settings or another "
            "--output, or delete it"
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with those in a dict inside, such as "parameters", on a line of their own."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = value if isinstance(value, dict) else {}
        flat |= {f"{name}.{k}": v for k, v in inner.items()} or {name: value}
    return flat


class Lock:
    """Held while a training writes to `output`; it ends with the process, however that ends."""

    def __init__(self, output: Path):
        self.output, self.path = output, Path(f"{output}.lock")

    def __enter__(self) -> None:
        try:
            self.file = open(self.path, "a+", errors="replace")
            while not self._take():  # the run that made this file ended meanwhile, and removed it
                self.file.close()
                self.file = open(self.path, "a+", errors="replace")
            self.file.truncate(0)
            self.file.write(str(os.getpid()))
            self.file.flush()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {self.output}: {reason}") from None

    def _take(self) -> bool:
        """Lock the open file; whether it is still the one that others find under its name."""
        if not fcntl:
            return True
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False
        except BlockingIOError:
            self.file.seek(0)
            raise UserError(
                f"{self.output} is being written by another run, process {self.file.read()}: "
                "wait for it or choose another --output"
            ) from None

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # in a folder that became read-only it stays, and locks nothing
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # on a full disk
            self.file.close()
