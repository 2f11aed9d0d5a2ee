"""What depends on the machine: processes, threads, device, precision; and loading the images."""

import argparse
import os
from typing import Any

import torch

from dataset import Mnist, hold_out, load_mnist
from support.errors import UserError


def processes() -> tuple[int, int]:
    """The number of this process, and of how many that share the runs of a command.

    As torchrun, or whatever starts them, says in RANK and WORLD_SIZE. Raises UserError for others
    than numbers, and for a RANK that is not below WORLD_SIZE.
    """
    rank = from_environment("RANK", 0)
    world = from_environment("WORLD_SIZE", 1) if "RANK" in os.environ else 1
    if not 0 <= rank < world:
        raise UserError(
            f"RANK is {rank} and WORLD_SIZE {world}: unset both, or let torchrun set them"
        )
    return rank, world


def from_environment(name: str, default: int) -> int:
    """The number in a variable of the environment. Raises UserError if it is none."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise UserError(f"{name} is {os.environ[name]!r}, not a number: unset it") from None


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
        number = from_environment("LOCAL_RANK", 0) % torch.cuda.device_count()
        torch.cuda.set_device(number)
        return torch.device(name, number)
    return torch.device(name)


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


def set_up(args: argparse.Namespace) -> tuple[Mnist, torch.device]:
    """Set the threads; load MNIST onto the device. `--validation` holds images out to test on."""
    if args.threads:
        torch.set_num_threads(args.threads)
    mnist, device = load_mnist(args.data_dir, args.data), choose_device(args.device)
    mnist = hold_out(mnist) if args.validation else mnist
    if mnist.source == "sample" and not args.quiet:
        images = f"{len(mnist.training):,} images to train on and {len(mnist.test):,} to test"
        print(f"The data: the bundled sample of MNIST, {images}.")
        print("Its errors do not compare with those of the paper, which are on all of MNIST.")
    return mnist._replace(training=mnist.training.to(device), test=mnist.test.to(device)), device
