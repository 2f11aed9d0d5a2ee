"""The command line of the scripts: their parser, and the flags that several of them have."""

import argparse
import os
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from support.errors import UserError
from support.hyperparameters import ROLES, Allowed, default_params
from support.machine import processes

THREADS = Allowed(int, low=1, high=1024)
SEED = Allowed(int, high=2**31 - 1)  # the upper half is for small nets


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; `examples` are for the end of its help."""

    def __init__(self, examples: str, **options: Any):
        papers = "[KD]: arXiv 1503.02531. [DO]: arXiv 1207.0580, appendix A."
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage="%(prog)s [option ...]",
            epilog=f"examples:\n{textwrap.indent(examples, '  ')}\n{papers}",
            **options,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.splitlines())} (see {self.prog} --help)\n")


def user_path(text: str) -> Path:
    """A path as the user typed it; the shell leaves the ~ in `--output=~/net.pt` as it is."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name a file")
    return Path(os.path.expanduser(text))


def hyperparameter_flags(parser: Parser, role: str, note: str = "", **defaults: Any) -> None:
    """Add a flag for every hyperparameter of `role`: a list of values, None if it is not given.

    `defaults` are a script's own, in place of those of the class; `note` is for the help. Raises
    UserError for an impossible one.
    """
    allowed = ROLES[role].allowed
    for name in defaults.keys() - allowed.keys():
        raise UserError(f"the default {name} of this script is not a hyperparameter: correct it")
    where = "the default {} of this script: "
    defaults = {k: allowed[k].check(v, where.format(k)) for k, v in defaults.items()}
    title = f"hyperparameters (LocalParams.{role} in training_params.py)"
    group = parser.add_argument_group(title, note)
    local, paper = (vars(default_params(params, role)) for params in ("local", "paper"))
    for name, values in allowed.items():
        same = local[name] == paper[name]
        default = f"{local[name]}" if same else f"{local[name]}; paper: {paper[name]}"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=values.check,
            nargs="+",
            metavar="|".join(values.words) or values.type.__name__.upper(),
            default=[defaults[name]] if name in defaults else None,
            help=f"{values.help} [{defaults.get(name, default)}]".replace("%", "%%"),
        )


def training_flags(parser: Parser) -> None:
    """Add the flags that every training script has besides its hyperparameters."""
    add = parser.add_argument_group("the run").add_argument
    add("--params", choices=("local", "paper"), default="local", help="class of defaults [local]")
    seeds = "seed of the initial weights, the order of the images, jitter and dropout [0]"
    add("--seed", type=SEED.check, nargs="+", default=[0], help=seeds)
    output = "the checkpoint to write [under runs/]"
    add("--output", type=user_path, metavar="PATH", help=output)
    results = "CSV file for a line for each run [for several runs: runs/SCRIPT.csv]"
    add("--results", type=user_path, metavar="FILE", help=results)
    add("--resume", action="store_true", help="continue a run that was stopped")
    held_out = "hold out the last 10,000 training images (of the sample, 800)"
    add("--validation", action="store_true", help=held_out)
    log = "folder for TensorBoard events, one subfolder for each run [none]"
    add("--log", type=user_path, metavar="DIR", help=log)
    # Of the processes of torchrun the first alone says what it does.
    quiet = "no progress, only the result"
    add("--quiet", action="store_true", default=processes()[0] > 0, help=quiet)
    data_flags(parser)
    add = parser.add_argument_group("the machine").add_argument
    devices = ("auto", "cpu", "cuda", "mps")
    add("--device", choices=devices, default="auto", help="where to train [auto]")
    precision = "number format of matrix products [fp32]"
    add("--precision", choices=("fp32", "bf16"), default="fp32", help=precision)
    threads = "processor threads; results differ slightly with their number [all]"
    add("--threads", type=THREADS.check, help=threads)


def data_flags(parser: Parser) -> None:
    """Add the flags that say where the images come from."""
    add = parser.add_argument_group("the data").add_argument
    source = "auto is MNIST, or without a network the bundled sample of 5,000 digits [auto]"
    add("--data", choices=("auto", "mnist", "sample"), default="auto", help=source)
    folder = "folder with the files of MNIST [$MNIST_DIR, else data/]"
    add("--data-dir", type=user_path, metavar="DIR", help=folder)
