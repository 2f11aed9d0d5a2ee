"""Resume points: the state of a training run after an epoch, and whether it is of the same run."""

import reprlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from support.archives import is_plain, read_dict, write_dict
from support.errors import UserError
from support.records import is_epoch
from support.runs import Run
from support.seeds import random_states, set_random_states


class ResumePoint:
    """The state of a training run after its last epoch, in a file beside its output.

    `settings` are plain values, by name, that a resumed run must share with the first one.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self.settings = path, settings
        self.state: dict[str, Any] | None = None  # to continue from

    def load(self) -> int:
        """Read the state in the file; returns its epoch.

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
            or not is_plain([state["settings"], history])
        ):
            raise UserError(f"{self.path} is not a resume point: delete it and start anew")
        check_same(self.settings, state["settings"], self.path)
        self.state = state | {"history": history}
        return len(history)

    def continue_or_start(self, run: Run) -> int:
        """The epoch after which to continue; 0 for a new run.

        A sweep continues what it finds; else the user has to ask. Raises UserError if there is
        nothing to continue, or if a stopped run would be thrown away.
        """
        if run.resume or (run.in_sweep and self.path.exists()):
            return self.load()
        if self.path.exists():
            raise UserError(f"{self.path} belongs to a stopped run: add --resume, or delete it")
        return 0

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        order: list[torch.Generator],
        epochs: int,
    ) -> list[dict[str, Any]]:
        """Put the loaded state, if any, into its owners; returns the history so far.

        Without one it saves the first state: a full disk or a read-only folder shows at once.
        Raises UserError if the state does not fit.
        """
        if self.state is None:
            self.save(model, optimizer, order, [])
            return []
        random, history = self.state["random"], self.state["history"]
        if len(history) > epochs:
            raise UserError(f"{self.path} is damaged: delete it and start anew")
        try:
            model.load_state_dict(self.state["model"])
            _check_optimizer(optimizer, self.state["optimizer"])
            optimizer.load_state_dict(self.state["optimizer"])
            for generator, state in zip(order, random["order"], strict=True):
                generator.set_state(state)
            set_random_states(next(model.parameters()).device, random)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            raise UserError(f"{self.path} is damaged: delete it and start anew") from None
        # Interned, as the names in the code are: else a checkpoint has the same content in other
        # bytes, since pickle writes a string only once as long as it is the same object.
        return [{sys.intern(k): v for k, v in entry.items()} for entry in history]

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        order: list[torch.Generator],
        history: list[dict[str, Any]],
    ) -> None:
        """Write the state after the last epoch in `history`, all random states included."""
        state = {
            "settings": self.settings,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": {
                "order": [generator.get_state() for generator in order],
                **random_states(next(model.parameters()).device),
            },
            "history": history,
        }
        write_dict(self.path, state)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _is_history(history: Any) -> bool:
    """Whether it is a list with a dict for each epoch in turn, as `train` makes them."""
    return isinstance(history, list) and all(
        is_epoch(entry)
        and {"epoch", "loss", "rate"} <= entry.keys() <= {"epoch", "loss", "rate", "errors"}
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
    """Raise UserError naming every setting in which a run differs from the one in `path`.

    A hyperparameter that the earlier run does not record did not exist then: it is not compared.
    """
    now, then = _flat(settings), _flat(earlier)
    if any(name.startswith("parameters.") for name in then):
        now = {k: v for k, v in now.items() if k in then or not k.startswith("parameters.")}
    differences = [
        f"{name} is {now.get(name)!r}, was {reprlib.repr(then.get(name))}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
    if differences:
        raise UserError(
            f"{path} belongs to another run: {'; '.join(differences)}. Rerun with its settings, "
            "choose another --output (for a single run), or delete it"
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with those in a dict inside, such as "parameters", on a line of their own."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = value if isinstance(value, dict) else {}
        flat |= {f"{name}.{k}": v for k, v in inner.items()} or {name: value}
    return flat
