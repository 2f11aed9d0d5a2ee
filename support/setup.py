"""What every script that trains does first: threads, device and images."""

import argparse

import torch

from dataset import Mnist, hold_out, load_mnist
from support.machine import choose_device


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
