"""Seeds, and the states of PyTorch's random generators."""

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layers import DroppedLinear, RectifierNet, StackedNet
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


def seeds_of(model: nn.Module, seed: Any) -> int | list[int]:
    """What order, jitter and dropout are drawn with for this net, or the one inside a wrapper.

    Raises UserError for what is no seed.
    """
    seeds, several = as_seeds(seed)
    nets = (RectifierNet, StackedNet)
    stream = next((net.stream for net in model.modules() if isinstance(net, nets)), 0)
    own = [one ^ stream for one in seeds]
    return own if several else own[0]


def random_states(dropout: torch.Generator) -> dict[str, Tensor]:
    """The states of the generator of dropout and of PyTorch's own, on the processor and there."""
    device = dropout.device
    states = {"cpu": torch.get_rng_state(), f"dropout {device.type}": dropout.get_state()}
    if device.type != "cpu":
        states[device.type] = getattr(torch, device.type).get_rng_state(*_index(device))
    return states


def set_random_states(dropout: torch.Generator, states: dict[str, Any]) -> None:
    """Put back what `random_states` returned; of another device than that of `dropout` nothing."""
    device = dropout.device
    torch.set_rng_state(states["cpu"])
    if f"dropout {device.type}" in states:
        dropout.set_state(states[f"dropout {device.type}"])
    if device.type in states.keys() - {"cpu"}:
        getattr(torch, device.type).set_rng_state(states[device.type], *_index(device))


def _index(device: torch.device) -> list[torch.device]:
    """The argument that says which GPU; Apple has one, and takes none."""
    return [device] if device.type == "cuda" else []


@contextmanager
def seeded(model: nn.Module, device: torch.device, seed: Any) -> Iterator[torch.Generator]:
    """A generator for the dropout of `model`, of its own: other threads may train other nets.

    Other modules draw from PyTorch's generators: these are seeded, and restored afterwards. Then
    the model is in eval mode, however the training ended.
    """
    seeds, several = as_seeds(seed)
    first = 0 if several else seeds[0]  # stacks have no dropout
    dropout = torch.Generator(device).manual_seed(first)
    before = random_states(dropout)
    # On the processor its generator alone: no GPU that is not in use is seeded.
    (torch.default_generator if device.type == "cpu" else torch).manual_seed(first)
    layers = [module for module in model.modules() if isinstance(module, DroppedLinear)]
    for layer in layers:
        layer.generator = dropout
    try:
        with (  # whatever mode surrounds the call
            denormals_flushed(),
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
            torch.enable_grad(),
        ):
            yield dropout
    finally:
        model.eval()
        set_random_states(torch.Generator(device), before)
        for layer in layers:
            layer.generator = None


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Denormal numbers, which make element-wise steps 10-50 times slower, are 0 meanwhile."""
    tiny = torch.full((), 1e-310, dtype=torch.float64, device="cpu")
    before = bool(tiny * 1 == 0)
    torch.set_flush_denormal(True)  # threads take it over from the one that starts them
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
