"""Draw the figures of README.md and results/README.md into figures/.

They come from the runs in results/ and the checkpoints in models/.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from dataset import Mnist, load_mnist
from distillation import soft_targets
from distillation_no_three import errors_at, found_shifts
from evaluate import logits_of
from layers import RectifierNet
from results.claims import measured_claims
from results.runs import ROOT, by_temperature, record_of, translated
from results.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH, logarithmic, pyplot
from results.summary import deviation, making, pooled_intervals
from support.checkpoints import MODELS, load_model
from support.command_line import Parser, data_flags
from support.errors import UserError
from support.files import replace_file
from support.paper import PAPER, PAPER_SHIFTS
from support.script import run_script

FIGURES = ROOT / "figures"


def claims(plt: Any, mnist: Mnist) -> Any:
    """The paper's errors beside ours: each seed, and mean and standard deviation over them."""
    rows = measured_claims()
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    for place, claim in enumerate(rows):
        paper, ours = PAPER[claim.key][0], claim.runs.numbers(claim.columns[0])
        axes.plot(paper, place, "D", color=ORANGE, ms=8, label="the paper, one run", zorder=2)
        axes.plot(ours, [place] * len(ours), "o", color=SKY, ms=4, label="ours, each seed")
        name = "mean ± standard deviation"
        bar = {"fmt": "|", "color": BLUE, "ms": 14, "capsize": 3, "label": name}
        axes.errorbar(np.mean(ours), place, xerr=deviation(ours), **bar)
    axes.set_yticks(range(len(rows)), [f"{claim.number} {claim.name}" for claim in rows])
    axes.invert_yaxis()
    logarithmic(axes, "x", 60, 100, 150, 200, 500, 1000, 2000, 5000)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("errors on the 10,000 test images (logarithmic)")
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), loc="upper right")
    return figure


def temperatures(plt: Any, mnist: Mnist) -> Any:
    """Errors against temperature: each seed, their mean and its 95 % confidence interval."""
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, 3.0))
    for axes, units in zip(panels, (30, 300, 800), strict=True):
        errors = by_temperature(f"distilled_{units}")
        means, halves = pooled_intervals([[*found.values()] for found in errors.values()])
        for temperature, found in errors.items():
            axes.plot([temperature] * len(found), [*found.values()], "o", color=SKY, ms=3)
        axes.errorbar(list(errors), means, yerr=halves, fmt="-o", color=BLUE, ms=4, capsize=2)
        logarithmic(axes, "x", 1, 2, 4, 8, 20, 40)
        axes.set_xlabel("temperature")
        seeds = sorted({len(found) for found in errors.values()})
        axes.set_title(f"{units} units, {' to '.join(map(str, seeds))} seeds")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high)
        if units == 30:
            axes.axvspan(2.5, 4, color=ORANGE, alpha=0.2, lw=0)
            axes.text(3.2, high, "the paper's\n2.5 to 4", ha="center", va="top", fontsize=8)
    panels[0].set_ylabel("test errors")
    return figure


def shifts(plt: Any, mnist: Mnist) -> Any:
    """Errors against the shift of the biases of classes that were never, or alone, seen."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    students = [
        ("wo3_800_20", "never saw a 3 (800 units, T = 20)", np.linspace(-1, 6, 281)),
        ("only78_300_8", "saw 7s and 8s only (300 units, T = 8)", np.linspace(-12, 2, 281)),
    ]
    for axes, student, claim in zip(panels, students, PAPER_SHIFTS.items(), strict=True):
        (file, title, range_of_shifts), ((_, digits), (paper, *_)) = student, claim
        model = load_model(MODELS / f"distilled_model_{file}.pt")
        _draw_shifts(axes, model, mnist, list(digits), paper, range_of_shifts)
        axes.set_title(title)
        axes.legend(fontsize=8, loc="upper center", frameon=True, framealpha=1, edgecolor="white")
    panels[0].set_ylabel("test errors")
    return figure


def _draw_shifts(
    axes: Any,
    student: RectifierNet,
    mnist: Mnist,
    group: list[int],
    paper: float,
    range_of_shifts: np.ndarray,
) -> None:
    """The panel of a student: errors in total and on `group`, and where some shifts are."""
    cases, best, label_free = found_shifts(student, mnist, group)
    labels = mnist.test.labels
    curves = [errors_at(cases, labels, group, shift) for shift in range_of_shifts]
    total, on_group = zip(*curves, strict=True)
    classes = " and ".join(map(str, group))
    names = " and ".join(f"{digit}s" for digit in group)
    axes.plot(range_of_shifts, total, color=BLUE, label="all digits")
    axes.plot(range_of_shifts, on_group, color=RED, ls="--", label=f"on {names}")
    marks = [
        ("as learned", 0.0, BLACK, "-"),
        ("the paper's", paper, ORANGE, "-"),
        ("best here", best, GREEN, ":"),
        ("by class frequency", label_free, PURPLE, "-."),
    ]
    for name, shift, colour, line in marks:
        errors, _ = errors_at(cases, labels, group, shift)
        label = f"{name} ({shift:+.1f}): {errors:,}"
        axes.axvline(shift, color=colour, ls=line, lw=1.2, label=label)
    as_learned = errors_at(cases, labels, group, 0.0)[0]
    axes.set_ylim(0, 2.2 * as_learned)
    axes.set_xlabel(f"added to the bias of {classes}")


def dark_knowledge(plt: Any, mnist: Mnist) -> Any:
    """Soft targets of the cumbersome net for the first test image of some digits."""
    digits = (2, 3, 4, 7)
    lowest = {1: 1e-9, 4: 1e-4, 20: 1e-2}  # probability that is shown, by temperature
    teacher = load_model(MODELS / "cumbersome_model_1200.pt")
    figure, panels = plt.subplots(
        len(digits), 4, figsize=(WIDTH, 5.6), width_ratios=(1, 2, 2, 2), squeeze=False
    )
    for row, digit in zip(panels, digits, strict=True):
        image = mnist.test.images[mnist.test.labels == digit][:1]
        row[0].imshow(image[0], cmap="gray_r")
        row[0].axis("off")
        for axes, temperature in zip(row[1:], lowest, strict=True):
            axes.bar(range(10), soft_targets(logits_of(teacher, image), temperature)[0], color=BLUE)
            axes.set_yscale("log")
            axes.set_ylim(lowest[temperature], 2)
            axes.set_xticks(range(10))
            axes.tick_params(labelsize=8)
    for axes, temperature in zip(panels[0, 1:], lowest, strict=True):
        axes.set_title(f"T = {temperature}")
    panels[-1, 2].set_xlabel("class (probabilities on logarithmic scales)")
    return figure


def mistakes(plt: Any, mnist: Mnist) -> Any:
    """Every test digit that the distilled net gets wrong."""
    images, labels = mnist.test.images, mnist.test.labels
    student, teacher = (
        logits_of(load_model(MODELS / file), images).argmax(1)
        for file in ("distilled_model_800_20.pt", "cumbersome_model_1200.pt")
    )
    wrong = (student != labels).nonzero().flatten().tolist()
    columns = 14
    rows = -(-len(wrong) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(WIDTH, 0.78 * rows), squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for axes, case in zip(panels.flat, wrong, strict=False):
        answer, truth, other = (int(values[case]) for values in (student, labels, teacher))
        axes.imshow(images[case], cmap="gray_r")
        colour = BLUE if other == truth else RED
        axes.set_title(f"{answer} ({truth}) {other}", fontsize=8, color=colour, pad=2)
    return figure


def training(plt: Any, mnist: Mnist) -> Any:
    """Test errors during training, of the checkpoints that saw nine or all digits."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.0), sharey=True)
    nets = [
        (panels[0], "cumbersome_model_1200.pt", "cumbersome", BLUE, "-"),
        (panels[1], "small_model_800.pt", "small 800, labels", RED, "--"),
        (panels[1], "distilled_model_300_8.pt", "distilled 300, T = 8", ORANGE, "-."),
        (panels[1], "distilled_model_800_20.pt", "distilled 800, T = 20", GREEN, "-"),
        (panels[1], "distilled_model_wo3_300_8.pt", "without 3s 300, T = 8", PURPLE, ":"),
        (panels[1], "distilled_model_wo3_800_20.pt", "without 3s 800, T = 20", BLACK, ":"),
    ]
    for axes, file, name, colour, line in nets:
        history = [e for e in record_of(MODELS / file)["history"] if "errors" in e]
        epochs, errors = zip(*((e["epoch"], e["errors"]) for e in history), strict=True)
        axes.plot(epochs, errors, color=colour, ls=line, label=name)
    for axes in panels:
        logarithmic(axes, "y", 60, 80, 100, 150, 200, 400, 1000)
        axes.set_ylim(60, 1000)
        axes.grid(axis="y", alpha=0.3)
        axes.set_xlabel("epoch")
        axes.legend(fontsize=8)
    panels[0].set_ylabel("test errors (logarithmic)")
    return figure


def translations(plt: Any, mnist: Mnist) -> Any:
    """Errors on the test images moved by 0 to 3 pixels: the student never saw one moved."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    nets = [
        ("translated", "small_model", "small net, 800 units, labels", RED, "--s"),
        ("translated_60", "of_unjittered", "distilled, its teacher without jitter", ORANGE, ":^"),
        ("translated", "distilled_model", "distilled, 800 units: saw no moved image", GREEN, "-o"),
        ("translated", "cumbersome_model", "cumbersome net, with jitter", BLUE, "-.D"),
    ]
    for results, start, name, colour, line in nets:
        errors = np.array(translated(results, start))
        bar = {"capsize": 3, "color": colour, "ms": 5, "label": name}
        deviations = [deviation(column) for column in errors.T]
        axes.errorbar(range(4), errors.mean(0), yerr=deviations, fmt=line, **bar)
    logarithmic(axes, "y", 60, 100, 200, 500, 1000, 2000, 5000)
    axes.set_xticks(range(4))
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlabel("pixels by which the test images are moved (mean of eight directions)")
    axes.set_ylabel("test errors")
    axes.legend(fontsize=9)
    return figure


DRAWINGS: dict[str, Callable[[Any, Mnist], Any]] = {
    "claims": claims,
    "temperatures": temperatures,
    "shifts": shifts,
    "dark_knowledge": dark_knowledge,
    "mistakes": mistakes,
    "training": training,
    "translations": translations,
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
