"""The command line of the scripts: their parser, and the flags that several of them have."""

import argparse
import itertools
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from support.checkpoints import MODELS
from support.errors import UserError
from support.hyperparameters import Allowed, Params, checked, default_params, hyperparameters
from support.machine import rank

THREADS = Allowed(int, low=1, high=1024)
SEED = Allowed(int, high=2**32 - 1)
TEACHER = MODELS / "cumbersome_model_1200.pt"


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows a flag of several values as `--seed SEED ...`, not as `--seed SEED [SEED ...]`."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        text = super()._format_args(action, default_metavar)
        return text.partition(" [")[0] + " ..." if action.nargs == "+" else text


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; `examples` are for the end of its help."""

    def __init__(self, examples: str, **options: Any):
        papers = "[KD]: arXiv 1503.02531. [DO]: arXiv 1207.0580, appendix A."
        super().__init__(
            allow_abbrev=False,
            formatter_class=Help,
            usage="%(prog)s [option ...]",
            epilog=f"examples:\n{textwrap.indent(examples, '  ')}\n{papers}",
            **options,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.splitlines())} (see {self.prog} --help)\n")


def flag_type(allowed: Allowed) -> Callable[[str], Any]:
    """`allowed.check` as argparse wants it."""

    def parse(text: str) -> Any:
        try:
            return allowed.check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


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
    allowed = hyperparameters(role)
    for name in defaults.keys() - allowed.keys():
        raise UserError(f"the default {name} of this script is not a hyperparameter: correct it")
    where = "the default {} of this script"
    defaults = {k: checked(v, allowed[k], where.format(k)) for k, v in defaults.items()}
    title = f"hyperparameters (LocalParams.{role} in training_params.py)"
    group = parser.add_argument_group(title, note)
    local, paper = (vars(default_params(params, role)) for params in ("local", "paper"))
    for name, values in allowed.items():
        same = local[name] == paper[name]
        default = f"{local[name]}" if same else f"{local[name]}; paper: {paper[name]}"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=flag_type(values),
            nargs="+",
            metavar="|".join(values.words) or values.type.__name__.upper(),
            default=[defaults[name]] if name in defaults else None,
            help=f"{values.help} [{defaults.get(name, default)}]".replace("%", "%%"),
        )


def chosen_params(args: argparse.Namespace, role: str) -> list[Params]:
    """The values of the class that `--params` names, but for the flags that were given.

    Flags with several values make one for every combination.
    """
    default = vars(default_params(args.params, role))
    values = [getattr(args, name) or [value] for name, value in default.items()]
    return [
        Params(**dict(zip(default, chosen, strict=True))) for chosen in itertools.product(*values)
    ]


def training_flags(parser: Parser) -> None:
    """Add the flags that every training script has besides its hyperparameters."""
    add = parser.add_argument_group("the run").add_argument
    add("--params", choices=("local", "paper"), default="local", help="class of defaults [local]")
    seeds = "seed of the initial weights, the order of the images, jitter and dropout [0]"
    add("--seed", type=flag_type(SEED), nargs="+", default=[0], help=seeds)
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
    add("--quiet", action="store_true", default=rank() > 0, help=quiet)
    data_flags(parser)
    add = parser.add_argument_group("the machine").add_argument
    devices = ("auto", "cpu", "cuda", "mps")
    add("--device", choices=devices, default="auto", help="where to train [auto]")
    precision = "number format of matrix products [fp32]"
    add("--precision", choices=("fp32", "bf16"), default="fp32", help=precision)
    threads = "processor threads; results differ slightly with their number [all]"
    add("--threads", type=flag_type(THREADS), help=threads)


def distillation_flags(parser: Parser, **defaults: Any) -> None:
    """Add the flags of a distillation; `defaults` are those in which a script differs."""
    teacher = f"checkpoint to distil; several are an ensemble [models/{TEACHER.name}]"
    add = parser.add_argument
    # No default: `extend` would add to it. `load_teacher` takes TEACHER for no path.
    options = {"type": user_path, "nargs": "+", "action": "extend", "default": []}
    add("--teacher", metavar="PATH", help=teacher, **options)
    mean = "average the distributions of an ensemble at T [its logits, for the geometric mean]"
    add("--arithmetic-mean", action="store_true", help=mean)
    training_flags(parser)
    note = f"except {', '.join(defaults)}, which have their own here" if defaults else ""
    hyperparameter_flags(parser, "Distilled", note, **defaults)


def data_flags(parser: Parser) -> None:
    """Add the flags that say where the images come from."""
    add = parser.add_argument_group("the data").add_argument
    source = "auto is MNIST, or without a network the bundled sample of 5,000 digits [auto]"
    add("--data", choices=("auto", "mnist", "sample"), default="auto", help=source)
    folder = "folder with the files of MNIST [$MNIST_DIR, else data/]"
    add("--data-dir", type=user_path, metavar="DIR", help=folder)
