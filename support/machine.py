"""What depends on the machine: device, threads, precision, the states of the generators."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dataset import Mnist, as_seeds, hold_out, load_mnist
from support.errors import UserError


def set_up(args: argparse.Namespace) -> tuple[Mnist, torch.device]:
    """Set the threads; load MNIST onto the device. `--validation` holds images out to test on."""
    torch.set_flush_denormal(True)  # threads take it over from the one that starts them
    if args.threads:
        torch.set_num_threads(args.threads)
    mnist, device = load_mnist(args.data_dir, args.data), choose_device(args.device)
    if mnist.name == "sample" and not args.quiet:
        print("The data: the bundled sample of MNIST, 4,000 images to train on and 1,000 to test.")
        print("Its errors do not compare with those of the paper, which are on all of MNIST.")
    if args.validation:
        mnist = hold_out(mnist)
    return mnist._replace(training=mnist.training.to(device), test=mnist.test.to(device)), device


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
        raise UserError(f"--device {name}: this machine has none; try --device auto")
    if name == "cuda":  # one for each process that torchrun started
        return torch.device(name, int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(name)


def autocast(device: str, precision: str) -> Any:
    """Matrix products in bfloat16 if `precision` is "bf16"; weights and updates stay float32."""
    if precision not in ("fp32", "bf16"):
        raise UserError(f"there is no precision {precision!r}: fp32 or bf16")
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of PyTorch's generators: that of the processor and that of `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = getattr(torch, device.type).get_rng_state()
    return states


def set_random_states(device: torch.device, states: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type in states.keys() - {"cpu"}:  # else it was saved on another device
        state = states[device.type]
        if isinstance(state, list):  # in older resume points: one for each GPU
            state = state[device.index or 0]
        getattr(torch, device.type).set_rng_state(state)


@contextmanager
def seeded(device: torch.device, seed: int | Sequence[int]) -> Iterator[None]:
    """PyTorch's generators seeded, for dropout (which stacks have not), and given back after."""
    before = random_states(device)
    seeds, several = as_seeds(seed)
    torch.manual_seed(0 if several else seeds[0])
    try:
        yield
    finally:
        set_random_states(device, before)
