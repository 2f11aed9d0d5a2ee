"""What every hyperparameter may hold and what it means; the checked values of a class.

The values themselves are in training_params.py.
"""

import difflib
import importlib
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

from support.errors import UserError

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

    def describe(self) -> str:
        """What numbers these are, for a message."""
        if self.low == self.high:
            return f"{self.low:g}, the only value allowed"
        low = f"{'above' if self.open_low else 'of at least'} {self.low:g}"
        high = f"{'below' if self.open_high else 'at most'} {self.high:,}"
        return f"a {'whole number' if self.type is int else 'number'} {low} and {high}"

    def check(self, value: Any) -> Any:
        """`value` (any number, or a word of the command line) in its type.

        Raises ValueError that says what is allowed.
        """
        if self.words:
            if not isinstance(value, str) or value not in self.words:
                raise ValueError(f"{value!r} is not one of {', '.join(self.words)}")
            return str(value)
        try:
            number = self.type(value)
            is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
            if is_bool or (self.type is int and not isinstance(value, str) and value != number):
                raise ValueError
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise ValueError(f"{reprlib.repr(value)} is not {self.describe()}") from None
        too_low = number <= self.low if self.open_low else number < self.low
        too_high = number >= self.high if self.open_high else number > self.high
        if too_low or too_high or not math.isfinite(number):
            raise ValueError(f"{str(value)[:40]} is not {self.describe()}")
        return number


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


def hyperparameters(role: str) -> dict[str, Allowed]:
    """What those of a "Cumbersome", "Small" or "Distilled" net may hold, by name."""
    if role == "Distilled":
        return HYPERPARAMETERS | {"jitter": NO_JITTER}
    distilling = ("temperature", "hard_weight")
    return {name: a for name, a in HYPERPARAMETERS.items() if name not in distilling}


class Params(SimpleNamespace):
    """Hyperparameters by name. Setting a name that is not one, or a wrong value, is a UserError."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in vars(self):
            raise UserError(
                f"params.{name} is not a hyperparameter of this net{_meant(name, vars(self))}"
            )
        allowed = hyperparameters("Distilled" if "temperature" in vars(self) else "Small")
        vars(self)[name] = checked(value, allowed[name], f"params.{name}")


def checked(value: Any, allowed: Allowed, where: str) -> Any:
    """A value from the code, in its type. Raises UserError that says `where` it is wrong."""
    try:
        return allowed.check(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def checked_params(params: Any, role: str | None = None, where: str = "params") -> Params:
    """The hyperparameters in the fields of `params`: a class, any object, or a dict.

    Raises UserError naming a field that is misspelt, missing or impossible. Without a `role`, what
    has a temperature is for a distilled net.
    """
    values = params if isinstance(params, Mapping) else _fields_of(params)
    role = role or ("Distilled" if "temperature" in values else "Small")
    allowed = hyperparameters(role)
    for name in sorted(map(str, values.keys() - allowed.keys())):
        raise UserError(f"{where}.{name} is not a hyperparameter{_meant(name, allowed)}")
    for name in allowed:
        if name not in values:
            raise UserError(f"{where}.{name} is missing")
    return Params(**{n: checked(values[n], allowed[n], f"{where}.{n}") for n in allowed})


def _fields_of(params: Any) -> dict[str, Any]:
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
    cls = getattr(getattr(_edited_module(), name, None), role, None)
    if not isinstance(cls, type):
        raise UserError(f"training_params.py: there is no class {name}.{role}")
    return checked_params(cls, role, f"training_params.py: {name}.{role}")


def _edited_module() -> ModuleType:
    """training_params.py, which users edit. Raises UserError if it cannot be imported."""
    try:
        return importlib.import_module("training_params")
    except Exception as error:  # a file that is being edited can raise anything
        problem, cls = f"{type(error).__name__}: {error}", getattr(error, "obj", None)
        if isinstance(cls, type):  # PaperParams takes a value that LocalParams has not
            hint = _meant(error.name, vars(cls))
            problem = f"{cls.__qualname__}.{error.name} is missing{hint}"
        raise UserError(f"training_params.py: {problem}") from None
