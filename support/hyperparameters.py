"""What every hyperparameter may hold and what it means; the checked values of a class.

The values themselves are in training_params.py.
"""

import difflib
import importlib
import math
import os
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

from support.errors import NotAllowed, UserError

MAX_UNITS = 8192  # the state of a training run with more would not fit into a resume point


@dataclass(frozen=True)
class Allowed:
    """The values that something may take: numbers of a `type` in an interval, or some words."""

    type: type
    low: float = 0
    high: float = 1_000_000
    open_low: bool = False  # low itself is excluded
    open_high: bool = False
    words: tuple[str, ...] = ()
    help: str = ""

    def check(self, value: Any, where: str = "") -> Any:
        """`value` (any number, or a word of the command line) in its type.

        Raises NotAllowed that says `where` it stands and what is allowed.
        """
        if self.words:
            if not isinstance(value, str) or value not in self.words:
                raise NotAllowed(f"{where}{value!r} is not one of {', '.join(self.words)}")
            return str(value)
        try:
            number = self.type(value)
            is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
            exact = self.type is float or isinstance(value, str) or value == number
            inside = math.isfinite(number) and self.low <= number <= self.high
            at_open_end = (self.open_low, self.low), (self.open_high, self.high)
            fits = exact and inside and not is_bool and (True, number) not in at_open_end
        except (TypeError, ValueError, OverflowError, RuntimeError):
            fits = False
        if not fits:
            raise NotAllowed(f"{where}{reprlib.repr(value)} is not {self.describe()}")
        return number

    def describe(self) -> str:
        """What numbers these are, for a message."""
        if self.low == self.high:
            return f"{self.low:g}, the only value allowed"
        low = f"{'above' if self.open_low else 'of at least'} {self.low:g}"
        high = f"{'below' if self.open_high else 'at most'} {self.high:,}"
        return f"a {'whole number' if self.type is int else 'number'} {low} and {high}"


COUNT = Allowed(int, low=1)
PIXELS = Allowed(int, high=28)
POSITIVE = Allowed(float, open_low=True)
SHARE = Allowed(float, high=1)
PROBABILITY = Allowed(float, high=1, open_high=True)
TEMPERATURE = Allowed(float, low=0.01, high=1000)  # above, T^2 magnifies the rounding of float32
OPTIMIZER = Allowed(str, words=("sgd", "adam"))
SCHEDULE = Allowed(str, words=("exponential", "linear"))

HYPERPARAMETERS = {
    name: replace(allowed, help=text)
    for name, allowed, text in (
        ("hidden_units", Allowed(int, 1, MAX_UNITS), "units in each of the two hidden layers"),
        ("epochs", COUNT, "passes over the training set"),
        ("schedule_epochs", COUNT, "epochs that the schedules span; they are scaled to --epochs"),
        ("batch_size", COUNT, "images in a minibatch; the gradient is their average"),
        ("optimizer", OPTIMIZER, "sgd is the momentum method of [DO]"),
        ("learning_rate", POSITIVE, "initial rate; sgd multiplies it by (1 - momentum)"),
        ("rate_schedule", SCHEDULE, "linear falls to 0, exponential by the rate decay"),
        ("rate_decay", SHARE, "factor after each epoch of the exponential schedule"),
        ("momentum_start", PROBABILITY, "momentum in the first epoch (sgd)"),
        ("momentum_end", PROBABILITY, "momentum after momentum_epochs (sgd)"),
        ("momentum_epochs", COUNT, "epochs over which momentum rises linearly (sgd)"),
        ("adam_beta2", PROBABILITY, "decay of the mean squared gradient (adam)"),
        ("dropout_visible", PROBABILITY, "share of the pixels zeroed in training"),
        ("dropout_hidden", PROBABILITY, "share of the hidden units zeroed in training"),
        ("max_squared_length", Allowed(float), "of a hidden unit's incoming weights; 0 for none"),
        ("jitter", PIXELS, "training images are moved by up to this many pixels, each way"),
        ("init_std", POSITIVE, "standard deviation of the initial weights"),
        ("temperature", TEMPERATURE, "T of the soft targets and the student"),
        ("hard_weight", SHARE, "weight of the labels (T = 1) in the weighted average"),
    )
}
NO_JITTER = Allowed(int, high=0, help="must be 0: the soft targets are of unmoved images")


class Params(SimpleNamespace):
    """Hyperparameters by name. Setting a name that is not one, or a wrong value, is a UserError."""

    allowed: ClassVar = {
        name: allowed
        for name, allowed in HYPERPARAMETERS.items()
        if name not in ("temperature", "hard_weight")
    }

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.allowed:
            meant = _meant(name, self.allowed)
            raise UserError(f"params.{name} is not a hyperparameter of this net{meant}")
        vars(self)[name] = self.allowed[name].check(value, f"params.{name}: ")


class DistilledParams(Params):
    """Those of a net that learns from soft targets."""

    allowed: ClassVar = HYPERPARAMETERS | {"jitter": NO_JITTER}


EDITED: dict[str, int] = {}  # when training_params.py was, as it has been imported
ROLES = {"Cumbersome": Params, "Small": Params, "Distilled": DistilledParams}


def checked_params(params: Any, role: str | None = None, where: str = "params") -> Params:
    """The hyperparameters of a `role` in the fields of `params`: a class, any object, or a dict.

    Without a role, those that every net has, whether there are others or not. Raises UserError
    naming a field that is misspelt, missing or impossible.
    """
    cls = ROLES[role] if role else Params
    if isinstance(params, cls):
        return params
    values = params if isinstance(params, Mapping) else _fields_of(params)
    known = cls.allowed if role else HYPERPARAMETERS
    for name in sorted(map(str, values.keys() - known.keys())):
        raise UserError(f"{where}.{name} is not a hyperparameter{_meant(name, known)}")
    for name in cls.allowed:
        if name not in values:
            raise UserError(f"{where}.{name} is missing")
    return cls(**{n: a.check(values[n], f"{where}.{n}: ") for n, a in cls.allowed.items()})


def _fields_of(params: Any) -> dict[str, Any]:
    if isinstance(params, SimpleNamespace):
        return vars(params)
    names = [name for name in dir(params) if not name.startswith("_")]
    fields = {name: getattr(params, name) for name in names}
    return {name: value for name, value in fields.items() if not callable(value)}


def _meant(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f": do you mean {close[0]}?" if close else ": correct its name, or delete it"


def default_params(params: str, role: str) -> Params:
    """The checked values of `LocalParams` or `PaperParams` ("local" or "paper") for `role`.

    `role` is "Cumbersome", "Small" or "Distilled". Raises UserError naming class and field if an
    edited class has a field too many, one too few, or an impossible value.
    """
    name = {"local": "LocalParams", "paper": "PaperParams"}.get(params, str(params))
    try:
        module = importlib.import_module("training_params")
        edited = os.stat(module.__file__).st_mtime_ns
        if edited != EDITED.setdefault(module.__file__, edited):  # since, as in a notebook
            EDITED[module.__file__] = edited
            module = importlib.reload(module)
    except Exception as error:  # a file that is being edited can raise anything
        raise UserError(f"training_params.py: {type(error).__name__}: {error}") from None
    cls = getattr(getattr(module, name, None), role, None)
    if not isinstance(cls, type):
        raise UserError(f"training_params.py: there is no class {name}.{role}")
    return checked_params(cls, role, f"training_params.py: {name}.{role}")
