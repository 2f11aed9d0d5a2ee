"""Draw the figures of README.md and results/README.md into figures/.

They come from the runs in results/ and the checkpoints in models/.
"""

import io
from collections.abc import Callable
from typing import Any

from dataset import Mnist, load_mnist
from results.figures_of_nets import (
    dark_knowledge,
    in_one_picture,
    mistakes,
    shifts,
    unseen_logits,
)
from results.figures_of_runs import (
    claims,
    published_schedule,
    teachers,
    temperatures,
    translations,
)
from results.runs import ROOT
from results.style import pyplot
from results.summary import making
from support.command_line import Parser, data_flags
from support.errors import UserError
from support.files import replace_file
from support.script import run_script

FIGURES = ROOT / "figures"
DRAWINGS: dict[str, Callable[[Any, Mnist], Any]] = {
    "in_one_picture": in_one_picture,
    "dark_knowledge": dark_knowledge,
    "claims": claims,
    "temperatures": temperatures,
    "shifts": shifts,
    "unseen_logits": unseen_logits,
    "mistakes": mistakes,
    "teachers": teachers,
    "translations": translations,
    "published_schedule": published_schedule,
}


def main() -> None:
    command = "python -m results.figures"
    parser = Parser(f"{command}\n", prog=command, description=__doc__)
    data_flags(parser)
    args = parser.parse_args()
    plt = pyplot()
    mnist = load_mnist(args.data_dir, args.data)
    if mnist.name != "MNIST":
        raise UserError("the figures are of MNIST's test images, not of the bundled sample")
    FIGURES.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        with making(f"figures/{name}.png"):
            figure = draw(plt, mnist)
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})
        replace_file(FIGURES / f"{name}.png", image.getbuffer())
        plt.close(figure)
        print(f"figures/{name}.png")


if __name__ == "__main__":
    run_script(main)
