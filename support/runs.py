"""The training runs that a command line asks for."""

import itertools
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataset import Digits, Mnist
from layers import RectifierNet
from support.errors import UserError
from support.hyperparameters import Params

FOLDER = Path("runs")  # of outputs without a name; git ignores it


class Run(NamedTuple):
    """A training run as the command line asks for it."""

    params: Params
    seed: int
    output: Path
    precision: str = "fp32"
    resume: bool = False
    quiet: bool = False
    log: Path | None = None  # folder of TensorBoard events
    in_sweep: bool = False  # then it continues what it finds, and is not trained again if finished
    several: bool = False  # it is one of several: it has a bar with its name, and no first lines

    def line(self) -> dict[str, Any]:
        """Its hyperparameters and seed, by column of a CSV file."""
        return vars(self.params) | {"seed": self.seed}

    def settings(
        self,
        model: RectifierNet,
        mnist: Mnist,
        training_set: Digits,
        teacher: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """What it is started with: only with the same may it be resumed."""
        return {
            "architecture": type(model).__name__,
            "parameters": dict(vars(self.params)),
            "seed": self.seed,
            "precision": self.precision,
            "data_set": {
                "name": mnist.name,
                "training_cases": len(training_set),
                "digits": training_set.labels.unique().tolist(),
                "test_cases": len(mnist.test),
            },
            "teacher": teacher,
        }


def plan(args: Namespace, choices: Sequence[Params], name: str) -> list[Run]:
    """A run for each of the `choices` of hyperparameters with each seed.

    A single run goes to `--output`; several go to runs/, each to a file of its own: `name`, filled
    in with its hyperparameters, and what else differs. Raises UserError if two have the same one.
    """
    several = len(choices) * len(args.seed) > 1
    in_sweep = several or args.results is not None
    if several and args.output:
        raise UserError(f"--output is for a single run, not for several: they go to {FOLDER}/")
    marked = [k for k in vars(choices[0]) if len({str(vars(params)[k]) for params in choices}) > 1]
    runs = []
    for params, seed in itertools.product(choices, args.seed):
        stem = [name.format(**vars(params))]
        if in_sweep:
            stem += [f"{k}_{vars(params)[k]}" for k in marked if f"{{{k}" not in name]
            stem += [f"seed_{seed}"]
        output = args.output or FOLDER / f"{'_'.join(stem)}.pt"
        resume, quiet = args.resume and not in_sweep, args.quiet
        options = (args.precision, resume, quiet, args.log, in_sweep, several)
        runs.append(Run(params, seed, output, *options))
    (output, times), *_ = Counter(run.output for run in runs).most_common(1)
    if times > 1:
        raise UserError(f"two runs would write {output}: give each value and seed only once")
    return runs
