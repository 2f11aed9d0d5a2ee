"""What depends on the machine: device and precision."""

import os
from typing import Any

import torch

from support.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto` takes cuda, then mps, then the processor. Raises UserError for what is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there[name]:
        raise UserError(f"--device {name} is not available on this machine; try --device auto")
    if name == "cuda":  # one for each process that torchrun started, and the current one in it
        number = rank("LOCAL_RANK") % torch.cuda.device_count()
        torch.cuda.set_device(number)
        return torch.device(name, number)
    return torch.device(name)


def rank(name: str = "RANK") -> int:
    """The number of this process among those of torchrun, or with "LOCAL_RANK" of this machine.

    Raises UserError if it is no number.
    """
    try:
        return int(os.environ.get(name, 0))
    except ValueError:
        raise UserError(f"{name} is {os.environ[name]!r}, not a number: unset it") from None


def autocast(device: str, precision: str) -> Any:
    """Matrix products in bfloat16 if `precision` is "bf16"; weights and updates stay float32.

    Not by set_float32_matmul_precision("medium"): on a processor that has bf16 instructions but no
    AMX this is no faster than fp32, and autocast is by a third. Without autocast's cache: inside
    another autocast it would keep the converted weights of the first minibatch for ever.
    """
    if precision not in ("fp32", "bf16"):
        raise UserError(f"there is no precision {precision!r}: fp32 or bf16")
    enabled = precision == "bf16"
    return torch.autocast(device, torch.bfloat16, enabled=enabled, cache_enabled=False)
