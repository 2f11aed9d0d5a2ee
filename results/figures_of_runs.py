"""Figures of training runs: their errors over seeds, temperatures, epochs and translations."""

from typing import Any

import numpy as np

from dataset import Mnist
from results.claims import measured_claims
from results.figures_of_nets import shares_on
from results.kinds import NEVER_3, ONLY_7_8, student
from results.runs import LENGTHS, cumbersome, translated
from results.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    WIDTH,
    legend_below,
    logarithmic,
)
from results.summary import pooled_intervals
from results.temperatures import errors_of
from support.checkpoints import MODELS, model_from
from support.means import deviation
from support.paper import PAPER, PAPER_SHIFTS
from support.records import record_of

IN_WORDS = {  # by number and the paper's figures
    ("C1", PAPER["C1"]): "C1 cumbersome net",
    ("C2", PAPER["C2"]): "C2 small net, labels",
    ("C3", PAPER["C3"]): "C3 small net, distilled",
    ("C6", PAPER["C6"]): "C6 never shown a 3",
    ("C7", PAPER["C7"]): "C7 its bias of 3 raised by 3.5",
    ("C8", PAPER["C8"]): "C8 shown 7s and 8s only",
    ("C8", PAPER["C8 shifted"]): "C8 its biases lowered by 7.6",
}


def claims(plt: Any, mnist: Mnist) -> Any:
    """Our mean errors and the 95 % interval for one new run, beside the paper's figure."""
    claims = [claim for claim in measured_claims() if claim.number != "C2 - C3"]
    large = [claim for claim in claims if claim.paper[0] > 1000]
    figure, panels = plt.subplots(
        2, 1, figsize=(WIDTH, 4.2), height_ratios=(len(claims) - len(large), len(large))
    )
    small = [claim for claim in claims if claim not in large]
    for axes, some, limits in zip(panels, (small, large), ((40, 320), (900, 7400)), strict=True):
        for place, claim in enumerate(some):
            run, paper = claim.run, claim.paper[0]
            band = {"height": 0.5, "color": SKY, "alpha": 0.6, "label": "one new run (95 %)"}
            axes.barh(place, 2 * run.half, left=run.low, **band)
            ends = [place - 0.25, place + 0.25]
            axes.plot([run.mean] * 2, ends, color=BLUE, lw=3, label="our mean")
            colour, where = (BLACK, "in") if run.holds(paper) else (RED, "outside")
            diamond = {"mfc": "none", "mec": colour, "mew": 1.5, "ms": 9, "ls": ""}
            axes.plot(paper, place, "D", label=f"the paper, {where} this range", **diamond)
            text = f"{run.mean:,.0f} (paper: {paper:,})"
            axes.text(limits[1], place, text, va="center", ha="right", fontsize=9)
        axes.set_yticks(range(len(some)), [IN_WORDS[claim.number, claim.paper] for claim in some])
        axes.set_ylim(len(some) - 0.4, -0.6)
        axes.set_xlim(*limits)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    panels[1].set_xlabel("errors on the 10,000 test images")
    legend_below(figure, ncols=2)
    return figure


def temperatures(plt: Any, mnist: Mnist) -> Any:
    """Errors against temperature: each seed, their mean and its 95 % confidence interval."""
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, 3.2))
    panels[1].sharey(panels[2])
    for axes, units in zip(panels, (30, 300, 800), strict=True):
        errors = errors_of(units)
        means, halves = pooled_intervals([[*found.values()] for found in errors.values()])
        for temperature, found in errors.items():
            each = [temperature] * len(found), [*found.values()]
            axes.plot(*each, "o", color=SKY, ms=3, label="each seed")
        label = {"label": "mean, 95 % interval"}
        axes.errorbar(list(errors), means, yerr=halves, fmt="-o", color=BLUE, ms=4, **label)
        logarithmic(axes, "x", 1, 2, 4, 8, 20, 40)
        axes.set_xlabel("temperature")
        axes.set_title(f"{units} units")
        low, high = axes.get_xlim()
        best = (2.5, 4) if units == 30 else (8, high)
        axes.axvspan(*best, color=ORANGE, alpha=0.2, lw=0, label="the paper's range")
        axes.set_xlim(low, high)
    panels[0].set_ylabel("test errors (two scales)")
    legend_below(figure, ncols=3)
    return figure


def published_schedule(plt: Any, mnist: Mnist) -> Any:
    """Cumbersome nets by PaperParams and LocalParams: their training, and their hidden units."""
    figure, (errors, units) = plt.subplots(1, 2, figsize=(WIDTH, 4.2))
    for file, name, colour in [
        ("cumbersome_model_1200_paper.pt", "[DO]'s schedule", RED),
        ("cumbersome_model_1200_paper_rate_3.pt", "[DO]'s, rate 3", PURPLE),
        ("cumbersome_model_1200.pt", "our schedule", BLUE),
    ]:
        record = record_of(MODELS / file)
        errors.plot(*_errors_by_epoch(record), color=colour, label=name)
        shares = shares_on(model_from(record), mnist.test.images)
        for layer, (share, line) in enumerate(zip(shares, ("-", "--"), strict=True), start=1):
            label = f"{name}, layer {layer}: {int((share == 0).sum()):,} dead"
            units.plot(range(1, len(share) + 1), 100 * share, color=colour, ls=line, label=label)
    paper = PAPER["C1"][0]
    errors.axhline(paper, color=ORANGE, label=f"the paper: {paper}", zorder=0)
    logarithmic(errors, "y", 50, 100, 200, 500, 1000, 2000, 5000, 10000)
    errors.grid(axis="y", alpha=0.3)
    errors.set_xlabel("epoch")
    errors.set_ylabel("test errors (logarithmic)")
    units.set_xlabel("hidden units, sorted")
    units.set_ylabel("% of images that activate it")
    for axes in (errors, units):
        axes.xaxis.set_major_formatter("{x:,.0f}")
        legend_below(axes)
    return figure


def _errors_by_epoch(record: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The epochs after which the errors of a training run were counted, and these."""
    counted = [e for e in record["history"] if "errors" in e]
    return [e["epoch"] for e in counted], [e["errors"] for e in counted]


def teachers(plt: Any, mnist: Mnist) -> Any:
    """Errors as learned, and best shift, of students without some digits, by teacher training."""
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 5.0), sharex=True)
    nets = [cumbersome(epochs, seed=0) for epochs in LENGTHS]
    for column, kind in zip(panels.T, (NEVER_3, ONLY_7_8), strict=True):
        found = [kind.of_teacher(800, net) for net in nets]
        for axes, name in zip(column, ("learned_errors", "best_shift"), strict=True):
            each = [runs.numbers(name) for runs in found]
            look = {"capsize": 3, "color": BLUE, "ms": 4, "fmt": "-o", "label": student(800)}
            axes.errorbar([*LENGTHS], [*map(np.mean, each)], [*map(deviation, each)], **look)
    for column, (paper, claim, _) in enumerate(PAPER_SHIFTS.values()):
        for axes, value in zip(panels[:, column], (PAPER[claim][0], paper), strict=True):
            label = f"the paper: {value:,}"
            axes.axhline(value, color=ORANGE, lw=2, label=label, zorder=0)
    for axes, kind in zip(panels[0], (NEVER_3, ONLY_7_8), strict=True):
        axes.set_title(kind.says)
        axes.set_ylim(0)
        axes.legend(fontsize=8)
    panels[0, 1].yaxis.set_major_formatter("{x:,.0f}")
    for axes in panels[1]:
        logarithmic(axes, "x", *LENGTHS)
        axes.set_xlabel("epochs of the teacher (logarithmic)")
    panels[0, 0].set_ylabel("test errors as learned")
    panels[1, 0].set_ylabel("best shift of the bias")
    return figure


def translations(plt: Any, mnist: Mnist) -> Any:
    """Errors on the test images moved by 0 to 3 pixels: the student never saw one moved."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    nets = [
        ("translated", "small_model", "small net, labels", RED, "--s"),
        ("translated_60", "of_unjittered", "student; its teacher without jitter", ORANGE, ":^"),
        ("translated_60", "of_jittered", "student; 60-epoch teacher", PURPLE, ":v"),
        ("translated", "distilled_model", "student; 3,000-epoch teacher", GREEN, "-o"),
        ("ensemble_3000", "cumbersome_3000_seed", "3,000-epoch teachers", BLUE, "-.D"),
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
    axes.set_ylabel("test errors (logarithmic)")
    axes.legend(fontsize=8)
    return figure
