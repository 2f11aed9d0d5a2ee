"""A control for the published schedule: the units that it was published for.

    python -m results.logistic_units --seed 0 1

[KD] s.3 has rectified linear units and refers to [DO] for the training; [DO] has logistic ones.
These nets are those of `train.py --params paper --epochs 300 --precision bf16 --threads 1` in all
but their units. Their histories go to results/logistic_units.json. There are no checkpoints, as no
other script could read them. A run that was stopped continues with the same command.
"""

import json
from typing import Any

import torch
from torch import nn

from dataset import Mnist, load_mnist
from evaluate import measure
from layers import CumbersomeNet, init_weights, scale_weights
from results.runs import RESULTS
from support.command_line import SEED, Parser, data_flags
from support.errors import UserError
from support.files import read_file, replace_file
from support.hyperparameters import Params, default_params
from support.records import provenance
from support.reporting import Progress
from support.resume import ResumePoint
from support.runs import FOLDER, make_folder
from support.script import run_script
from train import train

EXAMPLES = "python -m results.logistic_units --seed 0 1\n"
FILE = RESULTS / "logistic_units.json"
EPOCHS = 300  # a tenth of [DO]'s, as those of the nets with rectified linear units


class LogisticNet(CumbersomeNet):
    """The net of [DO]: as CumbersomeNet, but with logistic units."""

    def __init__(self, *sizes: float):
        super().__init__(*sizes)
        self.relu1, self.relu2 = nn.Sigmoid(), nn.Sigmoid()


def trained(params: Params, seed: int, mnist: Mnist, resume_point: ResumePoint) -> dict[str, Any]:
    """Train the net of a `seed`; its errors and history, and what they depend on."""
    net = LogisticNet(params.hidden_units, params.dropout_visible, params.dropout_hidden)
    init_weights(net, params.init_std, seed)
    resume_point.continue_or_start("continue")
    history = train(
        net,
        mnist.training,
        params,
        test_set=mnist.test,
        seed=seed,
        precision="bf16",
        resume_point=resume_point,
        progress=Progress(),
    )
    result = measure(scale_weights(net), mnist.test)
    about = {"seed": seed, "data_set": mnist.name, "parameters": vars(params)}
    return about | provenance(torch.device("cpu")) | {"result": result, "history": history}


def nets_so_far() -> dict[int, dict[str, Any]]:
    """What the file has, by seed. Raises UserError if it is damaged."""
    if not FILE.exists():
        return {}
    try:
        nets = {net["seed"]: net for net in json.loads(read_file(FILE))}
        kinds = {
            (type(seed), type(net["data_set"]), type(net["result"]["errors"]))
            for seed, net in nets.items()
        }
        if kinds - {(int, str, int)}:
            raise ValueError("a seed, data set or number of errors of another type")
        return nets
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"{FILE} is damaged: delete it, or take it from Git") from None


def main() -> None:
    parser = Parser(EXAMPLES, prog="python -m results.logistic_units", description=__doc__)
    seed = {"type": SEED.check, "nargs": "+", "default": [0]}
    parser.add_argument("--seed", **seed, help="seed of each net [0]")
    data_flags(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    mnist = load_mnist(args.data_dir, args.data)
    params = default_params("paper", "Cumbersome")
    params.epochs = EPOCHS
    found = nets_so_far()
    for seed in args.seed:
        if seed not in found:
            resume_point = ResumePoint(
                FOLDER / f"logistic_seed_{seed}.resume",
                {"seed": seed, "data": mnist.name, **vars(params)},
            )
            make_folder(resume_point.path)
            found[seed] = trained(params, seed, mnist, resume_point)
            replace_file(FILE, json.dumps([*found.values()], indent=1).encode())
            resume_point.remove()  # not before the result is safe
        print(f"{found[seed]['result']['errors']} errors with seed {seed}, in {FILE.name}")


if __name__ == "__main__":
    run_script(main)
