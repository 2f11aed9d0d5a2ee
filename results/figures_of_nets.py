"""Figures of what the published nets answer to test images."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset import Mnist, pixels
from distillation import soft_targets
from distillation_no_three import errors_at, found_shifts
from evaluate import logits_of
from layers import RectifierNet
from results.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, WIDTH
from support.checkpoints import MODELS, load_model
from support.paper import PAPER_SHIFTS


class Student(NamedTuple):
    """A published student that did not see all digits."""

    name: str
    file: str
    which: str  # "omit" or "keep"
    digits: tuple[int, ...]
    shifts: np.ndarray  # of their biases, to draw

    @property
    def net(self) -> RectifierNet:
        return load_model(MODELS / self.file)


NEVER_SAW_3 = Student(
    "never saw a 3 (800 units, T = 20)",
    "distilled_model_wo3_800_20.pt",
    "omit",
    (3,),
    np.linspace(-1, 6, 281),
)
SAW_7_AND_8 = Student(
    "saw 7s and 8s only (800 units, T = 20)",
    "distilled_model_only78_800_20.pt",
    "keep",
    (7, 8),
    np.linspace(-12, 2, 281),
)
STUDENTS = (NEVER_SAW_3, SAW_7_AND_8)


def shifts(plt: Any, mnist: Mnist) -> Any:
    """Errors against the shift of the biases of classes that were never, or alone, seen."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for axes, student in zip(panels, STUDENTS, strict=True):
        _draw_shifts(axes, student, mnist)
        axes.set_title(student.name)
        axes.legend(fontsize=8, loc="upper center", frameon=True, framealpha=1, edgecolor="white")
    panels[0].set_ylabel("test errors")
    return figure


def _draw_shifts(axes: Any, student: Student, mnist: Mnist) -> None:
    """The panel of a student: errors in total and on its digits, and where some shifts are."""
    group, range_of_shifts = list(student.digits), student.shifts
    paper, *_ = PAPER_SHIFTS[student.which, student.digits]
    cases, best, label_free = found_shifts(student.net, mnist, group)
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


def unseen_logits(plt: Any, mnist: Mnist) -> Any:
    """Logits of students against those of their teacher, on digits that they saw and on others."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.8))
    teacher = logits_of(load_model(MODELS / "cumbersome_model_1200.pt"), mnist.test.images)
    for axes, student in zip(panels, STUDENTS, strict=True):
        group, logits = list(student.digits), logits_of(student.net, mnist.test.images)
        # Less the mean of the others: only differences between logits have a meaning.
        x, y = (_above_others(z, group) for z in (teacher, logits))
        in_group = torch.isin(mnist.test.labels, torch.tensor(group))
        seen = in_group if student.which == "keep" else ~in_group
        for cases, name, colour in ((~seen, "never seen", RED), (seen, "seen", BLUE)):
            slope, _ = np.polyfit(x[cases], y[cases], 1)
            more = round(float((y - x)[cases].mean()), 1) + 0.0  # never -0.0
            label = f"digits {name}: slope {slope:.2f}, {more:+.1f} on average"
            axes.plot(x[cases], y[cases], ".", color=colour, ms=1.5, alpha=0.3, label=label)
        ends = [float(x.min()), float(x.max())]
        axes.plot(ends, ends, color=BLACK, lw=1, label="as the teacher")
        axes.set_title(student.name)
        axes.set_xlabel(f"teacher: mean logit of {' and '.join(map(str, group))}, less the others'")
        legend = axes.legend(fontsize=8, markerscale=6)
        for mark in legend.legend_handles:
            mark.set_alpha(1)
    panels[0].set_ylabel("student: the same")
    return figure


def _above_others(logits: Tensor, group: list[int]) -> Tensor:
    """The mean logit of the classes in `group` less that of the others: (N, 10) to (N,)."""
    others = [k for k in range(logits.shape[1]) if k not in group]
    return logits[:, group].mean(1) - logits[:, others].mean(1)


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


def shares_on(net: RectifierNet, images: Tensor) -> list[Tensor]:
    """Of each hidden layer, the share of the uint8 images (N, 28, 28) that turn each unit on.

    float32 (units,) in [0, 1], the highest first.
    """
    shares, values = [], pixels(images)
    for layer in (net.hidden1, net.hidden2):
        values = layer(values).relu()
        shares.append((values > 0).float().mean(0).sort(descending=True).values)
    return shares


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
