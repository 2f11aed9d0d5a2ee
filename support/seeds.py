"""Seeds, and the states of PyTorch's random generators."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from support.errors import UserError


def as_seeds(seed: Any) -> tuple[list[int], bool]:
    """The seed, or each of several, and whether there are several.

    Any whole numbers of 64 bits are taken, also NumPy's. Raises UserError for others.
    """
    several = isinstance(seed, Iterable)
    try:
        seeds = [operator.index(one) for one in (seed if several else [seed])]
    except TypeError:
        seeds = []
    if not seeds or any(not -(2**63) <= one < 2**64 for one in seeds):
        raise UserError(f"a seed is a whole number of 64 bits, or several, not {seed!r}")
    return seeds, several


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of PyTorch's generators: that of the processor and that of `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = getattr(torch, device.type).get_rng_state(*_index(device))
    return states


def set_random_states(device: torch.device, states: dict[str, Any]) -> None:
    """Put back what `random_states` returned; of other devices than `device` nothing."""
    torch.set_rng_state(states["cpu"])
    if device.type in states.keys() - {"cpu"}:
        getattr(torch, device.type).set_rng_state(states[device.type], *_index(device))


def _index(device: torch.device) -> list[torch.device]:
    """The argument that says which GPU; Apple has one, and takes none."""
    return [device] if device.type == "cuda" else []


@contextmanager
def seeded(device: torch.device, seed: int | Sequence[int]) -> Iterator[None]:
    """PyTorch's generators seeded for dropout (stacks have none), and restored afterwards.

    Denormal numbers, which make element-wise steps 10-50 times slower, are 0 from now on.
    """
    torch.set_flush_denormal(True)
    before = random_states(device)
    seeds, several = as_seeds(seed)
    torch.manual_seed(0 if several else seeds[0])
    try:
        with (  # whatever mode surrounds the call
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
            torch.enable_grad(),
        ):
            yield
    finally:
        set_random_states(device, before)
