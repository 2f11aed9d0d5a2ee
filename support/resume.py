"""Resume points: the state of a training run after an epoch, and whether it is of the same run."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from support.errors import UserError
from support.files import as_plain, packed, read_dict, replace_file
from support.records import differences, is_history
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
        try:
            as_plain([state["settings"], state["history"]])
            parts = (state[name] for name in ("settings", "model", "optimizer", "random"))
            whole = is_history(state["history"]) and all(isinstance(part, dict) for part in parts)
        except (LookupError, AttributeError, TypeError, ValueError, RuntimeError):
            whole = False
        if not whole:
            raise UserError(f"{self.path} is not a resume point: delete it and start anew")
        if found := differences(self.path, self.settings, state["settings"]):
            raise UserError(found)
        self.state = state
        return len(state["history"])

    def continue_or_start(self, existing: str) -> int:
        """The epoch after which to continue; 0 for a new run.

        `existing` says what to do with a stopped run: "refuse" to replace it, "resume" it, which
        must be there, or "continue" if there is one. Raises UserError.
        """
        if existing == "resume" or (existing == "continue" and self.path.exists()):
            return self.load()
        if self.path.exists():
            raise UserError(f"{self.path} belongs to a stopped run: add --resume, or delete it")
        return 0

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        order: list[torch.Generator],
        dropout: torch.Generator,
        epochs: int,
    ) -> list[dict[str, Any]]:
        """Put the loaded state, if any, into its owners; returns the history so far.

        Without one it saves the first state: a full disk or a read-only folder shows at once.
        Raises UserError if the state does not fit.
        """
        if self.state is None:
            self.save(model, optimizer, order, dropout, [])
            return []
        random, history = self.state["random"], self.state["history"]
        try:
            if len(history) > epochs:
                raise ValueError
            model.load_state_dict(self.state["model"])
            optimizer.load_state_dict(_fitted(optimizer, self.state["optimizer"]))
            for generator, state in zip(order, random["order"], strict=True):
                generator.set_state(state)
            set_random_states(dropout, random)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            raise UserError(
                f"{self.path} is damaged, or of another net or longer run: delete it to start anew"
            ) from None
        return history

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        order: list[torch.Generator],
        dropout: torch.Generator,
        history: list[dict[str, Any]],
    ) -> None:
        """Write the state after the last epoch in `history`, all random states included."""
        state = {
            "settings": self.settings,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": {
                "order": [generator.get_state() for generator in order],
                **random_states(dropout),
            },
            "history": history,
        }
        replace_file(self.path, packed(state))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _fitted(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The saved state with the options that this version of PyTorch has: new ones as they are set.

    Raises ValueError for a state of another form: fused updates would write past its tensors.
    """
    groups = []
    for saved, fresh in zip(
        state["param_groups"], optimizer.state_dict()["param_groups"], strict=True
    ):
        kept = {name: saved[name] for name in fresh if name in saved}
        if saved["params"] != fresh["params"] or not isinstance(kept.get("lr"), float):
            raise ValueError
        groups.append(fresh | kept)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state["state"].items():
        for value in values.values():
            if value.dtype != torch.float32 or value.shape not in ((), parameters[number].shape):
                raise ValueError
    if len({tuple(values) for values in state["state"].values()}) > 1:
        raise ValueError
    return {"state": state["state"], "param_groups": groups}
