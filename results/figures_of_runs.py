"""Figures of training runs: their errors over seeds, temperatures, epochs and translations."""

from typing import Any

import numpy as np

from dataset import Mnist
from results.claims import measured_claims, never_saw_3, saw_7_and_8, student
from results.figures_of_nets import shares_on
from results.runs import LENGTHS, PAPER_NET, cumbersome, runs_in, students, translated
from results.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH, logarithmic
from results.summary import pooled_intervals
from results.temperatures import by_temperature
from support.checkpoints import MODELS, model_from
from support.means import deviation
from support.paper import PAPER, PAPER_SHIFTS
from support.records import record_of


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
        errors = by_temperature(students(f"distilled_{units}"))
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
        axes.plot(*_errors_by_epoch(record_of(MODELS / file)), color=colour, ls=line, label=name)
    for axes in panels:
        logarithmic(axes, "y", 50, 60, 80, 100, 150, 200, 400, 1000)
        axes.set_ylim(50, 1200)
        axes.grid(axis="y", alpha=0.3)
        axes.set_xlabel("epoch")
        axes.legend(fontsize=8)
    panels[0].set_ylabel("test errors (logarithmic)")
    return figure


def published_schedule(plt: Any, mnist: Mnist) -> Any:
    """The cumbersome net by PaperParams and by LocalParams: its training, and its hidden units."""
    figure, (errors, units) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    for file, name, colour in [
        ("cumbersome_model_1200_paper.pt", "PaperParams", RED),
        ("cumbersome_model_1200.pt", "LocalParams, 1,000 epochs", BLUE),
    ]:
        record = record_of(MODELS / file)
        errors.plot(*_errors_by_epoch(record), color=colour, label=name)
        shares = shares_on(model_from(record), mnist.test.images)
        for layer, (share, line) in enumerate(zip(shares, ("-", "--"), strict=True), start=1):
            label = f"{name}, layer {layer}: {int((share == 0).sum()):,} never on"
            units.plot(range(1, len(share) + 1), 100 * share, color=colour, ls=line, label=label)
    errors.axhline(PAPER["C1"][0], color=ORANGE, label="the paper", zorder=0)
    logarithmic(errors, "y", 50, 100, 200, 500, 1000, 2000, 5000, 10000)
    errors.grid(axis="y", alpha=0.3)
    errors.set_xlabel("epoch")
    errors.set_ylabel("test errors (logarithmic)")
    units.set_xlabel("hidden units, sorted")
    units.set_ylabel("test images that turn it on, %")
    for axes in (errors, units):
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(fontsize=8)
    return figure


def _errors_by_epoch(record: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The epochs after which the errors of a training run were counted, and these."""
    counted = [e for e in record["history"] if "errors" in e]
    return [e["epoch"] for e in counted], [e["errors"] for e in counted]


def teachers(plt: Any, mnist: Mnist) -> Any:
    """Errors as learned, and best shift, of students without some digits, by teacher training."""
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 5.0), sharex=True)
    nets = [*(cumbersome(epochs, seed=0) for epochs in LENGTHS), runs_in(PAPER_NET)]
    lines = [
        (0, never_saw_3, 800, BLUE, "-o"),
        (0, never_saw_3, 300, RED, "--s"),
        (1, saw_7_and_8, 300, RED, "--s"),
    ]
    for column, runs_of, units, colour, line in lines:
        found = [runs_of(units, net) for net in nets]
        for axes, name in zip(panels[:, column], ("learned_errors", "best_shift"), strict=True):
            each = [runs.numbers(name) for runs in found]
            (*means, of_paper), (*bars, bar) = map(np.mean, each), map(deviation, each)
            look = {"capsize": 3, "color": colour, "ms": 4}
            axes.errorbar([*LENGTHS], means, bars, fmt=line, label=student(units), **look)
            axes.errorbar(3000, of_paper, bar, fmt=line[-1], mfc="none", **look)
    for column, (paper, claim, _) in enumerate(PAPER_SHIFTS.values()):
        for axes, value in zip(panels[:, column], (PAPER[claim][0], paper), strict=True):
            axes.axhline(value, color=ORANGE, lw=2, label="the paper", zorder=0)
    for axes, title in zip(panels[0], ("never saw a 3", "saw 7s and 8s only"), strict=True):
        axes.set_title(title)
        axes.set_ylim(0)
        axes.legend(fontsize=8)
    panels[0, 1].yaxis.set_major_formatter("{x:,.0f}")
    for axes in panels[1]:
        logarithmic(axes, "x", *LENGTHS, 3000)
        axes.set_xlabel("epochs of the cumbersome net (logarithmic)")
    panels[0, 0].set_ylabel("test errors as learned")
    panels[1, 0].set_ylabel("best shift of the bias")
    return figure


def translations(plt: Any, mnist: Mnist) -> Any:
    """Errors on the test images moved by 0 to 3 pixels: the student never saw one moved."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    nets = [
        ("translated", "small_model", "small net, 800 units, labels", RED, "--s"),
        ("translated_60", "of_unjittered", "distilled, its teacher without jitter", ORANGE, ":^"),
        ("translated", "distilled_model", "distilled, 800 units: saw no moved image", GREEN, "-o"),
        ("ensemble_1000", "cumbersome_1000_seed", "cumbersome net, 1,000 epochs", BLUE, "-.D"),
    ]
    for results, start, name, colour, line in nets:
        errors = translated(results, start)
        bar = {"capsize": 3, "color": colour, "ms": 5, "label": name}
        means, deviations = map(np.mean, errors), map(deviation, errors)
        axes.errorbar(range(4), [*means], yerr=[*deviations], fmt=line, **bar)
    logarithmic(axes, "y", 60, 100, 200, 500, 1000, 2000, 5000)
    axes.set_xticks(range(4))
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlabel("pixels by which the test images are moved (mean of eight directions)")
    axes.set_ylabel("test errors")
    axes.legend(fontsize=9)
    return figure
