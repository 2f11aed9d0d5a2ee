"""Hyperparameters of every training, in two classes to edit: `PaperParams` and `LocalParams`.

[KD] Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531
[DO] Hinton et al., Improving neural networks by preventing co-adaptation of feature detectors,
     arXiv 1207.0580, appendix A

Each value has a flag of the same name (`learning_rate` is `--learning-rate`), whose help is the
comment beside the value in `LocalParams`; the annotation says which values are allowed. The two
classes are written out in full, so that a misspelt name in one of them is found. Below them is what
all scripts share: errors, the parser and its flags, signals and exit status.
"""

import argparse
import inspect
import itertools
import math
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple, NoReturn, get_type_hints


class Allowed(NamedTuple):
    """The values a hyperparameter may take: numbers in an interval, or some words."""

    low: float = 0
    high: float = 1_000_000
    open_low: bool = False  # low itself is excluded
    open_high: bool = False
    words: tuple[str, ...] = ()


MAX_UNITS = 8192  # the state of a training with more would not fit into a resume point
Count = Annotated[int, Allowed(low=1)]
Units = Annotated[int, Allowed(low=1, high=MAX_UNITS)]
Pixels = Annotated[int, Allowed(high=28)]
NoPixels = Annotated[int, Allowed(high=0)]
Positive = Annotated[float, Allowed(open_low=True)]
Temperature = Annotated[float, Allowed(low=0.01)]
NotNegative = Annotated[float, Allowed()]
Share = Annotated[float, Allowed(high=1)]
Probability = Annotated[float, Allowed(high=1, open_high=True)]
Optimizer = Annotated[str, Allowed(words=("sgd", "adam"))]
Schedule = Annotated[str, Allowed(words=("exponential", "linear"))]


class PaperParams:
    """The published values. [KD] gives none of the optimisation of its small and distilled nets:
    what is marked "not stated" there is ours, as in `LocalParams`."""

    class Cumbersome:
        hidden_units: Units = 1200  # [KD] s.3: two hidden layers of 1200 rectified linear units
        epochs: Count = 3000  # [DO] app. A
        schedule_epochs: Count = 3000  # [DO] app. A: the schedules below are told in these epochs
        batch_size: Count = 100  # [DO] app. A
        optimizer: Optimizer = "sgd"  # [DO] app. A
        learning_rate: Positive = 10.0  # [DO] app. A, for logistic units; times (1 - momentum)
        rate_schedule: Schedule = "exponential"  # [DO] app. A
        rate_decay: Share = 0.998  # [DO] app. A
        momentum_start: Probability = 0.5  # [DO] app. A
        momentum_end: Probability = 0.99  # [DO] app. A
        momentum_epochs: Count = 500  # [DO] app. A
        adam_beta2: Probability = 0.99  # not used by sgd
        dropout_visible: Probability = 0.2  # [DO] app. A
        dropout_hidden: Probability = 0.5  # [DO] app. A
        max_squared_length: NotNegative = 15.0  # [DO] app. A: the squared length, not the length
        jitter: Pixels = 2  # [KD] s.3: "up to two pixels in any direction"
        init_std: Positive = 0.01  # [DO] app. A: N(0, 0.01), biases 0

    class Small:
        hidden_units: Units = 800  # [KD] s.3
        epochs: Count = 20  # not stated
        schedule_epochs: Count = 20  # not stated
        batch_size: Count = 100  # not stated
        optimizer: Optimizer = "adam"  # not stated
        learning_rate: Positive = 0.002  # not stated
        rate_schedule: Schedule = "linear"  # not stated
        rate_decay: Share = 0.998  # not used by the linear schedule
        momentum_start: Probability = 0.5  # not used by adam
        momentum_end: Probability = 0.95  # not used by adam
        momentum_epochs: Count = 3  # not used by adam
        adam_beta2: Probability = 0.99  # not stated
        dropout_visible: Probability = 0.0  # [KD] s.3: "no regularization"
        dropout_hidden: Probability = 0.0  # [KD] s.3
        max_squared_length: NotNegative = 0.0  # [KD] s.3
        jitter: Pixels = 0  # [KD] s.3
        init_std: Positive = 0.02  # not stated

    class Distilled:
        hidden_units: Units = 800  # [KD] s.3
        epochs: Count = 20  # not stated
        schedule_epochs: Count = 20  # not stated
        batch_size: Count = 100  # not stated
        optimizer: Optimizer = "adam"  # not stated
        learning_rate: Positive = 0.002  # not stated
        rate_schedule: Schedule = "linear"  # not stated
        rate_decay: Share = 0.998  # not used by the linear schedule
        momentum_start: Probability = 0.5  # not used by adam
        momentum_end: Probability = 0.95  # not used by adam
        momentum_epochs: Count = 3  # not used by adam
        adam_beta2: Probability = 0.99  # not stated
        dropout_visible: Probability = 0.0  # [KD] s.3: regularised "solely" by the soft targets
        dropout_hidden: Probability = 0.0  # [KD] s.3
        max_squared_length: NotNegative = 0.0  # [KD] s.3
        jitter: NoPixels = 0  # [KD] s.3: "the transfer set does not contain any translations"
        init_std: Positive = 0.02  # not stated
        temperature: Temperature = 20.0  # [KD] s.3
        hard_weight: Share = 0.0  # not stated for MNIST; [KD] s.2: "a considerably lower weight"


class LocalParams:
    """Values for a laptop: fewer epochs and a lower rate for the cumbersome net. The README says on
    what they were chosen."""

    class Cumbersome:
        hidden_units: Units = 1200  # rectified linear units in each of the two hidden layers
        epochs: Count = 400  # passes over the training set
        schedule_epochs: Count = 400  # length of the schedules in epochs; --epochs compresses them
        batch_size: Count = 100  # cases in a minibatch; the gradient is their average
        optimizer: Optimizer = "sgd"  # sgd is the momentum method of [DO]
        learning_rate: Positive = 1.0  # initial rate; sgd multiplies it by (1 - momentum)
        rate_schedule: Schedule = "linear"  # linear falls to 0, exponential by rate_decay
        rate_decay: Share = 0.998  # factor after each epoch of the exponential schedule
        momentum_start: Probability = 0.5  # momentum in the first epoch (sgd)
        momentum_end: Probability = 0.95  # momentum after momentum_epochs (sgd)
        momentum_epochs: Count = 66  # epochs over which momentum rises linearly (sgd)
        adam_beta2: Probability = 0.99  # decay of the mean squared gradient (adam)
        dropout_visible: Probability = 0.2  # share of the pixels zeroed in training
        dropout_hidden: Probability = 0.5  # share of the hidden units zeroed in training
        max_squared_length: NotNegative = 15.0  # of a hidden unit's incoming weights; 0 for none
        jitter: Pixels = 2  # training images are moved by up to this many pixels, each way
        init_std: Positive = 0.01  # standard deviation of the initial weights

    class Small:
        hidden_units: Units = 800  # rectified linear units in each of the two hidden layers
        epochs: Count = 20  # passes over the training set
        schedule_epochs: Count = 20  # length of the schedules in epochs; --epochs compresses them
        batch_size: Count = 100  # cases in a minibatch; the gradient is their average
        optimizer: Optimizer = "adam"  # sgd is the momentum method of [DO]
        learning_rate: Positive = 0.002  # initial rate; sgd multiplies it by (1 - momentum)
        rate_schedule: Schedule = "linear"  # linear falls to 0, exponential by rate_decay
        rate_decay: Share = 0.998  # factor after each epoch of the exponential schedule
        momentum_start: Probability = 0.5  # momentum in the first epoch (sgd)
        momentum_end: Probability = 0.95  # momentum after momentum_epochs (sgd)
        momentum_epochs: Count = 3  # epochs over which momentum rises linearly (sgd)
        adam_beta2: Probability = 0.99  # decay of the mean squared gradient (adam)
        dropout_visible: Probability = 0.0  # share of the pixels zeroed in training
        dropout_hidden: Probability = 0.0  # share of the hidden units zeroed in training
        max_squared_length: NotNegative = 0.0  # of a hidden unit's incoming weights; 0 for none
        jitter: Pixels = 0  # training images are moved by up to this many pixels, each way
        init_std: Positive = 0.02  # standard deviation of the initial weights

    class Distilled:
        hidden_units: Units = 800  # rectified linear units in each of the two hidden layers
        epochs: Count = 20  # passes over the transfer set
        schedule_epochs: Count = 20  # length of the schedules in epochs; --epochs compresses them
        batch_size: Count = 100  # cases in a minibatch; the gradient is their average
        optimizer: Optimizer = "adam"  # sgd is the momentum method of [DO]
        learning_rate: Positive = 0.002  # initial rate; sgd multiplies it by (1 - momentum)
        rate_schedule: Schedule = "linear"  # linear falls to 0, exponential by rate_decay
        rate_decay: Share = 0.998  # factor after each epoch of the exponential schedule
        momentum_start: Probability = 0.5  # momentum in the first epoch (sgd)
        momentum_end: Probability = 0.95  # momentum after momentum_epochs (sgd)
        momentum_epochs: Count = 3  # epochs over which momentum rises linearly (sgd)
        adam_beta2: Probability = 0.99  # decay of the mean squared gradient (adam)
        dropout_visible: Probability = 0.0  # share of the pixels zeroed in training
        dropout_hidden: Probability = 0.0  # share of the hidden units zeroed in training
        max_squared_length: NotNegative = 0.0  # of a hidden unit's incoming weights; 0 for none
        jitter: NoPixels = 0  # always 0: the soft targets are of unmoved images
        init_std: Positive = 0.02  # standard deviation of the initial weights
        temperature: Temperature = 20.0  # T of the soft targets and of the student's soft term
        hard_weight: Share = 0.0  # weight of the correct labels (T = 1) in the weighted average


class UserError(Exception):
    """Something the user can put right: one line that says what, where, and what to do."""

    status = 2


class TrainingFailed(UserError):
    """A training that came to nothing, such as a loss that is no longer finite."""

    status = 1


def allowed_in_words(base: type, allowed: Allowed) -> str:
    """What numbers are `allowed`, for a message."""
    if allowed.low == allowed.high:
        return f"{allowed.low:g}, the only value there is"
    low = f"{'above' if allowed.open_low else 'of at least'} {allowed.low:g}"
    high = f"{'below' if allowed.open_high else 'at most'} {allowed.high:,}"
    return f"a {'whole number' if base is int else 'number'} {low} and {high}"


def check_value(text: Any, kind: Any) -> Any:
    """`text` (a word of the command line or a value) as the annotated `kind`.

    Raises ValueError, with what is allowed, if it is no such value.
    """
    base, allowed = kind.__origin__, kind.__metadata__[0]
    if base is str:
        if text not in allowed.words:
            raise ValueError(f"{text!r} is not one of {', '.join(allowed.words)}")
        return text
    wanted = allowed_in_words(base, allowed)
    try:
        value = base(text)
        if isinstance(text, bool) or (not isinstance(text, str) and value != text):
            raise ValueError
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{text!r} is not {wanted}") from None
    too_low = value <= allowed.low if allowed.open_low else value < allowed.low
    too_high = value >= allowed.high if allowed.open_high else value > allowed.high
    if not math.isfinite(value) or too_low or too_high:
        raise ValueError(f"{text} is not {wanted}")
    return value


def fields_of(params: type, kind: str) -> dict[str, Any]:
    """Names and values in the inner class. Raises UserError if there is none."""
    cls = getattr(params, kind, None)
    if not isinstance(cls, type):
        raise UserError(f"training_params.py: {params.__name__}.{kind} is no class")
    return {name: getattr(cls, name) for name in dir(cls) if not name.startswith("_")}


def annotations(kind: str) -> dict[str, Any]:
    """The annotated kind of each hyperparameter, in the order of `PaperParams`.

    Raises UserError for a field that only one of the two classes has, or that has no kind.
    """
    paper, local = fields_of(PaperParams, kind), fields_of(LocalParams, kind)
    alone = [("PaperParams", "LocalParams", field) for field in paper if field not in local]
    alone += [("LocalParams", "PaperParams", field) for field in local if field not in paper]
    if alone:
        problems = [f"{a}.{kind}.{field} has no {b}.{kind}.{field}" for a, b, field in alone]
        raise UserError(f"training_params.py: {', '.join(problems)} beside it")
    hints: dict[str, Any] = {}
    for params in (LocalParams, PaperParams):  # an edit may have left the annotation out of one
        found = get_type_hints(getattr(params, kind), include_extras=True)
        hints = {k: v for k, v in found.items() if hasattr(v, "__metadata__")} | hints
    for field in sorted(paper.keys() - hints.keys()):
        raise UserError(f"training_params.py: {kind}.{field} is annotated with none of the kinds")
    return {field: hints[field] for field in hints if field in paper}


def default_params(params: str, kind: str) -> SimpleNamespace:
    """The checked values of `LocalParams` or `PaperParams` ("local" or "paper") for `kind`.

    `kind` is "Cumbersome", "Small" or "Distilled". Raises UserError naming class and field if an
    edited class has a field too many, one too few, or an impossible value.
    """
    chosen = {"local": LocalParams, "paper": PaperParams}[params]
    kinds, fields = annotations(kind), fields_of(chosen, kind)
    where = f"training_params.py: {chosen.__name__}.{kind}"
    values = {field: checked(fields[field], kinds[field], f"{where}.{field}") for field in kinds}
    return SimpleNamespace(**values)


def checked(value: Any, kind: Any, where: str) -> Any:
    """`check_value` of one that stands in the code. Raises UserError that says `where`."""
    try:
        return check_value(value, kind)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def flag_type(kind: Any) -> Callable[[str], Any]:
    """`check_value` for the annotated `kind`, as argparse wants it."""

    def parse(text: str) -> Any:
        try:
            return check_value(text, kind)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def add_flags(parser: argparse.ArgumentParser, kind: str, note: str = "", **defaults: Any) -> None:
    """Add a flag for every hyperparameter of `kind`: a list of values, None if it is not given.

    `defaults` are a script's own, in place of those of the class; `note` is for the help. Raises
    UserError for an impossible one.
    """
    kinds = annotations(kind)
    for field in defaults.keys() - kinds.keys():
        raise UserError(f"the default {field} of this script is no hyperparameter: correct it")
    where = "the default {} of this script"
    defaults = {k: checked(v, kinds[k], where.format(k)) for k, v in defaults.items()}
    source = inspect.getsource(getattr(LocalParams, kind))
    comments = dict(re.findall(r"^\s*(\w+): [^#]*#\s*(.*)$", source, re.MULTILINE))
    title = f"hyperparameters (LocalParams.{kind} in training_params.py)"
    group = parser.add_argument_group(title, note)
    for field, annotation in kinds.items():
        local, paper = (getattr(getattr(c, kind), field) for c in (LocalParams, PaperParams))
        default = f"{local}" if local == paper else f"{local}; paper: {paper}"
        group.add_argument(
            f"--{field.replace('_', '-')}",
            type=flag_type(annotation),
            nargs="+",
            metavar="|".join(annotation.__metadata__[0].words)
            or annotation.__origin__.__name__.upper(),
            default=[defaults[field]] if field in defaults else None,
            help=f"{comments.get(field, '')} [{defaults.get(field, default)}]".replace("%", "%%"),
        )


def chosen_params(args: argparse.Namespace, kind: str) -> list[SimpleNamespace]:
    """The values of the class that `--params` names, but for the flags that were given.

    Flags with several values make one for every combination.
    """
    default = vars(default_params(args.params, kind))
    values = [getattr(args, field) or [value] for field, value in default.items()]
    return [
        SimpleNamespace(**dict(zip(default, chosen, strict=True)))
        for chosen in itertools.product(*values)
    ]


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


Threads = Annotated[int, Allowed(low=1, high=1024)]
Seed = Annotated[int, Allowed(high=2**32 - 1)]


def common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every training script has beside its hyperparameters."""
    add = parser.add_argument_group("the run").add_argument
    add("--params", choices=("local", "paper"), default="local", help="class of defaults [local]")
    seeds = "of the first weights, the order of the data, jitter and dropout [0]"
    add("--seed", type=flag_type(Seed), nargs="+", default=[0], help=seeds)
    add("--output", metavar="PATH", help="the checkpoint to write [under runs/]")
    add(
        "--results",
        metavar="FILE",
        help="CSV file with a line for each run [of several: runs/SCRIPT.csv]",
    )
    add("--resume", action="store_true", help="go on with a run that was stopped")
    add("--validation", action="store_true", help="hold out the last 10,000 training cases")
    add("--log", metavar="DIR", help="folder for TensorBoard events, one folder a run [none]")
    add("--quiet", action="store_true", help="no progress, only the result")
    data_flags(parser)
    add = parser.add_argument_group("the machine").add_argument
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where to train [auto]",
    )
    add(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="number format of matrix products [fp32]",
    )
    add(
        "--threads",
        type=flag_type(Threads),
        help="processor threads; results differ slightly with their number [all]",
    )


def data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the data come from."""
    add = parser.add_argument_group("the data").add_argument
    add(
        "--data",
        choices=("auto", "mnist", "sample"),
        default="auto",
        help="auto is MNIST, or without a network the bundled sample of 5,000 digits [auto]",
    )
    add("--data-dir", metavar="DIR", help="folder of MNIST/raw [$MNIST_DIR, else data/]")


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Every file is written whole or not at all, so it may come at any time."""


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run `main` as a script: one line and an exit status for whatever stops it.

    2 for a UserError or OSError, 1 for a training that failed or a reader of the output that has
    gone, 130 for Ctrl-C, 143 for SIGTERM.
    """

    def stop(signum: int, frame: object) -> NoReturn:
        for each in signals:  # a second one must not disturb what the first has begun
            signal.signal(each, signal.SIG_IGN)
        sys.unraisablehook = lambda _: None  # nor what is thrown away half made complain of it
        raise Stopped(signum)

    prepare_streams()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.getsignal(signum) for signum in signals}
    unraisable = sys.unraisablehook
    for signum in signals:
        signal.signal(signum, stop)
    status = 0
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        status = error.status
        complain(error)
    except Stopped as stopped:
        status = 128 + stopped.args[0]
    except BrokenPipeError:  # of a reader such as `head`; what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        status = 2
        complain(error)
    finally:
        sys.unraisablehook = unraisable
        for signum, handler in before.items():
            signal.signal(signum, handler)
    leave(status)


def leave(status: int) -> NoReturn:
    """Exit; under torchrun at once, as gloo's threads now and then abort a process that ends."""
    if "RANK" in os.environ:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def prepare_streams() -> None:
    """Have both streams, even if they were closed, and take every character, if as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def complain(error: Exception) -> None:
    """One line, whatever names it holds; none where nobody can read it."""
    with suppress(OSError):
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr, flush=True)
