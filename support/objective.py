"""What tells a loss from others: a run with another loss is another run."""

import functools
import hashlib
import inspect
import json
from contextlib import suppress
from typing import Any

from torch import nn


def objective_of(loss: Any, params: Any, above: tuple[Any, ...] = ()) -> str:
    """The name of a loss and the values it was made with, less those that stand in `params`.

    They are the variables of a closure, the arguments of a partial, defaults, attributes of an
    object, numbers that it finds elsewhere (`args.weight`, a global), and those of a loss inside
    it. Of other objects, such as a net, the class alone counts. What `distillation_loss` returns
    has the name "distillation_loss".
    """
    name, made_with = _made_with(loss)
    told = []
    for key, value in made_with.items():
        if callable(value) and not isinstance(value, type | nn.Module):
            inner = "..." if value in above else objective_of(value, params, (*above, loss))
            told.append(f"{key}=({inner})")
        elif (text := _in_words(value)) != _in_words(vars(params).get(key, loss)):
            told.append(f"{key}={text}")
    return " ".join([name.replace(".<locals>", "").removesuffix(".loss"), *sorted(told)])


def _made_with(loss: Any) -> tuple[str, dict[str, Any]]:
    """The name of a function, partial, method or object, and the values that it holds."""
    if isinstance(loss, functools.partial):
        name, found = _made_with(loss.func)
        return name, found | {str(n): v for n, v in enumerate(loss.args)} | loss.keywords
    found: dict[str, Any] = {}
    function = getattr(loss, "__func__", loss)  # of a method
    if inspect.isfunction(function):
        with suppress(ValueError):  # of a variable that has no value yet
            closure = inspect.getclosurevars(function)
            found |= {k: v for k, v in closure.globals.items() if isinstance(v, int | float | str)}
            for key, value in closure.nonlocals.items():
                used = [name for name in closure.unbound if name in getattr(value, "__dict__", {})]
                plain = not used or callable(value)
                found |= {key: value} if plain else {k: getattr(value, k) for k in used}
        parameters = inspect.signature(function).parameters.values()
        found |= {p.name: p.default for p in parameters if p.default is not p.empty}
    owner = getattr(loss, "__self__", None if inspect.isroutine(loss) else loss)
    attributes = getattr(owner, "__dict__", {})
    hidden = ("training",)  # the mode of a module
    found |= {k: v for k, v in attributes.items() if k not in hidden and k[0] != "_"}
    return getattr(function, "__qualname__", type(loss).__qualname__), found


def _in_words(value: Any) -> str:
    """A number, word or tensor, or lists and dicts of these; if that is long, its SHA-256."""
    try:
        text = json.dumps(value, default=lambda each: each.tolist()).strip('"')
    except Exception:  # of whatever stands there
        return type(value).__name__
    return text if len(text) <= 60 else hashlib.sha256(text.encode()).hexdigest()[:12]
